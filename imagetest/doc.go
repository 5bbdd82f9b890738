// Package imagetest makes images of real software, for tests: a web server, a
// database, a Java server, a whole Debian that boots. It is test support only.
//
// Each image is a tree below build/images that is made from Debian 12 packages once
// and kept: a second run reads nothing from the network. apt resolves what a package
// depends on, dpkg-deb unpacks it, and what a package's own script would have done
// (a user, a configuration) stands in the recipe, in recipes.go. No service is
// started while an image is made. The same packages make the same tree: every time
// later than the recipe's is set to it.
//
// The first run needs root (files of other owners, chroot), the network, and of
// Debian's packages apt, dpkg, tar and, for the machines, debootstrap,
// mtools, dosfstools and e2fsprogs.
//
//	for _, image := range imagetest.All(t) {
//		publish(image.Tree, image.Config)     // zos flist build --from Tree
//		deploy(image.Spec("red/" + image.Name + ":1"))
//		err := image.Wait(ctx, dialer, net.JoinHostPort(ip, image.PortString()))
//	}
//
// ZOS_IMAGES names another directory than build/images.
package imagetest

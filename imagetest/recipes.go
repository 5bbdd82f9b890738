package imagetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/zero-os/zos/flist"
)

const mib = 1 << 20

var path = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}

// lean are packages that only other packages' scripts call.
var lean = []string{"perl", "libperl", "dpkg", "tar", "debconf", "adduser", "passwd", "init-system-helpers", "sysvinit-utils", "lsb-base", "usrmerge",
	"libpam", "libaudit", "libcap-ng", "libsemanage", "libsepol", "libdb5", "libgdbm", "libnumber-", "libtext-", "libfile-find-", "libc-bin", "ucf", "sensible-utils"}

// recipes are the images that are containers, sorted by name.
func recipes() []recipe {
	return []recipe{busybox(), debian(), goServer(), java(), nested(), nginx(), postgres(), python(), redis()}
}

// container is an image with what every one of them has.
func container(name string, port uint16, user string, args []string, memory uint64) Image {
	return Image{
		Name: name, Kind: "container", Port: port,
		Config: flist.Config{Entrypoint: args, Env: path, WorkDir: "/", User: user},
		CPU:    500, Memory: memory, Disk: 64 * mib, PIDs: 64, Start: 2 * time.Minute,
	}
}

// busybox is one static program and its names, like Alpine's base.
func busybox() recipe {
	r := recipe{
		Image:    container("busybox", 8080, "1000:1000", []string{"/bin/sh", "/start.sh"}, 32*mib),
		Packages: []string{"busybox-static"},
		Files:    map[string]string{"/start.sh": "busybox/start.sh"},
		finish: func(b *builder) error {
			return errors.Join(b.users("app:1000:/"), b.busyboxLinks(b.tree))
		},
	}
	r.Check = httpAnswers("/", "busybox\n", "BusyBox v1.", "user 1000\n", "Linux")
	return r
}

// busyboxLinks gives busybox all the names it answers to, as `busybox --install -s`
// does on a running system.
func (b *builder) busyboxLinks(root string) error {
	out, err := b.run(filepath.Join(b.tree, "usr/bin/busybox"), "--list")
	if err != nil {
		return err
	}
	for _, name := range splitLines(out) {
		link := filepath.Join(root, "bin", name)
		if _, err := os.Lstat(link); err == nil {
			continue
		}
		if err := os.Symlink("busybox", link); err != nil {
			return err
		}
	}
	return nil
}

// debian is Debian's smallest system, configured by its own packages, with apt and dpkg.
func debian() recipe {
	r := recipe{
		Image:       container("debian", 8080, "0:0", []string{"/usr/bin/perl", "/serve.pl"}, 128*mib),
		Version:     1,
		Debootstrap: true,
		Files:       map[string]string{"/serve.pl": "debian/serve.pl"},
	}
	r.Check = httpAnswers("/", "debian 12.", " packages\n", "user root\n", "audit []")
	return r
}

// goServer is a static Go program, and nothing else.
func goServer() recipe {
	r := recipe{
		Image:    container("go", 8080, "65534:65534", []string{"/server"}, 32*mib),
		Programs: map[string]string{"/server": "./testdata/server"},
	}
	r.Check = httpAnswers("/", "go go1.")
	return r
}

// java is a server on OpenJDK's runtime. Its compiler is not part of the image.
func java() recipe {
	const home = "/usr/lib/jvm/java-17-openjdk-amd64"
	r := recipe{
		Image: container("java", 8080, "1000:1000",
			[]string{home + "/bin/java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-Xmx64m", "-cp", "/app", "Server"}, 256*mib),
		Packages: []string{"openjdk-17-jre-headless"},
		Without: append([]string{"ca-certificates-java", "util-linux", "openssl", "fonts-", "libasound", "libavahi", "libcups", "libnss3", "libnspr4", "libsqlite3",
			"libpcsclite", "libgnutls", "libglib", "libp11", "libunistring", "libicu", "libharfbuzz", "libfreetype", "libfontconfig"}, lean...),
		Files: map[string]string{"/app/Server.java": "java/Server.java"},
		finish: func(b *builder) error {
			debs, err := b.debs([]string{"libeclipse-jdt-core-java"}, []string{""})
			if err != nil {
				return err
			}
			for _, deb := range debs {
				if _, err := b.run("dpkg-deb", "-x", deb, filepath.Join(b.tree, "ecj")); err != nil {
					return err
				}
			}
			jars, err := filepath.Glob(filepath.Join(b.tree, "ecj/usr/share/java/*.jar"))
			if err != nil || len(jars) == 0 {
				return fmt.Errorf("no compiler in %s: %w", debs, err)
			}
			return errors.Join(
				b.users("app:1000:/app"),
				b.chroot("0:0", home+"/bin/java", "-cp", "/ecj/usr/share/java/*", "org.eclipse.jdt.internal.compiler.batch.Main", "-17", "-proc:none", "-d", "/app", "/app/Server.java"),
				os.RemoveAll(filepath.Join(b.tree, "ecj")),
				// What the package's own script does: the classes of the runtime, ready to map.
				b.chroot("0:0", home+"/bin/java", "-Xshare:dump", "-Xlog:disable"),
			)
		},
	}
	r.CPU, r.Start = 1000, 4*time.Minute
	r.Check = httpAnswers("/", "java 17.", "visitor ")
	return r
}

// nested runs a container inside: runc and a bundle with busybox.
func nested() recipe {
	r := recipe{
		Image:    container("nested", 8080, "0:0", []string{"/bin/sh", "/start.sh"}, 128*mib),
		Packages: []string{"busybox-static"},
		Programs: map[string]string{"/usr/bin/runc": runc},
		Files:    map[string]string{"/start.sh": "nested/start.sh", "/bundle/config.json": "nested/config.json"},
		finish: func(b *builder) error {
			for _, dir := range []string{"bin", "www", "proc", "dev"} {
				if err := b.dir("/bundle/rootfs/"+dir, 0o755, 0, 0); err != nil {
					return err
				}
			}
			return errors.Join(
				b.users("app:1000:/"), b.busyboxLinks(b.tree),
				os.Link(filepath.Join(b.tree, "usr/bin/busybox"), filepath.Join(b.tree, "bundle/rootfs/bin/busybox")),
				b.write("/bundle/rootfs/www/index.html", 0o644, "a container in a workload\n"),
			)
		},
	}
	r.Privileged = true
	r.CPU = 1000
	r.Check = httpAnswers("/", "a container in a workload\n")
	return r
}

// nginx is the web server, without root.
func nginx() recipe {
	r := recipe{
		Image:    container("nginx", 8080, "33:33", []string{"/usr/sbin/nginx", "-c", "/etc/nginx/zos.conf", "-e", "stderr"}, 64*mib),
		Packages: []string{"nginx-light"},
		Without:  append([]string{"iproute2", "libbpf", "libelf", "libmnl", "libxtables", "libcap2", "libbsd", "libmd0"}, lean...),
		Files:    map[string]string{"/etc/nginx/zos.conf": "nginx/nginx.conf"},
		finish: func(b *builder) error {
			return errors.Join(b.users("www-data:33:/srv"), b.write("/srv/index.html", 0o644, "a page by nginx\n"))
		},
	}
	r.Check = func(ctx context.Context, d Dialer, address string) error {
		return errors.Join(httpAnswers("/", "a page by nginx\n")(ctx, d, address), httpAnswers("/healthz", "nginx 1.")(ctx, d, address))
	}
	return r
}

// postgres is the database. Its cluster is made with the image, so each workload
// begins with the same empty one; it is ephemeral, and lets in whoever reaches it.
func postgres() recipe {
	const bin, data = "/usr/lib/postgresql/15/bin/", "/var/lib/postgresql/data"
	r := recipe{
		Image: container("postgres", 5432, "999:999", []string{bin + "postgres", "-D", data,
			"-c", "listen_addresses=*", "-c", "jit=off", "-c", "shared_buffers=16MB", "-c", "unix_socket_directories=/tmp", "-c", "fsync=off"}, 192*mib),
		Packages: []string{"postgresql-15", "dash", "libpam0g", "libaudit1", "libcap-ng0"},
		Without: append([]string{"libllvm", "libz3", "postgresql-common", "postgresql-client", "ssl-cert", "openssl", "locales", "libc-l10n", "netbase",
			"libjson", "libedit", "libbsd", "libmd0"}, lean...),
		finish: func(b *builder) error {
			if err := errors.Join(b.users("postgres:999:/var/lib/postgresql"), b.dir("/var/lib/postgresql", 0o755, 999, 999), b.dir(data, 0o700, 999, 999)); err != nil {
				return err
			}
			if err := b.chroot("999:999", bin+"initdb", "-D", data, "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "--wal-segsize=1", "--no-sync", "--no-instructions"); err != nil {
				return err
			}
			return b.append(data+"/pg_hba.conf", "host all all all trust\n")
		},
	}
	r.Disk, r.Start = 256*mib, 4*time.Minute
	r.Check = postgresAnswers
	return r
}

// python is a web application with SQLite, on Python's own library.
func python() recipe {
	r := recipe{
		Image:    container("python", 8000, "1000:1000", []string{"/usr/bin/python3", "-u", "/app/app.py"}, 96*mib),
		Packages: []string{"python3"},
		Without:  append([]string{"libnsl2", "libtirpc", "libkrb5", "libk5crypto", "libgssapi", "libcom-err", "libkeyutils"}, lean...),
		Files:    map[string]string{"/app/app.py": "python/app.py"},
		Version:  1,
		finish: func(b *builder) error {
			// Python's package leaves this name to its script.
			return errors.Join(b.users("app:1000:/app"), b.dir("/usr/lib/python3/dist-packages", 0o755, 0, 0), b.compilePython())
		},
	}
	r.Config.Env = append([]string{"PYTHONDONTWRITEBYTECODE=1"}, path...)
	r.Check = func(ctx context.Context, d Dialer, address string) error {
		return errors.Join(httpAnswers("/?add=written", `"python": "3.`)(ctx, d, address), httpAnswers("/", `"written"`)(ctx, d, address))
	}
	return r
}

// redis is the key-value store, in memory only.
func redis() recipe {
	r := recipe{
		Image:    container("redis", 6379, "999:999", []string{"/usr/bin/redis-server", "--bind", "*", "-::*", "--protected-mode", "no", "--save", "", "--appendonly", "no", "--dir", "/tmp"}, 64*mib),
		Packages: []string{"redis-server"},
		Without:  lean,
		finish:   func(b *builder) error { return b.users("redis:999:/var/lib/redis") },
	}
	r.Check = redisAnswers
	return r
}

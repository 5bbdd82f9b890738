package imagetest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Machines are the names of the images that boot by themselves; Get makes them.
func Machines() []string {
	var names []string
	for _, r := range machines() {
		names = append(names, r.Name)
	}
	return names
}

// machines are Debian with its cloud kernel, systemd, cloud-init and an SSH server,
// in both forms in which nodes boot a machine.
func machines() []recipe { return []recipe{machineTree(), machineDisk()} }

// machinePackages are what makes the smallest Debian a cloud's. debootstrap can't
// find what python3-cryptography needs by a virtual name, so it is named.
var machinePackages = []string{
	"linux-image-cloud-amd64", "initramfs-tools", "zstd", "systemd-sysv", "systemd-resolved", "libpam-systemd", "dbus", "udev", "iproute2", "netbase",
	"cloud-init", "python3-cffi-backend", "openssh-server", "sudo",
}

func machine(name, boot string) Image {
	return Image{
		Name: name, Kind: "vm", Boot: boot, Port: 22,
		CPU: 1000, Memory: 768 * mib, Disk: 1024 * mib, Start: 10 * time.Minute, Check: sshAnswers,
	}
}

// machineTree is the form whose root file system is the flist: the node starts
// /boot/vmlinuz with /boot/initrd.img and shares the tree over virtiofs.
func machineTree() recipe {
	return recipe{
		Image: machine("machine", "kernel"), Version: 1, Debootstrap: true, Packages: machinePackages,
		finish: func(b *builder) error {
			if err := b.cloud(); err != nil {
				return err
			}
			return b.bootNames()
		},
	}
}

// machineDisk is the form that is a disk: /disk.raw has a GPT, an EFI system
// partition with systemd-boot, and the root file system on ext4.
func machineDisk() recipe {
	return recipe{
		Image: machine("machine-disk", "disk"), Debootstrap: true,
		Packages: append([]string{"systemd-boot-efi", "fdisk", "mtools", "dosfstools", "e2fsprogs", "cloud-guest-utils"}, machinePackages...),
		finish: func(b *builder) error {
			if err := b.cloud(); err != nil {
				return err
			}
			if err := b.bootNames(); err != nil {
				return err
			}
			return b.disk()
		},
	}
}

// cloudConfig asks only the seed that the node attaches, since looking for others
// takes a minute of a boot, and runs those of cloud-init's modules that it speaks of.
const cloudConfig = `datasource_list: [NoCloud, None]
cloud_init_modules: [seed_random, bootcmd, write-files, growpart, resizefs, set_hostname, users-groups, ssh]
cloud_config_modules: [set-passwords, runcmd]
cloud_final_modules: [scripts-per-boot, scripts-per-instance, scripts-user, final-message]
`

// cloud makes a bootstrapped Debian ready for cloud-init: no identity, no address.
func (b *builder) cloud() error {
	// What differs from one machine to the next is made at its first boot.
	keys, err := filepath.Glob(filepath.Join(b.tree, "etc/ssh/ssh_host_*"))
	if err != nil {
		return err
	}
	for _, k := range keys {
		if err := os.Remove(k); err != nil {
			return err
		}
	}
	return errors.Join(
		b.write("/etc/cloud/cloud.cfg.d/99-zos.cfg", 0o644, cloudConfig),
		// Debian's kernel has virtiofs as a module that an initrd leaves out unless told.
		b.append("/etc/initramfs-tools/modules", "virtiofs\n"),
		b.write("/etc/fstab", 0o644, "# the root file system is the kernel command line's\n"),
		b.chroot("0:0", "update-initramfs", "-u"),
		b.compilePython(),
		os.Remove(filepath.Join(b.tree, "etc/resolv.conf")),
		os.Symlink("../run/systemd/resolve/stub-resolv.conf", filepath.Join(b.tree, "etc/resolv.conf")),
		b.chroot("0:0", "systemctl", "enable", "systemd-networkd", "systemd-resolved", "ssh", "serial-getty@ttyS0"),
	)
}

// bootNames gives kernel and initrd the names that nodes look for, and drops what
// only a rebuild of the initrd would read.
func (b *builder) bootNames() error {
	for _, name := range []string{"vmlinuz", "initrd.img"} {
		found, err := filepath.Glob(filepath.Join(b.tree, "boot", name+"-*"))
		if err != nil || len(found) != 1 {
			return fmt.Errorf("kernels in /boot: %v, want one (%w)", found, err)
		}
		if err := os.Link(found[0], filepath.Join(b.tree, "boot", name)); err != nil {
			return err
		}
	}
	return nil
}

// diskScript makes disk.raw from the tree that it runs in, with the tree's own tools.
// The second partition holds that tree, but for the directory it works in.
const diskScript = `
set -eu
export E2FSPROGS_FAKE_TIME=$SOURCE_DATE_EPOCH
cd /mnt
mkdir root
mount --bind / root            # without what is mounted below it
mount -t tmpfs tmpfs root/mnt  # nor the directory that it is made in
truncate -s $((ROOT + 66))M disk.raw
sfdisk -q disk.raw <<EOF
label: gpt
label-id: 6C1F8E0A-0000-4000-8000-000000000001
start=1MiB, size=64MiB, type=uefi, uuid=6C1F8E0A-0000-4000-8000-000000000002, name=esp
start=65MiB, size=${ROOT}MiB, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, uuid=6C1F8E0A-0000-4000-8000-000000000003, name=root
EOF
truncate -s 64M esp.raw
mkfs.vfat -F 32 -s 1 -n ESP -i 6C1F8E0A esp.raw >/dev/null
mmd -i esp.raw ::/EFI ::/EFI/BOOT ::/loader ::/loader/entries
mcopy -i esp.raw /usr/lib/systemd/boot/efi/systemd-bootx64.efi ::/EFI/BOOT/BOOTX64.EFI
mcopy -i esp.raw /boot/vmlinuz ::/vmlinuz
mcopy -i esp.raw /boot/initrd.img ::/initrd.img
printf 'timeout 0\ndefault debian\n' > loader.conf
printf 'title Debian\nlinux /vmlinuz\ninitrd /initrd.img\noptions root=PARTUUID=6c1f8e0a-0000-4000-8000-000000000003 rootfstype=ext4 rw console=ttyS0\n' > debian.conf
mcopy -i esp.raw loader.conf ::/loader/loader.conf
mcopy -i esp.raw debian.conf ::/loader/entries/debian.conf
dd if=esp.raw of=disk.raw bs=1M seek=1 conv=notrunc,sparse status=none
mkfs.ext4 -q -F -L root -U 6c1f8e0a-0000-4000-8000-000000000004 -E offset=$((65 << 20)),hash_seed=6c1f8e0a-0000-4000-8000-000000000005,lazy_itable_init=1 -d root disk.raw ${ROOT}M
umount root/mnt root
`

// disk turns the tree into one that holds disk.raw and nothing else.
func (b *builder) disk() error {
	if err := b.tidy(); err != nil {
		return err
	}
	const size = 900 // MiB; the system grows into the disk that it gets
	if err := b.write("/mnt/make.sh", 0o755, fmt.Sprintf("ROOT=%d\n", size)+diskScript); err != nil {
		return err
	}
	if err := b.chroot("0:0", "sh", "/mnt/make.sh"); err != nil {
		return err
	}
	made := filepath.Join(b.work, "disk.raw")
	if err := os.Rename(filepath.Join(b.tree, "mnt/disk.raw"), made); err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(b.tree), os.Mkdir(b.tree, 0o755)); err != nil {
		return err
	}
	return os.Rename(made, filepath.Join(b.tree, "disk.raw"))
}

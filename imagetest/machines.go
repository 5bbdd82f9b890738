package imagetest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

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
	key := loginKey()
	return Image{
		Name: name, Kind: "vm", Boot: boot, Port: 22, Key: strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key.PublicKey()))),
		CPU: 1000, Memory: 640 * mib, Disk: 1024 * mib, Start: 10 * time.Minute, Check: logsIn(key),
	}
}

// machineTree is the form whose root file system is the flist: the node starts
// /boot/vmlinuz with /boot/initrd.img and shares the tree over virtiofs.
func machineTree() recipe {
	return recipe{
		Image: machine("machine", "kernel"), Version: 2, Debootstrap: true, Packages: machinePackages,
		finish: func(b *builder) error {
			if err := b.cloud("virtio_pci", "virtiofs", "virtio_blk"); err != nil {
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
		Image: machine("machine-disk", "disk"), Version: 1, Debootstrap: true,
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
// takes a minute of a boot, and runs those of cloud-init's modules that it speaks of,
// all but the last in one of its stages: each is a start of Python. One host key is
// enough; RSA's takes half a minute where processors are emulated.
const cloudConfig = `datasource_list: [NoCloud, None]
ssh_genkeytypes: [ed25519]
cloud_init_modules: [seed_random, bootcmd, write-files, growpart, resizefs, set_hostname, users-groups, ssh, set-passwords, runcmd]
cloud_config_modules: []
cloud_final_modules: [scripts-per-boot, scripts-per-instance, scripts-user, final-message]
`

// Drop-ins that keep a boot short: nothing is written to a journal on disk, or about
// each unit to the console, and what is slow is not taken for failed.
const (
	systemdConfig  = "[Manager]\nShowStatus=no\nLogLevel=notice\nDefaultTimeoutStartSec=15min\nDefaultDeviceTimeoutSec=15min\n"
	journaldConfig = "[Journal]\nStorage=volatile\nRuntimeMaxUse=8M\n"
	// Modules that match a processor, not a machine in which containers run: each takes
	// seconds to load. button and evdev, which the power button wants, are not of them.
	blacklist = `blacklist kvm_amd
blacklist kvm_intel
blacklist aesni_intel
blacklist ghash_clmulni_intel
blacklist crct10dif_pclmul
blacklist crc32_pclmul
blacklist sha512_ssse3
blacklist sha256_ssse3
blacklist acpi_cpufreq
blacklist powernow_k8
blacklist i2c_i801
blacklist lpc_ich
blacklist iTCO_wdt
blacklist psmouse
blacklist serio_raw
blacklist pcspkr
blacklist rapl
blacklist intel_rapl_msr
blacklist floppy
blacklist parport_pc
blacklist qemu_fw_cfg
blacklist efi_pstore
`
)

// masked are units of which nothing in the machine has need.
var masked = []string{
	"apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "e2scrub_reap.service", "fstrim.timer",
	"systemd-tmpfiles-clean.timer", "cloud-init-hotplugd.socket", "cloud-config.service", "getty@tty1.service",
	"systemd-binfmt.service", "proc-sys-fs-binfmt_misc.automount", "systemd-pstore.service", "systemd-network-generator.service",
	"systemd-firstboot.service", "systemd-repart.service", "systemd-sysusers.service", "systemd-update-utmp.service",
	"systemd-update-utmp-runlevel.service", "systemd-machine-id-commit.service", "systemd-journal-flush.service", "systemd-random-seed.service",
	"systemd-modules-load.service", "systemd-pcrphase.service", "systemd-pcrphase-sysinit.service", "systemd-ask-password-console.path",
	"systemd-ask-password-wall.path", "systemd-initctl.socket", "systemd-journald-audit.socket", "modprobe@.service",
	"dev-hugepages.mount", "dev-mqueue.mount", "sys-fs-fuse-connections.mount", "sys-kernel-config.mount", "sys-kernel-debug.mount",
	"sys-kernel-tracing.mount", "cryptsetup.target", "integritysetup.target", "veritysetup.target",
}

// cloud makes a bootstrapped Debian ready for cloud-init: no identity, no address. The
// modules are those that its root file system and the seed are on: cloud-init looks for
// the seed's disk before udev may have loaded its driver, and an initrd of all drivers
// takes longer to unpack than everything in it to run. Without modules it is one of all.
func (b *builder) cloud(modules ...string) error {
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
	if len(modules) > 0 {
		err = errors.Join(
			b.write("/etc/initramfs-tools/conf.d/zos", 0o644, "MODULES=list\n"),
			b.append("/etc/initramfs-tools/modules", strings.Join(modules, "\n")+"\n"),
		)
		if err != nil {
			return err
		}
	}
	return errors.Join(
		b.write("/etc/cloud/cloud.cfg.d/99-zos.cfg", 0o644, cloudConfig),
		b.write("/etc/fstab", 0o644, "# the root file system is the kernel command line's\n"),
		b.write("/etc/systemd/system.conf.d/zos.conf", 0o644, systemdConfig),
		b.write("/etc/systemd/journald.conf.d/zos.conf", 0o644, journaldConfig),
		b.write("/etc/modprobe.d/zos.conf", 0o644, blacklist),
		b.chroot("0:0", "update-initramfs", "-u"),
		b.compilePython(),
		os.Remove(filepath.Join(b.tree, "etc/resolv.conf")),
		os.Symlink("../run/systemd/resolve/stub-resolv.conf", filepath.Join(b.tree, "etc/resolv.conf")),
		b.chroot("0:0", "systemctl", "enable", "systemd-networkd", "systemd-resolved", "ssh", "serial-getty@ttyS0"),
		b.chroot("0:0", append([]string{"systemctl", "mask"}, masked...)...),
		b.noGenerators(),
	)
}

// noGenerators has systemd run none of its generators, which make units of what is
// found: each is a process before anything starts, and cloud-init's a long script. What
// they would add is enabled here.
func (b *builder) noGenerators() error {
	found, err := filepath.Glob(filepath.Join(b.tree, "usr/lib/systemd/system-generators/*"))
	if err != nil || len(found) == 0 {
		return fmt.Errorf("no generators of systemd's (%w)", err)
	}
	if err := b.dir("/etc/systemd/system-generators", 0o755, 0, 0); err != nil {
		return err
	}
	for _, path := range found {
		if err := os.Symlink("/dev/null", filepath.Join(b.tree, "etc/systemd/system-generators", filepath.Base(path))); err != nil {
			return err
		}
	}
	return os.Symlink("/lib/systemd/system/cloud-init.target", filepath.Join(b.tree, "etc/systemd/system/multi-user.target.wants/cloud-init.target"))
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

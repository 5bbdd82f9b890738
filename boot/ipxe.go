package boot

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/zero-os/zos/linux/cpio"
)

// Cmdline is the kernel's command line of every node. It holds nothing that is
// a grid's own and no trust root: iPXE's load options override it, and anyone
// who serves boot files can change it.
//
// loglevel=4 shows the kernel's warnings beside the first stage's own lines
// ("quiet" would hide kmsg lines). panic=10 reboots: a node heals by itself.
// The rest is hardening that was measured to let everything work and to boot
// as fast.
const Cmdline = "console=ttyS0 loglevel=4 panic=10 " +
	"lockdown=integrity module.sig_enforce=1 init_on_alloc=1 init_on_free=1 slab_nomerge vsyscall=none debugfs=off"

// Script returns the iPXE script that boots a node: the kernel, the boot image
// and the grid's archive, all named relative to the script's own URL.
//
// Under UEFI the kernel's EFI stub loads exactly the initrds that the command
// line names, in that order; on BIOS iPXE joins them itself and the names do no
// harm. Under UEFI iPXE puts the kernel's name in front of the command line, so
// it gets the name that boot loaders use there. A failure is shown, and everything is tried again after some seconds.
func Script(extraCmdline string) (string, error) {
	if strings.ContainsAny(extraCmdline, "\n\r${}") {
		return "", fmt.Errorf("iPXE script: kernel parameters %q hold characters that iPXE would read", extraCmdline)
	}
	cmdline := strings.TrimSpace(Cmdline + " " + extraCmdline)
	return strings.Join([]string{
		"#!ipxe",
		":start",
		"imgfree",
		fmt.Sprintf("kernel --name BOOT_IMAGE %s initrd=%s initrd=%s %s || goto failed", KernelFile, InitrdFile, GridFile, cmdline),
		fmt.Sprintf("initrd --name %s %s || goto failed", InitrdFile, InitrdFile),
		fmt.Sprintf("initrd --name %s %s || goto failed", GridFile, GridFile),
		"boot || goto failed",
		":failed",
		"echo zos: the boot source did not give all boot files, trying again in 5 s",
		"sleep 5",
		"goto start",
		"",
	}, "\n"), nil
}

// WriteGrid writes the grid's archive and the iPXE script into dir, beside the
// boot image that BuildImage wrote there: all that a boot source serves.
func WriteGrid(dir string, a Archive, extraCmdline string) error {
	b, err := ArchiveInitrd(a)
	if err != nil {
		return err
	}
	if len(b)%cpio.Align != 0 {
		return fmt.Errorf("grid archive of %d bytes is not padded", len(b))
	}
	script, err := Script(extraCmdline)
	if err != nil {
		return err
	}
	if err := WriteFile(filepath.Join(dir, GridFile), b, 0o644); err != nil {
		return fmt.Errorf("write the grid's archive: %w", err)
	}
	if err := WriteFile(filepath.Join(dir, ScriptFile), []byte(script), 0o644); err != nil {
		return fmt.Errorf("write the boot script: %w", err)
	}
	return nil
}

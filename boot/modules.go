package boot

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/zero-os/zos/problem"
)

// FirstStageModules are the drivers without which the first stage cannot reach
// a network, a disk and a verified mount. Everything else comes with the OS.
// sha256_ssse3 must be there before the first fs-verity use, else the kernel
// hashes with its generic code for the whole uptime.
func FirstStageModules() []string {
	return []string{"virtio_net", "virtio_blk", "sha256_ssse3", "zram", "erofs", "overlay"}
}

// nodeModules are what the OS flist carries besides the first stage's, each once
// and with what it is for. Not br_netfilter: bridged frames would then pass filters
// that speak of routed packets.
var nodeModules = []struct{ what, names string }{
	{"tunnels of tenants' networks", "wireguard"},
	{"links of workloads and machines", "veth bridge tun"},
	{"virtual networks of farms", "macvlan vxlan 8021q"},
	{"firewalls", "nf_tables nft_ct nft_nat nft_masq nft_reject_inet nft_limit nft_log nft_fib_inet nft_chain_nat nft_redir nft_connlimit nft_meta_bridge nf_conntrack_netlink"},
	{"limits of traffic", "sch_fq sch_tbf sch_netem"},
	{"virtual machines", "kvm_amd kvm_intel"},
	{"channel to a machine's agent", "vhost_vsock"},
	{"packets of machines, without a detour over QEMU", "vhost_net"},
	{"entropy of a node that is a machine itself", "virtio_rng"},
	{"writable layers of workloads", "loop"},
	{"file systems and disks", "btrfs dm_mod dm_verity dm_crypt brd xxhash_generic blake2b_generic crc32c_intel"},
	{"disks of bare machines and of other hypervisors, as far as the cloud kernel goes", "ahci virtio_scsi"},
	{"a watchdog", "i6300esb"},
}

// NodeModules are the modules that the OS flist carries for zosd to load; the
// first stage's are among them so that one directory tells all.
func NodeModules() []string {
	names := FirstStageModules()
	for _, m := range nodeModules {
		names = append(names, strings.Fields(m.names)...)
	}
	return names
}

// Kernel is an unpacked Debian kernel package.
type Kernel struct {
	Version string // e.g. 6.12.117+deb12-cloud-amd64
	Image   string // path of vmlinuz
	dir     string // lib/modules/<version>
	files   map[string]string
	builtin map[string]bool
}

// Module is a kernel module file.
type Module struct {
	Name    string // with underscores, as the kernel shows it
	Path    string // of the .ko.xz file
	Depends []string
}

// OpenKernel reads the layout of dir, which holds boot/vmlinuz-<version> and
// lib/modules/<version> of exactly one kernel.
func OpenKernel(dir string) (*Kernel, error) {
	versions, err := filepath.Glob(filepath.Join(dir, "lib/modules/*"))
	if err != nil || len(versions) != 1 {
		return nil, problem.New("kernel-missing", "open kernel in %s: want exactly one lib/modules/<version>, found %d", dir, len(versions)).
			WithFix("make deps fetches the pinned kernel package")
	}
	k := &Kernel{Version: filepath.Base(versions[0]), dir: versions[0], files: map[string]string{}, builtin: map[string]bool{}}
	k.Image = filepath.Join(dir, "boot/vmlinuz-"+k.Version)
	if _, err := os.Stat(k.Image); err != nil {
		return nil, problem.New("kernel-missing", "open kernel in %s: %w", dir, err).WithFix("make deps fetches the pinned kernel package")
	}
	if err := k.readList("modules.order", func(p string) { k.files[moduleName(p)] = p }); err != nil {
		return nil, err
	}
	if err := k.readList("modules.builtin", func(p string) { k.builtin[moduleName(p)] = true }); err != nil {
		return nil, err
	}
	return k, nil
}

func (k *Kernel) readList(name string, add func(string)) error {
	f, err := os.Open(filepath.Join(k.dir, name))
	if err != nil {
		return fmt.Errorf("read kernel's module list: %w", err)
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for s.Scan() {
		if line := strings.TrimSpace(s.Text()); line != "" {
			add(line)
		}
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("read %s: %w", f.Name(), err)
	}
	return nil
}

// moduleName is the name under which the kernel knows the file at p.
func moduleName(p string) string {
	base := filepath.Base(p)
	if i := strings.Index(base, ".ko"); i >= 0 {
		base = base[:i]
	}
	return strings.ReplaceAll(base, "-", "_")
}

// KernelModules returns the files of the named modules of the kernel unpacked
// in dir with everything they depend on, each after what it needs. What is
// built into the kernel is left out. A name that this kernel does not have is
// an error.
func KernelModules(ctx context.Context, dir string, names ...string) ([]Module, error) {
	k, err := OpenKernel(dir)
	if err != nil {
		return nil, err
	}
	return k.Modules(ctx, names...)
}

// Modules is KernelModules for an open kernel.
func (k *Kernel) Modules(ctx context.Context, names ...string) ([]Module, error) {
	var order []Module
	state := map[string]int{} // 1: on the way, 2: done
	var visit func(name string) error
	visit = func(name string) error {
		name = strings.ReplaceAll(name, "-", "_")
		switch {
		case state[name] == 2 || k.builtin[name]:
			return nil
		case state[name] == 1:
			return fmt.Errorf("kernel module %s depends on itself", name)
		}
		state[name] = 1
		path, err := k.path(name)
		if err != nil {
			return err
		}
		deps, err := moduleDepends(ctx, path)
		if err != nil {
			return err
		}
		for _, d := range deps {
			if err := visit(d); err != nil {
				return fmt.Errorf("%s needs: %w", name, err)
			}
		}
		deps = slices.DeleteFunc(deps, func(d string) bool { return k.builtin[d] })
		order = append(order, Module{Name: name, Path: path, Depends: deps})
		state[name] = 2
		return nil
	}
	for _, n := range names {
		if err := visit(n); err != nil {
			return nil, fmt.Errorf("find modules of kernel %s: %w", k.Version, err)
		}
	}
	return order, nil
}

func (k *Kernel) path(name string) (string, error) {
	rel, ok := k.files[name]
	if !ok {
		return "", problem.New("module-missing", "kernel %s has no module %s", k.Version, name)
	}
	for _, suffix := range []string{".xz", ""} {
		p := filepath.Join(k.dir, rel+suffix)
		if _, err := os.Stat(p); err == nil {
			return p, nil
		}
	}
	return "", problem.New("module-missing", "module %s is listed but %s is not there", name, filepath.Join(k.dir, rel))
}

// maxModule bounds a decompressed module; the largest of Debian's is 8 MB.
const maxModule = 64 << 20

// moduleDepends reads the depends= fields of a module. They stand in its
// .modinfo section as zero-terminated strings; no other text of a module begins
// that way, so the ELF structure need not be parsed.
func moduleDepends(ctx context.Context, path string) ([]string, error) {
	b, err := readModule(ctx, path)
	if err != nil {
		return nil, err
	}
	var deps []string
	for _, field := range bytes.Split(b, []byte{0}) {
		if rest, ok := bytes.CutPrefix(field, []byte("depends=")); ok {
			for _, d := range strings.Split(string(rest), ",") {
				if d != "" {
					deps = append(deps, strings.ReplaceAll(d, "-", "_"))
				}
			}
		}
	}
	sort.Strings(deps)
	return slices.Compact(deps), nil
}

// readModule decompresses with the xz program: the standard library has no xz,
// and this runs where images are built, never on a node.
func readModule(ctx context.Context, path string) ([]byte, error) {
	if !strings.HasSuffix(path, ".xz") {
		return os.ReadFile(path)
	}
	xz, err := exec.LookPath("xz")
	if err != nil {
		return nil, problem.New("tool-missing", "read module %s: %w", path, err).WithFix("run: sudo make deps")
	}
	cmd := exec.CommandContext(ctx, xz, "-dc", "--", path)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("read module %s: %w", path, err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("read module %s: %w", path, err)
	}
	b, readErr := io.ReadAll(io.LimitReader(out, maxModule+1))
	if len(b) > maxModule {
		_ = cmd.Process.Kill()
	}
	if err := cmd.Wait(); err != nil {
		return nil, fmt.Errorf("read module %s: %w: %s", path, err, bytes.TrimSpace(stderr.Bytes()))
	}
	if readErr != nil {
		return nil, fmt.Errorf("read module %s: %w", path, readErr)
	}
	return b, nil
}

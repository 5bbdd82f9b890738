package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/zero-os/zos/bench/table"
)

// The container runtimes: ours, of this module, and Debian's.
var runtimes = []struct{ name, program string }{
	{"runc of this module", "bin/runc"}, {"runc of Debian", "/usr/sbin/runc"}, {"crun of Debian", "/usr/bin/crun"},
}

// native runs the runtimes alone on this host, which is not emulated, with a
// configuration like a node's: all namespaces, ids of its own, no capability, the
// same seccomp profile. Where the host's cgroups are not version 2 alone this is all
// that can be measured of containers without emulation.
func (b *bench) native(ctx context.Context) error {
	times, failed := map[string][]float64{}, map[string]error{}
	for n := range 3 * b.times {
		for _, r := range runtimes {
			took, err := b.alone(ctx, r.program, fmt.Sprintf("zos-bench-%d-%d", os.Getpid(), n))
			if err != nil {
				// Debian's crun refuses hosts that have cgroups of both versions.
				failed[r.name] = err
				continue
			}
			times[r.name] = append(times[r.name], took.Seconds()*1000)
		}
	}
	for _, r := range runtimes {
		if err := failed[r.name]; err != nil {
			b.Add("container until its first output, "+r.name+" alone, this host", "does not run here: "+err.Error(), "", true)
			continue
		}
		b.Add("container until its first output, "+r.name+" alone, this host", fmt.Sprintf("median %.0f ms, least %.0f of %d", table.Median(times[r.name]), slices.Min(times[r.name]), len(times[r.name])), "", true)
	}
	return nil
}

func (b *bench) alone(ctx context.Context, program, id string) (took time.Duration, err error) {
	if program, err = filepath.Abs(program); err != nil {
		return 0, err
	}
	spec, err := nativeSpec(b.parts.image, id)
	if err != nil {
		return 0, err
	}
	raw, err := json.Marshal(spec)
	if err != nil {
		return 0, err
	}
	dir, err := os.MkdirTemp(b.parts.dir, "bundle-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, "config.json"), raw, 0o600); err != nil {
		return 0, err
	}
	// A state of its own for each: they do not read each other's.
	state := filepath.Join(b.parts.dir, "state-"+filepath.Base(filepath.Dir(program))+"-"+filepath.Base(program))
	cmd := exec.CommandContext(ctx, program, "--root", state, "run", "--bundle", dir, id)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	took = time.Since(began)
	_ = exec.Command(program, "--root", state, "kill", id, "KILL").Run()
	_ = cmd.Wait() // by a signal
	_ = exec.Command(program, "--root", state, "delete", "--force", id).Run()
	if err != nil || !strings.HasPrefix(line, "hello ") {
		return 0, fmt.Errorf("it says %q: %v", line, err)
	}
	return took, nil
}

func nativeSpec(root, id string) (*specs.Spec, error) {
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1 << 20, Size: 1 << 16}}
	s := &specs.Spec{
		Version:  "1.0.2", // which Debian's crun knows
		Hostname: "bench", Root: &specs.Root{Path: root, Readonly: true},
		Process: &specs.Process{
			Args: []string{"/bin/meter", "hello"}, Env: []string{"PATH=/bin"}, Cwd: "/",
			Capabilities: &specs.LinuxCapabilities{}, NoNewPrivileges: true,
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec", "mode=755", "size=64k"}},
		},
		Linux: &specs.Linux{
			UIDMappings: ids, GIDMappings: ids, CgroupsPath: "/" + id,
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.UserNamespace}, {Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
				{Type: specs.MountNamespace}, {Type: specs.NetworkNamespace},
			},
			MaskedPaths: []string{"/proc/kcore", "/proc/keys"}, ReadonlyPaths: []string{"/proc/sys", "/proc/sysrq-trigger"},
		},
	}
	profile, err := seccomp.GetDefaultProfile(s)
	if err != nil {
		return nil, err
	}
	s.Linux.Seccomp = profile
	return s, nil
}

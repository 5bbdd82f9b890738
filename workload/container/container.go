package container

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/linux/cgroup"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/supervise"
	"github.com/zero-os/zos/workload"
)

// Rootfs mounts flists as root file systems. The node gives one made of its store.
type Rootfs interface {
	// Mount mounts the flist on target (an existing directory), writable through
	// upper and work, two directories of one file system that it makes on first
	// use, or read-only if both are empty. The ids 0…65535 of the flist's files become idBase…idBase+65535,
	// upper included. verity tells whether the kernel checks every page read from the flist.
	Mount(ctx context.Context, flist canon.Hash, target, upper, work string, idBase uint32) (verity bool, err error)
	// Unmount takes the mount at target away; none there is no error.
	Unmount(target string) error
	// Failure tells why the flist's files could lately not be read, as a problem code
	// ("digest-mismatch", "hub-unreachable", …) and one line; "" if they could.
	Failure(flist canon.Hash) (code, detail string)
	// Damage tells in the same form whether what this node has of the flist is damaged,
	// which may be why the run that was begun then has failed. It reads much, once a run.
	Damage(flist canon.Hash, begun time.Time) (code, detail string)
	// Damages counts since boot how often something of any flist was removed because it
	// was damaged. A mount from before may hold on to what was removed.
	Damages() uint64
}

// Config is where a Kind finds and puts things. All paths are absolute.
type Config struct {
	Data string // directory of workloads on the data disk, e.g. /data/workloads
	Run  string // directory in memory; "" means /run/zos/container
	Runc string // program; "" means /bin/runc
	Shim string // program; "" means /bin/zos-shim

	RuncRoot     string // runc's state, in memory; "" means /run/zos/runc
	CgroupParent string // below the cgroup root; "" means /zos
	Exits        string // process 1's records of orphans; "" means /run/zos/exits

	// InMemory says that Data lies in memory: writable layers need no journal.
	InMemory bool
	LogBound int64         // bytes of each log ring; 0 means logs.DefaultBound
	Grace    time.Duration // from the first signal to SIGKILL; 0 means the plan's
	// Backoff is the shims' pause between starts; zero means from 0.5 s to 30 s,
	// from the beginning again after a minute of running.
	Backoff supervise.Backoff
	// IDBase is the first host id given to workloads, a multiple of 65536; 0 means 2^20.
	IDBase uint64

	Rootfs Rootfs
	// Machines says how virtual machines run; nil: none do.
	Machines *Machines
	// Networks attaches containers to networks; nil: those that want one are refused.
	Networks Networks
	// Secrets opens one secret of a workload, as its variable or file has it; nil:
	// workloads with secrets are refused. What it returns is only ever in memory.
	Secrets func(ctx context.Context, d workload.Desired, s plan.Secret) ([]byte, error)
	Log     *slog.Logger
}

// Kind runs workloads of kind "container". It implements workload.Kind.
type Kind struct {
	cfg  Config
	form Form
	// shims is the cgroup that shims are started in; "" leaves them in the daemon's.
	shims cgroup.Group
	mu    sync.Mutex // of the ranges of user ids
}

var _ workload.Kind = (*Kind)(nil)

// New returns the kind, after checking that this machine can run containers as
// promised: cgroup version 2 alone, and the programs.
func New(cfg Config) (*Kind, error) { return NewForm(cfg, containers{}) }

// NewForm is New for another kind of workload that shims run. Its directories are
// not those of containers.
func NewForm(cfg Config, form Form) (*Kind, error) {
	defaults(&cfg)
	for _, p := range []string{cfg.Data, cfg.Run, cfg.Runc, cfg.Shim, cfg.RuncRoot, cfg.CgroupParent, cfg.Exits} {
		if !filepath.IsAbs(p) {
			return nil, fmt.Errorf("containers: path %q is not absolute", p)
		}
	}
	if cfg.Rootfs == nil || cfg.Log == nil {
		return nil, errors.New("containers: no Rootfs or no Log given")
	}
	if cfg.IDBase%idRange != 0 {
		return nil, fmt.Errorf("containers: first user id %d is no multiple of %d", cfg.IDBase, idRange)
	}
	if err := cgroup.Check(); err != nil {
		return nil, fmt.Errorf("containers: %w", err)
	}
	for _, p := range []string{cfg.Runc, cfg.Shim} {
		if _, err := os.Stat(p); err != nil {
			return nil, fmt.Errorf("containers: %w", err)
		}
	}
	for d, mode := range map[string]os.FileMode{cfg.Run: runMode, cfg.RuncRoot: 0o700, cfg.Data: 0o700} {
		if err := os.MkdirAll(d, mode); err != nil {
			return nil, fmt.Errorf("containers: %w", err)
		}
	}
	// Now, so that the first workload leaves no more behind than any other.
	shims := cgroup.At(filepath.Join(cfg.CgroupParent, shimsGroup))
	if err := os.MkdirAll(string(shims), 0o755); err != nil {
		return nil, fmt.Errorf("containers: %w", err)
	}
	if err := passable(cfg.Run); err != nil {
		return nil, fmt.Errorf("containers: %w", err)
	}
	return &Kind{cfg: cfg, form: form, shims: shims}, nil
}

// shimsGroup is the cgroup of all shims and of the runtime's commands that they start,
// beside the workloads'. Together they have the share of processors that one workload
// has: whose program ends again and again has its starts made at nobody else's cost.
const shimsGroup = "shims"

// runMode is that of the directories above a root file system: the container's
// first process, already an unprivileged user of the node, must pass through them
// to mount it, and can't list them.
const runMode = 0o711

// passable lets everyone pass through dir and the directories above it.
func passable(dir string) error {
	for ; dir != "/"; dir = filepath.Dir(dir) {
		st, err := os.Stat(dir)
		if err != nil {
			return err
		}
		if m := st.Mode().Perm(); m&0o011 != 0o011 {
			if err := os.Chmod(dir, m|0o011); err != nil {
				return err
			}
		}
	}
	return nil
}

func defaults(c *Config) {
	set := func(p *string, v string) {
		if *p == "" {
			*p = v
		}
	}
	set(&c.Run, "/run/zos/container")
	set(&c.Runc, "/bin/runc")
	set(&c.Shim, "/bin/zos-shim")
	set(&c.RuncRoot, "/run/zos/runc")
	set(&c.CgroupParent, "/zos")
	set(&c.Exits, "/run/zos/exits")
	if c.Backoff == (supervise.Backoff{}) {
		c.Backoff = supervise.Backoff{First: 500 * time.Millisecond, Max: 30 * time.Second, Reset: time.Minute}
	}
	if c.IDBase == 0 {
		c.IDBase = 1 << 20
	}
}

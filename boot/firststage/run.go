package firststage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/beevik/ntp"
	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/boot"
	"github.com/zero-os/zos/linux/clock"
	"github.com/zero-os/zos/linux/module"
	"github.com/zero-os/zos/linux/tpm"
	"github.com/zero-os/zos/problem"
)

// newRoot is where the OS is mounted until it becomes the root.
const newRoot = "/newroot"

// networkTries is how often a node whose disk holds a bootable system asks for a
// network before it goes on without.
const networkTries = 2

// stage is what the steps learn from each other.
type stage struct {
	*Steps
	grid     Grid
	slot     Slot
	handover boot.Handover
	client   *http.Client
}

// Run does the whole first stage and, as its last act, moves into the verified
// system. Then the caller, process 1, executes SecondStage from the new root. On
// an error, which is ctx's or a failed move, it can only restart the machine.
func Run(ctx context.Context, console *Console) error {
	s := &stage{
		Steps:  &Steps{Console: console, MinWait: time.Second, MaxWait: 30 * time.Second},
		client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true, Proxy: nil}},
	}
	s.handover.V = 1
	for _, step := range []struct {
		name string
		try  action
	}{
		{"mounts", s.mounts},
		{"drivers", s.drivers},
		{"kernel", s.kernel},
		{"archive", s.archive},
		{"clock", s.clock},
		{"slot", s.findSlot},
		{"disk", s.disk},
		{"tpm", s.tpm},
	} {
		if err := s.Run(ctx, step.name, step.try); err != nil {
			return err
		}
	}
	if err := s.network(ctx); err != nil {
		return err
	}
	if err := s.system(ctx); err != nil {
		return err
	}
	// Tried once: half-way through there is no way back but a restart.
	return s.Try(ctx, "root", 1, 0, s.enter)
}

// SecondStage is the program that process 1 becomes.
const SecondStage = "/bin/zos-init"

func (s *stage) mounts(context.Context) (string, error) {
	n, err := mountBasics()
	if err != nil {
		return "", err
	}
	// A kernel that panics restarts the machine; nobody sits in front of it.
	if err := os.WriteFile("/proc/sys/kernel/panic", []byte("10"), 0); err != nil {
		return "", err
	}
	if f, err := os.OpenFile("/dev/console", os.O_WRONLY|unix.O_NOCTTY, 0); err == nil {
		s.Console.reopen(f)
	}
	return fmt.Sprintf("%d file systems", n), nil
}

func (s *stage) drivers(context.Context) (string, error) {
	n, err := module.LoadDir(boot.ModulesDir, module.Parameters{"zram": "num_devices=1"})
	if n == 0 && err != nil {
		return "", err
	}
	if err != nil {
		// A driver without its device, or a newer kernel's: named, and gone on.
		s.degrade("drivers", explain(err))
	}
	return fmt.Sprintf("%d modules", n), nil
}

func (s *stage) kernel(context.Context) (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", err
	}
	k := &s.handover.Kernel
	k.Version = unix.ByteSliceToString(u.Release[:])
	k.Lockdown = selected(readLine("/sys/kernel/security/lockdown"))
	k.Signed = readLine("/sys/module/module/parameters/sig_enforce") == "Y"
	b, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return "", err
	}
	k.Ignored = IgnoredParameters(string(b))
	detail := fmt.Sprintf("%s, lockdown %s", k.Version, k.Lockdown)
	if len(k.Ignored) > 0 {
		detail += ", parameters ignored: " + strings.Join(k.Ignored, " ")
	}
	return detail, nil
}

func (s *stage) archive(context.Context) (string, error) {
	b, err := readBounded(boot.ArchivePath, boot.MaxArchive)
	if errors.Is(err, fs.ErrNotExist) {
		return "", problem.New("archive-missing", "there is no grid's archive at %s", boot.ArchivePath).
			WithFix("let the boot source hand out the archive as second initrd, padded, and boot again")
	}
	if err != nil {
		return "", err
	}
	if s.grid, err = OpenArchive(b); err != nil {
		return "", err
	}
	if err := os.MkdirAll(boot.RunDir, 0o755); err != nil {
		return "", err
	}
	if err := boot.WriteFile(boot.RunArchivePath, b, 0o644); err != nil {
		return "", err
	}
	s.handover.Grid = s.grid.ID
	return fmt.Sprintf("grid %s, farm %s, %d slots, %d hubs", s.grid.ID.Short(), printable(s.grid.Farm.Name, 64), len(s.grid.Slots), len(s.grid.Hubs)), nil
}

// clock puts the clock above its floor; network time, which needs a network,
// comes later.
func (s *stage) clock(context.Context) (string, error) {
	return s.setClock(time.Time{})
}

func (s *stage) setClock(network time.Time) (string, error) {
	floor := time.Unix(int64(min(s.grid.Built, 1<<40)), 0)
	now := time.Now()
	t, source, refused := DecideClock(now, floor, network)
	if source != FromRTC {
		if err := clock.Step(t); err != nil {
			return "", err
		}
	} else if s.handover.Clock.Source != "" {
		source = s.handover.Clock.Source // what an earlier step found stands
	}
	s.handover.Clock = boot.Clock{Source: source, Time: uint64(t.Unix()), Floor: uint64(floor.Unix())}
	if source == FromFloor {
		s.degrade("clock", "the machine's clock is wrong; it stands at the time these boot files were made")
	}
	return fmt.Sprintf("%s by %s", t.UTC().Format(time.RFC3339), source), refused
}

func (s *stage) findSlot(context.Context) (string, error) {
	m, err := readMachine()
	if err != nil {
		return "", err
	}
	if s.slot, err = MatchSlot(s.grid.Slots, m); err != nil {
		return "", err
	}
	s.handover.Slot, s.handover.SlotName, s.handover.Hint = s.slot.ID, s.slot.Name, s.slot.Hint
	return fmt.Sprintf("%s (%s) by %s", printable(s.slot.Name, 64), s.slot.ID.Short(), printable(s.slot.Hint, 80)), nil
}

func (s *stage) disk(ctx context.Context) (string, error) {
	d, err := data{dir: boot.DataDir, sys: "/sys", grid: s.grid.ID, slot: s.slot, console: s.Console}.open(ctx)
	if err != nil {
		return "", err
	}
	s.handover.Disk = d
	detail := fmt.Sprintf("%s, %s, %s", d.Device, d.Serial, mib(d.Size))
	if d.Kind == boot.DiskZram {
		s.degrade("disk", d.Reason)
		detail = fmt.Sprintf("in memory, %s: %s", mib(d.Size), d.Reason)
	} else if d.Fresh {
		detail += ", formatted"
	}
	return detail, nil
}

// tpm looks for a TPM; its absence is no failure, since a slot may keep its keys
// elsewhere.
func (s *stage) tpm(context.Context) (string, error) {
	floor := s.grid.ReleaseFloor
	detail := "none"
	if t, err := tpm.Open(tpm.DefaultPath); err == nil {
		f, err := t.ReadFloor()
		err = errors.Join(err, t.Close())
		if err != nil {
			s.degrade("tpm", explain(err))
			detail = "unusable"
		} else {
			s.handover.TPM = tpm.DefaultPath
			floor = max(floor, f)
			detail = tpm.DefaultPath
		}
	} else if s.slot.Identity == "tpm" {
		s.degrade("tpm", "this slot keeps its keys in a TPM, and there is none")
	}
	f, err := boot.ReadFloor(boot.DataDir)
	if err != nil {
		// Written whole or not at all, so this is decay or an attack; either way
		// the other floors stand, and the next good boot writes it anew.
		s.degrade("floor", explain(err))
	}
	s.handover.Floor = max(floor, f)
	return fmt.Sprintf("%s, release floor %d", detail, s.handover.Floor), nil
}

// network waits for an address for ever, unless the disk holds a system that can
// be booted without one.
func (s *stage) network(ctx context.Context) error {
	wait := s.MinWait
	for n := uint64(1); ; n++ {
		next := wait
		without := n >= networkTries && s.bootable()
		if without {
			next = 0
		}
		if s.Try(ctx, "network", n, next, s.connect) == nil {
			break
		}
		if without {
			s.degrade("network", "there is none yet; booting what the disk holds")
			return nil
		}
		if err := s.pause(ctx, &wait); err != nil {
			return fmt.Errorf("network: %w", err)
		}
	}
	if len(s.grid.NTP) > 0 {
		_ = s.Try(ctx, "time", 1, 0, s.networkTime) // the clock it has will do
	}
	return nil
}

func (s *stage) connect(ctx context.Context) (string, error) {
	n, err := connect(ctx, s.slot.Hint)
	if err != nil {
		return "", err
	}
	s.handover.Network = n
	// The resolver of this stage's root; the OS has the same link.
	if err := os.MkdirAll("/etc", 0o755); err != nil {
		return "", err
	}
	if err := os.Symlink(boot.ResolvConfPath, "/etc/resolv.conf"); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return describe(n), nil
}

func (s *stage) networkTime(ctx context.Context) (string, error) {
	var errs []error
	for _, server := range s.grid.NTP {
		r, err := ntp.QueryWithOptions(server, ntp.QueryOptions{Timeout: 3 * time.Second})
		if err == nil {
			err = r.Validate()
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("ask %s: %w", server, err))
			continue
		}
		return s.setClock(time.Now().Add(r.ClockOffset))
	}
	err := errors.Join(errs...)
	s.degrade("time", explain(err))
	return "", err
}

// bootable tells whether the disk holds a release that may be booted now.
func (s *stage) bootable() bool {
	accepted, _ := AcceptReleases(s.stored(), s.grid, uint64(time.Now().Unix()), s.handover.Floor)
	return len(accepted) > 0
}

// stored is the release that this disk booted last.
func (s *stage) stored() []Offer {
	b, err := readBounded(filepath.Join(boot.DataDir, boot.ReleaseFile), 1<<20)
	if err != nil {
		return nil
	}
	return []Offer{{From: "disk", Signed: b}}
}

// system gets the newest release that may be accepted and mounts its OS. If the
// newest can't be had, the next one will do, down to the one on the disk. After a
// failure everything is asked for again, since something better may have come.
func (s *stage) system(ctx context.Context) error {
	wait := s.MinWait
	for n := uint64(1); ; n++ {
		var accepted []Accepted
		_ = s.Try(ctx, "release", n, wait, func(ctx context.Context) (detail string, err error) {
			accepted, detail, err = s.releases(ctx)
			return detail, err
		})
		for i, r := range accepted {
			next := wait
			if i < len(accepted)-1 {
				next = 0
			}
			if s.Try(ctx, "system", n, next, func(ctx context.Context) (string, error) { return s.boot(ctx, r) }) == nil {
				return nil
			}
		}
		if err := s.pause(ctx, &wait); err != nil {
			return fmt.Errorf("system: %w", err)
		}
		if s.handover.Network.Interface == "" {
			_ = s.Try(ctx, "network", n, 0, s.connect)
		}
	}
}

// releases returns what may be booted, newest first.
func (s *stage) releases(ctx context.Context) ([]Accepted, string, error) {
	offers, unreachable := fetchReleases(ctx, s.client, s.grid.Hubs, s.grid.ID)
	fromHubs := len(offers)
	accepted, refused := AcceptReleases(append(offers, s.stored()...), s.grid, uint64(time.Now().Unix()), s.handover.Floor)
	if len(accepted) == 0 {
		err := errors.Join(refused, unreachable)
		if err == nil {
			err = problem.New("release-missing", "no hub and no disk offers a release").WithFix("publish one: zos release publish")
		}
		return nil, "", err
	}
	for _, err := range []error{refused, unreachable} {
		if err != nil {
			s.Console.Printf("release … refused %s", explain(err))
		}
	}
	if fromHubs == 0 {
		s.degrade("hub", "no hub answers; booting the release on the disk")
	}
	r := accepted[0]
	return accepted, fmt.Sprintf("%s (sequence %d, floor %d) from %s", printable(r.Name, 64), r.Sequence, s.handover.Floor, r.From), nil
}

// boot mounts the release's OS and, when that stands, raises every floor to it.
func (s *stage) boot(ctx context.Context, r Accepted) (string, error) {
	if checkpoint := time.Unix(int64(min(r.Checkpoint.Time, 1<<40)), 0); time.Now().Before(checkpoint) {
		// Release keys vouch that this time has passed.
		if err := clock.Step(checkpoint); err != nil {
			return "", err
		}
		s.handover.Clock.Source, s.handover.Clock.Time = FromRelease, r.Checkpoint.Time
	}
	s.handover.Clock.Floor = max(s.handover.Clock.Floor, r.Checkpoint.Time)
	detail, err := system{dir: boot.DataDir, target: newRoot, hubs: s.grid.Hubs, console: s.Console}.mount(ctx, r.OS)
	if err != nil {
		return "", err
	}
	h := &s.handover
	h.Release, h.Sequence, h.OS, h.Checkpoint = r.Signed, r.Sequence, r.OS, r.Checkpoint
	h.Floor = max(h.Floor, r.Sequence)
	if err := boot.WriteFile(filepath.Join(boot.DataDir, boot.ReleaseFile), r.Signed, 0o600); err != nil {
		return "", err
	}
	if err := boot.RaiseFloor(boot.DataDir, h.Floor); err != nil {
		return "", err
	}
	if h.TPM != "" {
		if err := s.raiseTPM(h.Floor); err != nil {
			s.degrade("tpm", explain(err))
		}
	}
	return detail, nil
}

// raiseTPM raises the floor in the TPM and locks it until the next reset.
func (s *stage) raiseTPM(floor uint64) error {
	t, err := tpm.Open(s.handover.TPM)
	if err != nil {
		return err
	}
	return errors.Join(t.RaiseFloor(floor), t.LockFloor(), t.Close())
}

// enter leaves the hand-over and makes the OS the root.
func (s *stage) enter(context.Context) (string, error) {
	s.handover.Steps = s.Done
	if err := boot.WriteHandover(boot.HandoverPath, s.handover); err != nil {
		return "", err
	}
	if err := switchRoot(newRoot); err != nil {
		return "", err
	}
	return fmt.Sprintf("flist %s is the root, %.1fs after power-on", s.handover.OS.Short(), clock.Boottime().Seconds()), nil
}

// degrade remembers what is missing, once per subject.
func (s *stage) degrade(subject, why string) {
	line := subject + ": " + printable(strings.ReplaceAll(why, "\n", "; "), 400)
	for i, d := range s.handover.Degraded {
		if strings.HasPrefix(d, subject+": ") {
			s.handover.Degraded[i] = line
			return
		}
	}
	s.handover.Degraded = append(s.handover.Degraded, line)
}

func readBounded(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > limit {
		return nil, fmt.Errorf("read %s: %d bytes, at most %d are allowed", path, info.Size(), limit)
	}
	return os.ReadFile(path)
}

func readLine(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// selected returns the word in brackets, as in "none [integrity]".
func selected(s string) string {
	if _, rest, ok := strings.Cut(s, "["); ok {
		word, _, _ := strings.Cut(rest, "]")
		return word
	}
	return "none"
}

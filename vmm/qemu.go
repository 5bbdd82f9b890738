package vmm

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strings"

	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/qemu"
)

// QEMU is the VMM that there is.
type QEMU struct{}

var _ VMM = QEMU{}

// Args is Config.Args.
func (QEMU) Args(c Config) ([]string, error) { return c.Args() }

// Attach implements VMM.
func (QEMU) Attach(ctx context.Context, conn net.Conn, events func(Event)) (Machine, error) {
	m, err := qemu.OpenMonitor(ctx, conn, func(e qemu.Event) {
		if e, ok := event(e); ok {
			events(e)
		}
	})
	if err != nil {
		return nil, problem.New("machine-control", "take control of the machine: %w", err)
	}
	return &machine{m}, nil
}

type machine struct{ qmp *qemu.Monitor }

func (m *machine) run(ctx context.Context, command string, arguments, result any) error {
	b, err := m.qmp.Run(ctx, command, arguments)
	if err == nil && result != nil {
		err = json.Unmarshal(b, result)
	}
	if err != nil {
		return problem.New("machine-control", "control the machine: %w", err)
	}
	return nil
}

func (m *machine) Pause(ctx context.Context) error  { return m.run(ctx, "stop", nil, nil) }
func (m *machine) Resume(ctx context.Context) error { return m.run(ctx, "cont", nil, nil) }
func (m *machine) Stop(ctx context.Context) error   { return m.run(ctx, "system_powerdown", nil, nil) }
func (m *machine) Kill(ctx context.Context) error   { return m.run(ctx, "quit", nil, nil) }
func (m *machine) Done() <-chan struct{}            { return m.qmp.Done() }
func (m *machine) Close()                           { m.qmp.Close() }

func (m *machine) Resize(ctx context.Context, memory uint64) error {
	if memory < MinMemory || memory > MaxMemory {
		return problem.New("machine-invalid", "memory of %d bytes is not from %d to %d", memory, MinMemory, MaxMemory)
	}
	return m.run(ctx, "balloon", map[string]uint64{"value": memory}, nil)
}

func (m *machine) State(ctx context.Context) (State, error) {
	var st struct{ Status string }
	if err := m.run(ctx, "query-status", nil, &st); err != nil {
		return "", err
	}
	return state(st.Status)
}

// state reads QEMU's RunState.
func state(s string) (State, error) {
	switch s {
	case "running":
		return Running, nil
	case "paused", "prelaunch", "suspended", "debug":
		return Paused, nil
	case "guest-panicked":
		return Panicked, nil
	case "io-error", "internal-error", "watchdog":
		return Failed, nil
	case "shutdown":
		return Ending, nil
	}
	return "", problem.New("machine-control", "the machine is in the unknown state %.40q", s)
}

func (m *machine) Stats(ctx context.Context) (Stats, error) {
	var out Stats
	var err error
	if out.State, err = m.State(ctx); err != nil {
		return Stats{}, err
	}
	var balloon struct{ Actual uint64 }
	if err := m.run(ctx, "query-balloon", nil, &balloon); err != nil {
		return Stats{}, err
	}
	out.Memory = balloon.Actual
	var blocks []blockStats
	if err := m.run(ctx, "query-blockstats", nil, &blocks); err != nil {
		return Stats{}, err
	}
	out.Disks = diskStats(blocks)
	return out, nil
}

// blockStats is one device of QEMU's answer to query-blockstats.
type blockStats struct {
	QDev  string `json:"qdev"`
	Stats struct {
		Reads        uint64 `json:"rd_operations"`
		Writes       uint64 `json:"wr_operations"`
		Flushes      uint64 `json:"flush_operations"`
		ReadBytes    uint64 `json:"rd_bytes"`
		WrittenBytes uint64 `json:"wr_bytes"`
	} `json:"stats"`
}

// diskStats finds the disks that devices named, in their order.
func diskStats(blocks []blockStats) []DiskStats {
	byID := map[string]DiskStats{}
	for _, b := range blocks {
		for _, part := range strings.Split(b.QDev, "/") { // "/machine/peripheral/disk0-dev/virtio-backend"
			if strings.HasPrefix(part, "disk") {
				byID[part] = DiskStats(b.Stats)
			}
		}
	}
	var out []DiskStats
	for i := range MaxDisks {
		d, ok := byID[fmt.Sprintf("disk%d-dev", i)]
		if !ok {
			break
		}
		out = append(out, d)
	}
	return out
}

// event translates what QEMU says; ok is false for what nobody needs.
func event(e qemu.Event) (_ Event, ok bool) {
	switch e.Name {
	case "STOP":
		return Event{Kind: EventPaused}, true
	case "RESUME":
		return Event{Kind: EventResumed}, true
	case "RESET":
		return Event{Kind: EventReset}, true
	case "GUEST_PANICKED", "GUEST_CRASHLOADED":
		return Event{Kind: EventPanic, Reason: ReasonPanic}, true
	case "BALLOON_CHANGE":
		return Event{Kind: EventBalloon}, true
	case "BLOCK_IO_ERROR":
		var d struct {
			Node string `json:"node-name"`
		}
		_ = json.Unmarshal(e.Data, &d) // an unnamed disk's error is one all the same
		id := strings.TrimSuffix(strings.TrimPrefix(d.Node, "disk"), "-file")
		if len(id) > 4 {
			id = ""
		}
		return Event{Kind: EventDisk, Reason: Reason(id)}, true
	case "SHUTDOWN":
		var d struct{ Reason string }
		_ = json.Unmarshal(e.Data, &d)
		return Event{Kind: EventShutdown, Reason: reason(d.Reason)}, true
	}
	return Event{}, false
}

// reason reads QEMU's ShutdownCause.
func reason(s string) Reason {
	switch s {
	case "guest-shutdown":
		return ReasonOff
	case "guest-reset", "subsystem-reset":
		return ReasonReset
	case "guest-panic":
		return ReasonPanic
	case "host-qmp-quit", "host-qmp-system-reset":
		return ReasonKilled
	case "host-signal", "host-ui":
		return ReasonHost
	}
	return ReasonOther
}

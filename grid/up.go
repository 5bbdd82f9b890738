package grid

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/zero-os/zos/boot"
	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/farm"
	"github.com/zero-os/zos/problem"
)

// Grid is a running grid.
type Grid struct {
	o        Options
	d        dir
	services *services
	client   *client.Client
	founding *founding
	machines []*machine
	agentBus *bus.Conn

	stop  context.CancelFunc
	group sync.WaitGroup
	ended chan error // the first part that failed for good

	mu    sync.Mutex
	ready bool

	publishing sync.Mutex // the newest state is the last one written
}

// Up starts a grid: services, founding statements, a release, the farm's agent
// and the machines. It returns when the machines are powered on; Ready waits
// until they have joined. Close ends everything.
func Up(ctx context.Context, o Options) (_ *Grid, err error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	d, err := openDir(o.Dir)
	if err != nil {
		return nil, err
	}
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	g := &Grid{o: o, d: d, stop: stop, ended: make(chan error, 4)}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.Close())
			g = nil
		}
	}()
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"lay out the boot image", g.layOut},
		{"start the services", g.startServices},
		{"found the grid", g.found},
		{"release the OS", g.releaseOS},
		{"start the farm agent", func(context.Context) error { return g.startAgent(run) }},
		{"power on the nodes", func(context.Context) error { return g.powerOn(run) }},
	} {
		began := time.Now()
		if err := step.do(ctx); err != nil {
			return g, fmt.Errorf("%s: %w", step.what, err)
		}
		o.Progress("%s … %.1f s", step.what, time.Since(began).Seconds())
	}
	return g, nil
}

// layOut copies what a boot image holds into the grid's directory: a grid may
// be broken on purpose without breaking the next one.
func (g *Grid) layOut(context.Context) error {
	for _, name := range []string{boot.KernelFile, boot.InitrdFile, OSFile, VMMFile} {
		if _, err := os.Stat(filepath.Join(g.o.Image, name)); err != nil {
			return problem.New("image-missing", "the boot image in %s is not complete: %w", g.o.Image, err).WithFix("run: make build")
		}
	}
	if err := os.MkdirAll(g.d.boot(), 0o755); err != nil {
		return err
	}
	for _, name := range []string{boot.KernelFile, boot.InitrdFile} {
		b, err := os.ReadFile(filepath.Join(g.o.Image, name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(g.d.boot(), name), b, 0o644); err != nil {
			return err
		}
	}
	return copyMissing(filepath.Join(g.o.Image, HubDir), g.d.hub())
}

// copyMissing copies the files of a tree that are not there yet.
func copyMissing(from, to string) error {
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		if e.IsDir() {
			return os.MkdirAll(target, 0o755)
		}
		if _, err := os.Lstat(target); err == nil || !e.Type().IsRegular() {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return boot.WriteFile(target, b, 0o644)
	})
}

func (g *Grid) startServices(ctx context.Context) error {
	key, err := g.d.validatorKey()
	if err != nil {
		return err
	}
	genesis, err := g.d.genesis(key)
	if err != nil {
		return err
	}
	if g.services, err = startServices(ctx, g.d, genesis, key.Seed(), g.o); err != nil {
		return err
	}
	for _, n := range []interface{ Ready(context.Context) error }{g.services.validator, g.services.witness} {
		if err := n.Ready(ctx); err != nil {
			return fmt.Errorf("wait for the ledger: %w", err)
		}
	}
	return g.openClient(ctx, genesis)
}

// openClient writes the context for people and opens it.
func (g *Grid) openClient(ctx context.Context, genesis []byte) error {
	at, err := g.services.validator.Checkpoint()
	if err != nil {
		return fmt.Errorf("take a checkpoint of the ledger: %w", err)
	}
	u := g.services.urls
	c := &client.Context{
		Name: "try", Genesis: genesis, Checkpoint: at,
		Hubs: []string{u.Hub}, Ledgers: []string{u.Ledger, u.Witness}, Rendezvous: u.Rendezvous,
		HubDir: g.d.hub(), Default: people[0],
	}
	for _, name := range append(append([]string{}, people...), keyFarmer) {
		if _, err := g.d.signer(name); err != nil {
			return err
		}
		c.SetKey(client.Key{Name: name, File: g.d.key(name)})
	}
	config := client.Config{Dir: g.d.config()}
	if err := config.Save(c); err != nil {
		return err
	}
	if g.client, err = client.Open(ctx, config, c, g.o.Log); err != nil {
		return err
	}
	bound := bus.Bound(g.client.Bound)
	g.services.bound.Store(&bound)
	return nil
}

func (g *Grid) found(ctx context.Context) error {
	for i := 1; i <= g.o.Nodes; i++ {
		m, err := newMachine(g.d, nodeName(i), i, g.o, g.o.guest(g.services.urls.Boot)+"/"+boot.ScriptFile, g.o.Log)
		if err != nil {
			return err
		}
		g.machines = append(g.machines, m)
	}
	var err error
	if g.founding, err = found(ctx, g.d, g.client, g.o, g.machines); err != nil {
		return err
	}
	return g.founding.publishDemo(ctx, g.d, g.client.Grid(), g.o.Image)
}

// releaseOS signs the release and writes the archive that makes the boot image
// this grid's.
func (g *Grid) releaseOS(ctx context.Context) error {
	at, err := g.services.validator.Checkpoint()
	if err != nil {
		return fmt.Errorf("take a checkpoint of the ledger: %w", err)
	}
	genesis := g.client.Context().Genesis
	r, err := release(ctx, g.d, genesis, g.o.Image, at)
	if err != nil {
		return err
	}
	u := g.services.urls
	return boot.WriteGrid(g.d.boot(), boot.Archive{
		V: 1, Genesis: genesis, Farm: g.founding.farmStmt, Slots: g.founding.slots, ReleaseFloor: r.Sequence,
		Built: uint64(time.Now().Unix()), Hubs: g.o.guests([]string{u.Hub}), Ledgers: g.o.guests([]string{u.Ledger, u.Witness}),
		Rendezvous: g.o.guests(u.Rendezvous), NTP: []string{}, RelayOnly: g.o.RelayOnly,
	}, "")
}

func (g *Grid) startAgent(run context.Context) error {
	conn, err := bus.Connect(bus.ConnConfig{URLs: g.services.urls.Rendezvous, Role: bus.AsAgent(g.founding.farm), Logger: g.o.Log})
	if err != nil {
		return err
	}
	g.agentBus = conn
	agent, err := farm.NewAgent(farm.AgentConfig{
		Conn: conn, Grid: g.client.Grid(), Farm: g.founding.farmStmt, Delegation: g.founding.delegation,
		Signer: g.founding.agent, Slots: g.founding.slots, Ledger: client.FarmLedger{Client: g.client}, Logger: g.o.Log,
	})
	if err != nil {
		return err
	}
	g.run(run, "farm agent", agent.Run)
	return nil
}

func (g *Grid) powerOn(run context.Context) error {
	for _, m := range g.machines {
		m.change = g.publish
		g.run(run, m.name, m.run)
	}
	return nil
}

// run starts a part that lasts as long as the grid.
func (g *Grid) run(ctx context.Context, what string, part func(context.Context) error) {
	g.group.Go(func() {
		if err := part(ctx); err != nil && ctx.Err() == nil {
			select {
			case g.ended <- fmt.Errorf("%s: %w", what, err):
			default:
			}
		}
	})
}

// State tells what runs where.
func (g *Grid) State() State {
	g.mu.Lock()
	ready := g.ready
	g.mu.Unlock()
	s := State{
		PID: os.Getpid(), Dir: g.d.path, Grid: g.client.Grid().String(), Ready: ready,
		Env: map[string]string{client.ConfigEnv: g.d.config()}, HubDir: g.d.hub(), URLs: g.services.urls, Nodes: []NodeState{},
	}
	for i, m := range g.machines {
		n := m.state()
		n.Slot, n.Identity = g.founding.slotIDs[i].String(), g.o.identity(i+1)
		s.Nodes = append(s.Nodes, n)
	}
	return s
}

// publish writes the state for others to read.
func (g *Grid) publish() {
	g.publishing.Lock()
	defer g.publishing.Unlock()
	if err := g.d.writeState(g.State()); err != nil {
		g.o.Log.Warn("publish the grid's state", "error", err)
	}
}

// Client is the people's side of this grid.
func (g *Grid) Client() *client.Client { return g.client }

// Ready waits until every node has joined and answers that it reconciles.
func (g *Grid) Ready(ctx context.Context) error {
	for i, m := range g.machines {
		began := time.Now()
		err := client.Poll(ctx, func(ctx context.Context) (bool, error) {
			select {
			case err := <-g.ended:
				return false, err
			case err := <-g.services.ended:
				return false, err
			default:
			}
			hello, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			beat, err := g.client.Heartbeat(hello, g.founding.slotIDs[i])
			if err != nil && problem.Code(err) != "node-unbound" {
				return false, err
			}
			return err == nil && beat.Status.Ready, nil
		})
		if err != nil {
			return fmt.Errorf("wait for %s to join: %w; its console is in %s", m.name, err, m.config.Console)
		}
		g.o.Progress("%s has joined … %.1f s", m.name, time.Since(began).Seconds())
	}
	g.mu.Lock()
	g.ready = true
	g.mu.Unlock()
	g.publish()
	return nil
}

// Wait blocks until ctx ends, or returns why a part of the grid ended by itself.
func (g *Grid) Wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-g.ended:
		return err
	case err := <-g.services.ended:
		return err
	}
}

// Close powers the machines off and ends the services. The directory stays.
func (g *Grid) Close() error {
	g.stop()
	g.group.Wait()
	var err error
	if g.agentBus != nil {
		g.agentBus.Close()
	}
	if g.client != nil {
		err = errors.Join(err, g.client.Close())
	}
	if g.services != nil {
		err = errors.Join(err, g.services.stop())
	}
	if rm := os.Remove(g.d.state()); rm != nil && !errors.Is(rm, fs.ErrNotExist) {
		err = errors.Join(err, rm)
	}
	return errors.Join(err, g.d.close())
}

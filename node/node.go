package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/zero-os/zos/boot"
	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/farm"
	"github.com/zero-os/zos/ledger/light"
	"github.com/zero-os/zos/linux/cgroup"
	"github.com/zero-os/zos/linux/firewall"
	"github.com/zero-os/zos/linux/tpm"
	"github.com/zero-os/zos/node/identity"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/store"
	"github.com/zero-os/zos/store/fault"
	"github.com/zero-os/zos/supervise"
	"github.com/zero-os/zos/workload"
	"github.com/zero-os/zos/workload/container"
	publish "github.com/zero-os/zos/workload/gateway"
	tenant "github.com/zero-os/zos/workload/network"
	"github.com/zero-os/zos/workload/yield"
)

// proveEvery is how often the ledger is asked what to run.
const proveEvery = 500 * time.Millisecond

// Node is the running parts of a node.
type Node struct {
	at       situation
	log      *slog.Logger
	started  time.Time
	keys     *identity.Identity
	conn     *bus.Conn
	store    *store.Store
	fault    *fault.Client
	scrubs   scrubs
	kind     *container.Kind
	vms      *container.Kind // whole machines
	routers  *tenant.Kind
	networks *networks
	gateways *publish.Kind
	facing   *gatewayFacts
	shared   *publish.Shared
	sharing  *gatewayPeers
	// domainsChanged has one element when facts about gateways are to be read at once.
	domainsChanged chan struct{}
	reconc         *reconciler
	receipts       *receipts
	prover         *prover
	turns          *turns
	features       *features
	machines       machines
	acts           *acts
	diary          *diary
	bindings       bindings
	heardAt        time.Time // of follow alone: when receipts were read last

	mu       sync.Mutex
	epoch    uint64        // 0: not joined
	ledger   *light.Client // nil: not opened yet
	proven   bool          // what to run is known, from the ledger or the disk
	floorOK  bool          // the ledger allows the release that runs
	head     light.Head
	cases    map[canon.Hash]evidence // what is believed, by contract
	refused  []refusal
	problems map[string]string // what is missing now, by part
}

// Run is the whole node until ctx ends. It returns earlier only if the node
// can't be composed at all; everything later is retried for ever.
func Run(ctx context.Context, log *slog.Logger) error {
	at, err := readSituation()
	if err != nil {
		return fmt.Errorf("read what the first stage left: %w", err)
	}
	n := &Node{at: at, log: log, started: time.Now(), cases: map[canon.Hash]evidence{}, domainsChanged: make(chan struct{}, 1), problems: map[string]string{}}
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"load kernel modules", func() error {
			// Writable layers of containers are file systems in files.
			return loadModules(at.Kernel.Version, slices.Concat(firewall.Modules(), tenant.Modules(), []string{"loop"})...)
		}},
		{"load kernel modules of machines", n.loadMachineModules},
		{"seal the kernel", sealModules},
		{"raise the firewall", func() error { return firewall.Host{}.Apply() }},
		{"open the node's keys", n.openKeys},
		{"open the store", n.openStore},
		{"try a virtual machine", n.openMachines},
		{"prepare containers", n.openKinds},
		{"dial the bus", n.openBus},
	} {
		began := time.Now()
		if err := step.do(); err != nil {
			return errors.Join(fmt.Errorf("%s: %w", step.what, err), n.close())
		}
		log.Info(step.what, "took", time.Since(began).Round(time.Millisecond))
	}
	defer func() {
		if err := n.close(); err != nil {
			log.Warn("end the node", "error", err)
		}
	}()
	return n.supervise(ctx)
}

func (n *Node) openKeys() error {
	cfg := identity.Config{Mode: n.at.slot.Identity, Grid: n.at.grid.ID, Slot: n.at.Slot, RunDir: runKeys}
	if n.at.Disk.Kind == boot.DiskReal {
		cfg.Dir = dataKeys
	}
	if n.at.TPM != "" && cfg.Mode == contract.IdentityTPM {
		t, err := tpm.Open(n.at.TPM)
		if err != nil {
			return err
		}
		defer t.Close()
		cfg.TPM, cfg.TPMIndex, cfg.TPMEmpty = t, tpm.IndexIdentity, tpm.ErrEmpty
	}
	var err error
	n.keys, err = identity.Open(cfg)
	return err
}

func (n *Node) openStore() (err error) {
	n.fault = fault.NewClient(faultSocket)
	n.store, err = store.Open(boot.DataDir, store.Options{RequireVerity: true, Logger: n.log})
	return err
}

func (n *Node) openKinds() (err error) {
	n.networks = newNetworks(n.log)
	if n.routers, err = tenant.New(tenant.Config{Slot: n.at.Slot, Agent: n.networks, Nameservers: n.nameservers, Secrets: tenant.NewSecrets(n.keys.Entry), Log: n.log}); err != nil {
		return err
	}
	n.kind, err = container.New(container.Config{
		Data: dataWorkloads, InMemory: n.at.Disk.Kind == boot.DiskZram,
		Rootfs: rootfs{n.store, n.fault, n.log, &n.scrubs}, Networks: n.routers, Log: n.log,
		Machines: n.forContainers(), Secrets: nodeSecrets{n.at.grid.ID, n.keys.Sealing}.open,
	})
	if err != nil {
		return err
	}
	if err := n.openVMs(); err != nil {
		return err
	}
	if err := n.openGateways(); err != nil {
		return err
	}
	n.receipts = newReceipts(n.at.grid.ID, n.at.Slot, n.keys.Signer, n.log)
	kinds := map[string]workload.Kind{
		plan.KindContainer: n.kind, plan.KindVM: n.vms, plan.KindNetwork: n.routers, plan.KindGateway: n.gateways, plan.KindDevice: n.routers.Devices(),
	}
	n.reconc = newReconciler(kinds, n.receipts.report, n.log)
	n.turns = newTurns(n.at.Slot, boot.DataDir, n.log)
	n.features = newFeatures(n.at.grid.ID, n.at.Slot, n.keys.Signer, n.probe, n.log)
	n.reconc.turns, n.reconc.may = n.turns, n.features.may
	n.diary = newDiary(dataEvents, func(err error) { n.log.Warn("write or forget events of workloads", "error", err) })
	n.reconc.happened = n.diary.changed
	n.acts = &acts{of: n.reconc.one, dial: n.dialControl, record: n.diary.add}
	n.prover = &prover{grid: n.at.grid.ID, farm: n.at.grid.Archive.Farm, slot: n.at.signed, slotID: n.at.Slot, log: n.log}
	if n.at.Disk.Kind == boot.DiskReal {
		n.prover.dir = boot.DataDir
	}
	return nil
}

func (n *Node) openBus() (err error) {
	n.conn, err = bus.Connect(bus.ConnConfig{URLs: n.at.grid.Rendezvous, Role: bus.AsNode(n.at.Slot), Logger: n.log})
	return err
}

func (n *Node) close() error {
	var err error
	if n.conn != nil {
		n.conn.Close()
	}
	if n.diary != nil {
		err = n.diary.book.Close()
	}
	if n.gateways != nil {
		err = errors.Join(err, n.gateways.Close())
	}
	if n.routers != nil {
		err = errors.Join(err, n.routers.Close())
	}
	if n.store != nil {
		err = errors.Join(err, n.store.Close())
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ledger != nil {
		err = errors.Join(err, n.ledger.Close())
	}
	return err
}

// supervise runs the parts, each restarted for as long as it fails.
func (n *Node) supervise(ctx context.Context) error {
	// A disk remembers what was proven: that runs again even without a ledger.
	if set, ok := n.prover.restore(); ok {
		n.believe(n.prover.last.Cases, nil)
		n.turns.set(n.prover.deployed)
		n.reconc.setDesired(set)
	}
	tree := supervise.Start(ctx, func(ctx context.Context) error {
		for name, part := range map[string]supervise.Runnable{
			"reconciler": n.reconc.run,
			"gateways":   n.serveGateways,
			"domains":    n.watchDomains,
			"membership": n.member,
			"ledger":     n.follow,
			"probe":      n.tryGuest,
			"yield":      n.letYield,
		} {
			if err := supervise.Run(ctx, name, part); err != nil {
				return err
			}
		}
		supervise.Signal(ctx, supervise.Healthy)
		<-ctx.Done()
		return ctx.Err()
	}, supervise.DefaultBackoff, func(s supervise.State) {
		if s.Err != nil && ctx.Err() == nil {
			n.log.Warn("a part of the node ended", "part", s.Name, "phase", s.Phase, "restarts", s.Restarts, "error", s.Err)
		}
	})
	<-ctx.Done()
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	return tree.Stop(end)
}

// letYield lets workloads that compute without a pause give way to others.
func (n *Node) letYield(ctx context.Context) error {
	supervise.Signal(ctx, supervise.Healthy)
	return yield.Run(ctx, cgroup.Group(cgroupRoot), func(err error) { n.log.Warn("let busy workloads yield", "error", err) })
}

// endTimeout bounds how long the parts may take to end; process 1 waits 20 s.
const endTimeout = 15 * time.Second

// member joins the slot and then answers on the bus, until the bus or ctx ends.
func (n *Node) member(ctx context.Context) error {
	supervise.Signal(ctx, supervise.Healthy)
	epoch, err := farm.Ask(ctx, farm.AskConfig{
		Conn: n.conn, Grid: n.at.grid.ID, Farm: n.at.grid.FarmID, FarmKey: sign.PublicKey(n.at.grid.Farm.Key),
		Slot: n.at.Slot, Signer: n.keys.Signer, SealingKey: n.keys.Sealing.Public(), BootNonce: n.keys.BootNonce,
		Hints: identity.Hints("/sys"), Proven: n.bound, Logger: n.log,
		On: func(a farm.Answer) {
			n.log.Info("the farm's agent answers", "outcome", a.Outcome, "epoch", a.Epoch, "retry", a.Retry, "message", a.Message)
			n.problem("membership", a.Code)
		},
	})
	if err != nil {
		return err
	}
	n.log.Info("joined the slot", "slot", n.at.slot.Name, "epoch", epoch)
	n.problem("membership", "")
	n.mu.Lock()
	n.epoch = epoch
	n.mu.Unlock()
	n.receipts.joined(epoch)
	n.features.joined(epoch)
	return n.serve(ctx, epoch)
}

// bound tells whether the ledger, as this node has verified it, binds its keys.
func (n *Node) bound(ctx context.Context) (epoch uint64, ok bool) {
	n.mu.Lock()
	l := n.ledger
	n.mu.Unlock()
	if l == nil {
		return 0, false
	}
	rec, found, err := get[contract.BoundRecord](ctx, l, contract.KeyBound(n.at.Slot))
	if err != nil || !found {
		return 0, false
	}
	b, _, _, err := contract.Open[contract.Node](rec.Signed, contract.KindNode, n.at.grid.ID)
	ours := err == nil && b.Slot == n.at.Slot && bytes.Equal(b.SigningKey, n.keys.Signer.Public()) && bytes.Equal(b.SealingKey, n.keys.Sealing.Public())
	return rec.Epoch, ours
}

// follow reads the ledger: what to run, and where receipts go.
func (n *Node) follow(ctx context.Context) error {
	supervise.Signal(ctx, supervise.Healthy)
	l, err := n.openLedger(ctx)
	if err != nil {
		n.problem("ledger", codeOf(err))
		return err
	}
	if err := supervise.Run(ctx, "receipts", func(ctx context.Context) error { return n.receipts.run(ctx, l) }); err != nil {
		return err
	}
	if err := supervise.Run(ctx, "features", func(ctx context.Context) error { return n.features.run(ctx, l) }); err != nil {
		return err
	}
	if err := supervise.Run(ctx, "gateway names", func(ctx context.Context) error { return n.followGateways(ctx, l) }); err != nil {
		return err
	}
	tick := time.NewTicker(proveEvery)
	defer tick.Stop()
	for {
		if err := n.prove(ctx, l); err != nil && ctx.Err() == nil {
			// What was proven goes on running; nothing new starts, since nothing
			// new is known.
			n.problem("ledger", codeOf(err))
			n.log.Warn("read the ledger", "error", err)
		}
		n.hear(ctx, l)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// codeOf is the code of what keeps the ledger from being read; an error without
// one is a deadline.
func codeOf(err error) string {
	if code := problem.Code(err); code != "" {
		return code
	}
	return light.CodeUnreachable
}

// openLedger opens the ledger, once. Only follow calls it; the lock is not held
// while the network is waited for.
func (n *Node) openLedger(ctx context.Context) (*light.Client, error) {
	n.mu.Lock()
	l := n.ledger
	n.mu.Unlock()
	if l != nil {
		return l, nil
	}
	urls := n.at.grid.Ledgers
	if len(urls) < 2 {
		return nil, problem.New("ledger-unreachable", "the grid's archive names %d ledger addresses, a primary and a witness are needed", len(urls))
	}
	l, err := light.Open(ctx, light.Config{
		Genesis: n.at.grid.Genesis, Trust: n.at.release.Checkpoint, Primary: urls[0], Witnesses: urls[1:], Logger: n.log,
	})
	if err != nil {
		return nil, fmt.Errorf("open the ledger: %w", err)
	}
	n.mu.Lock()
	n.ledger = l
	n.mu.Unlock()
	return l, nil
}

// prove reads once what this slot must run, and hands it to the reconciler.
func (n *Node) prove(ctx context.Context, l *light.Client) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := n.checkFloor(ctx, l); err != nil {
		return err
	}
	set, refused, changed, err := n.prover.read(ctx, l)
	if err != nil {
		return err
	}
	head, _ := l.Trusted()
	n.mu.Lock()
	n.head = head
	n.mu.Unlock()
	n.problem("ledger", "")
	if !changed {
		return nil
	}
	n.believe(n.prover.last.Cases, refused)
	n.turns.set(n.prover.deployed)
	n.reconc.setDesired(set)
	n.wakeGateways()
	for _, r := range refused {
		n.tellRefused(r)
	}
	return nil
}

// checkFloor refuses to run anything on a release that the ledger has outdated.
// It is asked until it has passed once: before the first workload.
func (n *Node) checkFloor(ctx context.Context, l ledger) error {
	n.mu.Lock()
	passed := n.floorOK
	n.mu.Unlock()
	if passed {
		return nil
	}
	rec, found, err := get[contract.ReleaseRecord](ctx, l, contract.KeyReleaseFloor)
	if err != nil {
		return err
	}
	if found && rec.Sequence > n.at.release.Sequence {
		if err := boot.RaiseFloor(boot.DataDir, rec.Sequence); err != nil {
			n.log.Warn("keep the release floor", "error", err)
		}
		return problem.New("release-below-floor", "this node runs release %d, the ledger demands %d", n.at.release.Sequence, rec.Sequence).
			WithFix("publish release %d on the hub, the node boots it after a restart", rec.Sequence)
	}
	n.mu.Lock()
	n.floorOK = true
	n.mu.Unlock()
	return nil
}

// believe remembers which contracts are proven, for rights and for people.
func (n *Node) believe(cases []evidence, refused []refusal) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.proven = true
	n.cases = make(map[canon.Hash]evidence, len(cases))
	ids := make([]canon.Hash, 0, len(cases))
	for _, e := range cases {
		n.cases[e.Entry.Contract] = e
		ids = append(ids, e.Entry.Contract)
	}
	n.refused = refused
	n.diary.keep(ids)
}

// tellRefused writes receipts that say why a contract's workloads don't run.
func (n *Node) tellRefused(r refusal) {
	for _, name := range r.workloads {
		n.receipts.report(workload.ID{Contract: r.contract, Name: name}, "", workload.Status{
			State: contract.StateFailed, Version: r.version, Reason: problem.Code(r.err), Detail: r.err.Error(),
		})
	}
}

// tryGuest finds out what this node can do, also while there is no ledger to say it on.
func (n *Node) tryGuest(ctx context.Context) error {
	supervise.Signal(ctx, supervise.Healthy)
	n.features.find(ctx)
	<-ctx.Done()
	return ctx.Err()
}

// problem notes what is missing in one part; "" clears it.
func (n *Node) problem(part, code string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if code == "" {
		delete(n.problems, part)
		return
	}
	n.problems[part] = code
}

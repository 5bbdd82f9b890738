package node

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/zero-os/zos/boot"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/gateway/control"
	"github.com/zero-os/zos/ledger/light"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/supervise"
	"github.com/zero-os/zos/workload"
	publish "github.com/zero-os/zos/workload/gateway"
)

// Pace of what the ledger is asked about gateways: on a node with public addresses
// names are read this often, and at once when what the node is to run has changed; the
// grid's whole domain less often. Each read is a proof, so a short pace is felt by
// what runs: at 0.7 s it was a third of what an idle gateway node computes.
const (
	gatewayEvery = 3 * time.Second
	zoneEvery    = 5 * time.Second
)

// poolFile holds the last proven pool, so that a node whose disk survived serves
// without a ledger.
const poolFile = "pool"

// ledgerLists is what facts about gateways are read from: *light.Client.
type ledgerLists interface {
	ledger
	List(ctx context.Context, prefix string) ([]light.KV, light.Head, error)
}

// gatewayFacts are what the ledger, proven, says that gateways need. It implements
// publish.Facts.
type gatewayFacts struct {
	grid, farm, slot canon.Hash
	farmKey          []byte
	genesis          contract.Genesis
	dir              string // of poolFile; empty: nothing is kept
	log              *slog.Logger
	domains          domains

	mu     sync.Mutex
	pool   contract.Pool
	signed contract.Signed
	known  bool
	of     map[workload.ID]judged
	zone   *control.Zone
	zoned  time.Time // when the zone was read last
}

// domains tells whether domains that are not the grid's are a group's, by what DNS
// says. *ownDomains is one.
type domains interface {
	// Watch replaces what is looked at, in the background.
	Watch(all []claim)
	// Proven returns nil if the newest look says that the group owns a host, or a
	// domain above it. It returns at once.
	Proven(host string, group canon.Hash) error
	Run(ctx context.Context) error
}

// judged is what was found of one version of a gateway.
type judged struct {
	version uint64
	says    publish.Judgement
}

// Pool implements publish.Facts.
func (f *gatewayFacts) Pool() (contract.Pool, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.pool, f.known
}

// Zone implements publish.Facts.
func (f *gatewayFacts) Zone() *control.Zone {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.zone
}

// Judge implements publish.Facts. Of a version that the ledger was not asked about
// yet, the hosts that the last one had are judged as they were.
func (f *gatewayFacts) Judge(d workload.Desired, g plan.Gateway) publish.Judgement {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := publish.Judgement{Hosts: map[string]error{}}
	before := f.of[d.ID].says
	out.Age = before.Age
	if !f.known || len(f.pool.Ranges) == 0 {
		out.Err = problem.New("no-pool", "this node has no public addresses").WithFix("ask the farm's owner: zos farm pool set")
		return out
	}
	if _, err := contract.JudgeGateway(f.grid, f.farm, f.farmKey, f.slot, f.signed, f.pool.Sequence, g); err != nil {
		out.Err = err
		return out
	}
	for _, r := range g.Routes {
		if r.Host == "" {
			continue
		}
		err, known := before.Hosts[r.Host]
		if !known {
			err = problem.New("name-unchecked", "%s was not looked up yet", r.Host)
		}
		if err != nil {
			out.Hosts[r.Host] = err
		}
	}
	return out
}

// restore takes the pool that the disk kept.
func (f *gatewayFacts) restore() {
	if f.dir == "" {
		return
	}
	b, err := os.ReadFile(filepath.Join(f.dir, poolFile))
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var s contract.Signed
	if err == nil {
		err = canon.Unmarshal(b, &s)
	}
	if err == nil {
		err = f.take(s)
	}
	if err != nil {
		f.log.Warn("the kept public addresses are not usable, waiting for the ledger", "error", err)
	}
}

// take makes a pool the one that counts, if it is the farm's and not older.
func (f *gatewayFacts) take(s contract.Signed) error {
	p, err := contract.OpenPool(s, f.grid, f.farm, f.farmKey, f.slot)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if p.Sequence < f.pool.Sequence {
		return problem.New("ledger-lying", "the ledger shows pool %d of this slot, it showed %d before", p.Sequence, f.pool.Sequence)
	}
	f.pool, f.signed, f.known = p, s, true
	return nil
}

// keep writes the pool to the data disk, if it is another one.
func (f *gatewayFacts) keep(s contract.Signed) {
	if f.dir == "" {
		return
	}
	b, err := canon.Marshal(s)
	if err == nil {
		path := filepath.Join(f.dir, poolFile)
		if old, rerr := os.ReadFile(path); rerr == nil && string(old) == string(b) {
			return
		}
		if err = os.WriteFile(path+".new", b, 0o600); err == nil {
			err = os.Rename(path+".new", path)
		}
	}
	if err != nil {
		f.log.Warn("keep the public addresses", "error", err)
	}
}

// gatewayCase is a gateway and the evidence of its contract.
type gatewayCase struct {
	d workload.Desired
	e evidence
}

// refresh reads everything once. It returns whether something is different.
func (f *gatewayFacts) refresh(ctx context.Context, l ledgerLists, cases []gatewayCase) (changed bool, err error) {
	rec, found, err := get[contract.PoolRecord](ctx, l, contract.KeyPool(f.slot))
	if err != nil {
		return false, err
	}
	f.mu.Lock()
	before, knew := f.signed, f.known
	f.mu.Unlock()
	switch {
	case found:
		if err := f.take(rec.Signed); err != nil {
			return false, err
		}
		if changed = !knew || before.ID() != rec.Signed.ID(); changed {
			f.keep(rec.Signed)
		}
	case knew && len(before.Statement) > 0:
		return false, problem.New("ledger-lying", "the ledger knows nothing of this slot's pool any more")
	default:
		f.mu.Lock()
		changed, f.known = !f.known, true
		f.mu.Unlock()
	}
	if pool, _ := f.Pool(); len(pool.Ranges) == 0 {
		return changed, nil
	}
	z, has, now, err := f.readZone(ctx, l)
	if err != nil {
		return changed, err
	}
	f.domains.Watch(foreign(cases, z, has))
	next := map[workload.ID]judged{}
	for _, c := range cases {
		j, err := f.names(ctx, l, z, has, now, c)
		if err != nil {
			return changed, err
		}
		next[c.d.ID] = j
	}
	f.mu.Lock()
	same := maps.EqualFunc(f.of, next, func(a, b judged) bool { return a.version == b.version && equalJudgement(a.says, b.says) })
	f.of = next
	again := time.Since(f.zoned) >= zoneEvery
	if again {
		f.zoned = time.Now() // what is said from now on may be missed by this read
	}
	f.mu.Unlock()
	changed = changed || !same
	if !again {
		return changed, nil
	}
	var zone *control.Zone
	if has {
		if zone, err = readNames(ctx, l, z, now, f.grid); err != nil {
			f.zoneAgain()
			return changed, err
		}
		texts, err := readChallenges(ctx, l, z, now, f.grid)
		if err != nil {
			// Names are answered all the same.
			f.log.Warn("read answers to certificate authorities", "error", err)
			if old := f.Zone(); old != nil && old.Domain == zone.Domain {
				texts = old.TXT
			}
		}
		zone.TXT = texts
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !equalZone(f.zone, zone) {
		f.zone, changed = zone, true
	}
	return changed, nil
}

// zoneAgain makes the next refresh read the grid's domain.
func (f *gatewayFacts) zoneAgain() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.zoned = time.Time{}
}

func equalJudgement(a, b publish.Judgement) bool {
	return a.Age == b.Age && maps.EqualFunc(a.Hosts, b.Hosts, func(x, y error) bool {
		return (x == nil) == (y == nil) && (x == nil || x.Error() == y.Error())
	})
}

// foreign are the hosts of gateways that are not under the grid's domain.
func foreign(cases []gatewayCase, z contract.Zone, has bool) []claim {
	var out []claim
	for _, c := range cases {
		g, err := plan.DecodeGateway(c.d.Plan.Config)
		if err != nil {
			continue
		}
		for _, r := range g.Routes {
			under := false
			if has {
				_, under = z.Label(r.Host)
			}
			if r.Host != "" && !under {
				out = append(out, claim{r.Host, c.e})
			}
		}
	}
	return out
}

// readZone reads the grid's domain, and the time of the block that proves it.
func (f *gatewayFacts) readZone(ctx context.Context, l ledgerLists) (z contract.Zone, has bool, now uint64, err error) {
	b, found, head, err := l.Get(ctx, contract.KeyZone)
	if err != nil || !found {
		return z, false, uint64(max(0, head.Time.Unix())), err
	}
	var rec contract.ZoneRecord
	if err := canon.Unmarshal(b, &rec); err != nil {
		return z, false, 0, problem.New("record-mismatch", "read the grid's domain: %w", err)
	}
	z, err = contract.OpenZone(rec.Signed, f.grid, f.genesis)
	return z, err == nil, uint64(max(0, head.Time.Unix())), err
}

// names judges the hosts of one gateway.
func (f *gatewayFacts) names(ctx context.Context, l ledgerLists, z contract.Zone, has bool, now uint64, c gatewayCase) (judged, error) {
	out := judged{version: c.d.Version, says: publish.Judgement{Hosts: map[string]error{}}}
	k, _, err := get[contract.ContractRecord](ctx, l, contract.KeyContract(c.d.ID.Contract))
	if err != nil {
		return out, err
	}
	out.says.Age = k.Created
	g, err := plan.DecodeGateway(c.d.Plan.Config)
	if err != nil {
		return out, nil // the kind says so
	}
	for _, r := range g.Routes {
		if r.Host == "" {
			continue
		}
		refused, err := f.name(ctx, l, z, has, now, r.Host, c.e)
		if err != nil {
			return out, err
		}
		out.says.Hosts[r.Host] = refused
	}
	return out, nil
}

// name judges one host: refused says why a group may not publish it.
func (f *gatewayFacts) name(ctx context.Context, l ledgerLists, z contract.Zone, has bool, now uint64, host string, e evidence) (refused, err error) {
	label, under := "", false
	if has {
		label, under = z.Label(host)
	}
	if !under {
		return f.domains.Proven(host, e.Group.ID()), nil
	}
	var rec contract.HostNameRecord
	if label != "" {
		if rec, _, err = get[contract.HostNameRecord](ctx, l, contract.KeyHostName(label)); err != nil {
			return nil, err
		}
	}
	if _, refused := contract.JudgeHost(z, host, rec, e.Group.ID(), now); refused != nil {
		return refused, nil
	}
	// The ledger's word is not enough: the approval must be the group's, or that of
	// the group which gave the name to it.
	group, members, err := f.approvers(ctx, l, rec, e)
	if err != nil {
		return nil, err
	}
	return contract.JudgeName(f.grid, label, rec, group, members), nil
}

// approvers are the statements of the group that approved a name's record.
func (f *gatewayFacts) approvers(ctx context.Context, l ledgerLists, rec contract.HostNameRecord, e evidence) (contract.Signed, []contract.Signed, error) {
	var a contract.Approval
	if err := canon.UnmarshalLimit(rec.Signed.Statement, contract.MaxPlain, &a); err != nil || a.Group == e.Group.ID() {
		return e.Group, e.Members, nil // JudgeName says what is wrong with it
	}
	g, _, err := get[contract.GroupRecord](ctx, l, contract.KeyGroup(a.Group))
	if err != nil {
		return contract.Signed{}, nil, err
	}
	var founding contract.Group
	if err := canon.UnmarshalLimit(g.Signed.Statement, contract.MaxPlain, &founding); err != nil || founding.Validate() != nil {
		return g.Signed, nil, nil
	}
	var members []contract.Signed
	for _, m := range founding.Members {
		r, _, err := get[contract.AccountRecord](ctx, l, contract.KeyAccount(m.Account))
		if err != nil {
			return contract.Signed{}, nil, err
		}
		members = append(members, r.Signed)
	}
	return g.Signed, members, nil
}

// serveGateways makes public traffic what gateways and facts come to.
func (n *Node) serveGateways(ctx context.Context) error {
	supervise.Signal(ctx, supervise.Healthy)
	return n.gateways.Run(ctx)
}

// watchDomains looks at the text records of domains that groups publish.
func (n *Node) watchDomains(ctx context.Context) error {
	supervise.Signal(ctx, supervise.Healthy)
	return n.facing.domains.Run(ctx)
}

// wakeGateways makes facts be read again soon: a domain's owner was found, or the node
// is to run something else.
func (n *Node) wakeGateways() {
	select {
	case n.domainsChanged <- struct{}{}:
	default:
	}
}

// followGateways keeps the facts about gateways fresh, until ctx ends.
func (n *Node) followGateways(ctx context.Context, l *light.Client) error {
	supervise.Signal(ctx, supervise.Healthy)
	tick := time.NewTicker(gatewayEvery)
	defer tick.Stop()
	for {
		limited, cancel := context.WithTimeout(ctx, 20*time.Second)
		changed, err := n.facing.refresh(limited, l, n.gatewayCases())
		cancel()
		if err != nil && ctx.Err() == nil {
			n.problem("gateway names", codeOf(err))
			n.log.Warn("read what the ledger says of gateways", "error", err)
		} else if err == nil {
			n.problem("gateway names", "")
		}
		if changed {
			n.gateways.Kick()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		case <-n.domainsChanged:
		}
	}
}

// gatewayCases are the gateways that are to run here, with their evidence.
func (n *Node) gatewayCases() []gatewayCase {
	var out []gatewayCase
	for _, d := range n.reconc.wanted(plan.KindGateway) {
		n.mu.Lock()
		e, ok := n.cases[d.ID.Contract]
		n.mu.Unlock()
		if ok {
			out = append(out, gatewayCase{d, e})
		}
	}
	return out
}

// resolve finds addresses for the gateway process.
func resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

// openGateways prepares the kind "gateway".
func (n *Node) openGateways() error {
	genesis, err := contract.DecodeGenesis(n.at.grid.Genesis)
	if err != nil {
		return err
	}
	n.facing = &gatewayFacts{
		grid: n.at.grid.ID, farm: n.at.grid.FarmID, farmKey: n.at.grid.Farm.Key, slot: n.at.Slot, genesis: genesis,
		log: n.log, domains: newOwnDomains(n.at.grid.ID, resolverOf(n.nameservers()), n.wakeGateways),
	}
	if n.at.Disk.Kind == boot.DiskReal {
		n.facing.dir = boot.DataDir
	}
	n.facing.restore()
	n.sharing = &gatewayPeers{of: n.gatewaySlots}
	if n.shared, err = publish.NewShared(dataGateways, n.keys.Kept, n.at.Slot, n.sharing, n.log); err != nil {
		return err
	}
	n.gateways, err = publish.New(publish.Config{
		Data: dataGateways, Store: n.shared, Cgroup: gatewayCgroup, Networks: n.routers.Gateways(), Facts: n.facing, Resolve: resolve, Log: n.log,
		Challenges: newChallenges(n.at.grid.ID, n.at.Slot, n.keys.Signer, n.submitTo, n.challengeSaid),
	})
	return err
}

func equalZone(a, b *control.Zone) bool {
	if a == nil || b == nil {
		return a == b
	}
	x, y := *a, *b
	x.Serial, y.Serial = 0, 0
	same := func(p, q control.ZoneName) bool { return p.Name == q.Name && slices.Equal(p.Addrs, q.Addrs) }
	texts := func(p, q control.ZoneRecord) bool { return p.Name == q.Name && slices.Equal(p.Texts, q.Texts) }
	return x.Domain == y.Domain && slices.EqualFunc(x.NS, y.NS, same) && slices.EqualFunc(x.Names, y.Names, same) && slices.EqualFunc(x.TXT, y.TXT, texts)
}

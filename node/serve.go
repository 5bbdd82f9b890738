package node

import (
	"context"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/ledger/wire"
	"github.com/zero-os/zos/node/protocol"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload"
	"github.com/zero-os/zos/workload/logs"
)

// logBatch is how many records travel in one chunk at most; with lines of
// logs.MaxRecord they stay below bus.MaxChunk.
const logBatch = 12

// boundEvery is how often a node looks whether its key is still the slot's.
const boundEvery = 30 * time.Second

// serve answers people on the bus until ctx ends, or until the ledger binds
// another key to the slot: then this one speaks for nobody any more.
func (n *Node) serve(ctx context.Context, epoch uint64) error {
	var watch sync.WaitGroup
	defer watch.Wait()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	watch.Go(func() { stop(whileBound(ctx, epoch, boundEvery, n.bound)) })
	watch.Go(func() { n.keepTalking(ctx, epoch) })
	if err := n.answerUntil(ctx, epoch); err != nil && ctx.Err() == nil {
		return err
	}
	return context.Cause(ctx)
}

// whileBound returns when the ledger, as this node has verified it, binds
// another key or epoch than ours, or when ctx ends. A ledger that is silent
// changes nothing.
func whileBound(ctx context.Context, epoch uint64, every time.Duration, bound func(context.Context) (uint64, bool)) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if now, ours := bound(ctx); now > epoch || now == epoch && !ours {
			return problem.New("key-voided", "the ledger binds another key to this slot, of epoch %d; this node's was of epoch %d", now, epoch).
				WithFix("if this is the slot's own machine, have the farm re-key the slot")
		}
	}
}

// answerUntil answers on the bus until ctx ends.
func (n *Node) answerUntil(ctx context.Context, epoch uint64) error {
	b, err := bus.NewNode(bus.NodeConfig{
		Conn: n.conn, Grid: n.at.grid.ID, Slot: n.at.Slot, Epoch: epoch, BootNonce: n.keys.BootNonce,
		Signer: n.keys.Signer, Sealing: n.keys.Sealing, Release: n.at.release.Sequence,
		Facts: n.facts, Status: n.status, Logger: n.log,
	})
	if err != nil {
		return err
	}
	b.HandleCall(bus.MethodStatus, answer(n.contractStatus))
	b.HandleCall(bus.MethodNode, answer(n.nodeStatus))
	b.HandleCall(bus.MethodResources, answer(func(context.Context, bus.Query) (protocol.Resources, error) { return resources() }))
	b.HandleCall(bus.MethodNetwork, answer(n.networkStatus))
	b.HandleCall(bus.MethodGateway, answer(n.gatewayStatus))
	b.HandleCall(bus.MethodDevice, answer(n.deviceConfig))
	b.HandleCall(bus.MethodMetrics, answer(n.metrics))
	b.HandleCall(bus.MethodNodeMetrics, answer(n.nodeMetrics))
	b.HandleCall(bus.MethodRestart, answer(n.acts.restart))
	b.HandleCall(bus.MethodSignal, answer(n.acts.signal))
	for method, act := range map[string]func(context.Context, bus.Query, twoWay) error{
		bus.MethodExec: n.acts.exec, bus.MethodConsole: n.acts.console, bus.MethodGet: n.acts.get, bus.MethodPut: n.acts.put,
	} {
		b.HandleDuplex(method, func(ctx context.Context, q bus.Query, d *bus.Duplex) error {
			return protect(func() error { return act(ctx, q, d) })
		})
	}
	b.HandleStream(bus.MethodEvents, func(ctx context.Context, q bus.Query, send func([]byte) error) error {
		return protect(func() error { return n.events(ctx, q, send) })
	})
	b.HandleStream(bus.MethodLogs, func(ctx context.Context, q bus.Query, send func([]byte) error) error {
		return protect(func() error { return n.logs(ctx, q, send) })
	})
	return b.Run(ctx)
}

// answer encodes what a handler returns.
func answer[T any](f func(context.Context, bus.Query) (T, error)) bus.CallHandler {
	return func(ctx context.Context, q bus.Query) (b []byte, err error) {
		err = protect(func() error {
			v, err := f(ctx, q)
			if err != nil {
				return err
			}
			b, err = canon.Marshal(v)
			return err
		})
		return b, err
	}
}

// facts is what this node has proven about a contract at this moment.
func (n *Node) facts(_ context.Context, id canon.Hash) (bus.Facts, error) {
	f := bus.Facts{FarmKey: sign.PublicKey(n.at.grid.Farm.Key)}
	n.mu.Lock()
	e, ok := n.cases[id]
	f.Stale = time.Since(n.head.Time) > wire.MaxHeadAge
	n.mu.Unlock()
	if !ok {
		return f, nil
	}
	f.Contract = true
	for _, m := range e.Members {
		// Judge has verified these; Open cannot fail for a believed case.
		a, _, _, err := contract.Open[contract.Account](m, contract.KindAccount, n.at.grid.ID)
		if err != nil {
			return bus.Facts{}, err
		}
		f.Members = append(f.Members, sign.PublicKey(a.Key))
	}
	f.Access = grants(n.reconc.newest(id))
	return f, nil
}

// status is what the heartbeat tells everyone.
func (n *Node) status() bus.Status {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := bus.Status{Ready: n.epoch > 0 && n.proven, Running: n.reconc.running(), Head: n.head.Height}
	for _, code := range n.problems {
		s.Problems = append(s.Problems, code)
	}
	sort.Strings(s.Problems)
	s.Problems = slices.Compact(s.Problems)
	s.Problems = s.Problems[:min(len(s.Problems), bus.MaxProblems)]
	return s
}

// contractStatus tells how the workloads of one contract are, and how much of
// their files is here.
func (n *Node) contractStatus(ctx context.Context, q bus.Query) (protocol.ContractStatus, error) {
	out := protocol.ContractStatus{Workloads: []protocol.WorkloadStatus{}}
	for _, w := range n.reconc.of(q.Contract) {
		s := protocol.WorkloadStatus{
			Name: w.ID.Name, Version: w.Version, State: w.status.State, Reason: w.status.Reason, Detail: w.status.Detail,
			ExitCode: int64(w.status.ExitCode), Verity: w.status.Verity,
			Ready: w.status.Ready, Isolation: w.status.Isolation, Restarts: w.status.Restarts,
		}
		if w.status.Version > 0 {
			s.Version = w.status.Version
		}
		var c plan.Container
		if w.Plan.Kind == plan.KindContainer && canon.Unmarshal(w.Plan.Config, &c) == nil {
			local, cancel := context.WithTimeout(ctx, localTimeout)
			if f, err := n.fault.Status(local, c.Flist); err == nil {
				s.Fetched, s.Total = f.Progress.Bytes, f.Progress.TotalBytes
			}
			cancel()
		}
		out.Workloads = append(out.Workloads, s)
	}
	return out, nil
}

// nodeStatus tells the farm how its node is.
func (n *Node) nodeStatus(context.Context, bus.Query) (protocol.NodeStatus, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := protocol.NodeStatus{
		Slot: n.at.Slot, Epoch: n.epoch, Release: n.at.release.Sequence, OS: n.at.release.OS,
		Head: n.head.Height, HeadTime: uint64(max(0, n.head.Time.Unix())), Boot: n.keys.BootNonce[:],
		Uptime: uint64(time.Since(n.started).Seconds()), Store: n.at.Disk.Kind, Verity: true,
		Problems: append([]string{}, n.at.Degraded...),
	}
	for part, code := range n.problems {
		s.Problems = append(s.Problems, part+": "+code)
	}
	sort.Strings(s.Problems)
	for _, step := range n.at.Steps {
		s.Steps = append(s.Steps, protocol.Step{Name: step.Name, Milliseconds: step.Millis})
	}
	for id := range n.cases {
		s.Contracts = append(s.Contracts, id)
	}
	slices.SortFunc(s.Contracts, func(a, b canon.Hash) int { return slices.Compare(a[:], b[:]) })
	for _, r := range n.refused {
		s.Refused = append(s.Refused, protocol.Refusal{Contract: r.contract, Code: problem.Code(r.err), Message: oneLine(r.err.Error())})
	}
	s.Memory, s.Features = memory(), n.features.status()
	return s, nil
}

// logs sends a workload's log, record by record, and follows it if asked to.
func (n *Node) logs(ctx context.Context, q bus.Query, send func([]byte) error) error {
	var params protocol.LogsParams
	if err := canon.Unmarshal(q.Params, &params); err != nil {
		return problem.New("request-invalid", "read the parameters of logs: %w", err)
	}
	// The path is made of a proven contract's id and a name in its plan, never
	// of what a request says.
	id := workload.ID{Contract: q.Contract, Name: params.Workload}
	all := n.reconc.of(q.Contract)
	at := slices.IndexFunc(all, func(w told) bool { return w.ID == id })
	if at < 0 {
		return problem.New("workload-unknown", "contract %s has no workload %q on this node", q.Contract.Short(), params.Workload)
	}
	dir := n.kind.LogDir(id)
	switch all[at].Plan.Kind {
	case plan.KindGateway:
		dir = n.gateways.LogDir(id) // the access log
	case plan.KindVM:
		dir = n.vms.LogDir(id)
	}
	reader := logs.NewReader(dir)
	next := params.After + 1
	if params.Since > 0 {
		var err error
		if next, err = since(ctx, reader, next, params.Since); err != nil {
			return err
		}
	}
	if params.Tail > 0 {
		var err error
		if next, err = tail(ctx, reader, next, params.Tail); err != nil {
			return err
		}
	}
	for {
		records, after, err := reader.Read(next, logBatch)
		if err != nil {
			return err
		}
		if len(records) > 0 {
			if err := sendRecords(records, send); err != nil {
				return err
			}
			next = after
			continue
		}
		if !params.Follow {
			return nil
		}
		for r, err := range reader.Follow(ctx, next) {
			if err != nil {
				return err
			}
			if err := sendRecords([]logs.Record{r}, send); err != nil {
				return err
			}
		}
		return ctx.Err()
	}
}

// since finds the first record, from number from on, that is not older than a time in
// Unix nanoseconds; the number of the next one that will come, if there is none.
func since(ctx context.Context, reader *logs.Reader, from uint64, at int64) (uint64, error) {
	for {
		records, next, err := reader.Read(from, 1024)
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return 0, err
		}
		for _, r := range records {
			if r.Time.UnixNano() >= at {
				return r.Seq, nil
			}
		}
		if len(records) == 0 {
			return next, nil
		}
		from = next
	}
}

// tail finds the sequence number from which n records are left. n is the
// asker's and may be any number.
func tail(ctx context.Context, reader *logs.Reader, from, n uint64) (uint64, error) {
	var last []uint64
	for {
		records, next, err := reader.Read(from, 1024)
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return 0, err
		}
		for _, r := range records {
			if last = append(last, r.Seq); uint64(len(last)) > n {
				last = last[1:]
			}
		}
		if len(records) == 0 {
			break
		}
		from = next
	}
	if len(last) == 0 {
		return from, nil
	}
	return last[0], nil
}

func sendRecords(records []logs.Record, send func([]byte) error) error {
	chunk := protocol.LogChunk{Records: make([]protocol.LogRecord, 0, len(records))}
	for _, r := range records {
		chunk.Records = append(chunk.Records, protocol.LogRecord{
			Sequence: r.Seq, Time: r.Time.UnixNano(), Stream: r.Stream.String(), Data: r.Data, Partial: r.Partial,
		})
	}
	b, err := canon.Marshal(chunk)
	if err != nil {
		return err
	}
	return send(b)
}

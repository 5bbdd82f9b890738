package engine

import (
	"bytes"
	"context"
	stded25519 "crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	dbm "github.com/cometbft/cometbft-db"
	abci "github.com/cometbft/cometbft/abci/types"
	cometconfig "github.com/cometbft/cometbft/config"
	"github.com/cometbft/cometbft/node"
	"github.com/cometbft/cometbft/p2p"
	"github.com/cometbft/cometbft/proxy"
	rpccore "github.com/cometbft/cometbft/rpc/core"
	rpctypes "github.com/cometbft/cometbft/rpc/jsonrpc/types"
	"github.com/cometbft/cometbft/types"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/ledger/internal/cometlog"
	"github.com/zero-os/zos/ledger/wire"
	"github.com/zero-os/zos/problem"
)

// Config is what a ledger node needs.
type Config struct {
	// Dir holds everything that the node writes. It is made if it is missing, and
	// two nodes must not share it.
	Dir string
	// Genesis is the grid's canonical contract.Genesis.
	Genesis []byte
	// ValidatorKey is the 32-byte ed25519 seed of a validator that Genesis names;
	// nil runs a full node that follows and serves but does not vote. It is never
	// written to Dir. Two running nodes must not have the same one.
	ValidatorKey []byte
	// RPC is the address that light clients ask, host:port; port 0 takes a free one.
	RPC string
	// P2P is the address for other ledger nodes, host:port; port 0 takes a free one.
	// It must be given, for CometBFT always listens: "127.0.0.1:0" for a lone node.
	P2P string
	// PersistentPeers are ledger nodes to keep connected to, as P2PAddr gives them.
	PersistentPeers []string
	// Logger gets what happens; nil discards it.
	Logger *slog.Logger
}

// Node is a running ledger node.
type Node struct {
	comet *node.Node
	rpc   *rpcServer
	env   *rpccore.Environment
	app   *app
	db    *database
	key   *p2p.NodeKey
	p2p   string

	stop    sync.Once
	stopErr error
	done    chan struct{} // closed when everything has ended
	mu      sync.Mutex
	started bool
	fault   error
}

// Start runs a node with the rules. It returns once the node serves its RPC
// address; the first block may come later, see Ready. ctx bounds the start only;
// Stop ends the node.
func Start(ctx context.Context, cfg Config, rules Rules) (*Node, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	var err error
	// CometBFT wants to know its P2P port before it listens. A port that was free a
	// moment ago can be gone; then another one is tried.
	for range 5 {
		var n *Node
		if n, err = start(ctx, cfg, rules); err == nil {
			return n, nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) || !strings.HasSuffix(cfg.P2P, ":0") || ctx.Err() != nil {
			break
		}
	}
	return nil, fmt.Errorf("start ledger node: %w", err)
}

func start(ctx context.Context, cfg Config, rules Rules) (_ *Node, err error) {
	doc, err := genesisDoc(cfg.Genesis)
	if err != nil {
		return nil, err
	}
	// CometBFT would sleep until then.
	if ahead := time.Until(doc.GenesisTime); ahead > wire.MaxClockDrift {
		return nil, fmt.Errorf("the genesis is %s in the future: check this machine's clock", ahead.Round(time.Second))
	}
	p2pAddr, err := freePort(cfg.P2P)
	if err != nil {
		return nil, fmt.Errorf("P2P address %q: %w", cfg.P2P, err)
	}
	for _, d := range []string{"", "config", "data"} {
		if err := os.MkdirAll(filepath.Join(cfg.Dir, d), 0o700); err != nil {
			return nil, err
		}
	}
	n := &Node{done: make(chan struct{}), p2p: p2pAddr}
	// Whatever was opened before a failure is closed again, in reverse.
	var undo []func()
	defer func() {
		if err != nil {
			for i := len(undo) - 1; i >= 0; i-- {
				undo[i]()
			}
		}
	}()
	listener, err := net.Listen("tcp", cfg.RPC)
	if err != nil {
		return nil, fmt.Errorf("RPC address %q: %w", cfg.RPC, err)
	}
	undo = append(undo, func() { listener.Close() })
	if n.db, err = openDatabase(filepath.Join(cfg.Dir, "data", "zos.db")); err != nil {
		return nil, err
	}
	undo = append(undo, func() { n.db.close() })
	if n.app, err = newApp(rules, cfg.Genesis, n.db, cfg.Logger, n.fail); err != nil {
		return nil, err
	}
	config := cometConfig(cfg, p2pAddr)
	if n.key, err = p2p.LoadOrGenNodeKey(config.NodeKeyFile()); err != nil {
		return nil, fmt.Errorf("load the node's key: %w", err)
	}
	pv, err := validator(cfg.ValidatorKey, config.PrivValidatorStateFile(), doc)
	if err != nil {
		return nil, err
	}
	open := &databases{}
	undo = append(undo, open.close)
	n.comet, err = node.NewNodeWithContext(ctx, config, pv, n.key, proxy.NewConnSyncLocalClientCreator(n.app),
		func() (*types.GenesisDoc, error) { return doc, nil }, open.provide,
		node.DefaultMetricsProvider(config.Instrumentation), cometlog.New(cfg.Logger))
	if err != nil {
		return nil, err
	}
	if err := sameGenesis(n.comet.GenesisDoc(), doc); err != nil {
		return nil, err
	}
	if err := n.comet.Start(); err != nil {
		return nil, err
	}
	undo = append(undo, func() { stopComet(n.comet) })
	if n.env, err = n.comet.ConfigureRPC(); err != nil {
		return nil, fmt.Errorf("set up RPC: %w", err)
	}
	n.rpc = serveRPC(listener, n.env, cometlog.New(cfg.Logger))
	n.mu.Lock()
	defer n.mu.Unlock()
	n.started = true
	if n.fault != nil {
		go n.Stop()
	}
	return n, nil
}

// cometConfig is CometBFT's configuration. Nothing listens but what cfg names.
func cometConfig(cfg Config, p2pAddr string) *cometconfig.Config {
	c := cometconfig.DefaultConfig()
	c.SetRoot(cfg.Dir)
	c.Moniker = "zos"
	c.RPC.ListenAddress = "" // served by rpcServer
	c.RPC.GRPCListenAddress = ""
	c.RPC.PprofListenAddress = ""
	c.RPC.MaxBodyBytes = maxRequest
	c.Instrumentation.Prometheus = false
	c.TxIndex.Indexer = "null" // the application remembers outcomes, with proofs
	c.Storage.DiscardABCIResponses = true
	c.P2P.ListenAddress = "tcp://" + p2pAddr
	c.P2P.PersistentPeers = strings.Join(cfg.PersistentPeers, ",")
	c.P2P.PexReactor = false
	c.P2P.AddrBookStrict = false // addresses may be private ones
	c.P2P.AllowDuplicateIP = true
	c.P2P.HandshakeTimeout = 5 * time.Second
	c.P2P.PersistentPeersMaxDialPeriod = 10 * time.Second
	c.Mempool.MaxTxBytes = wire.MaxTx
	c.Mempool.MaxTxsBytes = 64 << 20
	// A block is made as soon as there is a transaction, and once the votes are in
	// nobody waits for the late ones.
	c.Consensus.TimeoutCommit = 0
	c.Consensus.SkipTimeoutCommit = true
	c.Consensus.CreateEmptyBlocks = true
	c.Consensus.CreateEmptyBlocksInterval = wire.EmptyBlockInterval
	// How often a node looks for news that a peer lacks. It is most of what an idle
	// pair of nodes costs, and a witness lags behind its validator by one or two of
	// these per block. A node that does not vote has news for its own followers
	// only, which lag accordingly: let followers follow validators.
	c.Consensus.PeerGossipSleepDuration = 100 * time.Millisecond
	if cfg.ValidatorKey == nil {
		c.Consensus.PeerGossipSleepDuration = time.Second
	}
	return c
}

// sameGenesis refuses a directory of another chain: CometBFT goes on with the
// genesis that it stored first.
func sameGenesis(have, want *types.GenesisDoc) error {
	if have.ChainID != want.ChainID || !bytes.Equal(have.ValidatorHash(), want.ValidatorHash()) {
		return fmt.Errorf("the directory holds chain %s, not %s", have.ChainID, want.ChainID)
	}
	return nil
}

// freePort replaces port 0 by one that is free now.
func freePort(addr string) (string, error) {
	_, port, err := net.SplitHostPort(addr)
	if err != nil || port != "0" {
		return addr, err
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

func privateKey(seed []byte) []byte { return stded25519.NewKeyFromSeed(seed) }

// databases opens CometBFT's databases and remembers them: it does not close
// them when its own start fails.
type databases struct{ all []dbm.DB }

func (d *databases) provide(ctx *cometconfig.DBContext) (dbm.DB, error) {
	db, err := cometconfig.DefaultDBProvider(ctx)
	if err != nil {
		return nil, err
	}
	db = &lingerDB{DB: db}
	d.all = append(d.all, db)
	return db, nil
}

func (d *databases) close() {
	for _, db := range d.all {
		_ = db.Close()
	}
}

// stopComet ends CometBFT and waits until it has ended. Two goroutines of its
// write-ahead log stay behind: it never closes that file's watcher.
func stopComet(c *node.Node) {
	if err := c.Stop(); err == nil {
		c.Wait()
	}
	if c.ProxyApp().IsRunning() {
		_ = c.ProxyApp().Stop()
	}
}

// fail ends the node because of err. It is called from within CometBFT, which
// must not wait for itself.
func (n *Node) fail(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fault == nil {
		n.fault = err
	}
	// While blocks are replayed, Start fails with the same error.
	if n.started {
		go n.Stop()
	}
}

// Stop ends the node and waits until it has. Only what is in its directory is
// left. It may be called more than once.
func (n *Node) Stop() error {
	n.stop.Do(func() {
		defer close(n.done)
		n.rpc.close()
		stopComet(n.comet)
		n.stopErr = n.db.close()
	})
	<-n.done
	return n.stopErr
}

// Wait returns when the node has ended, with the reason if nobody called Stop.
func (n *Node) Wait() error {
	<-n.done
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.fault
}

// URL returns where the node serves light clients, with the real port.
func (n *Node) URL() string { return "http://" + n.rpc.addr }

// NodeID returns the name by which peers know the node, 40 hex digits.
func (n *Node) NodeID() string { return string(n.key.ID()) }

// P2PAddr returns the node's address for PersistentPeers: id@host:port.
func (n *Node) P2PAddr() string { return n.NodeID() + "@" + n.p2p }

// Height returns the height of the newest block that the node has.
func (n *Node) Height() uint64 { return uint64(n.comet.BlockStore().Height()) }

// Submit puts tx into the queue of this very node and waits until a block holds
// it and light clients can be shown what came of it: for the one who runs the
// node and trusts it. It does not tell whether the rules applied it.
func (n *Node) Submit(ctx context.Context, tx []byte) error {
	res, err := n.env.BroadcastTxSync(&rpctypes.Context{}, tx)
	switch {
	case err != nil:
		return fmt.Errorf("submit transaction: %w", err)
	case res.Code != abci.CodeTypeOK:
		return problem.New(res.Codespace, "submit transaction: %s", res.Log)
	}
	hash := canon.Sum(tx)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		if n.app.queryTx(hash[:], int64(n.Provable())).Code == abci.CodeTypeOK {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the transaction's block: %w", ctx.Err())
		case <-n.done:
			return errors.New("wait for the transaction's block: the node has stopped")
		case <-tick.C:
		}
	}
}

// Provable returns the height of the header against which the node's answers to
// light clients can be verified, 0 if there is none yet. It proves the state
// after the block before it.
func (n *Node) Provable() uint64 {
	n.app.mu.RLock()
	defer n.app.mu.RUnlock()
	return uint64(n.app.proven.header)
}

// Ready waits until the node can prove the state that the genesis founds: it has
// the second block.
func (n *Node) Ready(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if n.Provable() > 0 {
			return nil
		}
		select {
		case <-n.done:
			return errors.Join(errors.New("wait for the ledger's first block: the node has stopped"), n.Wait())
		case <-ctx.Done():
			return fmt.Errorf("wait for the ledger's first block: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

// Checkpoint returns the newest header of this node, unverified: for the one who
// runs the node and trusts it.
func (n *Node) Checkpoint() (contract.Checkpoint, error) {
	height := n.comet.BlockStore().Height()
	meta := n.comet.BlockStore().LoadBlockMeta(height)
	if height == 0 || meta == nil {
		return contract.Checkpoint{}, errors.New("make ledger checkpoint: there is no block yet")
	}
	c := contract.Checkpoint{Height: uint64(height), Time: uint64(meta.Header.Time.Unix())}
	copy(c.Hash[:], meta.Header.Hash())
	return c, nil
}

// Root returns the root of the state after the newest block, for tests.
func (n *Node) Root() canon.Hash {
	n.app.mu.RLock()
	defer n.app.mu.RUnlock()
	return n.app.at.Root
}

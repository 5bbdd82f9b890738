package grid

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zero-os/zos/boot"
	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/hub"
	"github.com/zero-os/zos/ledger"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/rendezvous/server"
)

// services are a grid's own: what `zos serve` runs one by one on a real grid.
type services struct {
	validator, witness *ledger.Node
	rendezvous         []*server.Server
	bound              atomic.Pointer[bus.Bound] // how the rendezvous read the ledger; nil: it can't be read yet
	urls               URLs
	ended              chan error // the first service that ended by itself
	ledgers            sync.WaitGroup
	wait               []chan struct{}
	cancel             context.CancelFunc
}

// startServices starts everything that nodes dial.
func startServices(ctx context.Context, d dir, genesis []byte, validatorSeed []byte, o Options) (_ *services, err error) {
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s := &services{ended: make(chan error, 2), cancel: cancel}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.stop())
		}
	}()
	const free = "127.0.0.1:0"
	log := o.Log
	if s.validator, err = ledger.Start(ctx, ledger.Config{
		Dir: d.ledger(), Genesis: genesis, ValidatorKey: validatorSeed, RPC: free, P2P: free, Logger: log,
	}); err != nil {
		return s, fmt.Errorf("start the ledger: %w", err)
	}
	s.watch("the ledger", s.validator)
	// A second node that only follows is the light clients' witness.
	if s.witness, err = ledger.Start(ctx, ledger.Config{
		Dir: d.witness(), Genesis: genesis, RPC: free, P2P: free, PersistentPeers: []string{s.validator.P2PAddr()}, Logger: log,
	}); err != nil {
		return s, fmt.Errorf("start the ledger's witness: %w", err)
	}
	s.watch("the ledger's witness", s.witness)
	if err := s.startRendezvous(ctx, d, gridID(genesis), o); err != nil {
		return s, fmt.Errorf("start the rendezvous: %w", err)
	}
	hubURL, err := s.http(run, free, func(ctx context.Context, l net.Listener) error { return hub.Serve(ctx, l, d.hub(), log) })
	if err != nil {
		return s, fmt.Errorf("start the hub: %w", err)
	}
	bootURL, err := s.http(run, free, func(ctx context.Context, l net.Listener) error { return boot.Serve(ctx, l, d.boot(), log) })
	if err != nil {
		return s, fmt.Errorf("start the boot source: %w", err)
	}
	s.urls = URLs{Ledger: s.validator.URL(), Witness: s.witness.URL(), Hub: hubURL, Boot: bootURL, Rendezvous: []string{}}
	for _, r := range s.rendezvous {
		s.urls.Rendezvous = append(s.urls.Rendezvous, local(r.URL()))
	}
	if o.Underlay == nil {
		return s, nil
	}
	for _, u := range []string{s.urls.Ledger, s.urls.Witness, hubURL, bootURL} {
		if err := o.Underlay.Expose(portOf(u)); err != nil {
			return s, fmt.Errorf("let machines dial %s: %w", u, err)
		}
	}
	return s, nil
}

// local is a service's URL as this host dials it.
func local(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return raw
	}
	u.Host = net.JoinHostPort("127.0.0.1", u.Port())
	return u.String()
}

// portOf is the port in a URL, 0 if there is none.
func portOf(raw string) uint16 {
	u, err := url.Parse(raw)
	if err != nil {
		return 0
	}
	port, _ := strconv.ParseUint(u.Port(), 10, 16)
	return uint16(port)
}

// rendezvousServers is how many a grid on one machine has: so that the loss of
// one is survived here too.
const rendezvousServers = 2

// startRendezvous starts the servers that nodes meet at, joined with each other.
// They see where nodes come from, so they listen in the nodes' own network.
func (s *services) startRendezvous(ctx context.Context, d dir, grid canon.Hash, o Options) error {
	within, listen := func(open func() error) error { return open() }, "127.0.0.1:0"
	if o.Underlay != nil {
		within, listen = o.Underlay.Within, netip.AddrPortFrom(o.Underlay.Address(), 0).String()
	}
	for i := range rendezvousServers {
		err := within(func() error {
			r, err := server.Serve(ctx, server.Config{Listen: listen, CertDir: d.rendezvous(i + 1), Grid: grid, Bound: s.readBound, Logger: o.Log})
			if err == nil {
				s.rendezvous = append(s.rendezvous, r)
			}
			return err
		})
		if err != nil {
			return err
		}
		if o.Underlay != nil {
			if err := o.Underlay.Admit(portOf(s.rendezvous[i].URL())); err != nil {
				return fmt.Errorf("dial it from this host: %w", err)
			}
		}
	}
	for _, r := range s.rendezvous {
		for _, other := range s.rendezvous {
			if err := r.AddRoute(local(other.URL())); err != nil {
				return fmt.Errorf("join with another: %w", err)
			}
		}
	}
	return nil
}

// readBound reads the keys of a slot for the rendezvous, once there is a client
// of the ledger: the servers start before it, since it must know their addresses.
func (s *services) readBound(ctx context.Context, slot canon.Hash) (bus.Binding, error) {
	read := s.bound.Load()
	if read == nil {
		return bus.Binding{}, problem.New("ledger-unreachable", "read the keys of node %s: the grid is still starting", slot.Short())
	}
	return (*read)(ctx, slot)
}

// watch tells when a ledger node ends by itself.
func (s *services) watch(what string, n *ledger.Node) {
	s.ledgers.Go(func() {
		if err := n.Wait(); err != nil {
			s.end(fmt.Errorf("%s ended: %w", what, err))
		}
	})
}

// end keeps why a service ended; the first one tells.
func (s *services) end(err error) {
	select {
	case s.ended <- err:
	default:
	}
}

// http runs one HTTP service.
func (s *services) http(ctx context.Context, listen string, serve func(context.Context, net.Listener) error) (string, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", listen)
	if err != nil {
		return "", err
	}
	done := make(chan struct{})
	s.wait = append(s.wait, done)
	go func() {
		defer close(done)
		if err := serve(ctx, l); err != nil && !errors.Is(err, http.ErrServerClosed) && ctx.Err() == nil {
			s.end(err)
		}
	}()
	return "http://" + l.Addr().String(), nil
}

// stop ends all services; the ledger last, so that what is on its way arrives.
func (s *services) stop() error {
	s.cancel()
	for _, done := range s.wait {
		<-done
	}
	var err error
	for _, r := range s.rendezvous {
		err = errors.Join(err, r.Stop())
	}
	for _, n := range []*ledger.Node{s.witness, s.validator} {
		if n != nil {
			err = errors.Join(err, n.Stop())
		}
	}
	s.ledgers.Wait()
	return err
}

// validatorKey reads or makes the key of the grid's one validator.
func (d dir) validatorKey() (ed25519.PrivateKey, error) {
	path := d.key(keyValidator + ".seed")
	seed, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		seed = make([]byte, ed25519.SeedSize)
		_, _ = rand.Read(seed) // never fails, by its documentation
		err = os.WriteFile(path, seed, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("read the validator's key: %w", err)
	}
	if len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("the validator's key %s has %d bytes, want %d", path, len(seed), ed25519.SeedSize)
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

// genesis reads or makes the grid's founding statement.
func (d dir) genesis(validator ed25519.PrivateKey) ([]byte, error) {
	path := filepath.Join(d.path, "genesis.cbor")
	b, err := os.ReadFile(path)
	if err == nil {
		_, err = contract.DecodeGenesis(b)
		return b, err
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the genesis: %w", err)
	}
	g := contract.Genesis{
		V: contract.Version, Kind: contract.KindGenesis, Name: "try", Created: uint64(time.Now().Unix()), Nonce: contract.NewNonce(),
		Validators:       []contract.Validator{{Name: "validator-1", Key: validator.Public().(ed25519.PublicKey), Power: 10}},
		ReleaseThreshold: releaseThreshold,
	}
	for _, name := range releaseKeys {
		s, err := d.signer(name)
		if err != nil {
			return nil, err
		}
		g.ReleaseKeys = append(g.ReleaseKeys, s.Public())
	}
	if b, err = contract.EncodeGenesis(g); err != nil {
		return nil, err
	}
	return b, boot.WriteFile(path, b, 0o600)
}

// gridID names a grid by its genesis.
func gridID(genesis []byte) canon.Hash { return canon.Sum(genesis) }

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	_ "net/http/pprof" // of the measured gateway, with GATEWAY_PPROF
	"net/netip"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/gateway"
	"github.com/zero-os/zos/gateway/certs"
	"github.com/zero-os/zos/gateway/web"
	"github.com/zero-os/zos/spec/plan"
)

// serving is what a gateway process serves.
type serving struct {
	At       string   // its address
	Mode     string   // of its routes
	Hosts    int      // routes by name
	Port     int      // of the backends
	Backends []string // their addresses
	PEM      string   // a file with the key and certificate of terminated hosts; "": none
	Entry    string   // where a udp route at joinPort leads; "": there is none
}

// joinPort is that of a route by which devices enter.
const joinPort = 4500

// arg is how it is told to the process.
func (s serving) arg() string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // strings and numbers only
	}
	return string(b)
}

// config is the gateway's configuration.
func (s serving) config() gateway.Config {
	var c gateway.Config
	var to []gateway.Backend
	for i, b := range s.Backends {
		to = append(to, gateway.Backend{Name: fmt.Sprint("web", i), Addr: netip.AddrPortFrom(netip.MustParseAddr(b), uint16(s.Port))})
	}
	at := []netip.Addr{netip.MustParseAddr(s.At)}
	contract := canon.Sum([]byte("c"))
	for i := range s.Hosts {
		c.Routes = append(c.Routes, gateway.Route{ID: "c/www/" + hostName(i), Contract: contract, Workload: "www", Addresses: at,
			Host: hostName(i), Mode: s.Mode, Port: 443, Network: "front", Backends: slices.Clone(to), Check: plan.CheckTCP})
	}
	if s.Entry != "" {
		c.Routes = append(c.Routes, gateway.Route{ID: "c/www/entry", Contract: contract, Workload: "www", Addresses: at, Mode: plan.ModeUDP, Port: joinPort,
			Network: "front", Backends: []gateway.Backend{{Name: "router", Addr: netip.MustParseAddrPort(s.Entry)}}, Check: plan.CheckNone})
	}
	return c
}

// dialer reaches backends from the namespace of the process, by sockets such as
// a broker sends.
type dialer struct{}

func (dialer) Dial(ctx context.Context, _, proto string, to netip.AddrPort) (net.Conn, error) {
	if proto == "udp" {
		return (&net.Dialer{}).DialContext(ctx, proto, to.String())
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return gateway.Connect(ctx, fd, to)
}

// playGateway serves what it is told, with the parts and the bounds of memory of
// zos-gateway.
func playGateway(args []string) error {
	var what serving
	if err := json.Unmarshal([]byte(args[0]), &what); err != nil {
		return err
	}
	debug.SetGCPercent(50)
	debug.SetMemoryLimit(192 << 20)
	log := new(gateway.AccessLog)
	go func() { // as its control socket would
		for {
			if _, err := log.Take(context.Background(), 1024); err != nil {
				return
			}
		}
	}()
	if at := os.Getenv("GATEWAY_PPROF"); at != "" {
		go func() { fmt.Fprintln(os.Stderr, http.ListenAndServe(at, nil)) }()
	}
	o := gateway.Options{Dialer: dialer{}, Access: log, Conns: 9_990, Pending: 9_990, PerRoute: 9_990, PerContract: 9_990, PerClient: 9_990}
	if what.PEM != "" {
		t, err := terminator(what.PEM)
		if err != nil {
			return err
		}
		o.Terminator = t
	}
	s := gateway.New(o)
	if err := s.Apply(what.config()); err != nil {
		return err
	}
	go func() { _ = s.Run(context.Background()) }()
	ready := func() error { return awaitPort(what.At + ":443") }
	switch {
	case what.Mode == plan.ModeTerminate:
		ready = func() error { return awaitHost(what.At+":443", what.Hosts-1) }
	case what.Hosts == 0:
		ready = func() error { return nil }
	}
	if err := ready(); err != nil {
		return err
	}
	fmt.Println("ready")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		switch word, rest, _ := strings.Cut(in.Text(), " "); word {
		case "apply": // HOSTS
			n, err := strconv.Atoi(rest)
			if err != nil {
				return err
			}
			what.Hosts = n
			c := what.config()
			began := time.Now()
			if err := s.Apply(c); err != nil {
				return err
			}
			fmt.Println(time.Since(began).Nanoseconds())
		}
	}
	return nil
}

// terminator ends TLS with the certificate of a file, which every host's gateways
// have shared.
func terminator(file string) (*web.Terminator, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	// Nothing is ordered from it: what is shared is good for long.
	m, err := certs.New(certs.Options{Authority: "https://authority.invalid/directory"})
	if err != nil {
		return nil, err
	}
	go func() { _ = m.Run(context.Background()) }()
	shared := &shared{pem: pem}
	return web.NewTerminator(web.TerminatorOptions{Certs: m, Store: func(canon.Hash) certs.Store { return shared }}), nil
}

// shared is a store in which there is a certificate for every host, and nothing
// else. The file has the key too: who looks for one passes over the other.
type shared struct{ pem []byte }

func (s *shared) Get(_ context.Context, key string) ([]byte, error) {
	if strings.HasSuffix(key, ".crt") || strings.HasSuffix(key, ".key") {
		return s.pem, nil
	}
	return nil, fs.ErrNotExist
}

func (s *shared) Lock(context.Context, string) error             { return nil }
func (s *shared) Unlock(context.Context, string) error           { return nil }
func (s *shared) Put(context.Context, string, []byte) error      { return nil }
func (s *shared) Delete(context.Context, string) error           { return nil }
func (s *shared) List(context.Context, string) ([]string, error) { return nil, nil }
func (s *shared) Stat(context.Context, string) (certs.Info, error) {
	return certs.Info{}, fs.ErrNotExist
}

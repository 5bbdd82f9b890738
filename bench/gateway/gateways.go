package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/zero-os/zos/linux/netns"
	"github.com/zero-os/zos/spec/plan"
)

// visits is what people who make one request after the other have seen.
type visits struct {
	Longest time.Duration // of a request, with all that was tried for it
	Failed  int           // requests that were not answered after all
	Done    int
}

// Times of a visitor.
const (
	visitors    = 8
	visitFor    = 4 * time.Second
	visitBefore = time.Second            // all is well
	visitPause  = 5 * time.Millisecond   // between requests
	nextAddress = 250 * time.Millisecond // RFC 8305 §5, the delay that it recommends
	oneAnswer   = 2 * time.Second        // then a request is made anew
	wholeVisit  = 10 * time.Second       // then it has failed
)

// gateways is how long people wait when one of two gateways with the same routes
// at two addresses of a name dies, and when it falls silent.
func (b *bench) gateways() error {
	file, err := b.certificate()
	if err != nil {
		return err
	}
	for _, silent := range []bool{false, true} {
		var sum visits
		for _, mode := range []string{plan.ModePassthrough, plan.ModeTerminate} {
			for range b.turns {
				v, err := b.loseGateway(file, mode, silent)
				if err != nil {
					return err
				}
				sum.Longest, sum.Failed, sum.Done = max(sum.Longest, v.Longest), sum.Failed+v.Failed, sum.Done+v.Done
			}
		}
		how := "is killed"
		if silent {
			how = "falls silent"
		}
		b.Add(fmt.Sprintf("gateway failover, one of two %s, a client that tries the next address and repeats", how),
			fmt.Sprintf("most %.0f ms of %d, %d of %d requests failed", sum.Longest.Seconds()*1e3, 2*b.turns, sum.Failed, sum.Done),
			"≤ 5000 ms, 0 failed", sum.Longest <= 5*time.Second && sum.Failed == 0)
	}
	return nil
}

// loseGateway has visitors at two gateways in a namespace of their own, of which
// the one that they use is lost.
func (b *bench) loseGateway(file, mode string, silent bool) (v visits, err error) {
	ns, err := newNetNS()
	if err != nil {
		return v, err
	}
	defer ns.Close()
	what := serving{At: oursAddr, Mode: mode, Hosts: 1, Port: portSecure, Backends: []string{backendAddr}, PEM: file}
	if mode == plan.ModeTerminate {
		what.Port = portWeb
	}
	other := what
	other.At = manyAddr
	var all []*process
	defer func() {
		for _, p := range all {
			p.stop()
		}
	}()
	for _, r := range [][]string{{"web", backendAddr, file}, {"gateway", what.arg()}, {"gateway", other.arg()}, {"visits", what.At + ":443," + other.At + ":443"}} {
		p, err := roleIn(ns, r[0], r[1:]...)
		if err != nil {
			return v, err
		}
		all = append(all, p)
	}
	first, people := all[1], all[3]
	timer := time.AfterFunc(visitBefore, func() {
		if !silent {
			_ = first.cmd.Process.Signal(syscall.SIGKILL)
			return
		}
		cmd := exec.Command("nft", "-f", "-")
		cmd.Stdin = strings.NewReader(fmt.Sprintf("table ip silence { chain in { type filter hook input priority 0; ip daddr %s drop; ip saddr %s drop; }; }", what.At, what.At))
		if err := netns.Do(int(ns.Fd()), cmd.Run); err != nil {
			fmt.Fprintln(os.Stderr, "bench: nft:", err)
			people.stop() // whose answer is then missing
		}
	})
	defer timer.Stop()
	err = people.ask("go", &v)
	if err == nil && v.Longest < oneAnswer && silent {
		err = fmt.Errorf("no request took longer than %s: nothing was lost", v.Longest)
	}
	return v, err
}

// newNetNS makes a namespace with a loopback interface that is up.
func newNetNS() (*os.File, error) {
	ns, err := netns.New()
	if err != nil {
		return nil, err
	}
	err = netns.Do(int(ns.Fd()), func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	if err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	return ns, nil
}

// visit makes requests to ADDRESS,ADDRESS… as browsers do.
func visit(args []string) (any, error) {
	addresses := strings.Split(args[0], ",")
	var mu sync.Mutex
	var sum visits
	var work sync.WaitGroup
	end := time.Now().Add(visitFor)
	for range visitors {
		work.Go(func() {
			x := visitor{addresses: addresses}
			defer x.leave()
			for time.Now().Before(end) {
				began := time.Now()
				err := x.request(began.Add(wholeVisit))
				mu.Lock()
				sum.Longest = max(sum.Longest, time.Since(began))
				if sum.Done++; err != nil {
					sum.Failed++
				}
				mu.Unlock()
				time.Sleep(visitPause)
			}
		})
	}
	work.Wait()
	return sum, nil
}

// visitor keeps a connection while it works.
type visitor struct {
	addresses []string
	conn      *tls.Conn
	in        *bufio.Reader
}

func (x *visitor) leave() {
	if x.conn != nil {
		_ = x.conn.NetConn().Close()
		x.conn = nil
	}
}

// request makes a request, and again on a new connection until it is answered.
func (x *visitor) request(until time.Time) error {
	for {
		err := x.once()
		if err == nil {
			return nil
		}
		x.leave()
		if time.Now().After(until) {
			return err
		}
	}
}

func (x *visitor) once() error {
	if x.conn == nil {
		c, err := dialAny(x.addresses)
		if err != nil {
			return err
		}
		x.conn = tls.Client(c, &tls.Config{ServerName: hostName(0), InsecureSkipVerify: true})
		x.in = bufio.NewReader(x.conn)
	}
	if err := x.conn.SetDeadline(time.Now().Add(oneAnswer)); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(x.conn, "GET /%d HTTP/1.1\r\nHost: %s\r\n\r\n", 1<<10, hostName(0)); err != nil {
		return err
	}
	return readAnswer(x.in, 1<<10)
}

// dialAny connects to the first of the addresses, and to the next one when that
// fails or takes long, whichever answers first (RFC 8305).
func dialAny(addresses []string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), oneAnswer)
	defer cancel()
	type result struct {
		c   net.Conn
		err error
	}
	results := make(chan result)
	waiting, next := 0, 0
	begin := func() {
		at := addresses[next]
		next++
		waiting++
		go func() {
			c, err := (&net.Dialer{}).DialContext(ctx, "tcp", at)
			results <- result{c, err}
		}()
	}
	begin()
	var won net.Conn
	var last error
	timer := time.NewTimer(nextAddress)
	defer timer.Stop()
	for waiting > 0 {
		select {
		case <-timer.C:
			if won == nil && next < len(addresses) {
				begin()
			}
		case r := <-results:
			waiting--
			switch {
			case r.err != nil:
				if last = r.err; won == nil && next < len(addresses) {
					begin()
				}
			case won != nil:
				_ = r.c.Close()
			default:
				won = r.c
				cancel() // those that still try
			}
		}
	}
	if won == nil {
		return nil, last
	}
	return won, nil
}

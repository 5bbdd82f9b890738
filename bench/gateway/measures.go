package main

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/zero-os/zos/bench/table"
	"github.com/zero-os/zos/spec/plan"
)

// pair is our gateway and HAProxy before the same backend.
type pair struct {
	ours, theirs, backend *process
}

func (b *bench) pair(port, hosts int) (*pair, error) {
	p := &pair{}
	var err error
	if p.backend, err = role("backend", backendAddr); err == nil {
		if p.ours, err = role("gateway", passing(oursAddr, port, hosts, backendAddr)); err == nil {
			p.theirs, err = b.haproxy(port, hosts)
		}
	}
	if err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

// passing is a gateway that ends no TLS.
func passing(at string, port, hosts int, backends ...string) string {
	return serving{At: at, Mode: plan.ModePassthrough, Hosts: hosts, Port: port, Backends: backends}.arg()
}

func (p *pair) stop() {
	for _, x := range []*process{p.ours, p.theirs, p.backend} {
		if x != nil {
			x.stop()
		}
	}
}

// turn is what one of the two reached, and the processor time that it took.
type turn struct{ figure, cpu float64 }

// compare lets both take turns.
func (b *bench) compare(port int, kind string, conns int) (ours, theirs []turn, err error) {
	p, err := b.pair(port, 1)
	if err != nil {
		return nil, nil, err
	}
	defer p.stop()
	one := func(x *process, at string) (turn, error) {
		return b.measure(x, kind, at+":443", strconv.Itoa(conns), b.each.String())
	}
	return b.turnBy(func() (turn, error) { return one(p.ours, oursAddr) }, func() (turn, error) { return one(p.theirs, haproxyAddr) })
}

// measure has clients do something through x for the time of a turn, and takes
// what they say and what it cost x.
func (b *bench) measure(x *process, kind string, args ...string) (turn, error) {
	before, _, err := x.used()
	if err != nil {
		return turn{}, err
	}
	got, err := clients[float64](kind, args...)
	if err != nil {
		return turn{}, err
	}
	after, _, err := x.used()
	return turn{got, (after - before).Seconds() / (got * b.each.Seconds())}, err
}

// turnBy lets one and the other be measured by turns.
func (b *bench) turnBy(one, other func() (turn, error)) (ours, theirs []turn, err error) {
	for range b.turns {
		o, err := one()
		if err != nil {
			return nil, nil, fmt.Errorf("ours: %w", err)
		}
		t, err := other()
		if err != nil {
			return nil, nil, fmt.Errorf("haproxy: %w", err)
		}
		ours, theirs = append(ours, o), append(theirs, t)
	}
	return ours, theirs, nil
}

// middle returns the medians.
func middle(all []turn) (figure, cpu float64) {
	var f, c []float64
	for _, t := range all {
		f, c = append(f, t.figure), append(c, t.cpu)
	}
	return table.Median(f), table.Median(c)
}

func (b *bench) throughput() error {
	for _, conns := range []int{1, 16} {
		ours, theirs, err := b.compare(portSource, "source", conns)
		if err != nil {
			return err
		}
		of, oc := middle(ours)
		tf, tc := middle(theirs)
		b.Add(fmt.Sprintf("passthrough throughput, %d connections", conns), fmt.Sprintf("%.2fx, %.0f of %.0f MB/s; processor time %.2f (HAProxy %.2f) s/GB", of/tf, of/1e6, tf/1e6, oc*1e9, tc*1e9),
			"≥ 0.8x of HAProxy", of/tf >= 0.8)
	}
	return nil
}

func (b *bench) handshakes() error {
	return b.rate(portTLS, "tls", "new TLS connections")
}

// connects is without the ends' cryptography, which is most of the work of the
// machine in handshakes.
func (b *bench) connects() error {
	return b.rate(portHold, "hello", "new connections by a hello, without cryptography at the ends")
}

func (b *bench) rate(port int, kind, name string) error {
	ours, theirs, err := b.compare(port, kind, 32)
	if err != nil {
		return err
	}
	of, oc := middle(ours)
	tf, tc := middle(theirs)
	b.Add(name, fmt.Sprintf("%.2fx, %.0f of %.0f a second; processor time %.0f (HAProxy %.0f) µs each", of/tf, of, tf, oc*1e6, tc*1e6), "≥ 0.8x of HAProxy", of/tf >= 0.8)
	return nil
}

// latency is what a new TLS connection takes more than to the backend itself.
func (b *bench) latency() error {
	p, err := b.pair(portTLS, 1)
	if err != nil {
		return err
	}
	defer p.stop()
	places := []string{fmt.Sprintf("%s:%d", backendAddr, portTLS), oursAddr + ":443", haproxyAddr + ":443"}
	all := make([][]float64, len(places))
	for range b.turns {
		for i, at := range places {
			got, err := clients[[]float64]("latency", at, "200", "tls", "1")
			if err != nil {
				return err
			}
			all[i] = append(all[i], got...)
		}
	}
	direct, ours, theirs := table.Median(all[0]), table.Median(all[1]), table.Median(all[2])
	b.Add("added to a new TLS connection, median", fmt.Sprintf("%.2f ms (HAProxy %.2f ms, the connection itself %.2f ms)", (ours-direct)*1e3, (theirs-direct)*1e3, direct*1e3), "≤ 1 ms", ours-direct <= 1e-3)
	return nil
}

// failover is the longest time that a client which connects again and again is not
// served, when one of two backends dies, and when it falls silent.
func (b *bench) failover() error {
	for _, how := range []string{"is killed", "accepts no more and says nothing"} {
		var worst time.Duration
		failed := 0
		for range b.turns {
			gap, n, err := b.failOnce(how == "is killed")
			if err != nil {
				return err
			}
			worst, failed = max(worst, gap), failed+n
		}
		b.Add("backend failover, one of two "+how, fmt.Sprintf("most %.0f ms of %d, %d connections failed", worst.Seconds()*1e3, b.turns, failed), "≤ 1500 ms, 0 failed", worst <= 1500*time.Millisecond && failed == 0)
	}
	return nil
}

// failOnce returns the longest time that a connection took, from when the
// backend failed on.
func (b *bench) failOnce(kill bool) (time.Duration, int, error) {
	second, err := role("backend", secondAddr)
	if err != nil {
		return 0, 0, err
	}
	defer second.stop()
	var first *process
	var deaf *deafBackend
	if kill {
		if first, err = role("backend", backendAddr); err != nil {
			return 0, 0, err
		}
		defer first.stop()
	} else {
		if deaf, err = newDeaf(backendAddr, portHold); err != nil {
			return 0, 0, err
		}
		defer deaf.close()
	}
	ours, err := role("gateway", passing(oursAddr, portHold, 1, backendAddr, secondAddr))
	if err != nil {
		return 0, 0, err
	}
	defer ours.stop()
	hello := firstFlight(hostName(0))
	var longest time.Duration
	failed := 0
	try := func() {
		began := time.Now()
		if err := once("hello", oursAddr+":443", "", hello); err != nil {
			failed++
		}
		longest = max(longest, time.Since(began))
	}
	for range 50 {
		try()
	}
	if failed > 0 {
		return 0, 0, fmt.Errorf("%d of 50 connections failed before anything was done", failed)
	}
	longest = 0
	if kill {
		_ = first.cmd.Process.Signal(syscall.SIGKILL)
	} else if err := deaf.fall(); err != nil {
		return 0, 0, err
	}
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); {
		try()
		time.Sleep(5 * time.Millisecond)
	}
	return longest, failed, nil
}

// deafBackend answers until it falls silent: then its queue of connections is
// full, and the kernel drops what comes, as of a machine without power.
type deafBackend struct {
	fd    int
	at    string
	stop  chan struct{}
	done  chan struct{}
	fills []net.Conn
}

func newDeaf(addr string, port int) (*deafBackend, error) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	to := &syscall.SockaddrInet4{Port: port}
	copy(to.Addr[:], net.ParseIP(addr).To4())
	tv := syscall.Timeval{Usec: 20_000}
	for _, err := range []error{
		syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1),
		syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &tv),
		syscall.Bind(fd, to), syscall.Listen(fd, 16),
	} {
		if err != nil {
			_ = syscall.Close(fd)
			return nil, err
		}
	}
	d := &deafBackend{fd: fd, at: fmt.Sprintf("%s:%d", addr, port), stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(d.done)
		for {
			select {
			case <-d.stop:
				return
			default:
			}
			c, _, err := syscall.Accept4(fd, syscall.SOCK_CLOEXEC)
			if err != nil {
				continue
			}
			f := os.NewFile(uintptr(c), "connection")
			buf := make([]byte, 4096)
			if n, err := f.Read(buf); n > 0 && err == nil {
				_, _ = f.Write(buf[:1])
			}
			_ = f.Close()
		}
	}()
	return d, nil
}

// fall ends the answers and fills the queue.
func (d *deafBackend) fall() error {
	close(d.stop)
	<-d.done
	for {
		c, err := net.DialTimeout("tcp", d.at, 50*time.Millisecond)
		if err != nil {
			return nil
		}
		if d.fills = append(d.fills, c); len(d.fills) > 1000 {
			return fmt.Errorf("the queue of a backend that doesn't accept takes %d connections", len(d.fills))
		}
	}
}

func (d *deafBackend) close() {
	select {
	case <-d.stop:
	default:
		close(d.stop)
		<-d.done
	}
	for _, c := range d.fills {
		_ = c.Close()
	}
	_ = syscall.Close(d.fd)
}

// idle is the memory of connections on which nothing moves. A connection takes
// two files of a process, which may have a bounded number.
func (b *bench) idle() error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	count := int(min(10_000, (limit.Max-100)/2))
	p, err := b.pair(portHold, 1)
	if err != nil {
		return err
	}
	defer p.stop()
	memory := map[string]int{}
	for at, x := range map[string]*process{oursAddr: p.ours, haproxyAddr: p.theirs} {
		n := count
		if at == haproxyAddr {
			n = min(n, 9_400)
		}
		c, err := role("hold", at+":443", strconv.Itoa(n))
		if err != nil {
			return err
		}
		_, err = c.tell("go")
		if err == nil {
			_, memory[at], err = x.used()
		}
		c.stop()
		if err != nil {
			return err
		}
	}
	b.Add(fmt.Sprintf("%d idle connections, memory of the process", count), fmt.Sprintf("%d MB (HAProxy %d MB)", memory[oursAddr]>>20, memory[haproxyAddr]>>20), "≤ 200 MB of 10,000",
		memory[oursAddr]*10_000/count <= 200<<20)
	return nil
}

// routes is the memory of many routes, and whether a name is found among them as
// fast as among few.
func (b *bench) routes() error {
	backend, err := role("backend", backendAddr)
	if err != nil {
		return err
	}
	defer backend.stop()
	counts, at := []int{10, 10_000}, []string{oursAddr, manyAddr}
	var gateways []*process
	for i, n := range counts {
		p, err := role("gateway", passing(at[i], portHold, n, backendAddr))
		if err != nil {
			return err
		}
		defer p.stop()
		gateways = append(gateways, p)
	}
	times := make([][]float64, len(counts))
	for range 4 * b.turns {
		for i, n := range counts {
			got, err := clients[[]float64]("latency", at[i]+":443", "300", "hello", strconv.Itoa(n))
			if err != nil {
				return err
			}
			times[i] = append(times[i], got...)
		}
	}
	_, memory, err := gateways[1].used()
	if err != nil {
		return err
	}
	few, many := table.Median(times[0]), table.Median(times[1])
	b.Add("10,000 routes, memory of the process", fmt.Sprintf("%d MB", memory>>20), "≤ 100 MB", memory <= 100<<20)
	b.Add("a new connection among 10,000 routes and among 10, median", fmt.Sprintf("%.0f µs and %.0f µs", many*1e6, few*1e6), "≤ 1.05x", many <= few*1.05)
	return nil
}

// reload is how long a new configuration takes.
func (b *bench) reload() error {
	p, err := b.pair(portHold, 1)
	if err != nil {
		return err
	}
	defer p.stop()
	var all []float64
	for i := range 20 {
		answer, err := p.ours.tell(fmt.Sprint("apply ", 1000+i%2))
		if err != nil {
			return err
		}
		ns, err := strconv.Atoi(answer)
		if err != nil {
			return err
		}
		all = append(all, float64(ns)/1e6)
	}
	b.Add("reload of 1,000 routes", fmt.Sprintf("median %.1f ms", table.Median(all)), "≤ 100 ms", table.Median(all) <= 100)
	return nil
}

package gateway

import (
	"log/slog"
	"time"

	"golang.org/x/sys/unix"
)

// withDefaults fills in what is zero.
func (o Options) withDefaults() Options {
	def := func(d *time.Duration, to time.Duration) {
		if *d == 0 {
			*d = to
		}
	}
	count := func(n *int, to int) {
		if *n == 0 {
			*n = to
		}
	}
	if o.Listener == nil {
		o.Listener = NetListener{}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Access == nil {
		o.Access = new(AccessLog)
		o.Access.off = true
	}
	def(&o.HelloTimeout, 5*time.Second)
	def(&o.DialTimeout, time.Second)
	def(&o.DialTotal, 5*time.Second)
	def(&o.Idle, time.Hour)
	def(&o.Stall, 5*time.Minute)
	def(&o.Drain, 30*time.Second)
	def(&o.FlowIdle, 3*time.Minute)
	files := openFiles()
	count(&o.Conns, min(100_000, max(32, (files-files/8-256)/2)))
	count(&o.Pending, max(1, o.Conns/2))
	count(&o.PerContract, max(1, o.Conns/2))
	count(&o.PerRoute, max(1, o.Conns/2))
	count(&o.PerClient, 1024)
	count(&o.Flows, 4096)
	count(&o.AllFlows, min(65_536, max(16, o.Conns/2)))
	count(&o.ClientFlows, 256)
	return o
}

// openFiles is how many the process may have.
func openFiles() int {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return 1024
	}
	return int(min(r.Cur, 1<<20))
}

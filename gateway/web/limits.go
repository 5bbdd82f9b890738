package web

import "time"

// Limits bound what clients and backends may take. A zero value is its default.
type Limits struct {
	Header         int           // bytes of a request's header; 32 KiB
	ResponseHeader int64         // bytes of a response's header; 64 KiB
	HandshakeTime  time.Duration // of TLS; 10 s
	HeaderTime     time.Duration // to read a request's header; 10 s
	ResponseTime   time.Duration // from the end of a request to a response's header; 60 s
	DialTime       time.Duration // to connect to a backend; 3 s
	Idle           time.Duration // between requests, and of a silent upgraded connection; 2 min
	// A body that moves fewer than Rate bytes per second over Window is given up,
	// in either direction; 1 KiB, 30 s. A response that has nothing to say (a
	// stream of events) is not slow: it counts only while a write is stuck.
	Rate    int64
	Window  time.Duration
	Streams uint32 // HTTP/2 streams of a connection; 100
	Tries   int    // backends tried for one request; 3
}

func (l Limits) filled() Limits {
	set(&l.Header, 32<<10)
	set(&l.ResponseHeader, 64<<10)
	set(&l.HandshakeTime, 10*time.Second)
	set(&l.HeaderTime, 10*time.Second)
	set(&l.ResponseTime, 60*time.Second)
	set(&l.DialTime, 3*time.Second)
	set(&l.Idle, 2*time.Minute)
	set(&l.Rate, 1<<10)
	set(&l.Window, 30*time.Second)
	set(&l.Streams, 100)
	set(&l.Tries, 3)
	return l
}

func set[T comparable](v *T, to T) {
	var zero T
	if *v == zero {
		*v = to
	}
}

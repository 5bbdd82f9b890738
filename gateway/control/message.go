package control

import (
	"fmt"
	"time"

	"github.com/zero-os/zos/canon"
)

// Version of the protocol. A process of another version is replaced.
const Version = 1

// Kinds of frames. The process says hello first; then both ask and answer.
const (
	upHello   = 1 // Hello
	upApplied = 2 // Applied, answers downConfig
	upStatus  = 3 // Status, answers downStatus
	upSockets = 4 // SocketsRequest
	upLog     = 5 // LogBatch, not answered
	upStore   = 6 // StoreRequest
	upResolve = 7 // ResolveRequest
	upNote    = 8 // Note, not answered
	upRecord  = 9 // RecordRequest

	downConfig  = 65 // Config
	downStatus  = 66 // StatusRequest
	downSockets = 67 // SocketsReply, answers upSockets
	downStore   = 68 // StoreReply, answers upStore
	downResolve = 69 // ResolveReply, answers upResolve
	downZone    = 70 // Zone, answered by upApplied
	downRecord  = 71 // Failure, answers upRecord
)

// Limits of what the process says.
const (
	MaxText     = 512  // bytes of a text
	MaxLine     = 4096 // bytes of a line of an access log
	MaxLines    = 256  // of a LogBatch
	MaxNetwork  = 200  // bytes of a network's key
	MaxListed   = 4096 // routes of a Status
	MaxBackends = 64   // of a route
	MaxKey      = 512  // bytes of a key in a store
	MaxValue    = 512 << 10
	MaxKeys     = 4096 // of a list
)

// Hello is the first frame of a connection.
type Hello struct {
	V          uint64 `cbor:"v"`
	Generation uint64 `cbor:"generation"` // of the Config that is served; 0: none
	Began      uint64 `cbor:"began"`      // Unix seconds of the process' start
}

// Config is all that the process serves. Addresses are in canonical text.
type Config struct {
	Generation uint64  `cbor:"generation"` // grows with every Config, from 1
	Routes     []Route `cbor:"routes"`     // the first that names a host or port has it
	// Authority certifies hosts of mode terminate; empty: nobody does.
	Authority string   `cbor:"authority"`
	Roots     [][]byte `cbor:"roots"` // DER, of the authority's own certificate; empty: the public ones
	// Domain is the grid's, DNS the addresses at which its zone is answered.
	Domain string   `cbor:"domain"`
	DNS    []string `cbor:"dns"`
}

// Route is one thing to serve: package gateway's Route.
type Route struct {
	ID        string     `cbor:"id"`
	Contract  canon.Hash `cbor:"contract"`
	Workload  string     `cbor:"workload"`
	Addresses []string   `cbor:"addresses"`
	Host      string     `cbor:"host"`
	Mode      string     `cbor:"mode"`
	Port      uint16     `cbor:"port"`
	Network   string     `cbor:"network"` // key for SocketsRequest
	Backends  []Backend  `cbor:"backends"`
	Proxy     uint64     `cbor:"proxy"`
	Check     string     `cbor:"check"`
	Path      string     `cbor:"path"`
	Problem   string     `cbor:"problem"` // why it is not served; "": it is
}

// Backend is a workload behind a route.
type Backend struct {
	Name string `cbor:"name"`
	Addr string `cbor:"addr"`
}

// Zone is the grid's domain, as its name server answers.
type Zone struct {
	Domain string       `cbor:"domain"` // empty: nothing is answered
	Serial uint32       `cbor:"serial"`
	NS     []ZoneName   `cbor:"ns"`
	Names  []ZoneName   `cbor:"names"` // under the domain, without it
	TXT    []ZoneRecord `cbor:"txt"`
}

// ZoneName is a name and its addresses.
type ZoneName struct {
	Name  string   `cbor:"name"`
	Addrs []string `cbor:"addrs"`
}

// ZoneRecord is a full name and its text records.
type ZoneRecord struct {
	Name  string   `cbor:"name"`
	Texts []string `cbor:"texts"`
}

// Applied says that a Config or Zone is served, or why not.
type Applied struct {
	Message string `cbor:"message"` // "": it is
}

// StatusRequest asks how the routes of a contract are.
type StatusRequest struct {
	Contract canon.Hash `cbor:"contract"` // zero: none, only the process
}

// Status is what the process says of itself.
type Status struct {
	Routes       []RouteStatus       `cbor:"routes"`
	Certificates []CertificateStatus `cbor:"certificates"`
	Conns        uint64              `cbor:"conns"`
	Flows        uint64              `cbor:"flows"`
	Unknown      uint64              `cbor:"unknown"`
	Junk         uint64              `cbor:"junk"`
	Refused      uint64              `cbor:"refused"`
	LogLost      uint64              `cbor:"log_lost"`
}

// RouteStatus is how a route is.
type RouteStatus struct {
	ID       string          `cbor:"id"`
	Problem  string          `cbor:"problem"`
	Conns    uint64          `cbor:"conns"`
	Total    uint64          `cbor:"total"`
	In       uint64          `cbor:"in"`
	Out      uint64          `cbor:"out"`
	Failures uint64          `cbor:"failures"`
	Requests uint64          `cbor:"requests"`
	Errors   uint64          `cbor:"errors"`
	Backends []BackendStatus `cbor:"backends"`
}

// BackendStatus is how a backend is.
type BackendStatus struct {
	Name    string `cbor:"name"`
	Addr    string `cbor:"addr"`
	Healthy bool   `cbor:"healthy"`
	Checked bool   `cbor:"checked"`
	Since   uint64 `cbor:"since"` // Unix seconds
	Error   string `cbor:"error"`
	Conns   uint64 `cbor:"conns"`
}

// CertificateStatus is how the certificate of a host is.
type CertificateStatus struct {
	Host      string `cbor:"host"`
	Issuer    string `cbor:"issuer"`
	Serial    string `cbor:"serial"`
	NotBefore uint64 `cbor:"not_before"` // Unix seconds; 0: there is none
	NotAfter  uint64 `cbor:"not_after"`
	Code      string `cbor:"code"`
	Error     string `cbor:"error"`
	Failing   uint64 `cbor:"failing"` // Unix seconds; 0: it does not
}

// SocketsRequest asks for sockets in the namespace of a gateway.
type SocketsRequest struct {
	Network string `cbor:"network"`
	UDP     bool   `cbor:"udp"`
	Count   uint64 `cbor:"count"` // 1 to MaxBatch
}

// Failure answers what failed; Code is empty if it did not.
type Failure struct {
	Code    string `cbor:"code"`
	Message string `cbor:"message"`
}

// SocketsReply comes with the sockets: unconnected, not blocking.
type SocketsReply struct {
	Failure Failure `cbor:"failure"`
}

// LogBatch is lines of access logs.
type LogBatch struct {
	Lines []LogLine `cbor:"lines"`
}

// LogLine is a line for the log of one gateway, without its end.
type LogLine struct {
	Contract canon.Hash `cbor:"contract"`
	Workload string     `cbor:"workload"`
	Line     []byte     `cbor:"line"`
}

// Note is a line for the node's own log.
type Note struct {
	Level int64  `cbor:"level"` // a slog.Level
	Text  string `cbor:"text"`
}

// Operations on a store.
const (
	StoreGet    = "get"
	StorePut    = "put"
	StoreDelete = "delete"
	StoreList   = "list"
	StoreStat   = "stat"
	StoreLock   = "lock" // does not wait: code FailureLocked if somebody has it
	StoreUnlock = "unlock"
)

// Codes of a StoreReply.
const (
	FailureAbsent = "absent" // no such key
	FailureLocked = "locked" // another gateway has the lock
)

// StoreRequest is about what the gateways of one contract share.
type StoreRequest struct {
	Contract canon.Hash `cbor:"contract"`
	Op       string     `cbor:"op"`
	Key      string     `cbor:"key"` // or prefix, or the lock's name
	Value    []byte     `cbor:"value"`
}

// StoreReply answers it.
type StoreReply struct {
	Failure  Failure  `cbor:"failure"`
	Value    []byte   `cbor:"value"`
	Keys     []string `cbor:"keys"`
	Size     uint64   `cbor:"size"`
	Modified int64    `cbor:"modified"` // Unix nanoseconds
}

// RecordRequest puts a text record under the grid's domain, for a certificate of
// a contract, or takes it away.
type RecordRequest struct {
	Contract canon.Hash `cbor:"contract"`
	Name     string     `cbor:"name"` // full
	Text     string     `cbor:"text"`
	Absent   bool       `cbor:"absent"`
}

// ResolveRequest asks for the public addresses of a host.
type ResolveRequest struct {
	Host string `cbor:"host"`
}

// ResolveReply answers it.
type ResolveReply struct {
	Failure Failure  `cbor:"failure"`
	Addrs   []string `cbor:"addrs"`
}

func tooMany(what string, have, most int) error {
	return fmt.Errorf("%s: %d, at most %d are allowed", what, have, most)
}

func text(s string) error {
	if len(s) > MaxText {
		return tooMany("bytes of a text", len(s), MaxText)
	}
	return nil
}

func (r SocketsRequest) check() error {
	if r.Count == 0 || r.Count > MaxBatch || len(r.Network) > MaxNetwork {
		return fmt.Errorf("%d sockets of a network of %d bytes", r.Count, len(r.Network))
	}
	return nil
}

func (b LogBatch) check() error {
	if len(b.Lines) > MaxLines {
		return tooMany("lines", len(b.Lines), MaxLines)
	}
	for _, l := range b.Lines {
		if len(l.Line) > MaxLine || len(l.Workload) > 63 {
			return tooMany("bytes of a line", len(l.Line), MaxLine)
		}
	}
	return nil
}

func (r StoreRequest) check() error { return r.Check() }

// Check tells whether key and value are within their bounds.
func (r StoreRequest) Check() error {
	if len(r.Key) > MaxKey || len(r.Value) > MaxValue || len(r.Op) > 16 {
		return fmt.Errorf("a key of %d bytes and a value of %d", len(r.Key), len(r.Value))
	}
	for _, c := range []byte(r.Key) {
		if c < 0x20 || c > 0x7e {
			return fmt.Errorf("a key with byte %#x", c)
		}
	}
	return nil
}

func (r ResolveRequest) check() error {
	if len(r.Host) == 0 || len(r.Host) > 253 {
		return tooMany("bytes of a host", len(r.Host), 253)
	}
	return nil
}

func (r RecordRequest) check() error {
	if len(r.Name) == 0 || len(r.Name) > 253 || len(r.Text) == 0 || len(r.Text) > 255 {
		return fmt.Errorf("a record of %d bytes at a name of %d", len(r.Text), len(r.Name))
	}
	return nil
}

func (h Hello) check() error   { return nil }
func (a Applied) check() error { return text(a.Message) }
func (n Note) check() error    { return text(n.Text) }

func (s Status) check() error {
	if len(s.Routes) > MaxListed || len(s.Certificates) > MaxListed {
		return tooMany("routes", max(len(s.Routes), len(s.Certificates)), MaxListed)
	}
	for _, r := range s.Routes {
		if len(r.Backends) > MaxBackends || len(r.ID) > 1024 || len(r.Problem) > MaxText {
			return fmt.Errorf("a route with an id of %d bytes and %d backends", len(r.ID), len(r.Backends))
		}
		for _, b := range r.Backends {
			if len(b.Name) > 63 || len(b.Addr) > 64 || len(b.Error) > MaxText {
				return tooMany("bytes of a backend's error", len(b.Error), MaxText)
			}
		}
	}
	for _, c := range s.Certificates {
		for _, t := range []string{c.Host, c.Issuer, c.Serial, c.Code, c.Error} {
			if err := text(t); err != nil {
				return err
			}
		}
	}
	return nil
}

// Short cuts a text to MaxText bytes.
func Short(s string) string {
	if len(s) > MaxText {
		return s[:MaxText]
	}
	return s
}

// Unix is t in seconds, 0 for the zero time.
func Unix(t time.Time) uint64 {
	if t.IsZero() || t.Unix() < 0 {
		return 0
	}
	return uint64(t.Unix())
}

package netlab

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
)

// Capture watches segments: it counts flows, and looks for markers in every
// frame. Make it with NewCapture before anything starts: frames are not kept.
//
// A marker is found where it is whole within one frame, so it should be short
// and sent often.
type Capture struct {
	mu      sync.Mutex
	markers [][]byte
	flows   map[Flow]*FlowCount
	hits    []Hit
	frames  int
	bytes   int
}

// FlowCount is a flow and how much of it there was.
type FlowCount struct {
	Flow
	Segment, From string // where it was seen first
	Frames        int
}

// Hit is a frame that held a marker.
type Hit struct {
	Marker  []byte
	Segment string
	From    string
	Flow    Flow
}

func (h Hit) String() string {
	return fmt.Sprintf("%q from %s on %s in %s", h.Marker, h.From, h.Segment, h.Flow)
}

// maxHits bounds what a capture keeps of a flood.
const maxHits = 100_000

// NewCapture watches the segments for the markers.
func NewCapture(segments []*Segment, markers ...string) *Capture {
	c := &Capture{flows: map[Flow]*FlowCount{}}
	for _, m := range markers {
		c.markers = append(c.markers, []byte(m))
	}
	for _, s := range segments {
		s.Tap(c.see)
	}
	return c
}

func (c *Capture) see(p Packet) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.frames++
	c.bytes += len(p.Frame)
	n := c.flows[p.Flow]
	if n == nil {
		n = &FlowCount{Flow: p.Flow, Segment: p.Segment, From: p.From}
		c.flows[p.Flow] = n
	}
	n.Frames++
	for _, m := range c.markers {
		if len(c.hits) < maxHits && bytes.Contains(p.Frame, m) {
			c.hits = append(c.hits, Hit{m, p.Segment, p.From, p.Flow})
		}
	}
}

// Frames is how many frames were seen: a capture of nothing proves nothing.
func (c *Capture) Frames() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.frames
}

// Hits are the frames that held a marker.
func (c *Capture) Hits() []Hit {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.hits)
}

// Flows are all flows, sorted by their text.
func (c *Capture) Flows() []FlowCount {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]FlowCount, 0, len(c.flows))
	for _, f := range c.flows {
		all = append(all, *f)
	}
	slices.SortFunc(all, func(a, b FlowCount) int { return strings.Compare(a.String(), b.String()) })
	return all
}

// Unexpected are the flows that no rule allows.
func (c *Capture) Unexpected(allow ...func(Flow) bool) []FlowCount {
	return slices.DeleteFunc(c.Flows(), func(f FlowCount) bool {
		return slices.ContainsFunc(allow, func(a func(Flow) bool) bool { return a(f.Flow) })
	})
}

// Reset forgets what was seen.
func (c *Capture) Reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.flows)
	c.hits, c.frames, c.bytes = nil, 0, 0
}

// Neighbours allows what hosts say to find each other: ARP, neighbour and
// router discovery, multicast listener reports.
func Neighbours(f Flow) bool {
	if f.Proto == "arp" {
		return true
	}
	return f.Proto == "icmpv6" && (f.Type >= 130 && f.Type <= 136 || f.Type == 143)
}

// DHCP allows DHCP for IPv4.
func DHCP(f Flow) bool {
	s, d := f.Src.Port(), f.Dst.Port()
	return f.Proto == "udp" && (s == 67 || s == 68) && (d == 67 || d == 68)
}

// Either allows flows with one end at a port, either way: Either("tcp", 443).
func Either(proto string, port uint16) func(Flow) bool {
	return func(f Flow) bool { return f.Proto == proto && (f.Src.Port() == port || f.Dst.Port() == port) }
}

// WritePCAP writes what passes on the segment to w in libpcap's format, for
// people with tcpdump. Errors end it silently.
func (s *Segment) WritePCAP(w io.Writer) {
	head := binary.LittleEndian.AppendUint32(nil, 0xa1b2c3d4)
	head = append(head, 2, 0, 4, 0)
	for _, v := range []uint32{0, 0, 65535, 1} {
		head = binary.LittleEndian.AppendUint32(head, v)
	}
	_, err := w.Write(head)
	s.Tap(func(p Packet) {
		if err != nil {
			return
		}
		var b []byte
		for _, v := range []int64{p.Time.Unix(), int64(p.Time.Nanosecond() / 1000), int64(len(p.Frame)), int64(len(p.Frame))} {
			b = binary.LittleEndian.AppendUint32(b, uint32(v))
		}
		_, err = w.Write(append(b, p.Frame...))
	})
}

package guest

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// yamux's frame header: version, type, flags, stream, length
// (https://github.com/hashicorp/yamux/blob/master/spec.md).
const (
	headerLen  = 12
	typeData   = 0
	typeWindow = 1
	typePing   = 2
	typeGoAway = 3
	flagSYN    = 1
	knownFlags = 0x0f
	window     = 256 << 10 // yamux's least, and ours
)

// errGuard is wrapped by what ends a session because of what the guest sent.
var errGuard = errors.New("the guest breaks the protocol")

// guard checks the headers in what a guest sends, before yamux sees them. yamux
// alone would start a goroutine for each ping, and take streams that nobody wants.
type guard struct {
	header [headerLen]byte
	have   int
	body   uint32 // bytes of the frame's body still to come
}

// check looks at the next bytes. After an error none of what follows may be used.
func (g *guard) check(p []byte) error {
	for len(p) > 0 {
		if g.body > 0 {
			n := min(int64(g.body), int64(len(p)))
			g.body -= uint32(n)
			p = p[n:]
			continue
		}
		n := copy(g.header[g.have:], p)
		g.have, p = g.have+n, p[n:]
		if g.have < headerLen {
			return nil
		}
		g.have = 0
		body, err := checkHeader(g.header)
		if err != nil {
			return err
		}
		g.body = body
	}
	return nil
}

// checkHeader judges one frame of a guest's and returns the length of its body.
func checkHeader(h [headerLen]byte) (body uint32, err error) {
	kind, flags := h[1], binary.BigEndian.Uint16(h[2:])
	stream, length := binary.BigEndian.Uint32(h[4:]), binary.BigEndian.Uint32(h[8:])
	refuse := func(what string) (uint32, error) { return 0, fmt.Errorf("%w: %s", errGuard, what) }
	switch {
	case h[0] != 0:
		return refuse("unknown version of yamux")
	case flags&^knownFlags != 0:
		return refuse("unknown flags")
	case flags&flagSYN != 0:
		return refuse("it opens a stream or sends a ping")
	case kind == typeGoAway && stream == 0:
		return 0, nil
	case kind != typeData && kind != typeWindow:
		return refuse("a frame that it has no reason to send")
	case stream%2 != 1:
		return refuse("a stream that the node never opened")
	case kind == typeWindow && length > 2*window:
		return refuse("a window that nobody asked for")
	case kind == typeData && length > window:
		return refuse("a frame larger than the window")
	case kind == typeData:
		return length, nil
	}
	return 0, nil
}

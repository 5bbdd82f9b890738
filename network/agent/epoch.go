package agent

import (
	"encoding/binary"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/network/exchange"
)

// epochs says which key epoch a network has when. It is pure: all nodes of the
// network come to the same number.
type epochs struct {
	rotate  time.Duration
	overlap time.Duration
	shift   time.Duration // by network, so that not all rotate at once
}

func epochsOf(id canon.Hash, p Periods) epochs {
	return epochs{rotate: p.Rotate, overlap: p.Overlap, shift: time.Duration(binary.BigEndian.Uint64(id[:8]) % uint64(p.Rotate))}
}

// at returns the epoch that counts now; epochs begin at 1, so that 0 is none.
func (e epochs) at(now time.Time) uint64 {
	return 1 + uint64(max(now.UnixNano(), 0)+int64(e.shift))/uint64(e.rotate)
}

// begin returns when an epoch begins.
func (e epochs) begin(epoch uint64) time.Time {
	return time.Unix(0, int64((epoch-1)*uint64(e.rotate))-int64(e.shift))
}

// end returns when the keys of an epoch may be used no longer.
func (e epochs) end(epoch uint64) time.Time { return e.begin(epoch + 1).Add(e.overlap) }

// early tells whether another node whose clock is ahead may have begun epoch
// already, so that this one had better begin it too.
func (e epochs) early(epoch uint64, now time.Time) bool {
	return epoch == e.at(now)+1 && e.begin(epoch).Sub(now) <= min(exchange.MaxSkew, e.overlap/2)
}

package rendezvoustest

import (
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/rendezvous/wire"
)

// slotOf reads whose login it is, without any check.
func slotOf(body []byte) (canon.Hash, error) {
	signed, err := contract.DecodeSigned(body)
	if err != nil {
		return canon.Hash{}, err
	}
	var l wire.Login
	if err := canon.UnmarshalLimit(signed.Statement, contract.MaxPlain, &l); err != nil {
		return canon.Hash{}, err
	}
	return l.Slot, nil
}

// Honest delivers every packet once.
func Honest(p Packet, deliver func(Packet)) { deliver(p) }

// Silent delivers nothing, not even a client's ping of its own link.
func Silent(Packet, func(Packet)) {}

// DropData delivers pings and probes and no data: it looks healthy.
func DropData(p Packet, deliver func(Packet)) {
	if !p.IsData() {
		deliver(p)
	}
}

// Hostile drops, doubles, replays, holds back and thereby reorders, alters and
// invents data packets, each now and then, the same for the same seed. Pings and
// probes pass, so that clients stay.
func Hostile(seed uint64) Policy {
	var mu sync.Mutex
	rnd := rand.New(rand.NewPCG(seed, 0))
	var past []Packet // what it replays from
	var held []Packet
	return func(p Packet, deliver func(Packet)) {
		if !p.IsData() {
			deliver(p)
			return
		}
		mu.Lock()
		var out []Packet
		if len(past) < 256 {
			past = append(past, p)
		} else {
			past[rnd.IntN(len(past))] = p
		}
		switch rnd.IntN(8) {
		case 0: // lost
		case 1: // doubled
			out = append(out, p, p)
		case 2: // an old one comes along
			out = append(out, p, past[rnd.IntN(len(past))])
		case 3: // held back
			held = append(held, p)
		case 4: // altered, and then the true one
			bad := p
			bad.Bytes = slices.Clone(p.Bytes)
			bad.Bytes[1+rnd.IntN(max(1, len(bad.Bytes)-1))%len(bad.Bytes)] ^= 1 << rnd.IntN(8)
			out = append(out, bad, p)
		case 5: // invented, cut, and in another's name
			noise := make([]byte, 1+rnd.IntN(200))
			for i := 1; i < len(noise); i++ {
				noise[i] = byte(rnd.Uint32())
			}
			cut := p
			cut.Bytes = p.Bytes[:1+rnd.IntN(len(p.Bytes))]
			other := past[rnd.IntN(len(past))]
			other.From, other.To = p.From, p.To
			out = append(out, Packet{p.From, p.To, noise}, cut, other, p)
		default:
			out = append(out, p)
			if len(held) > 4 {
				out = append(out, held...)
				held = nil
			}
		}
		mu.Unlock()
		for _, p := range out {
			deliver(p)
		}
	}
}

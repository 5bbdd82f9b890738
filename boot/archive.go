package boot

import (
	"github.com/zero-os/zos/contract"
)

// ArchivePath is where the grid's archive lies in the first stage's root.
const ArchivePath = "/grid.cbor"

// Archive is what makes the common boot image a node of one grid: public
// statements and address hints, no secret. It travels as a second initrd.
type Archive struct {
	V       uint64 `cbor:"v"`
	Genesis []byte `cbor:"genesis"` // canonical contract.Genesis; its hash is the grid's id and it names the release keys
	// Farm and Slots are the farm's own signed statements: zos-init must know
	// which disks may be formatted before there is a ledger.
	Farm  contract.Signed   `cbor:"farm"`
	Slots []contract.Signed `cbor:"slots"`
	// ReleaseFloor is the lowest release sequence that these boot files accept.
	ReleaseFloor uint64 `cbor:"release_floor"`
	// Built is the Unix time before which no clock of this node may stand.
	Built uint64 `cbor:"built"`
	// Address hints, in order of preference. Addresses are never trust.
	Hubs    []string `cbor:"hubs"`    // http://host:port
	Ledgers []string `cbor:"ledgers"` // http://host:port, CometBFT RPC; the first is the primary, the others witnesses
	// Rendezvous servers, tls://host:port#pin, at most MaxRendezvous. The pin is no
	// trust either: it keeps those on the wire from seeing what the server sees.
	Rendezvous []string `cbor:"rendezvous"`
	NTP        []string `cbor:"ntp"` // host[:port], may be empty
	// RelayOnly lets nodes open no UDP socket for tenants' networks: what their
	// workloads say to other nodes goes by the rendezvous, over TLS alone.
	RelayOnly bool `cbor:"relay_only"`
}

package firewall

import (
	"encoding/binary"
	"fmt"

	mdl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/problem"
)

// Generation is a number that changes with every change to the namespace's
// filters, by whomever: as long as it is the same, what was verified still holds.
func (ns Namespace) Generation() (uint32, error) {
	id, err := ns.generation()
	if err != nil {
		return 0, problem.New("firewall-failed", "read the firewall's generation: %w", err)
	}
	return id, nil
}

func (ns Namespace) generation() (uint32, error) {
	c, err := mdl.Dial(unix.NETLINK_NETFILTER, &mdl.Config{NetNS: int(ns)})
	if err != nil {
		return 0, err
	}
	defer c.Close()
	answers, err := c.Execute(mdl.Message{
		Header: mdl.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN, Flags: mdl.Request},
		Data:   make([]byte, 4), // struct nfgenmsg of no family
	})
	if err != nil {
		return 0, err
	}
	for _, a := range answers {
		if len(a.Data) < 4 {
			continue
		}
		attrs, err := mdl.UnmarshalAttributes(a.Data[4:])
		if err != nil {
			return 0, err
		}
		for _, at := range attrs {
			if at.Type == unix.NFTA_GEN_ID && len(at.Data) == 4 {
				return binary.BigEndian.Uint32(at.Data), nil
			}
		}
	}
	return 0, fmt.Errorf("the kernel told none")
}

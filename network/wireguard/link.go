package wireguard

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/vishvananda/netlink"
)

// findLink finds an interface; fs.ErrNotExist: there is none of that name.
func findLink(routes *netlink.Handle, name string) (netlink.Link, error) {
	link, err := routes.LinkByName(name)
	if missing := (netlink.LinkNotFoundError{}); errors.As(err, &missing) {
		return nil, fmt.Errorf("interface %s: %w", name, fs.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("find interface %s: %w", name, err)
	}
	return link, nil
}

package plan

import "fmt"

// AttachmentsOf are the places of a workload in networks, in their order,
// whatever its kind: a container's, a machine's, a gateway's, or a device's one. A router has
// none. An unreadable configuration is an error, code "plan-invalid"; a workload of
// a valid plan has none such.
func AttachmentsOf(w Workload) ([]Attachment, error) {
	var (
		list []Attachment
		err  error
	)
	switch w.Kind {
	case KindContainer:
		var c Container
		c, err = DecodeContainer(w.Config)
		list = c.Networks
	case KindVM:
		var m VM
		m, err = DecodeVM(w.Config)
		list = m.Networks
	case KindGateway:
		var g Gateway
		g, err = DecodeGateway(w.Config)
		list = g.Networks
	case KindDevice:
		var d Device
		if d, err = DecodeDevice(w.Config); err == nil {
			list = []Attachment{d.Network}
		}
	}
	if err != nil {
		return nil, fmt.Errorf("workload %s: %w", w.Name, err)
	}
	return list, nil
}

// AttachmentIn is a workload's place in one network; false if it has none there.
func AttachmentIn(w Workload, network string) (Attachment, bool, error) {
	list, err := AttachmentsOf(w)
	for _, a := range list {
		if a.Network == network {
			return a, true, nil
		}
	}
	return Attachment{}, false, err
}

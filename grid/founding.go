package grid

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/hub"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
)

// Names of what a new grid is founded with.
const (
	groupName = "demo"
	farmName  = "home"
	imageTag  = "1"
)

// groupThreshold of the people decide.
const groupThreshold = 2

// years is how long the grid's own statements hold.
const years = 10 * 365 * 24 * time.Hour

// founding is who is who in the grid.
type founding struct {
	accounts   map[string]canon.Hash
	group      canon.Hash
	farm       canon.Hash
	farmStmt   contract.Signed
	slots      []contract.Signed // in the order of the nodes
	slotIDs    []canon.Hash
	delegation contract.Signed
	agent      sign.Signer
}

// found makes what the ledger does not have yet: accounts, group, farm, slots,
// the farm's delegation to its agent, and its consent to the group.
func found(ctx context.Context, d dir, c *client.Client, o Options, machines []*machine) (*founding, error) {
	f := &founding{accounts: map[string]canon.Hash{}}
	founder, err := d.signer(people[0])
	if err != nil {
		return nil, err
	}
	var members []contract.Member
	for _, name := range people {
		key, err := d.signer(name)
		if err != nil {
			return nil, err
		}
		id, err := once(ctx, c, contract.KeyAccountName(name), func() (canon.Hash, error) { return c.FoundAccount(ctx, name, key) })
		if err != nil {
			return nil, fmt.Errorf("found account %s: %w", name, err)
		}
		f.accounts[name] = id
		members = append(members, contract.Member{Account: id, Weight: 1})
	}
	if f.group, err = once(ctx, c, contract.KeyGroupName(groupName), func() (canon.Hash, error) {
		return c.FoundGroup(ctx, groupName, members, groupThreshold, founder)
	}); err != nil {
		return nil, fmt.Errorf("found group %s: %w", groupName, err)
	}
	farmer, err := d.signer(keyFarmer)
	if err != nil {
		return nil, err
	}
	if f.farm, err = once(ctx, c, contract.KeyFarmName(farmName), func() (canon.Hash, error) { return c.FoundFarm(ctx, farmName, farmer) }); err != nil {
		return nil, fmt.Errorf("found farm %s: %w", farmName, err)
	}
	farmRecord, _, err := client.Get[contract.FarmRecord](ctx, c, contract.KeyFarm(f.farm))
	if err != nil {
		return nil, err
	}
	f.farmStmt = farmRecord.Signed
	var total contract.Capacity
	for i, m := range machines {
		slot := o.slotOf(m.name, i+1, m.config.MemoryMB)
		slot.Farm = f.farm
		id, err := once(ctx, c, contract.KeySlotName(f.farm, m.name), func() (canon.Hash, error) { return c.AddSlot(ctx, slot, farmer) })
		if err != nil {
			return nil, fmt.Errorf("add slot %s: %w", m.name, err)
		}
		rec, _, err := client.Get[contract.SlotRecord](ctx, c, contract.KeySlot(id))
		if err != nil {
			return nil, err
		}
		have, _, _, err := contract.Open[contract.Slot](rec.Signed, contract.KindSlot, c.Grid())
		if err != nil {
			return nil, err
		}
		if err := fitsSlot(have, slot); err != nil {
			return nil, err
		}
		f.slots, f.slotIDs = append(f.slots, rec.Signed), append(f.slotIDs, id)
		total.CPU += slot.Capacity.CPU
		total.Memory += slot.Capacity.Memory
		total.Disk += slot.Capacity.Disk
	}
	if err := f.delegate(ctx, d, c, farmer); err != nil {
		return nil, err
	}
	if err := f.openToThePublic(ctx, d, c, machines, farmer); err != nil {
		return nil, err
	}
	_, consented, err := client.Get[contract.ConsentRecord](ctx, c, contract.KeyConsent(f.farm, f.group))
	if err != nil {
		return nil, err
	}
	if !consented {
		if _, err := c.Admit(ctx, f.farm, f.group, times(total, MaxNodes), uint64(time.Now().Add(years).Unix()), farmer); err != nil {
			return nil, fmt.Errorf("admit group %s: %w", groupName, err)
		}
	}
	return f, nil
}

// fitsSlot tells whether a machine still is what the farm declared when the grid
// was made: a slot's statement never changes.
func fitsSlot(have, want contract.Slot) error {
	switch {
	case have.Identity != want.Identity:
		return problem.New("option-invalid", "%s was declared with identity %s when this grid was made, not %s", have.Name, have.Identity, want.Identity).
			WithFix("start it with the same --identity, or a new grid in another --dir")
	case want.Capacity.Memory < have.Capacity.Memory:
		return problem.New("option-invalid", "%s was declared with %d MiB for workloads when this grid was made, this machine has %d MiB for them",
			have.Name, have.Capacity.Memory>>20, want.Capacity.Memory>>20).
			WithFix("start it with at least the same --memory, or a new grid in another --dir")
	}
	return nil
}

// times is n times a capacity: room for nodes that are added later.
func times(c contract.Capacity, n uint64) contract.Capacity {
	return contract.Capacity{CPU: c.CPU * n, Memory: c.Memory * n, Disk: c.Disk * n}
}

// once returns what a name stands for, made by make when nothing has it yet.
func once(ctx context.Context, c *client.Client, key string, make func() (canon.Hash, error)) (canon.Hash, error) {
	rec, ok, err := client.Get[contract.NameRecord](ctx, c, key)
	if err != nil || ok {
		return rec.ID, err
	}
	return make()
}

// delegate lets the farm's agent admit and re-key the farm's nodes.
func (f *founding) delegate(ctx context.Context, d dir, c *client.Client, farmer sign.Signer) error {
	var err error
	if f.agent, err = d.signer(keyAgent); err != nil {
		return err
	}
	key := contract.KeyAgent(f.farm, f.agent.Public())
	rec, ok, err := client.Get[contract.AgentRecord](ctx, c, key)
	if err != nil {
		return err
	}
	if !ok {
		if rec.Delegation, err = c.Delegate(ctx, contract.Delegation{
			Farm: f.farm, Key: f.agent.Public(), Actions: []string{contract.MayAdmit, contract.MayRekey},
			Count:    MaxNodes,
			Capacity: contract.Capacity{CPU: MaxNodes * 64_000, Memory: MaxNodes << 36, Disk: MaxNodes << 40}, Sequence: 1,
			Expiry: uint64(time.Now().Add(years).Unix()),
		}, farmer); err != nil {
			return fmt.Errorf("delegate to the farm's agent: %w", err)
		}
	}
	delegation, _, err := client.Get[contract.DelegationRecord](ctx, c, contract.KeyDelegation(rec.Delegation))
	f.delegation = delegation.Signed
	return err
}

// publishDemo signs the tags of the demo images as their publisher.
func (f *founding) publishDemo(ctx context.Context, d dir, grid canon.Hash, image string) error {
	publisher, err := d.signer(people[0])
	if err != nil {
		return err
	}
	w, err := hub.OpenWriter(d.hub(), hub.WriterOptions{})
	if err != nil {
		return err
	}
	now := time.Now()
	for _, name := range DemoImages() {
		digest, err := readDigest(filepath.Join(image, name))
		if err != nil {
			return errors.Join(err, w.Close())
		}
		tag, err := contract.Sign(ctx, contract.NewTag(grid, f.accounts[people[0]], name, imageTag, digest,
			uint64(now.Unix()), uint64(now.Add(years).Unix())), contract.KindTag, publisher)
		if err == nil {
			err = w.PublishTag(ctx, tag)
		}
		if err != nil {
			return errors.Join(fmt.Errorf("publish %s/%s:%s: %w", people[0], name, imageTag, err), w.Close())
		}
	}
	return w.Close()
}

// What `zos boot image` leaves beside the boot files: the hub's tree, and the
// digests of the OS flist, of the VMM flist that it names and of each demo image, as
// hex in a file of its name.
const (
	OSFile  = "os"
	VMMFile = "vmm"
	HubDir  = "hub"
)

// DemoImages are the images that a grid of `zos up` publishes; each is a program
// of package examples.
func DemoImages() []string { return []string{"hello", "shop"} }

func readDigest(path string) (canon.Hash, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return canon.Hash{}, fmt.Errorf("read a digest of the boot image: %w", err)
	}
	return canon.ParseHash(strings.TrimSpace(string(b)))
}

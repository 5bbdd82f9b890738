package firewall

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/nftables"

	"github.com/zero-os/zos/problem"
)

// large is a table with as many addresses, and for the first few of them a chain of
// rules each.
func large(addresses, chains int) Table {
	addrs := Set{Name: "addrs", Key: nftables.TypeIPAddr}
	to := Set{Name: "to", Key: nftables.TypeIPAddr, Verdicts: true}
	ports := Set{Name: "ports", Key: PortType(true)}
	t := Table{Family: nftables.TableFamilyINet, Name: "large"}
	for i := range addresses {
		ip := binary.BigEndian.AppendUint32(nil, 0x0a000000+uint32(i))
		addrs.Elements = append(addrs.Elements, Element{Key: ip})
		ports.Elements = append(ports.Elements, Element{Key: PortKey(fmt.Sprintf("p%d", i), []byte{2, 0, ip[0], ip[1], ip[2], ip[3]}, netip.IPv6LinkLocalAllNodes())})
		if i < chains {
			name := fmt.Sprintf("to-%d", i)
			to.Elements = append(to.Elements, Element{Key: ip, Chain: name})
			rules := []Rule{}
			for p := range uint16(20) {
				rules = append(rules, When(Protocol(6), Port(100*p+1, 100*p+50), Accept()))
			}
			t.Chains = append(t.Chains, Chain{Name: name, Rules: rules})
		}
	}
	t.Sets = []Set{addrs, to, ports}
	t.Chains = append(t.Chains, Chain{
		Name: "forward", Hook: nftables.ChainHookForward, Type: nftables.ChainTypeFilter, Priority: *nftables.ChainPriorityFilter, Policy: nftables.ChainPolicyDrop,
		Rules: []Rule{When(SourceIn("addrs", false), JumpByDestination("to", false))},
	})
	return t
}

func TestLargeTableIsReplacedWhole(t *testing.T) {
	ns := Namespace(namespace(t))
	// More than one message, or a small socket buffer, could carry.
	table := large(2000, 300)
	must(t, ns.Apply(table))
	must(t, ns.Verify(table))
	before, err := ns.Generation()
	must(t, err)
	must(t, ns.Verify(table))
	if after, err := ns.Generation(); err != nil || after != before {
		t.Errorf("looking changed the generation: %d, %d, %v", before, after, err)
	}
	must(t, ns.Apply(table))
	must(t, ns.Verify(table))
	if after, err := ns.Generation(); err != nil || after == before {
		t.Errorf("the generation is still %d, %v", after, err)
	}
	other := large(2000, 300)
	other.Sets[0].Elements = other.Sets[0].Elements[1:]
	if err := ns.Verify(other); problem.Code(err) != "firewall-altered" {
		t.Errorf("a table with one element more: %v", err)
	}
	must(t, ns.Remove(table))
	if err := ns.Verify(table); problem.Code(err) != "firewall-altered" {
		t.Errorf("no table: %v", err)
	}
}

func TestAlteredSetsAreFound(t *testing.T) {
	h := namespace(t)
	ns, table := Namespace(h), large(20, 10)
	for name, command := range map[string]string{
		"element added":     "add element inet large addrs { 192.0.2.1 }",
		"element deleted":   "delete element inet large addrs { 10.0.0.7 }",
		"another chain":     "delete element inet large to { 10.0.0.7 : jump to-7 }; add element inet large to { 10.0.0.7 : jump to-8 }",
		"another verdict":   "delete element inet large to { 10.0.0.7 : jump to-7 }; add element inet large to { 10.0.0.7 : accept }",
		"port of another":   "delete element inet large ports { \"p7\" . 02:00:0a:00:00:07 . ff02::1 }; add element inet large ports { \"p7\" . 02:00:0a:00:00:08 . ff02::1 }",
		"rule of a port":    "flush chain inet large to-3",
		"set":               "add set inet large more { type ipv4_addr; }",
		"hook of no chain":  "add chain inet large other { type filter hook input priority 0; }",
		"policy of a chain": "chain inet large forward { policy accept; }",
	} {
		must(t, ns.Apply(table))
		in(t, h, func() {
			if out, err := exec.Command("nft", command).CombinedOutput(); err != nil {
				t.Errorf("nft %s: %v: %s", command, err, out)
			}
		})
		if err := ns.Verify(table); problem.Code(err) != "firewall-altered" {
			t.Errorf("%s: Verify says %v", name, err)
		}
	}
}

// TestFailedApplyChangesNothing: a table that the kernel refuses leaves what stood.
func TestFailedApplyChangesNothing(t *testing.T) {
	h := namespace(t)
	ns := Namespace(h)
	good := large(20, 10)
	must(t, ns.Apply(good))
	bad := large(20, 10)
	bad.Chains = append(bad.Chains, Chain{Name: "bad", Rules: []Rule{When(Jump("nowhere"))}})
	if err := ns.Apply(bad); problem.Code(err) != "firewall-failed" || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("a jump to nowhere: %v", err)
	}
	must(t, ns.Verify(good))
}

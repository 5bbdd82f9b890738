package network

import (
	"strings"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/spec/plan"
)

func TestPeopleReadWhoReachesWhom(t *testing.T) {
	nameOf := func(slot canon.Hash) string { return "node-" + string('0'+rune(slot[0])) }
	rules := []plan.Rule{
		{Protocol: plan.ProtocolTCP, First: 5432, Last: 5432, Peers: []string{"cron", "web"}},
		{Protocol: plan.ProtocolUDP, First: 8000, Last: 8010}, {Protocol: plan.ProtocolICMP}}
	for _, c := range []struct {
		what string
		got  []string
		want string
	}{
		{"network", Describe(shop().Networks[0], nameOf), `network back
    ranges   10.20.0.0/16 and fd00:20::/48
    exit     node-2
    node     node-1 has 10.20.0.0/24 and fd00:20::/64
    node     node-2 has 10.20.1.0/24 and fd00:20:0:1::/64`},
		{"network without exit", Describe(shop().Networks[1], nameOf)[2:3], "    exit     none"},
		{"narrowed", DescribeAttachment(plan.Attachment{Network: "back", IPv4: "10.20.0.2", IPv6: "fd00:20::2", Aliases: []string{"pg", "sql"}, Allow: rules, Egress: plan.EgressNone, Bandwidth: 1_500_000}), `    network  in back as 10.20.0.2 and fd00:20::2
    names    in back also pg, sql
    reached  in back by cron, web on 5432/tcp
    reached  in back by everyone on 8000-8010/udp
    reached  in back by everyone on icmp
    limit    in back 1500kbit each way`},
		{"open", DescribeAttachment(plan.Attachment{Network: "back", Open: true, Egress: plan.EgressNode, Bandwidth: 2_000_000_000})[1:], `    reached  in back by everyone on every port
    egress   to the internet, out of its node
    limit    in back 2Gbit each way`},
		{"closed", DescribeAttachment(plan.Attachment{Network: "back", Egress: plan.EgressExit, Bandwidth: 100_000_000})[1:], `    reached  in back by nobody
    egress   to the internet, through the exit of back
    limit    in back 100Mbit each way`},
	} {
		if got := strings.Join(c.got, "\n"); got != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", c.what, got, c.want)
		}
	}
}

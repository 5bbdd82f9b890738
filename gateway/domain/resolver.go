package domain

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Answer is what there is of one type at a name.
type Answer struct {
	Records []dns.RR // as the resolver gave them, with the aliases that lead there
	Absent  bool     // the name does not exist at all
	TTL     time.Duration
}

// errRefused says that a server does not answer for a name: it is no resolver, or
// not for us.
var errRefused = errors.New("REFUSED")

// Resolver asks for records. An error says that nothing is known; that there are
// none is an Answer.
type Resolver interface {
	Lookup(ctx context.Context, name string, kind uint16) (Answer, error)
}

// Client asks recursive resolvers, one after the other.
type Client struct {
	servers []string
}

const queryTime = 3 * time.Second // of one resolver

// NewClient returns a Client of resolvers, as "host:port".
func NewClient(servers ...string) *Client { return &Client{servers} }

// System returns a Client of this machine's resolvers.
func System() (*Client, error) {
	c, err := dns.ClientConfigFromFile("/etc/resolv.conf")
	if err != nil {
		return nil, err
	}
	var servers []string
	for _, s := range c.Servers {
		servers = append(servers, net.JoinHostPort(s, c.Port))
	}
	return NewClient(servers...), nil
}

// Lookup is Resolver's.
func (c *Client) Lookup(ctx context.Context, name string, kind uint16) (Answer, error) {
	last := errors.New("there is no resolver")
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(name), kind)
	q.SetEdns0(1232, false)
	for _, server := range c.servers {
		for _, network := range []string{"udp", "tcp"} {
			ctx, cancel := context.WithTimeout(ctx, queryTime)
			r, _, err := (&dns.Client{Net: network, Timeout: queryTime}).ExchangeContext(ctx, q, server)
			cancel()
			if err != nil {
				last = err
				break
			}
			if r.Truncated && network == "udp" {
				continue
			}
			if r.Rcode == dns.RcodeRefused {
				last = fmt.Errorf("resolver %s answers %w", server, errRefused)
				break
			}
			if r.Rcode != dns.RcodeSuccess && r.Rcode != dns.RcodeNameError {
				last = fmt.Errorf("resolver %s answers %s", server, dns.RcodeToString[r.Rcode])
				break
			}
			if len(r.Question) != 1 || !strings.EqualFold(r.Question[0].Name, dns.Fqdn(name)) || r.Question[0].Qtype != kind {
				last = fmt.Errorf("resolver %s answers another question", server)
				break
			}
			return answerOf(r), nil
		}
	}
	return Answer{}, fmt.Errorf("look up %s of %s: %w", dns.TypeToString[kind], name, last)
}

func answerOf(r *dns.Msg) Answer {
	a := Answer{Records: r.Answer, Absent: r.Rcode == dns.RcodeNameError}
	from := r.Answer
	if len(from) == 0 {
		from = r.Ns
	}
	for i, rr := range from {
		ttl := time.Duration(rr.Header().Ttl) * time.Second
		if soa, ok := rr.(*dns.SOA); ok {
			ttl = min(ttl, time.Duration(soa.Minttl)*time.Second)
		}
		if i == 0 || ttl < a.TTL {
			a.TTL = ttl
		}
	}
	return a
}

// texts returns the text records of an answer, each as one piece.
func (a Answer) texts() (out []string) {
	for _, rr := range a.Records {
		if t, ok := rr.(*dns.TXT); ok {
			out = append(out, strings.Join(t.Txt, ""))
		}
	}
	return out
}

package sign

import (
	"context"
	"fmt"
	"net"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/zero-os/zos/problem"
)

// agentWait is how long an agent may take for one signature when the caller's
// context has no earlier end: a person may have to find the token.
const agentWait = 2 * time.Minute

// agentSigner asks an ssh-agent for every signature, over a connection of its
// own, so that an agent that restarts is no problem.
type agentSigner struct {
	socket string
	pub    PublicKey
	key    ssh.PublicKey
}

// FromAgent returns a signer that asks the ssh-agent at the unix socket for
// signatures by pub, which may be a hardware key. Codes: "agent-unreachable",
// "key-not-in-agent".
func FromAgent(ctx context.Context, socket string, pub PublicKey) (Signer, error) {
	key, err := pub.sshKey()
	if err != nil {
		return nil, err
	}
	keys, err := AgentKeys(ctx, socket)
	if err != nil {
		return nil, err
	}
	for _, k := range keys {
		if k.Equal(pub) {
			return &agentSigner{socket: socket, pub: pub, key: key}, nil
		}
	}
	return nil, problem.New("key-not-in-agent", "ask ssh-agent at %s: it does not hold %s", socket, pub.Fingerprint()).
		WithFix("add the key with ssh-add")
}

// AgentKeys lists the keys that the agent at socket holds and that this package
// can use.
func AgentKeys(ctx context.Context, socket string) ([]PublicKey, error) {
	var keys []PublicKey
	err := withAgent(ctx, socket, func(a agent.ExtendedAgent) error {
		list, err := a.List()
		if err != nil {
			return fmt.Errorf("list the keys of ssh-agent at %s: %w", socket, err)
		}
		for _, k := range list {
			if p, err := ParsePublicKey(k.Blob); err == nil {
				keys = append(keys, p)
			}
		}
		return nil
	})
	return keys, err
}

func (s *agentSigner) Public() PublicKey { return s.pub }

func (s *agentSigner) Sign(ctx context.Context, namespace string, message []byte) ([]byte, error) {
	var raw []byte
	err := withAgent(ctx, s.socket, func(a agent.ExtendedAgent) error {
		sig, err := a.Sign(s.key, toSign(namespace, message))
		if err != nil {
			return problem.New("agent-refused", "ask ssh-agent at %s for a signature by %s: %w", s.socket, s.pub.Fingerprint(), err).
				WithFix("unlock the agent, or touch the token when it blinks")
		}
		out := blob{key: s.pub, namespace: namespace, sig: sig.Blob}
		if s.pub.Type() == TypeSKEd25519 {
			r := reader{rest: sig.Rest}
			out.flags, out.counter = r.u8(), r.u32()
		}
		raw = out.bytes()
		return nil
	})
	if err != nil {
		return nil, err
	}
	// An agent is another program; what it gives is checked before it is used.
	if err := Verify(s.pub, namespace, message, raw); err != nil {
		return nil, fmt.Errorf("signature from ssh-agent at %s: %w", s.socket, err)
	}
	return raw, nil
}

// withAgent calls f with a fresh connection that ends with ctx.
func withAgent(ctx context.Context, socket string, f func(agent.ExtendedAgent) error) error {
	ctx, cancel := context.WithTimeout(ctx, agentWait)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return problem.New("agent-unreachable", "connect to ssh-agent: %w", err).
			WithFix("start one: eval $(ssh-agent), or name a key file")
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := f(agent.NewClient(conn)); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("wait for ssh-agent at %s: %w", socket, ctx.Err())
		}
		return err
	}
	return nil
}

package sign

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/zero-os/zos/problem"
)

// openssh returns the path of one of OpenSSH's programs.
func openssh(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%v; install it: apt-get install openssh-client", err)
	}
	return path
}

func run(t *testing.T, stdin []byte, name string, args ...string) ([]byte, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), openssh(t, name), args...)
	cmd.Stdin = bytes.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return out, err
}

func write(t *testing.T, dir, name string, b []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestSSHKeygenAcceptsOurSignatures(t *testing.T) {
	for name, s := range map[string]Signer{"ed25519": FromSeed(seed(1)), "sk-ed25519": newToken(1)} {
		t.Run(name, func(t *testing.T) {
			dir, message := t.TempDir(), []byte("what people approve\x00\xff\n")
			allowed := write(t, dir, "allowed_signers", []byte(
				AllowedSigner("green", FromSeed(seed(9)).Public(), space)+AllowedSigner("red", s.Public(), space)))
			sig := write(t, dir, "red.sig", Armor(signed(t, s, space, string(message))))
			verify := func(who, namespace string, message []byte) error {
				out, err := run(t, message, "ssh-keygen", "-Y", "verify", "-f", allowed, "-I", who, "-n", namespace, "-s", sig)
				t.Logf("%s", out)
				return err
			}
			if err := verify("red", space, message); err != nil {
				t.Errorf("refused: %v", err)
			}
			if verify("red", space, append(message, 'x')) == nil {
				t.Error("accepted for other bytes")
			}
			if verify("green", space, message) == nil {
				t.Error("accepted as another's")
			}
			if verify("red", "zos-node-v1", message) == nil {
				t.Error("accepted in another namespace")
			}
		})
	}
}

func TestWeAcceptSSHKeygensSignatures(t *testing.T) {
	dir := t.TempDir()
	key := filepath.Join(dir, "id")
	if out, err := run(t, nil, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "red", "-f", key); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	line, err := os.ReadFile(key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	pub, err := ParseAuthorizedKey(string(line))
	if err != nil {
		t.Fatal(err)
	}
	message := write(t, dir, "message", []byte("statement"))
	if out, err := run(t, nil, "ssh-keygen", "-Y", "sign", "-n", space, "-f", key, message); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	text, err := os.ReadFile(message + ".sig")
	if err != nil {
		t.Fatal(err)
	}
	sig, err := Dearmor(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := Verify(pub, space, []byte("statement"), sig); err != nil {
		t.Error(err)
	}
	if Verify(pub, space, []byte("statemenT"), sig) == nil {
		t.Error("accepted for other bytes")
	}
	if !bytes.Equal(Armor(sig), text) {
		t.Errorf("our armor differs from ssh-keygen's:\n%s\n%s", Armor(sig), text)
	}
	// ed25519 is deterministic: reading its key file we make the same signature.
	s, err := FromFile(key)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(signed(t, s, space, "statement"), sig) {
		t.Error("our signature by the same key differs")
	}
	// ssh-keygen can be told to use sha256; that we refuse.
	if err := os.Remove(message + ".sig"); err != nil {
		t.Fatal(err)
	}
	if out, err := run(t, nil, "ssh-keygen", "-Y", "sign", "-O", "hashalg=sha256", "-n", space, "-f", key, message); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if text, err = os.ReadFile(message + ".sig"); err != nil {
		t.Fatal(err)
	}
	if _, err := Dearmor(text); problem.Code(err) != "signature-invalid" {
		t.Errorf("a sha256 signature: %v", err)
	}
}

func TestSSHKeygenReadsOurKeyFile(t *testing.T) {
	b, err := MarshalPrivate(seed(5), "red")
	if err != nil {
		t.Fatal(err)
	}
	out, err := run(t, nil, "ssh-keygen", "-y", "-f", write(t, t.TempDir(), "key", b))
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if pub, err := ParseAuthorizedKey(string(out)); err != nil || !pub.Equal(FromSeed(seed(5)).Public()) {
		t.Errorf("ssh-keygen reads %s, %v", out, err)
	}
}

func TestEncryptedKeyFileSaysUseAnAgent(t *testing.T) {
	key := filepath.Join(t.TempDir(), "id")
	if out, err := run(t, nil, "ssh-keygen", "-q", "-t", "ed25519", "-N", "passphrase", "-f", key); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	_, err := FromFile(key)
	if problem.Code(err) != "key-encrypted" || problem.Fix(err) == "" {
		t.Errorf("%v, code %q, fix %q", err, problem.Code(err), problem.Fix(err))
	}
}

func TestOtherKeyTypesAreRefused(t *testing.T) {
	key := filepath.Join(t.TempDir(), "id")
	if out, err := run(t, nil, "ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", key); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if _, err := FromFile(key); problem.Code(err) != "key-invalid" {
		t.Errorf("ecdsa key file: %v", err)
	}
	line, err := os.ReadFile(key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseAuthorizedKey(string(line)); problem.Code(err) != "key-invalid" {
		t.Errorf("ecdsa public key: %v", err)
	}
}

// startAgent runs a real ssh-agent until the test ends.
func startAgent(t *testing.T) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "agent")
	cmd := exec.Command(openssh(t, "ssh-agent"), "-D", "-a", socket)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if c, err := net.Dial("unix", socket); err == nil {
			c.Close()
			return socket
		}
		select {
		case <-ctx.Done():
			t.Fatal("ssh-agent did not start")
		case <-tick.C:
		}
	}
}

func TestAgentSigns(t *testing.T) {
	socket := startAgent(t)
	b, err := MarshalPrivate(seed(6), "red")
	if err != nil {
		t.Fatal(err)
	}
	pub := FromSeed(seed(6)).Public()
	if _, err := FromAgent(t.Context(), socket, pub); problem.Code(err) != "key-not-in-agent" {
		t.Errorf("before the key is added: %v", err)
	}
	t.Setenv("SSH_AUTH_SOCK", socket)
	if out, err := run(t, nil, "ssh-add", "-q", write(t, t.TempDir(), "key", b)); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s, err := FromAgent(t.Context(), socket, pub)
	if err != nil {
		t.Fatal(err)
	}
	sig := signed(t, s, space, "message")
	if err := Verify(pub, space, []byte("message"), sig); err != nil {
		t.Error(err)
	}
	if !bytes.Equal(sig, signed(t, FromSeed(seed(6)), space, "message")) {
		t.Error("the agent's signature differs from the file's")
	}
	if _, err := FromAgent(t.Context(), filepath.Join(t.TempDir(), "none"), pub); problem.Code(err) != "agent-unreachable" {
		t.Errorf("no agent: %v", err)
	}
}

// tokenAgent is an ssh-agent that holds a token, as a real one does after
// ssh-add of an sk key file.
type tokenAgent struct {
	agent.Agent // the methods that nobody calls here
	token       *token
	wait        chan struct{} // a signature waits until it is closed
}

func (a *tokenAgent) List() ([]*agent.Key, error) {
	return []*agent.Key{{Format: TypeSKEd25519, Blob: a.token.Public(), Comment: "token"}}, nil
}

func (a *tokenAgent) Sign(key ssh.PublicKey, data []byte) (*ssh.Signature, error) {
	<-a.wait
	if !bytes.Equal(key.Marshal(), a.token.Public()) {
		return nil, errors.New("no such key")
	}
	rest := []byte{a.token.flags, 0, 0, 0, byte(a.token.counter)}
	return &ssh.Signature{Format: TypeSKEd25519, Blob: a.token.assert(data), Rest: rest}, nil
}

func serveToken(t *testing.T, a *tokenAgent) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "agent")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if err := agent.ServeAgent(a, c); err != nil && !errors.Is(err, io.EOF) {
				t.Logf("agent: %v", err)
			}
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return socket
}

func closed() chan struct{} { c := make(chan struct{}); close(c); return c }

func TestTokenBehindAnAgentSigns(t *testing.T) {
	a := &tokenAgent{token: newToken(3), wait: closed()}
	s, err := FromAgent(t.Context(), serveToken(t, a), a.token.Public())
	if err != nil {
		t.Fatal(err)
	}
	if err := Verify(a.token.Public(), space, []byte("m"), signed(t, s, space, "m")); err != nil {
		t.Error(err)
	}
	a.token.flags = 0
	if _, err := s.Sign(t.Context(), space, []byte("m")); problem.Code(err) != "signature-invalid" {
		t.Errorf("an untouched token signed: %v", err)
	}
}

func TestWaitingForATouchEndsWithTheContext(t *testing.T) {
	wait := make(chan struct{})
	a := &tokenAgent{token: newToken(3), wait: wait}
	s, err := FromAgent(t.Context(), serveToken(t, a), a.token.Public())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Sign(ctx, space, []byte("m")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the context's end", err)
	}
	close(wait)
}

package boot_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zero-os/zos/boot"
)

func TestBootSourceServesFourFilesAndNothingElse(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{boot.KernelFile, boot.InitrdFile, boot.ScriptFile, "secret"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("content of "+name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, boot.GridFile), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- boot.Serve(ctx, l, dir, slog.New(slog.DiscardHandler)) }()
	base := "http://" + l.Addr().String()
	for _, c := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/" + boot.KernelFile, 200}, {"HEAD", "/" + boot.InitrdFile, 200}, {"GET", "/" + boot.ScriptFile, 200},
		{"GET", "/" + boot.GridFile, 404}, // a directory
		{"GET", "/secret", 404}, {"GET", "/", 404}, {"GET", "/../secret", 404}, {"GET", "/%2e%2e/secret", 404},
		{"POST", "/" + boot.KernelFile, 405}, {"PUT", "/" + boot.KernelFile, 405},
	} {
		req, err := http.NewRequest(c.method, base+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != c.status {
			t.Errorf("%s %s: status %d, %v; want %d", c.method, c.path, resp.StatusCode, err, c.status)
		}
		if c.method == "GET" && c.status == 200 && string(b) != "content of "+c.path[1:] {
			t.Errorf("GET %s gave %q", c.path, b)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestScriptNamesBothInitrds(t *testing.T) {
	s, err := boot.Script("zos.test=1")
	if err != nil {
		t.Fatal(err)
	}
	// The EFI stub loads what the command line names, in this order.
	if !strings.HasPrefix(s, "#!ipxe\n") || !strings.Contains(s, "initrd=initrd.img initrd=grid.img ") || !strings.Contains(s, " zos.test=1 ") {
		t.Errorf("script:\n%s", s)
	}
	for _, bad := range []string{"a\nb", "a${net0/ip}"} {
		if _, err := boot.Script(bad); err == nil {
			t.Errorf("parameters %q were accepted", bad)
		}
	}
}

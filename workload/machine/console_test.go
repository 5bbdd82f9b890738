//go:build !invm

package machine

import (
	"bytes"
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/zero-os/zos/workload/control"
	"github.com/zero-os/zos/workload/logs"
)

// serialPort is a console under test, and the guest's end of its port.
func serialPort(t *testing.T) (*console, net.Conn, string) {
	t.Helper()
	dir := t.TempDir()
	ring, err := logs.Open(dir, 1<<20)
	must(t, err)
	ours, guest := net.Pipe()
	c := newConsole(ours, ring)
	done := make(chan struct{})
	go func() { defer close(done); c.read() }()
	t.Cleanup(func() {
		guest.Close()
		c.close()
		<-done
		must(t, ring.Close())
	})
	must(t, guest.SetDeadline(time.Now().Add(time.Minute)))
	return c, guest, dir
}

// watch attaches to the console; the channel has what attach returned.
func watch(t *testing.T, c *console) (*control.Conn, chan error) {
	t.Helper()
	here, there := net.Pipe()
	must(t, here.SetDeadline(time.Now().Add(time.Minute)))
	ended := make(chan error, 1)
	go func() {
		conn, _, err := control.Accept(there)
		if err != nil {
			ended <- err
			return
		}
		ended <- c.attach(context.Background(), conn)
	}()
	w, err := control.Dial(context.Background(), here, control.Request{Verb: control.VerbConsole})
	must(t, err)
	t.Cleanup(func() { w.Close() })
	return w, ended
}

// until reads output until it has what is wanted.
func until(t *testing.T, w *control.Conn, want string) {
	t.Helper()
	var got bytes.Buffer
	for !strings.Contains(got.String(), want) {
		kind, b, err := w.Read()
		must(t, err)
		if kind == control.FrameError {
			t.Fatal(control.Failure(b))
		}
		got.Write(b)
	}
}

func TestWhoeverAttachesSeesWhatWasAndTypes(t *testing.T) {
	c, guest, dir := serialPort(t)
	_, err := guest.Write([]byte("booting\nlogin: "))
	must(t, err)
	first, over := watch(t, c)
	until(t, first, "login: ")
	second, _ := watch(t, c)
	until(t, second, "login: ")

	must(t, first.Resize(24, 80)) // a serial port has no size: it is passed over
	must(t, first.Write(control.FrameStdin, []byte("ada\n")))
	typed := make([]byte, 4)
	if _, err := guest.Read(typed); err != nil || string(typed) != "ada\n" {
		t.Errorf("the guest read %q, %v", typed, err)
	}
	_, err = guest.Write([]byte("hello ada\n"))
	must(t, err)
	until(t, first, "hello ada\n")
	until(t, second, "hello ada\n")

	// One leaves, the other stays, until the machine ends.
	must(t, first.Close())
	must(t, <-over)
	_, err = guest.Write([]byte("bye\n"))
	must(t, err)
	until(t, second, "bye\n")
	must(t, guest.Close())
	kind, b, err := second.Read()
	if err != nil || kind != control.FrameError || !strings.Contains(control.Failure(b).Error(), "has ended") {
		t.Errorf("after the end: %v %q %v", kind, b, err)
	}
	recs, _, err := logs.NewReader(dir).Read(1, 100)
	must(t, err)
	if len(recs) < 3 || string(recs[0].Data) != "booting" {
		t.Errorf("the ring has %+v", recs)
	}
}

// Neither one who does not read nor a crowd holds a machine up.
func TestASlowWatcherIsLetGoAndACrowdRefused(t *testing.T) {
	c, guest, _ := serialPort(t)
	slow, _ := watch(t, c)
	_, err := guest.Write([]byte("here\n"))
	must(t, err)
	until(t, slow, "here")
	for range 2 * consoleQueue { // nobody reads, and each is taken
		_, err := guest.Write([]byte("line\n"))
		must(t, err)
	}
	for {
		kind, b, err := slow.Read()
		must(t, err)
		if kind == control.FrameError {
			if !strings.Contains(control.Failure(b).Error(), "faster") {
				t.Error(control.Failure(b))
			}
			break
		}
	}
	for range maxWatchers {
		w, _ := watch(t, c)
		until(t, w, "line")
	}
	_, refused := watch(t, c)
	if err := <-refused; err != errConsoleFull {
		t.Errorf("one more: %v", err)
	}
}

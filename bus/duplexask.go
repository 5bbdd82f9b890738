package bus

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
)

// Act is the parameters of every method that acts on a workload: what the bus
// itself must know to judge it, and the method's own.
type Act struct {
	Workload string `cbor:"workload"`
	// Secret is 32 random bytes, from which and the node's own the keys of a duplex
	// stream are made; empty for a call.
	Secret []byte `cbor:"secret"`
	Params []byte `cbor:"params"`
}

// Dialog is a duplex stream as its asker has it.
type Dialog struct {
	*Duplex
	s      *sent
	cancel context.CancelFunc
	ended  chan struct{}
}

// Duplex opens a duplex stream with the account's own key, which signs this once.
// It stands, with the right to it confirmed, when this returns; ctx bounds the
// opening only. The caller must Close it.
func (c *Client) Duplex(ctx context.Context, a Ask) (*Dialog, error) {
	return anew(ctx, c, a, c.duplex)
}

// act wraps the parameters of a method that acts on a workload.
func act(a Ask, secret []byte) (Ask, error) {
	b, err := canon.Marshal(Act{Workload: a.Workload, Secret: secret, Params: a.Params})
	if err != nil {
		return a, err
	}
	if len(b) > MaxParams {
		return a, problem.New("request-invalid", "%s: command, variables and paths have %d bytes together, at most %d fit", a.Method, len(a.Params), MaxParams-(len(b)-len(a.Params)))
	}
	a.Params = b
	return a, nil
}

func (c *Client) duplex(ctx context.Context, a Ask) (*Dialog, error) {
	if c.cfg.Session != nil {
		return nil, problem.New("not-permitted", "%s: a session may only read", a.Method).WithFix("ask with the account's own key")
	}
	mine := make([]byte, secretSize)
	rand.Read(mine)
	a, err := act(a, mine)
	if err != nil {
		return nil, err
	}
	s, err := c.send(ctx, a)
	if err != nil {
		return nil, err
	}
	var theirs []byte
	_, err = s.until(ctx, func(r Reply, b []byte) (bool, error) {
		if r.Last || len(b) != secretSize {
			return false, problem.New("reply-invalid", "%s: the node does not answer it as a duplex stream", a.Method)
		}
		theirs = b
		return true, nil
	})
	var keys frameKeys
	if err == nil {
		keys, err = deriveFrames(c.cfg.Grid, a.Slot, s.to.Epoch, s.hash, mine, theirs)
	}
	if err != nil {
		s.shut()
		return nil, err
	}
	run, cancel := context.WithCancel(context.Background())
	d := &Dialog{Duplex: newDuplex(a.Method, s.hash, keys.down, keys.up), s: s, cancel: cancel, ended: make(chan struct{})}
	d.refuse = func(err error) { c.log.Debug("bus frame", "error", err) }
	link := 0
	d.transmit = func(b []byte, lost bool) error {
		subject := RequestSubject(a.Slot)
		if lost { // by every way that there is
			link++
			return c.cfg.Conn.publish(subject, s.in.subject, b)
		}
		return c.cfg.Conn.publishOne(link, subject, s.in.subject, b)
	}
	go d.run(run)
	return d, nil
}

// Close ends the stream and tells the node so, if it can be told.
func (d *Dialog) Close() {
	d.cancel()
	<-d.ended
}

// run carries the stream until the node ends it, falls silent, or it is closed.
func (d *Dialog) run(ctx context.Context) {
	defer close(d.ended)
	defer d.s.shut()
	lease := d.s.client.lease
	patience := lease + lease/3
	silence := time.NewTimer(patience)
	defer silence.Stop()
	var beat uint64 = 1 // the node's present one
	renewAt := time.Now().Add(lease / 3)
	d.heard = func(f frame) {
		silence.Reset(patience)
		if f.Beat > beat {
			beat = f.Beat
			renewAt = time.Now().Add(lease / 3)
		}
	}
	d.say(frame{Beat: beat}, false) // the node learns that we know its secret
	for {
		next := d.flush(beat)
		if now := time.Now(); !now.Before(renewAt) {
			d.say(frame{Beat: beat, Renew: true}, true)
			renewAt = now.Add(min(time.Second, lease/12)) // unless its answer comes
		}
		d.mu.Lock()
		end := d.flow.end
		d.mu.Unlock()
		if end != nil {
			d.say(frame{Beat: beat, Last: true}, true)
			var err error
			if end.Code != "" {
				err = heard(d.s.ask.Slot, end.Code, end.Message)
			}
			d.finish(err)
			return
		}
		timer := time.NewTimer(min(next, max(time.Until(renewAt), time.Millisecond)))
		select {
		case data := <-d.s.in.ch:
			if err := d.step(data); err != nil {
				d.say(frame{Beat: beat, Last: true}, true)
				d.finish(err)
				timer.Stop()
				return
			}
		case <-d.kick:
		case <-timer.C:
		case <-silence.C:
			d.finish(lostStream(d.method, patience))
			timer.Stop()
			return
		case <-ctx.Done():
			d.flush(beat)
			d.say(frame{Beat: beat, Last: true}, true)
			d.finish(errors.New(d.method + ": the stream is closed"))
			timer.Stop()
			return
		}
		timer.Stop()
	}
}

package wire

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// frames splits what Take returned.
func frames(t interface{ Fatalf(string, ...any) }, b []byte) (out [][]byte) {
	in := NewReader(bytes.NewReader(b))
	for {
		ty, body, err := in.Next()
		if err != nil {
			if in.b.Buffered() != 0 {
				t.Fatalf("Take returned part of a frame: %v", err)
			}
			return out
		}
		out = append(out, append([]byte{byte(ty)}, body...))
	}
}

// TestQueueDropsTheOldestPackets compares a queue with a list.
func TestQueueDropsTheOldestPackets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(10, 300<<10).Draw(t, "limit")
		q := NewQueue(limit, 1<<20, new(Buffers))
		var model [][]byte // packets
		var control [][]byte
		size, dropped := 0, uint64(0)
		var n uint32
		for range rapid.IntRange(1, 300).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 0:
				if len(model)+len(control) == 0 {
					continue
				}
				b, ok := q.Take()
				if !ok {
					t.Fatal("closed")
				}
				got := frames(t, b.B)
				if len(got) == 0 {
					t.Fatal("nothing was taken")
				}
				for _, f := range got {
					from := &model
					if len(control) > 0 {
						from = &control
					} else {
						size -= len(f) + lengthSize
					}
					if len(*from) == 0 || !bytes.Equal((*from)[0], f) {
						t.Fatalf("took %.20x, want another", f)
					}
					*from = (*from)[1:]
				}
				q.Done(b)
			case 1:
				n++
				if !q.Control(Gone, binary.BigEndian.AppendUint32(nil, n), nil, nil) {
					t.Fatal("no room for control")
				}
				control = append(control, binary.BigEndian.AppendUint32([]byte{byte(Gone)}, n))
			default:
				n++
				body := binary.BigEndian.AppendUint32(nil, n)
				body = append(body, make([]byte, rapid.IntRange(0, 2100).Draw(t, "size"))...)
				q.Push(Send, body[:2], body[2:], nil)
				need := lengthSize + 1 + len(body)
				if need > limit {
					dropped++
					continue
				}
				for size+need > limit {
					size -= lengthSize + len(model[0])
					model = model[1:]
					dropped++
				}
				model = append(model, append([]byte{byte(Send)}, body...))
				size += need
			}
		}
		if q.Dropped() != dropped || q.size != size {
			t.Fatalf("dropped %d, holds %d; want %d, %d", q.Dropped(), q.size, dropped, size)
		}
	})
}

func TestControlFramesAreBoundedAndTold(t *testing.T) {
	q := NewQueue(100, 1000, new(Buffers))
	n := 0
	for q.Control(Gone, make([]byte, 32), nil, nil) {
		n++
	}
	if want := 1000 / (lengthSize + 1 + 32); n != want {
		t.Errorf("%d frames, want %d", n, want)
	}
}

func TestClosingAQueueWakesItsReader(t *testing.T) {
	q := NewQueue(1000, 0, new(Buffers))
	done := make(chan bool)
	go func() {
		_, ok := q.Take()
		done <- ok
	}()
	q.Close()
	select {
	case ok := <-done:
		if ok {
			t.Error("a closed queue gave something")
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the reader still waits")
	}
	q.Push(Send, []byte("late"), nil, nil)
	if _, ok := q.Take(); ok || q.size != 0 {
		t.Error("a closed queue takes packets")
	}
}

func TestPushingAllocatesNothing(t *testing.T) {
	q := NewQueue(512<<10, 0, new(Buffers))
	slot, packet := make([]byte, 32), make([]byte, 1452)
	n := testing.AllocsPerRun(100, func() {
		for range 100 {
			q.Push(Send, slot, packet, nil)
		}
		for q.size > 0 {
			b, _ := q.Take()
			q.Done(b)
		}
	})
	if n > 1 { // a garbage collection may have taken a chunk
		t.Errorf("%v allocations for 100 packets", n)
	}
}

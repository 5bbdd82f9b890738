package bus_test

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

// BenchmarkPeersMesh is one first call between every two of 50 nodes that start
// together and know nothing of each other, all in this process.
func BenchmarkPeersMesh(b *testing.B) {
	const nodes = 50
	for range b.N {
		b.StopTimer()
		w, urls := newWorld(b), []string{serve(b).URL()}
		var peers []*peer
		for i := range nodes {
			k, s := newKeys(b), slotNamed(fmt.Sprint(i))
			w.bind(s, 1, k)
			peers = append(peers, w.peer(b, s, 1, k, urls...))
		}
		body := make([]byte, 1500)
		b.StartTimer()
		began := time.Now()
		var wg sync.WaitGroup
		for i, p := range peers {
			for _, q := range peers[i+1:] {
				wg.Go(func() {
					if _, err := p.Call(ctx(b), q.slot, "echo", body); err != nil {
						b.Error(err)
					}
				})
			}
		}
		wg.Wait()
		b.ReportMetric(time.Since(began).Seconds()/(nodes*(nodes-1)/2)*1e6, "µs/pair")
		b.StopTimer()
		for _, p := range peers {
			p.stop()
			p.conn.Close()
		}
	}
}

// BenchmarkPeerCall is a call between two nodes that know each other.
func BenchmarkPeerCall(b *testing.B) {
	w, urls := newWorld(b), []string{serve(b).URL()}
	p, q := pair(b, w, urls, urls)
	body := make([]byte, 1500)
	for range b.N {
		// A thousand calls in a minute are more than one caller is remembered for:
		// the clock of the callee runs fast.
		q.clock.add(100 * time.Millisecond)
		if _, err := p.Call(ctx(b), q.slot, "echo", body); err != nil {
			b.Fatal(err)
		}
	}
}

package bus

import (
	"context"
	"sync"
)

// queue has workers take messages, one each, until ctx ends; the caller waits for
// wg. put is what to subscribe with: it never waits, since that would hold up all
// else that comes over the link, and returns false when depth messages wait.
func queue(ctx context.Context, wg *sync.WaitGroup, depth, workers int, take func(message)) (put func(message) bool) {
	waiting := make(chan message, depth)
	for range workers {
		wg.Go(func() {
			for {
				select {
				case m := <-waiting:
					take(m)
				case <-ctx.Done():
					return
				}
			}
		})
	}
	return func(m message) bool {
		select {
		case waiting <- m:
			return true
		default:
			return false
		}
	}
}

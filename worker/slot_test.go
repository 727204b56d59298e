package worker

import (
	"sync"
	"testing"
)

// A worker may end at the very moment at which a goroutine has nothing to do any more: it is waited for, or does not wait.
func TestIdlersEnd(t *testing.T) {
	t.Parallel()
	for range 200 {
		var idle idlers
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				for idle.enter() {
					idle.leave()
				}
			})
		}
		idle.end()
		if idle.enter() {
			t.Fatal("somebody waits after the end")
		}
		all.Wait()
	}
}

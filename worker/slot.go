package worker

import (
	"sync"
	"sync/atomic"
)

// slot is one of the worker's slots while a delivery holds it.
type slot struct {
	w    *Worker
	free chan<- int // tells the dispatcher; it never blocks
	rank int        // of the lane
	over atomic.Bool
	leak atomic.Bool // its handler was given up
}

// takeSlot begins to hold a slot: w waits for its end when it drains.
func (w *Worker) takeSlot(rank int, free chan<- int) *slot {
	w.tasks.Add(1)
	return &slot{w: w, rank: rank, free: free}
}

// work handles a delivery, and then others as they come, until the worker stops: a new
// goroutine for each would have to grow its stack each time. A handler that ends its goroutine
// ends this one. There are no more of them than slots at their busiest.
func (w *Worker) work(h kept) {
	for {
		w.handleIn(h)
		if ended(w.stopping) || !w.idle.enter() { // nobody waits for a handler that was given up
			return
		}
		select {
		case h = <-w.ready:
			w.idle.leave()
		case <-w.stopping:
			w.idle.leave()
			return
		}
	}
}

// idlers are the goroutines of work that have nothing to do.
type idlers struct {
	all  sync.WaitGroup
	mu   sync.Mutex // who is about to wait, and the worker's end
	over bool
}

// enter reports whether the goroutine may wait: not any more when the worker ends, to which its slot, which
// it has freed, is nothing to wait for.
func (i *idlers) enter() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.over {
		i.all.Add(1)
	}
	return !i.over
}

func (i *idlers) leave() { i.all.Done() }

// end lets nobody in any more and waits for those who are.
func (i *idlers) end() {
	i.mu.Lock()
	i.over = true
	i.mu.Unlock()
	i.all.Wait()
}

func (w *Worker) handleIn(h kept) {
	defer h.slot.end()
	w.handle(h)
}

// end frees the slot, once.
func (s *slot) end() {
	if s.over.Swap(true) {
		return
	}
	if s.leak.Load() {
		s.w.mu.Lock()
		delete(s.w.leaks, s)
		s.w.mu.Unlock()
	}
	s.free <- s.rank
	s.w.tasks.Done()
}

// abandon notes that the handler in the slot was given up, so that a worker that stops does not
// wait for it: its task is over.
func (s *slot) abandon() {
	s.leak.Store(true)
	s.w.mu.Lock()
	stopping := ended(s.w.stopping)
	if !stopping && !s.over.Load() {
		s.w.leaks[s] = struct{}{}
	}
	s.w.mu.Unlock()
	if stopping {
		s.end()
	}
}

// endLeaks frees the slots of handlers that were given up.
func (w *Worker) endLeaks() {
	w.mu.Lock()
	left := make([]*slot, 0, len(w.leaks))
	for s := range w.leaks {
		left = append(left, s)
	}
	w.mu.Unlock()
	for _, s := range left {
		s.end()
	}
}

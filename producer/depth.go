package producer

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/peltonq/pelton"
)

const (
	// sampleFor is how long a count of ready tasks is taken for true, plus what this
	// process enqueued since. What others enqueue meanwhile is how far max_depth may
	// be exceeded.
	sampleFor = 250 * time.Millisecond
	// sampleFull is the same for a count that says full: workers may have taken tasks
	// since, and nobody is to be refused for long because of those.
	sampleFull = 20 * time.Millisecond
)

// depthGate holds a queue's max_depth. It costs a read of the queue's lanes every
// sampleFor while tasks are enqueued, every sampleFull while tasks are refused, and
// nothing for a queue without the setting.
//
// A task that is let in takes its place until a count must have seen it: one that
// began after the task was enqueued. While it is being enqueued a count may have
// seen it already, and it takes two places. So no count lets in too many, and one
// that falls into a burst may refuse a task for which there is a place after all.
type depthGate struct {
	sampling chan struct{} // held by whoever counts

	mu     sync.Mutex
	at     time.Time // of the count
	ready  uint64
	flying uint64 // let in, and being enqueued
	landed uint64 // enqueued, or not, since the last count began
}

// counter counts the ready tasks of a queue: all that were enqueued when it is called.
type counter func(ctx context.Context) (uint64, error)

// admit lets one task in, or is pelton.ErrOverloaded. Other errors are of a count
// that could not be made: nothing was written. Whoever is let in calls land, once,
// when the task is enqueued or never will be.
func (g *depthGate) admit(ctx context.Context, most uint64, count counter) (land func(), err error) {
	for {
		in, ready, old := g.enter(most)
		switch {
		case in:
			return g.land, nil
		case !old:
			return nil, fmt.Errorf("%w: it holds %d ready tasks, and max_depth is %d", pelton.ErrOverloaded, ready, most)
		}
		if err := g.sample(ctx, count); err != nil {
			return nil, fmt.Errorf("count ready tasks: %w", err)
		}
	}
}

// enter lets a task in if the last count leaves room. old means that it cannot tell.
func (g *depthGate) enter(most uint64) (in bool, ready uint64, old bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	ready = g.ready + g.flying + g.landed
	age := time.Since(g.at)
	if age >= sampleFor || ready >= most {
		return false, ready, age >= sampleFull
	}
	g.flying++
	return true, ready, false
}

func (g *depthGate) land() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.flying--
	g.landed++
}

// sample counts anew. One caller at a time does, for all that wait.
func (g *depthGate) sample(ctx context.Context, count counter) error {
	called := time.Now()
	select {
	case g.sampling <- struct{}{}:
		defer func() { <-g.sampling }()
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", pelton.ErrUnavailable, context.Cause(ctx))
	}
	g.mu.Lock()
	counted := g.landed        // those that land during the count may not be in it
	done := g.at.After(called) // by somebody else, while we waited
	g.mu.Unlock()
	if done {
		return nil
	}
	ready, err := count(ctx)
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.at, g.ready, g.landed = time.Now(), ready, g.landed-counted
	return nil
}

package producer

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
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
type depthGate struct {
	sampling chan struct{} // held by whoever counts

	mu    sync.Mutex
	at    time.Time // of the count
	ready uint64
	own   uint64 // let in since
}

// admit lets one task in, or is pelton.ErrOverloaded. Other errors are of a count
// that could not be made: nothing was written.
func (g *depthGate) admit(ctx context.Context, b *broker.Broker, cfg *broker.QueueConfig) error {
	most := uint64(cfg.Settings.MaxDepth)
	for {
		in, ready, old := g.enter(most)
		switch {
		case in:
			return nil
		case !old:
			return fmt.Errorf("queue %s: %w: it holds %d ready tasks, and max_depth is %d", cfg.Name, pelton.ErrOverloaded, ready, most)
		}
		if err := g.count(ctx, b, cfg); err != nil {
			return err
		}
	}
}

// enter lets a task in if the last count leaves room. old means that it cannot tell.
func (g *depthGate) enter(most uint64) (in bool, ready uint64, old bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	ready = g.ready + g.own
	age := time.Since(g.at)
	if age >= sampleFor || ready >= most {
		return false, ready, age >= sampleFull
	}
	g.own++
	return true, ready, false
}

// count counts anew. One caller at a time does, for all that wait.
func (g *depthGate) count(ctx context.Context, b *broker.Broker, cfg *broker.QueueConfig) error {
	called := time.Now()
	select {
	case g.sampling <- struct{}{}:
		defer func() { <-g.sampling }()
	case <-ctx.Done():
		return fmt.Errorf("count queue %s: %w: %w", cfg.Name, pelton.ErrUnavailable, context.Cause(ctx))
	}
	g.mu.Lock()
	counted := g.own           // those that are let in during the count may not be in it
	done := g.at.After(called) // by somebody else, while we waited
	g.mu.Unlock()
	if done {
		return nil
	}
	ready, err := b.Ready(ctx, cfg.Name, cfg.Lanes)
	if err != nil {
		return fmt.Errorf("count queue %s: %w", cfg.Name, err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.at, g.ready, g.own = time.Now(), ready, g.own-counted
	return nil
}

package producer

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
)

// rewatch is how long after the end of a watch the next one starts: the connection
// was lost, or is new.
const rewatch = 500 * time.Millisecond

// queues knows the settings of every queue by a watch, so that enqueuing costs no
// read for them. While the broker is out of reach, what was last known holds.
type queues struct {
	b        *broker.Broker
	known    sync.Map // name → *queue
	stop     context.CancelFunc
	watching sync.WaitGroup
}

// queue is one queue as a producer sees it.
type queue struct {
	config atomic.Pointer[broker.QueueConfig]
	depth  depthGate
}

// watchQueues returns when all settings are known. They are followed until close.
func watchQueues(ctx context.Context, b *broker.Broker) (*queues, error) {
	watching, stop := context.WithCancel(context.WithoutCancel(ctx))
	q := &queues{b: b, stop: stop}
	changes, end, err := b.WatchQueues(watching, nil)
	if err != nil {
		stop()
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	if err := q.follow(ctx, changes, true); err != nil {
		stop()
		end()
		return nil, err
	}
	q.watching.Go(func() {
		_ = q.follow(watching, changes, false)
		end()
		q.run(watching)
	})
	return q, nil
}

// openTimeout bounds the first reading of all settings.
const openTimeout = 10 * time.Second

// run watches again whenever a watch has ended.
func (q *queues) run(ctx context.Context) {
	timer := time.NewTimer(rewatch)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		if changes, end, err := q.b.WatchQueues(ctx, nil); err == nil {
			_ = q.follow(ctx, changes, false)
			end()
		}
		timer.Reset(rewatch)
	}
}

// follow takes in changes until they end; with initial, only those that were there
// at the start, and then the end of the watch is an error.
func (q *queues) follow(ctx context.Context, changes <-chan *broker.QueueConfig, initial bool) error {
	for {
		select {
		case cfg, ok := <-changes:
			switch {
			case !ok:
				return fmt.Errorf("read settings of queues: %w: the watch ended", pelton.ErrUnavailable)
			case cfg != nil:
				known, _ := q.known.LoadOrStore(cfg.Name, newQueue(cfg)) // never without a config
				known.(*queue).config.Store(cfg)
			case initial:
				return nil
			}
		case <-ctx.Done():
			return fmt.Errorf("read settings of queues: %w: %w", pelton.ErrUnavailable, context.Cause(ctx))
		}
	}
}

func newQueue(cfg *broker.QueueConfig) *queue {
	q := &queue{depth: depthGate{sampling: make(chan struct{}, 1)}}
	q.config.Store(cfg)
	return q
}

// close ends the watch and waits for it, for a second at most: while the connection
// is lost, nats.go takes five over the end of a subscription.
func (q *queues) close() {
	q.stop()
	ended := make(chan struct{})
	go func() { q.watching.Wait(); close(ended) }()
	timer := time.NewTimer(closeWait)
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
	}
}

const closeWait = time.Second

// at is nil for a queue without settings, and without tasks as yet.
func (q *queues) at(name string) *queue {
	if known, ok := q.known.Load(name); ok {
		return known.(*queue)
	}
	return nil
}

// fill sets what the spec does not say to what its queue's settings do.
func (q *queues) fill(spec *pelton.Spec) {
	name := spec.Queue
	if name == "" {
		name = pelton.DefaultQueue
	}
	if at := q.at(name); at != nil {
		at.config.Load().Settings.Fill(spec)
	}
}

// bounded reports whether a queue has max_running for a priority: see broker.Place.
func (q *queues) bounded(name string, p pelton.Priority) bool {
	at := q.at(name)
	return at != nil && at.config.Load().Bounded(p)
}

// placedTogether is how many tasks of a batch go to one shard before the next ones go to another. A
// small batch so goes to one, whose broker writes it at once; a large one keeps all busy.
const placedTogether = 32

// placer chooses the shards of a batch's tasks.
type placer struct {
	q     *queues
	shard uint8
	left  int
}

func (p *placer) place(spec *pelton.Spec) uint8 {
	if p.q.bounded(spec.Queue, spec.Priority) {
		return p.q.b.Place(true)
	}
	if p.left == 0 {
		p.shard, p.left = p.q.b.Place(false), placedTogether
	}
	p.left--
	return p.shard
}

// admit is pelton.ErrOverloaded for a ready task that its queue's max_depth leaves
// no place for. Delayed tasks, retries and requeues are always taken. Without an
// error, land is to be called when the task is enqueued or never will be.
func (q *queues) admit(ctx context.Context, r *broker.Record) (land func(), err error) {
	free := func() {}
	at := q.at(r.Queue)
	if at == nil || r.State != pelton.Queued {
		return free, nil
	}
	cfg := at.config.Load()
	if cfg.Settings.MaxDepth == 0 {
		return free, nil
	}
	land, err = at.depth.admit(ctx, uint64(cfg.Settings.MaxDepth), func(ctx context.Context) (uint64, error) {
		return q.b.Ready(ctx, cfg.Name)
	})
	if err != nil {
		return nil, fmt.Errorf("queue %s: %w", cfg.Name, err)
	}
	return land, nil
}

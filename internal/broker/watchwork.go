package broker

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/peltonq/pelton"
)

// Work is what a worker follows of the configuration. Both channels are closed after Stop,
// when the ctx of WatchWork ends, and when the watch breaks down, as it does with the
// connection: watch again then.
type Work struct {
	Queues <-chan *QueueConfig // as of WatchQueues; who is slow gets the newest of each queue alone
	Rules  <-chan Rules        // as of WatchRules

	stop func()
}

// Stop ends the watch and waits for its end, for up to 5 s while the connection is lost.
func (w *Work) Stop() { w.stop() }

// WatchWork is WatchQueues and WatchRules in one: a watch costs the broker a consumer and a
// sign of life every five seconds, and there are many workers. The limits that
// LoadLimits gives are kept by it, too, if nobody has asked for them before.
func (b *Broker) WatchWork(ctx context.Context, queues []string) (*Work, error) {
	f := newConfigFeed(b, queues)
	f.heard = b.limits.know
	stop, err := b.watchConfig(ctx, "configuration", []string{queueKeyPrefix + "*", limitKeyPrefix + "*", pauseKeyPrefix + "*"}, f.feed)
	if err != nil {
		return nil, err
	}
	b.limits.start.Lock()
	b.limits.started = true // or two would watch them
	b.limits.start.Unlock()
	return &Work{Queues: f.queues, Rules: f.rules, stop: stop}, nil
}

// configFeed sorts what a watch of the configuration brings. Who is slow gets the newest alone.
type configFeed struct {
	b      *Broker
	of     []string // queues that are wanted
	queues chan *QueueConfig
	rules  chan Rules
	heard  func(Rules) // is told of rules before they are sent

	waiting []*QueueConfig // not sent yet, one of each queue
}

func newConfigFeed(b *Broker, queues []string) *configFeed {
	return &configFeed{b: b, of: queues, queues: make(chan *QueueConfig), rules: make(chan Rules), heard: func(Rules) {}}
}

func (f *configFeed) feed(ctx context.Context, up <-chan struct{}, updates <-chan jetstream.KeyValueEntry) {
	defer close(f.queues)
	defer close(f.rules)
	known := ruleBook{limits: make(map[string]RevisedLimit), pauses: make(map[string]Pause)}
	var (
		sendRules chan<- Rules // nil while there is nothing to send
		next      Rules
		whole     bool // all that was there at the start has come
		changed   bool // what next is to become
	)
	for {
		var sendQueue chan<- *QueueConfig
		var first *QueueConfig
		if len(f.waiting) > 0 {
			sendQueue, first = f.queues, f.waiting[0]
		}
		select {
		case <-ctx.Done():
			return
		case <-up:
			return
		case sendRules <- next:
			sendRules = nil
		case sendQueue <- first:
			f.waiting = f.waiting[1:]
		case entry, ok := <-updates:
			switch {
			case !ok:
				return
			case entry == nil:
				whole, changed = true, true
			case strings.HasPrefix(entry.Key(), queueKeyPrefix):
				f.take(entry)
			default:
				f.b.note(&known, entry)
				changed = true
			}
			if whole && changed && len(updates) == 0 { // a burst is sent once
				next, sendRules, changed = known.rules(time.Now()), f.rules, false
				f.heard(next)
			}
		}
	}
}

// take notes the entry of a queue, in place of an older one that nobody has taken.
func (f *configFeed) take(entry jetstream.KeyValueEntry) {
	cfg := f.b.queueOf(entry, f.of)
	if cfg == nil {
		return
	}
	if i := slices.IndexFunc(f.waiting, func(other *QueueConfig) bool { return other.Name == cfg.Name }); i >= 0 {
		f.waiting[i] = cfg
		return
	}
	f.waiting = append(f.waiting, cfg)
}

// queueOf is the queue of an entry; nil if it is not among those that are wanted, of which nil are all,
// cannot be read, or is deleted: then it has no lanes any more.
func (b *Broker) queueOf(entry jetstream.KeyValueEntry, wanted []string) *QueueConfig {
	if entry.Operation() != jetstream.KeyValuePut {
		return nil
	}
	queue := strings.TrimPrefix(entry.Key(), queueKeyPrefix)
	if wanted != nil && !slices.Contains(wanted, queue) {
		return nil
	}
	cfg, err := decodeQueue(queue, entry.Value(), entry.Revision())
	if err != nil {
		b.cfg.Logger.Error("configuration of a queue is unreadable", "queue", queue, "error", err)
		return nil
	}
	cfg.Lanes = slices.DeleteFunc(cfg.Lanes, func(p pelton.Priority) bool { return p == "" || p.Rank() < 0 })
	return cfg
}

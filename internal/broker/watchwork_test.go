package broker

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/peltonq/pelton"
)

func (b *Broker) lists(t *testing.T, queue string, lanes ...pelton.Priority) {
	t.Helper()
	_, err := b.changeQueue(t.Context(), queue, true, func(cfg *QueueConfig) error {
		cfg.Lanes = lanes
		return nil
	})
	must(t, err)
}

// One watch has queues and rules, those of others left out, and keeps the limits that lines go by.
func TestWatchWork(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	b.lists(t, "q", pelton.Low)
	b.lists(t, "of-others", pelton.Low)
	before := streamState(t, b, bucketStream(b.names.config())).State.Consumers
	work, err := b.WatchWork(t.Context(), []string{"q", "later"})
	must(t, err)
	defer work.Stop()
	if rules := wait(t, work.Rules, "rules"); len(rules.Limits) != 0 { // although nobody took the queue
		t.Errorf("rules at first: %+v", rules)
	}
	if cfg := wait(t, work.Queues, "queue"); cfg.Name != "q" || !slices.Equal(cfg.Lanes, []pelton.Priority{pelton.Low}) {
		t.Errorf("queue %+v", cfg)
	}
	must(t, b.SaveLimit(t.Context(), pelton.Limit{Name: "two", Kind: "k", MaxRunning: 2}))
	if rules := wait(t, work.Rules, "limit"); len(rules.Limits) != 1 || rules.Limits[0].Name != "two" {
		t.Errorf("rules: %+v", rules)
	}
	must(t, b.LoadLimits(t.Context()))
	if !b.KindLimited("k") {
		t.Error("the limit of a kind is not known")
	}
	if now := streamState(t, b, bucketStream(b.names.config())).State.Consumers; now != before+1 {
		t.Errorf("%d consumers, %d before the watch", now, before)
	}
	b.lists(t, "later", pelton.High)
	if cfg := wait(t, work.Queues, "new queue"); cfg.Name != "later" {
		t.Errorf("queue %+v", cfg)
	}
}

// Who takes no queues gets the rules, and then the newest of each queue.
func TestWatchWorkOfTheSlow(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	work, err := b.WatchWork(t.Context(), []string{"a", "b"})
	must(t, err)
	defer work.Stop()
	wait(t, work.Rules, "rules")
	for _, lanes := range [][]pelton.Priority{{pelton.Low}, {pelton.Low, pelton.High}} {
		b.lists(t, "a", lanes...)
		b.lists(t, "b", lanes...)
	}
	must(t, b.SaveLimit(t.Context(), pelton.Limit{Name: "two", Kind: "k", MaxRunning: 2}))
	wait(t, work.Rules, "limit, which comes after the queues")
	for _, name := range []string{"a", "b"} {
		if cfg := wait(t, work.Queues, "queue"); cfg.Name != name || len(cfg.Lanes) != 2 {
			t.Errorf("queue %+v, want the newest of %s", cfg, name)
		}
	}
}

func TestWatchWorkEnds(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(b *Broker, cancel func(), work *Work){
		"by stop":             func(_ *Broker, _ func(), work *Work) { work.Stop() },
		"by its context":      func(_ *Broker, cancel func(), _ *Work) { cancel() },
		"with the connection": func(b *Broker, _ func(), _ *Work) { b.conn.nc.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := openNew(t)
			b.lists(t, "q", pelton.Low)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			work, err := b.WatchWork(ctx, nil)
			must(t, err)
			wait(t, work.Rules, "rules")
			end(b, cancel, work)
			over := time.After(10 * time.Second)
			for work.Queues != nil || work.Rules != nil { // whoever reads learns of it
				select {
				case _, open := <-work.Queues:
					if !open {
						work.Queues = nil
					}
				case _, open := <-work.Rules:
					if !open {
						work.Rules = nil
					}
				case <-over:
					t.Fatal("the watch does not end")
				}
			}
			work.Stop() // again is fine
		})
	}
}

package worker_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
	"github.com/peltonq/pelton/worker"
)

// The heartbeat of an owner that died with its broker may outlast both. Its crash is counted
// all the same: a task that kills its server would go on doing so for ever.
func TestCrashOfAnOwnerWhoseHeartbeatLasts(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.on("k", func(context.Context, *pelton.Task) (json.RawMessage, error) { return nil, nil })
	b := r.broker(t)
	dead := &broker.Record{Meta: broker.Meta{
		ID: pelton.NewID(time.Now(), 0), Kind: "k", Queue: pelton.DefaultQueue, Priority: pelton.Normal, MaxAttempts: 3,
		Timeout: time.Minute, Retention: time.Hour, CreatedAt: time.Now(),
	}, State: pelton.Running, Owner: "gone", StartedAt: time.Now()}
	if err := b.EnsureLane(t.Context(), broker.Lane{Queue: dead.Queue, Priority: dead.Priority}); err != nil {
		t.Fatal(err)
	}
	seq, err := b.PublishReady(t.Context(), dead.Envelope())
	if err != nil {
		t.Fatal(err)
	}
	dead.Carrier = seq
	if err := b.CreateRecord(t.Context(), dead); err != nil {
		t.Fatal(err)
	}
	if err := b.ShowPresence(t.Context(), broker.Presence{ID: dead.Owner}, broker.PresenceTTL); err != nil {
		t.Fatal(err)
	}
	r.run(t, worker.Config{})
	if task := r.finished(t, dead.ID); task.State != pelton.Succeeded || task.Crashes != 1 || task.Attempt != 1 {
		t.Errorf("task is %s after %d crashes in attempt %d, want one crash", task.State, task.Crashes, task.Attempt)
	}
}

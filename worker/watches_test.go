package worker_test

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/worker"
)

// A worker follows queues, limits and pauses with one consumer of the configuration, also when its tasks
// have concurrency keys.
func TestWorkerWatchesOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.on("k", func(context.Context, *pelton.Task) (json.RawMessage, error) { return nil, nil })
	task := r.enqueue(t, "k", pelton.WithConcurrencyKey("a")) // from here on the producer watches what it has to
	consumers := func() int {
		t.Helper()
		js, err := jetstream.New(r.nc)
		if err != nil {
			t.Fatal(err)
		}
		stream, err := js.Stream(t.Context(), "KV_pelton_CONFIG")
		if err != nil {
			t.Fatal(err)
		}
		return stream.CachedInfo().State.Consumers
	}
	before := consumers()
	r.run(t, worker.Config{})
	r.succeeds(t, task.ID, r.enqueue(t, "k", pelton.WithConcurrencyKey("a")).ID, r.enqueue(t, "k").ID)
	if now := consumers(); now != before+1 {
		t.Errorf("%d consumers of the configuration, %d without the worker", now, before)
	}
}

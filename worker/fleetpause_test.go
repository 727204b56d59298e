package worker_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
	"github.com/peltonq/pelton/producer"
	"github.com/peltonq/pelton/worker"
)

// A 429 that one task got stops its kind in all workers for as long as it says; no
// other kind, no attempt of the others, and they go on in order.
func TestRetryAfterPausesTheKind(t *testing.T) {
	t.Parallel()
	srv := brokertest.StartServer(t)
	r := rigOn(t, brokertest.Connect(t, srv), producer.Config{})
	const length = 2 * time.Second
	var (
		mu    sync.Mutex
		until time.Time
		early int
		order []pelton.ID
	)
	r.on("mail", func(_ context.Context, task *pelton.Task) (json.RawMessage, error) {
		mu.Lock()
		defer mu.Unlock()
		if task.Labels["first"] != "" && task.Attempt == 1 {
			until = time.Now().Add(length)
			return nil, pelton.RetryAfter(length, errors.New("429"), pelton.PauseKind)
		}
		if time.Now().Before(until) {
			early++
		}
		order = append(order, task.ID)
		return nil, nil
	})
	r.logStarts("other")
	for range 3 { // each with a connection of its own
		runOn(t, brokertest.Connect(t, srv), r.Mux, worker.Config{Concurrency: 4})
	}
	first := r.enqueue(t, "mail", pelton.WithLabels(map[string]string{"first": "yes"}))
	eventually(t, "the first task gave up", func() bool { return r.get(t, first.ID).State == pelton.Retrying })
	// The other workers hear of the pause within milliseconds, and may be in the
	// middle of a start until then.
	eventually(t, "all workers heard of the pause", func() bool {
		probes := r.enqueueMany(t, 12, "mail")
		eventually(t, "they are put off or over", func() bool {
			return !slices.ContainsFunc(probes, func(id pelton.ID) bool {
				state := r.get(t, id).State
				return state == pelton.Queued || state == pelton.Running
			})
		})
		return !slices.ContainsFunc(probes, func(id pelton.ID) bool { return r.get(t, id).State == pelton.Succeeded })
	})
	mu.Lock()
	early, order = 0, nil
	mu.Unlock()
	waiting := r.enqueueMany(t, 30, "mail")
	r.succeeds(t, r.enqueueMany(t, 30, "other")...)
	mu.Lock()
	if time.Now().After(until) {
		t.Error("another kind waited for the pause")
	}
	mu.Unlock()
	r.succeeds(t, waiting...)
	r.succeeds(t, first.ID)
	mu.Lock()
	defer mu.Unlock()
	if early != 0 {
		t.Errorf("%d tasks of the paused kind started", early)
	}
	if task := r.get(t, waiting[29]); task.Attempt != 1 {
		t.Errorf("attempt %d after the pause", task.Attempt)
	}
	if task := r.get(t, first.ID); task.Attempt != 2 {
		t.Errorf("attempt %d of the task that paused", task.Attempt)
	}
	// What the broker fires together, three workers share.
	moved := 0
	for i, id := range waiting {
		at := slices.Index(order, id) - (len(order) - len(waiting))
		moved += max(at-i, i-at)
	}
	if apart := float64(moved) / 30; apart > 15 {
		t.Errorf("tasks started %.1f places from their order", apart)
	}
}

func TestRetryAfterPausesTheKey(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	calls := make(chan string, 100)
	for _, kind := range []string{"a", "b"} {
		r.on(kind, func(_ context.Context, task *pelton.Task) (json.RawMessage, error) {
			calls <- task.Kind + task.RateKey
			if task.Labels["pauses"] != "" {
				return nil, pelton.RetryAfter(time.Hour, errors.New("429"), pelton.PauseKey)
			}
			return nil, nil
		})
	}
	r.run(t, worker.Config{})
	pauses := pelton.WithLabels(map[string]string{"pauses": "yes"})
	keyless := r.enqueue(t, "a", pauses) // pauses nobody but itself
	acme := r.enqueue(t, "a", pauses, pelton.WithRateKey("acme"))
	for range 2 {
		receive(t, calls, "call")
	}
	eventually(t, "they wait", func() bool {
		return r.get(t, acme.ID).State == pelton.Retrying && r.get(t, keyless.ID).State == pelton.Retrying
	})
	var waiting pelton.ID
	eventually(t, "another kind of the key waits", func() bool {
		waiting = r.enqueue(t, "b", pelton.WithRateKey("acme")).ID
		state := pelton.Queued
		for state == pelton.Queued || state == pelton.Running {
			state = r.get(t, waiting).State
		}
		return state == pelton.Scheduled
	})
	r.succeeds(t, r.enqueue(t, "a").ID, r.enqueue(t, "a", pelton.WithRateKey("other")).ID)
	task := r.get(t, waiting)
	if left := time.Until(task.RunAt); left < 50*time.Minute || left > time.Hour || task.Attempt != 0 {
		t.Errorf("it waits for %s, attempt %d", left, task.Attempt)
	}
	// A worker that comes later knows of the pause before it starts anything.
	later := r.run(t, worker.Config{Queues: []string{"late"}})
	id := r.enqueue(t, "b", pelton.WithRateKey("acme"), pelton.WithQueue("late")).ID
	eventually(t, "a later worker holds the pause", func() bool { return r.get(t, id).State == pelton.Scheduled })
	_ = later
}

package worker_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
	"github.com/peltonq/pelton/producer"
	"github.com/peltonq/pelton/worker"
)

func TestSnoozeBurnsNoAttempt(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var calls atomic.Int32
	r.on("later", func(_ context.Context, task *pelton.Task) (json.RawMessage, error) {
		if task.Attempt != 1 {
			t.Errorf("attempt %d in call %d", task.Attempt, calls.Load())
		}
		if calls.Add(1) <= 3 {
			return nil, pelton.Snooze(10 * time.Millisecond)
		}
		return nil, nil
	})
	r.run(t, worker.Config{})
	task := r.finished(t, r.enqueue(t, "later", pelton.WithMaxAttempts(1)).ID)
	if task.State != pelton.Succeeded || task.Attempt != 1 || len(task.Errors) != 0 || calls.Load() != 4 {
		t.Errorf("after %d calls: %+v", calls.Load(), task)
	}
}

// TestHandlerThatIgnoresItsTimeout is recorded as a timeout while it still runs,
// and its slot is not used until it returns.
func TestHandlerThatIgnoresItsTimeout(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	release := make(chan struct{})
	var stuck atomic.Bool
	r.on("stuck", func(context.Context, *pelton.Task) (json.RawMessage, error) {
		stuck.Store(true)
		defer stuck.Store(false)
		<-release
		return json.RawMessage(`"too late"`), nil
	})
	r.on("next", func(context.Context, *pelton.Task) (json.RawMessage, error) {
		if stuck.Load() {
			t.Error("the slot of a handler that still runs was used")
		}
		return nil, nil
	})
	w := runOn(t, r.nc, r.Mux, worker.Config{Concurrency: 1, MaxLeaked: 2}, func(w *worker.Worker) { w.SetLinger(10 * time.Millisecond) })
	task := r.finished(t, r.enqueue(t, "stuck", pelton.WithTimeout(20*time.Millisecond), pelton.WithMaxAttempts(1)).ID)
	if task.State != pelton.Failed || task.Error.Reason != pelton.ReasonTimeout || !strings.Contains(task.Error.Message, "still runs") {
		t.Errorf("task is %s: %+v", task.State, task.Error)
	}
	next := r.enqueue(t, "next")
	eventually(t, "the slot counts as leaked", func() bool { return w.Leaked() == 1 })
	r.idleBut(t, 1)
	close(release)
	r.succeeds(t, next.ID)
	eventually(t, "the slot is free", func() bool { return w.Leaked() == 0 })
	if task := r.get(t, task.ID); task.State != pelton.Failed || len(task.Result) > 0 {
		t.Errorf("what a leaked handler returned counts: %+v", task)
	}
}

// A worker whose slots are held by handlers that ignore their ctx ends by itself,
// without waiting for them, so that its supervisor starts a new process.
func TestTooManyLeaksEndTheWorker(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	release := make(chan struct{})
	defer close(release)
	r.on("stuck", func(context.Context, *pelton.Task) (json.RawMessage, error) {
		<-release
		return nil, nil
	})
	w := runOn(t, r.nc, r.Mux, worker.Config{Concurrency: 3, MaxLeaked: 2}, func(w *worker.Worker) { w.SetLinger(10 * time.Millisecond) })
	for range 2 {
		r.finished(t, r.enqueue(t, "stuck", pelton.WithTimeout(20*time.Millisecond), pelton.WithMaxAttempts(1)).ID)
	}
	if err := w.wait(t); !errors.Is(err, pelton.ErrLeaked) || errors.Is(err, pelton.ErrGraceExceeded) {
		t.Errorf("Run = %v, want ErrLeaked alone", err)
	}
}

func TestExpired(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	kind := pelton.NewKind[int, int]("news")
	worker.Handle(r.Mux, kind, func(context.Context, int) (int, error) {
		t.Error("an expired task was started")
		return 0, nil
	})
	task := r.enqueue(t, kind.Name(), pelton.WithExpiresAt(time.Now().Add(50*time.Millisecond)))
	<-time.After(time.Until(task.ExpiresAt))
	r.run(t, worker.Config{})
	_, err := producer.Await(t.Context(), r.client, kind, task.ID)
	if !errors.Is(err, pelton.ErrExpired) {
		t.Errorf("Await = %v, want ErrExpired", err)
	}
	r.idle(t)
}

func TestUnknownKindWaitsForItsWorker(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	old, young := rigOn(t, nc, producer.Config{}), rigOn(t, nc, producer.Config{})
	old.on("old", func(context.Context, *pelton.Task) (json.RawMessage, error) { return nil, nil })
	young.on("new", func(context.Context, *pelton.Task) (json.RawMessage, error) { return nil, nil })
	first := old.run(t, worker.Config{})
	id := old.enqueue(t, "new", pelton.WithMaxAttempts(1)).ID
	eventually(t, "the task is put off", func() bool { return old.get(t, id).State == pelton.Scheduled })
	old.succeeds(t, old.enqueue(t, "old").ID) // nothing is in its way
	if err := first.stop(t); err != nil {
		t.Error(err)
	}
	if task := old.get(t, id); task.Attempt != 0 || len(task.Errors) != 0 {
		t.Errorf("a deferral counts as an attempt: %+v", task)
	}
	young.run(t, worker.Config{})
	if task := young.finished(t, id); task.State != pelton.Succeeded || task.Attempt != 1 {
		t.Errorf("task = %+v", task)
	}
}

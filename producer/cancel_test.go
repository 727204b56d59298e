package producer_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
	"github.com/peltonq/pelton/producer"
	"github.com/peltonq/pelton/worker"
)

// cancels cancels twice: doing it again is no error and changes nothing.
func cancels(t *testing.T, client *producer.Client, id pelton.ID) *pelton.Task {
	t.Helper()
	task, err := client.Cancel(t.Context(), id)
	if err != nil || task.State != pelton.Cancelled || task.FinishedAt.IsZero() {
		t.Fatalf("Cancel = %+v, %v", task, err)
	}
	again, err := client.Cancel(t.Context(), id)
	if err != nil || again.State != pelton.Cancelled || again.Revision != task.Revision {
		t.Errorf("second Cancel = %+v, %v", again, err)
	}
	if got := get(t, client, id); got.State != pelton.Cancelled || got.Revision != task.Revision {
		t.Errorf("record = %+v", got)
	}
	return task
}

func TestCancelWaiting(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	client := open(t, nc)
	b := below(t, nc)
	cancels(t, client, enqueue(t, client, "k").ID)
	delayed := enqueue(t, client, "k", pelton.WithDelay(time.Hour))
	eventually(t, "one is scheduled", func() bool { return scheduled(t, b) == 1 })
	cancels(t, client, delayed.ID)
	eventually(t, "nothing is scheduled", func() bool { return scheduled(t, b) == 0 })
	if _, err := client.Cancel(t.Context(), pelton.NewID(time.Now(), 0)); !errors.Is(err, pelton.ErrNotFound) {
		t.Errorf("Cancel of an unknown task = %v, want ErrNotFound", err)
	}
}

func TestCancelRetrying(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	client := open(t, nc)
	mux := worker.NewMux()
	mux.Handle("k", handler(func(_ context.Context, task *pelton.Task) (json.RawMessage, error) {
		if task.Attempt > 1 {
			t.Error("a cancelled task was run again")
		}
		return nil, pelton.RetryAfter(time.Hour, errBoom)
	}))
	serve(t, nc, mux, worker.Config{})
	task := enqueue(t, client, "k")
	b := below(t, nc)
	eventually(t, "the retry is scheduled", func() bool {
		return get(t, client, task.ID).State == pelton.Retrying && scheduled(t, b) == 1
	})
	if task = cancels(t, client, task.ID); task.Attempt != 1 {
		t.Errorf("task = %+v", task)
	}
	eventually(t, "nothing is scheduled", func() bool { return scheduled(t, b) == 0 })
}

func TestCancelOver(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	client := open(t, nc)
	mux := worker.NewMux()
	mux.Handle("ok", handler(func(context.Context, *pelton.Task) (json.RawMessage, error) { return nil, nil }))
	mux.Handle("bad", handler(func(context.Context, *pelton.Task) (json.RawMessage, error) { return nil, pelton.Discard(errBoom) }))
	serve(t, nc, mux, worker.Config{})
	for kind, state := range map[string]pelton.State{"ok": pelton.Succeeded, "bad": pelton.Failed} {
		over := wait(t, client, enqueue(t, client, kind).ID)
		task, err := client.Cancel(t.Context(), over.ID)
		if !errors.Is(err, pelton.ErrConflict) || task == nil || task.State != state || task.Revision != over.Revision {
			t.Errorf("Cancel of a task that has %s = %+v, %v", state, task, err)
		}
	}
}

// TestCancelReleased deletes the message of a task that a worker gave back: its
// place in the stream is known.
func TestCancelReleased(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	client := open(t, nc)
	mux := worker.NewMux()
	started := make(chan struct{})
	mux.Handle("k", handler(func(ctx context.Context, _ *pelton.Task) (json.RawMessage, error) {
		close(started)
		<-ctx.Done()
		return nil, ctx.Err()
	}))
	stop := serve(t, nc, mux, worker.Config{Grace: time.Millisecond})
	task := enqueue(t, client, "k")
	<-started
	if err := stop(); !errors.Is(err, pelton.ErrGraceExceeded) {
		t.Errorf("Run = %v", err)
	}
	if _, err := client.Cancel(t.Context(), task.ID); err != nil {
		t.Fatal(err)
	}
	if idle, err := below(t, nc).Idle(t.Context()); err != nil || !idle {
		t.Errorf("the message of a cancelled task is still there: %v", err)
	}
}

// TestCancelRace cancels tasks that are just being run: whoever writes first has
// won, and both sides agree who that was.
func TestCancelRace(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	client := open(t, nc)
	mux := worker.NewMux()
	mux.Handle("k", handler(func(context.Context, *pelton.Task) (json.RawMessage, error) { return json.RawMessage(`1`), nil }))
	serve(t, nc, mux, worker.Config{})
	won := 0
	for range 50 {
		task := enqueue(t, client, "k")
		cancelled, err := client.Cancel(t.Context(), task.ID)
		over := wait(t, client, task.ID)
		switch {
		case err == nil && over.State == pelton.Cancelled && len(over.Result) == 0:
			won++
		case errors.Is(err, pelton.ErrConflict) && over.State == pelton.Succeeded && cancelled.State == pelton.Succeeded:
		default:
			t.Errorf("Cancel = %v; task is %s", err, over.State)
		}
	}
	t.Logf("%d of 50 cancels came first", won)
	b := below(t, nc)
	eventually(t, "nothing is left", func() bool {
		idle, err := b.Idle(t.Context())
		return err == nil && idle
	})
}

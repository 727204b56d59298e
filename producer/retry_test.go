package producer_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
	"github.com/peltonq/pelton/worker"
)

func TestRetry(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	client := open(t, nc)
	mux := worker.NewMux()
	mux.Handle("ok", handler(func(_ context.Context, task *pelton.Task) (json.RawMessage, error) {
		return json.RawMessage(`"` + task.Kind + `"`), nil
	}))
	mux.Handle("flaky", handler(func(_ context.Context, task *pelton.Task) (json.RawMessage, error) {
		if len(task.Errors) < 2 { // both attempts of the first life
			return nil, pelton.RetryAfter(0, errBoom)
		}
		return nil, nil
	}))
	serve(t, nc, mux, worker.Config{})

	ok := wait(t, client, enqueue(t, client, "ok").ID)
	flaky := wait(t, client, enqueue(t, client, "flaky", pelton.WithMaxAttempts(2)).ID)
	if ok.State != pelton.Succeeded || flaky.State != pelton.Failed || flaky.Attempt != 2 {
		t.Fatalf("tasks = %+v, %+v", ok, flaky)
	}
	cancelled := enqueue(t, client, "ok", pelton.WithDelay(time.Hour))
	if _, err := client.Cancel(t.Context(), cancelled.ID); err != nil {
		t.Fatal(err)
	}
	for _, task := range []*pelton.Task{ok, flaky, cancelled} {
		again, err := client.Retry(t.Context(), task.ID)
		if err != nil || again.ID != task.ID || again.State != pelton.Queued || again.Attempt != 0 || len(again.Result) > 0 {
			t.Errorf("Retry = %+v, %v", again, err)
			continue
		}
		over := wait(t, client, task.ID)
		if over.State != pelton.Succeeded || over.Attempt != 1 || len(over.Errors) != len(flaky.Errors) && task == flaky {
			t.Errorf("after the retry: %+v", over)
		}
	}
	b := below(t, nc)
	eventually(t, "no message is left", func() bool {
		idle, err := b.Idle(t.Context())
		return err == nil && idle
	})
}

func TestRetryRefused(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	client := open(t, nc)
	for _, task := range []*pelton.Task{enqueue(t, client, "k"), enqueue(t, client, "k", pelton.WithDelay(time.Hour))} {
		same, err := client.Retry(t.Context(), task.ID)
		if !errors.Is(err, pelton.ErrConflict) || same == nil || same.Revision != task.Revision {
			t.Errorf("Retry of a task that is %s = %+v, %v", task.State, same, err)
		}
	}
	if _, err := client.Retry(t.Context(), pelton.NewID(time.Now(), 0)); !errors.Is(err, pelton.ErrNotFound) {
		t.Errorf("Retry of an unknown task = %v, want ErrNotFound", err)
	}
	client.Close()
	if _, err := client.Retry(t.Context(), pelton.NewID(time.Now(), 0)); !errors.Is(err, pelton.ErrClosed) {
		t.Errorf("Retry of a closed client = %v, want ErrClosed", err)
	}
}

// TestRetryTwice repeats a retry before the task has started: it still runs once.
func TestRetryTwice(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	client := open(t, nc)
	task := enqueue(t, client, "k")
	if _, err := client.Cancel(t.Context(), task.ID); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if again, err := client.Retry(t.Context(), task.ID); err != nil || again.State != pelton.Queued {
			t.Fatalf("Retry = %+v, %v", again, err)
		}
	}
	runs := make(chan struct{}, 10)
	mux := worker.NewMux()
	mux.Handle("k", handler(func(context.Context, *pelton.Task) (json.RawMessage, error) {
		runs <- struct{}{}
		return nil, nil
	}))
	serve(t, nc, mux, worker.Config{})
	wait(t, client, task.ID)
	b := below(t, nc)
	eventually(t, "the copies are gone", func() bool {
		idle, err := b.Idle(t.Context())
		return err == nil && idle
	})
	if len(runs) != 1 {
		t.Errorf("%d runs, want 1", len(runs))
	}
}

package producer_test

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
	"github.com/peltonq/pelton/worker"
)

func TestRun(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	client := open(t, nc)
	b := below(t, nc)
	mux := worker.NewMux()
	release := make(chan struct{})
	mux.Handle("k", handler(func(ctx context.Context, task *pelton.Task) (json.RawMessage, error) {
		if task.Attempt == 1 && len(task.Payload) > 0 {
			return nil, pelton.RetryAfter(time.Hour, errBoom)
		}
		select {
		case <-release:
		case <-ctx.Done():
		}
		return nil, nil
	}))
	serve(t, nc, mux, worker.Config{})

	// A delayed task.
	task := enqueue(t, client, "k", pelton.WithDelay(time.Hour))
	run, err := client.Run(t.Context(), task.ID)
	if err != nil || run.State != pelton.Queued || run.RunAt.After(time.Now()) {
		t.Fatalf("Run = %+v, %v", run, err)
	}
	eventually(t, "it runs", func() bool { return get(t, client, task.ID).State == pelton.Running })
	if run, err := client.Run(t.Context(), task.ID); !errors.Is(err, pelton.ErrConflict) || run.State != pelton.Running {
		t.Errorf("Run of a running task = %+v, %v, want ErrConflict", run, err)
	}
	close(release)
	if done := wait(t, client, task.ID); done.State != pelton.Succeeded || done.Attempt != 1 {
		t.Errorf("done = %+v", done)
	}
	if _, err := client.Run(t.Context(), task.ID); !errors.Is(err, pelton.ErrConflict) {
		t.Errorf("Run of a task that is over = %v, want ErrConflict", err)
	}
	eventually(t, "nothing is scheduled", func() bool { return scheduled(t, b) == 0 })

	// One that waits for its next attempt.
	failing, err := client.Enqueue(t.Context(), pelton.Spec{Kind: "k", Payload: []byte(`1`)})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is to be retried", func() bool { return get(t, client, failing.ID).State == pelton.Retrying })
	if run, err := client.Run(t.Context(), failing.ID); err != nil || run.State != pelton.Queued || run.Attempt != 1 {
		t.Errorf("Run of a retrying task = %+v, %v", run, err)
	}
	if done := wait(t, client, failing.ID); done.State != pelton.Succeeded || done.Attempt != 2 {
		t.Errorf("done = %+v", done)
	}
	if _, err := client.Run(t.Context(), pelton.NewID(time.Now(), 0)); !errors.Is(err, pelton.ErrNotFound) {
		t.Errorf("Run of an unknown task = %v, want ErrNotFound", err)
	}
}

// A task runs once, however often and from however many sides it is asked to, and a
// cancel wins if it says so.
func TestRunAndCancelAtOnce(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	client := open(t, nc)
	mux := worker.NewMux()
	var mu sync.Mutex
	runs := map[pelton.ID]int{}
	mux.Handle("k", handler(func(_ context.Context, task *pelton.Task) (json.RawMessage, error) {
		mu.Lock()
		defer mu.Unlock()
		runs[task.ID]++
		return nil, nil
	}))
	serve(t, nc, mux, worker.Config{})
	for i := range 20 {
		task := enqueue(t, client, "k", pelton.WithDelay(time.Hour))
		var calls sync.WaitGroup
		var cancelled bool
		for range 4 {
			calls.Go(func() {
				if _, err := client.Run(t.Context(), task.ID); err != nil && !errors.Is(err, pelton.ErrConflict) {
					t.Error(err)
				}
			})
		}
		if i%2 == 0 {
			calls.Go(func() {
				_, err := client.Cancel(t.Context(), task.ID)
				cancelled = err == nil
			})
		}
		calls.Wait()
		done := wait(t, client, task.ID)
		if want := pelton.Succeeded; cancelled && done.State != pelton.Cancelled || !cancelled && done.State != want {
			t.Errorf("task is %s, cancelled: %t", done.State, cancelled)
		}
		mu.Lock()
		if n := runs[task.ID]; n > 1 || done.State == pelton.Succeeded && n != 1 {
			t.Errorf("task ran %d times and is %s", n, done.State)
		}
		mu.Unlock()
	}
}

// What has expired meanwhile ends so, and does not run; a retention of a second does
// not begin before the end.
func TestDelayedTaskExpires(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	client := open(t, nc)
	mux := worker.NewMux()
	mux.Handle("k", handler(func(context.Context, *pelton.Task) (json.RawMessage, error) {
		t.Error("it ran")
		return nil, nil
	}))
	at := time.Now().Add(1500 * time.Millisecond)
	task := enqueue(t, client, "k", pelton.WithRunAt(at), pelton.WithExpiresAt(at.Add(100*time.Millisecond)), pelton.WithRetention(time.Second))
	eventually(t, "its time is over", func() bool { return time.Now().After(at.Add(300 * time.Millisecond)) })
	if now := get(t, client, task.ID); now.State != pelton.Queued { // without a worker nobody notices
		t.Errorf("it reads %s", now.State)
	}
	serve(t, nc, mux, worker.Config{})
	done := wait(t, client, task.ID)
	if done.State != pelton.Expired || done.Error == nil || done.Error.Reason != pelton.ReasonExpired {
		t.Errorf("done = %+v", done)
	}
	eventually(t, "its retention is over", func() bool {
		_, err := client.Get(t.Context(), task.ID)
		return errors.Is(err, pelton.ErrNotFound)
	})
}

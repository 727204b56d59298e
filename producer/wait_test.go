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

func TestWaitGivesTheTaskAsLastSeen(t *testing.T) {
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
	task := enqueue(t, client, "k", pelton.WithMaxAttempts(1))
	got, err := waitBriefly(t, client, task.ID, nil)
	if !errors.Is(err, context.DeadlineExceeded) || got.ID != task.ID || got.State != pelton.Queued {
		t.Errorf("Wait = %+v, %v", got, err)
	}
	serve(t, nc, mux, worker.Config{Grace: time.Millisecond})
	<-started
	eventually(t, "its record says that it runs", func() bool { return get(t, client, task.ID).State == pelton.Running })
	why := errors.New("enough")
	if got, err = waitBriefly(t, client, task.ID, why); !errors.Is(err, why) || got.State != pelton.Running {
		t.Errorf("Wait = %+v, %v", got, err)
	}
	if _, err := client.Wait(t.Context(), pelton.NewID(time.Now(), 0)); !errors.Is(err, pelton.ErrNotFound) {
		t.Errorf("Wait for an unknown task = %v, want ErrNotFound", err)
	}
}

// waitBriefly is a Wait whose ctx ends after its first read. When that is, nobody
// tells: a Wait that saw nothing of the task says so, and the next one has twice the
// time. The cause is that of a deadline, or why.
func waitBriefly(t *testing.T, client *producer.Client, id pelton.ID, why error) (*pelton.Task, error) {
	t.Helper()
	for brief := 20 * time.Millisecond; brief < patience; brief *= 2 {
		ctx, cancel := context.WithTimeoutCause(t.Context(), brief, why)
		task, err := client.Wait(ctx, id)
		cancel()
		if err == nil {
			t.Fatalf("Wait for a task that is not over = %+v", task)
		}
		if task != nil {
			return task, err
		}
	}
	t.Fatal("Wait never saw the task")
	panic("unreachable")
}

// TestWaitIsTold does not depend on reading again from time to time, which would be
// every two seconds. Each task ends after its waiter has begun to listen and to read.
func TestWaitIsTold(t *testing.T) {
	t.Parallel()
	srv := brokertest.StartServer(t)
	nc := brokertest.Connect(t, srv)
	client := open(t, nc)
	mux := worker.NewMux()
	release := make(chan struct{})
	mux.Handle("k", handler(func(context.Context, *pelton.Task) (json.RawMessage, error) { <-release; return nil, nil }))
	serve(t, brokertest.Connect(t, srv), mux, worker.Config{})
	began := time.Now()
	const n = 10
	for range n {
		task := enqueue(t, client, "k")
		eventually(t, "it runs", func() bool { return get(t, client, task.ID).State == pelton.Running })
		sent := nc.Stats().OutMsgs
		done := make(chan error, 1)
		go func() {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			_, err := client.Wait(ctx, task.ID)
			done <- err
		}()
		eventually(t, "the waiter listens and reads", func() bool {
			return nc.Stats().OutMsgs >= sent+2 // it reads before and after it subscribes
		})
		release <- struct{}{}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(began); took > n*time.Second {
		t.Errorf("%d tasks one after the other took %s", n, took)
	}
}

func TestAwait(t *testing.T) {
	t.Parallel()
	type sum struct{ Of, Is int }
	add := pelton.NewKind[[]int, sum]("add")
	quiet := pelton.NewKind[string, sum]("quiet")
	fails := pelton.NewKind[string, sum]("fails", pelton.WithMaxAttempts(1))
	never := pelton.NewKind[string, sum]("never")
	nc := brokertest.Start(t)
	client := open(t, nc)
	mux := worker.NewMux()
	worker.Handle(mux, add, func(_ context.Context, numbers []int) (sum, error) {
		s := sum{Of: len(numbers)}
		for _, n := range numbers {
			s.Is += n
		}
		return s, nil
	})
	worker.HandleFunc(mux, quiet, func(context.Context, string) error { return nil })
	worker.HandleFunc(mux, fails, func(context.Context, string) error { return errBoom })
	serve(t, nc, mux, worker.Config{})

	task, err := producer.Enqueue(t.Context(), client, add, []int{1, 2, 3})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := producer.Await(t.Context(), client, add, task.ID); err != nil || got != (sum{3, 6}) {
		t.Errorf("Await = %v, %v", got, err)
	}
	if _, err := producer.Await(t.Context(), client, quiet, task.ID); !errors.Is(err, pelton.ErrInvalid) {
		t.Errorf("Await of another kind = %v, want ErrInvalid", err)
	}
	if _, err := producer.Await(t.Context(), client, pelton.NewKind[int, string]("add"), task.ID); err == nil || errors.Is(err, pelton.ErrFailed) {
		t.Errorf("Await of another result type = %v", err)
	}
	if task, err = producer.Enqueue(t.Context(), client, quiet, "hush"); err != nil {
		t.Fatal(err)
	}
	if got, err := producer.Await(t.Context(), client, quiet, task.ID); err != nil || got != (sum{}) {
		t.Errorf("Await without a result = %v, %v", got, err)
	}

	if task, err = producer.Enqueue(t.Context(), client, fails, "oh"); err != nil {
		t.Fatal(err)
	}
	_, err = producer.Await(t.Context(), client, fails, task.ID)
	var failed *pelton.TaskError
	if !errors.Is(err, pelton.ErrFailed) || !errors.As(err, &failed) || failed.Failure == nil || failed.Failure.Message != "boom" || failed.ID != task.ID {
		t.Errorf("Await of a failed task = %v", err)
	}

	if task, err = producer.Enqueue(t.Context(), client, never, "later", pelton.WithDelay(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Cancel(t.Context(), task.ID); err != nil {
		t.Fatal(err)
	}
	if _, err = producer.Await(t.Context(), client, never, task.ID); !errors.Is(err, pelton.ErrCancelled) || errors.Is(err, pelton.ErrFailed) {
		t.Errorf("Await of a cancelled task = %v", err)
	}

	soon := time.Now().Add(30 * time.Millisecond)
	task, err = producer.Enqueue(t.Context(), client, add, nil, pelton.WithQueue("slow"), pelton.WithExpiresAt(soon))
	if err != nil {
		t.Fatal(err)
	}
	<-time.After(time.Until(soon))
	serve(t, nc, mux, worker.Config{Queues: []string{"slow"}})
	if _, err = producer.Await(t.Context(), client, add, task.ID); !errors.Is(err, pelton.ErrExpired) {
		t.Errorf("Await of an expired task = %v", err)
	}
}

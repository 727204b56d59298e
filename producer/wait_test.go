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
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	got, err := client.Wait(ctx, task.ID)
	if !errors.Is(err, context.DeadlineExceeded) || got == nil || got.ID != task.ID || got.State != pelton.Queued {
		t.Errorf("Wait = %+v, %v", got, err)
	}
	serve(t, nc, mux, worker.Config{Grace: time.Millisecond})
	<-started
	why := errors.New("enough")
	waiting, stop := context.WithCancelCause(t.Context())
	time.AfterFunc(20*time.Millisecond, func() { stop(why) })
	if got, err = client.Wait(waiting, task.ID); !errors.Is(err, why) || got == nil || got.State != pelton.Running {
		t.Errorf("Wait = %+v, %v", got, err)
	}
	if _, err := client.Wait(t.Context(), pelton.NewID(time.Now(), 0)); !errors.Is(err, pelton.ErrNotFound) {
		t.Errorf("Wait for an unknown task = %v, want ErrNotFound", err)
	}
}

// TestWaitIsTold does not depend on reading again from time to time.
func TestWaitIsTold(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	client := open(t, nc)
	mux := worker.NewMux()
	mux.Handle("k", handler(func(context.Context, *pelton.Task) (json.RawMessage, error) { return nil, nil }))
	serve(t, nc, mux, worker.Config{})
	wait(t, client, enqueue(t, client, "k").ID) // the lane is open
	began := time.Now()
	const n = 20
	for range n {
		wait(t, client, enqueue(t, client, "k").ID)
	}
	if took := time.Since(began); took > 2*time.Second {
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

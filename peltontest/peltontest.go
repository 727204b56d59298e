// Package peltontest helps to test code that uses Pelton: against a real broker in
// the memory of the test's process, or without any broker.
package peltontest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/admin"
	"github.com/peltonq/pelton/internal/brokertest"
	"github.com/peltonq/pelton/producer"
	"github.com/peltonq/pelton/worker"
)

// drainTimeout bounds Drain: handlers under test are quick.
const drainTimeout = 30 * time.Second

// Start gives a connection to a real broker that belongs to this test alone: it
// opens no port, keeps its data in t.TempDir(), and ends with the test.
func Start(t testing.TB) *nats.Conn {
	t.Helper()
	return brokertest.Start(t)
}

// Run runs one handler of mux, middleware included, without a broker, as the
// first attempt of a task with the given payload. The result passes through JSON
// on both ways, as it would in production. A panic of the handler is the test's.
// Locks are taken among the handlers of mux.
func Run[P, R any](t testing.TB, mux *worker.Mux, kind pelton.Kind[P, R], payload P, opts ...pelton.Option) (R, error) {
	t.Helper()
	var result R
	raw, err := json.Marshal(payload)
	if err != nil {
		t.Fatalf("peltontest.Run: encode payload of %s: %v", kind.Name(), err)
	}
	spec := kind.Spec(opts...)
	spec.Payload = raw
	now := time.Now()
	if spec, err = spec.Normalized(now); err != nil {
		return result, err
	}
	task := &pelton.Task{
		ID: pelton.NewID(now, 0), Kind: spec.Kind, Queue: spec.Queue, Priority: spec.Priority, State: pelton.Running,
		Payload: spec.Payload, Attempt: 1, MaxAttempts: spec.MaxAttempts, Timeout: spec.Timeout, Retention: spec.Retention,
		CreatedAt: now.UTC(), StartedAt: now.UTC(), Labels: spec.Labels,
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), spec.Timeout, pelton.ErrTimeout)
	defer cancel()
	value, err := mux.ServeTask(worker.WithTask(ctx, task), task)
	if err != nil {
		return result, err
	}
	if len(value) > pelton.MaxPayload {
		return result, fmt.Errorf("result of %d bytes is larger than %d", len(value), pelton.MaxPayload)
	}
	if len(value) == 0 {
		return result, nil
	}
	if err := json.Unmarshal(value, &result); err != nil {
		return result, fmt.Errorf("decode result of %s: %w", kind.Name(), err)
	}
	return result, nil
}

// RequireEnqueued gives the oldest task of the kind that waits or runs, and fails
// the test when there is none.
func RequireEnqueued[P, R any](t testing.TB, client *producer.Client, kind pelton.Kind[P, R]) *pelton.Task {
	t.Helper()
	tasks, err := client.Unfinished(t.Context(), kind.Name())
	if err != nil {
		t.Fatalf("peltontest.RequireEnqueued: %v", err)
	}
	if len(tasks) == 0 {
		t.Fatalf("peltontest.RequireEnqueued: no task of kind %s waits or runs", kind.Name())
	}
	return tasks[0]
}

// Drain works off everything that is ready in all queues, with the handlers of
// mux, and what those enqueue in turn. Tasks that wait for their time, retries
// among them, are left. It fails the test when that takes longer than 30 s.
func Drain(t testing.TB, nc *nats.Conn, mux *worker.Mux) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), drainTimeout)
	defer cancel()
	client, err := admin.New(ctx, nc, admin.Config{})
	if err != nil {
		t.Fatalf("peltontest.Drain: %v", err)
	}
	defer client.Close()
	for {
		idle, err := client.Idle(ctx)
		if err != nil {
			t.Fatalf("peltontest.Drain: %v", err)
		}
		if idle {
			return
		}
		if err := drainOnce(ctx, nc, client, mux); err != nil {
			t.Fatalf("peltontest.Drain: %v", err)
		}
	}
}

// drainOnce runs a worker on all queues until nothing is ready or there is a queue
// that it does not serve.
func drainOnce(ctx context.Context, nc *nats.Conn, client *admin.Client, mux *worker.Mux) error {
	queues, err := queueNames(ctx, client)
	if err != nil {
		return err
	}
	w, err := worker.New(nc, mux, worker.Config{Queues: queues})
	if err != nil {
		return err
	}
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- w.Run(running) }()
	err = untilIdle(ctx, client, queues)
	stop()
	return errors.Join(err, <-ended)
}

func untilIdle(ctx context.Context, client *admin.Client, served []string) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		idle, err := client.Idle(ctx)
		if err != nil || idle {
			return err
		}
		queues, err := queueNames(ctx, client)
		if err != nil || !slices.Equal(queues, served) {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("still busy: %w", context.Cause(ctx))
		}
	}
}

func queueNames(ctx context.Context, client *admin.Client) ([]string, error) {
	queues, err := client.Queues(ctx)
	names := make([]string, len(queues))
	for i, q := range queues {
		names[i] = q.Name
	}
	return names, err
}

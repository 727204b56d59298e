package worker_test

import (
	"context"
	"encoding/json"
	"errors"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
	"github.com/peltonq/pelton/internal/brokertest"
	"github.com/peltonq/pelton/producer"
	"github.com/peltonq/pelton/worker"
)

// inLine is a rig with a line of tasks of one key, which waits for its worker. Their kinds are
// given in the order of the line.
func (r *rig) inLine(t *testing.T, kinds ...string) []pelton.ID {
	t.Helper()
	var ids []pelton.ID
	for _, kind := range kinds {
		ids = append(ids, r.enqueue(t, kind, pelton.WithConcurrencyKey("k"), pelton.WithBackoff(pelton.Backoff{Initial: 10 * time.Millisecond, Max: 10 * time.Millisecond, Factor: 1})).ID)
	}
	return ids
}

// A line of short tasks is run by few messages, in order and one at a time, and each task has a
// record as any other.
func TestRelayRunsALine(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	log := newLineLog()
	r.on("a", func(_ context.Context, task *pelton.Task) (json.RawMessage, error) {
		defer log.enter(task)()
		return json.RawMessage(`"done"`), nil
	})
	const n = 200
	ids := r.enqueueMany(t, n, "a", pelton.WithConcurrencyKey("k"))
	before := r.lastTask(t)
	r.run(t, worker.Config{Concurrency: 8})
	r.succeeds(t, ids...)
	if peak := log.peak("k"); peak != 1 {
		t.Errorf("%d tasks ran at a time", peak)
	}
	if diff := cmp.Diff(ids, log.of("k")); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
	r.idle(t)
	r.noTurns(t)
	if messages := r.lastTask(t) - before; messages > n/2 {
		t.Errorf("%d messages for %d tasks", messages, n)
	}
	for _, id := range ids {
		if task := r.get(t, id); task.Attempt != 1 || task.Crashes != 0 || string(task.Result) != `"done"` || task.StartedAt.IsZero() || task.Worker == "" {
			t.Fatalf("task of a relay: %+v", task)
		}
	}
}

// Whatever becomes of one of its tasks, those behind it run after it is over, in order.
func TestRelayMeetsEverything(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var mu sync.Mutex
	var order []string
	kinds := map[string]func(ctx context.Context, attempt int) error{
		"ok":    func(context.Context, int) error { return nil },
		"fails": func(context.Context, int) error { return pelton.Discard(errors.New("no")) },
		"panic": func(_ context.Context, attempt int) error {
			if attempt == 1 {
				panic("once")
			}
			return nil
		},
		"retry": func(_ context.Context, attempt int) error {
			if attempt == 1 {
				return errors.New("once")
			}
			return nil
		},
		"goexit": func(_ context.Context, attempt int) error {
			if attempt == 1 {
				runtime.Goexit()
			}
			return nil
		},
		"long": func(ctx context.Context, _ int) error { // older than what has no running record
			timer := time.NewTimer(150 * time.Millisecond)
			defer timer.Stop()
			select {
			case <-timer.C:
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		},
	}
	running := newGauge()
	for kind, fn := range kinds {
		r.on(kind, func(ctx context.Context, task *pelton.Task) (json.RawMessage, error) {
			defer running.enter("any")()
			mu.Lock()
			order = append(order, task.Kind)
			mu.Unlock()
			return nil, fn(ctx, task.Attempt)
		})
	}
	line := []string{"ok", "ok", "fails", "ok", "retry", "ok", "ok", "panic", "ok", "ok", "long", "ok", "goexit", "ok", "ok", "fails", "ok"}
	ids := r.inLine(t, line...)
	r.run(t, worker.Config{Concurrency: 4})
	var want []string
	for i, id := range ids {
		state := pelton.Succeeded
		if line[i] == "fails" {
			state = pelton.Failed
		}
		if task := r.finished(t, id); task.State != state {
			t.Errorf("%s is %s: %+v", line[i], task.State, task.Error)
		}
		want = append(want, line[i])
		if slices.Contains([]string{"retry", "panic", "goexit"}, line[i]) {
			want = append(want, line[i])
		}
	}
	if diff := cmp.Diff(want, order); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
	if peak := running.peak("any"); peak != 1 {
		t.Errorf("%d tasks ran at a time", peak)
	}
	r.idle(t)
	r.noTurns(t)
}

// What was cancelled while it waited does not start in a relay, and what was cancelled while it
// runs there ends.
func TestRelayOfCancelledTasks(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	log, ended, started := newLineLog(), make(chan error, 1), make(chan struct{}, 1)
	r.on("a", func(_ context.Context, task *pelton.Task) (json.RawMessage, error) {
		defer log.enter(task)()
		return nil, nil
	})
	r.on("waits", func(ctx context.Context, task *pelton.Task) (json.RawMessage, error) {
		defer log.enter(task)()
		started <- struct{}{}
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return nil, context.Cause(ctx)
	})
	ids := r.inLine(t, "a", "a", "a", "a", "waits", "a")
	for _, i := range []int{1, 3} {
		if _, err := r.client.Cancel(t.Context(), ids[i]); err != nil {
			t.Fatal(err)
		}
	}
	r.run(t, worker.Config{Concurrency: 4})
	receive(t, started, "start of the one that waits")
	if _, err := r.client.Cancel(t.Context(), ids[4]); err != nil { // it is younger than what has a running record
		t.Fatal(err)
	}
	if err := receive(t, ended, "end of the one that waits"); !errors.Is(err, pelton.ErrCancelled) {
		t.Errorf("its ctx ended with %v", err)
	}
	r.succeeds(t, ids[0], ids[2], ids[5])
	if diff := cmp.Diff([]pelton.ID{ids[0], ids[2], ids[4], ids[5]}, log.of("k")); diff != "" {
		t.Errorf("what started (-want +got):\n%s", diff)
	}
	for _, i := range []int{1, 3, 4} {
		if task := r.get(t, ids[i]); task.State != pelton.Cancelled {
			t.Errorf("task %d is %s", i, task.State)
		}
	}
	r.idle(t)
	r.noTurns(t)
}

// runningBy writes that a worker runs the task by a message.
func runningBy(t *testing.T, b *broker.Broker, id pelton.ID, owner string, message uint64) *broker.Record {
	t.Helper()
	r, err := b.LoadRecord(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	r.State, r.Owner, r.Carrier, r.InLine, r.StartedAt = pelton.Running, owner, message, false, time.Now().UTC()
	if err := b.SaveRecord(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	return r
}

// Who takes a relay over goes on with what runs, though a task before that was requeued meanwhile.
func TestTakenOverRelayPassesWhatWasRequeued(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	log := newLineLog()
	r.on("a", func(_ context.Context, task *pelton.Task) (json.RawMessage, error) {
		defer log.enter(task)()
		return nil, nil
	})
	ids := r.inLine(t, "a", "a", "a", "a")
	b := r.broker(t)
	first, err := b.LoadRecord(t.Context(), ids[0])
	if err != nil {
		t.Fatal(err)
	}
	if called, err := b.Called(t.Context(), first); err != nil || !called {
		t.Fatalf("called = %v, %v", called, err)
	}
	message := r.lastTask(t)
	succeeds := func(id pelton.ID) *broker.Record {
		t.Helper()
		record := runningBy(t, b, id, "gone", message)
		record.State, record.FinishedAt = pelton.Succeeded, time.Now().UTC()
		if err := b.SaveRecord(t.Context(), record); err != nil {
			t.Fatal(err)
		}
		return record
	}
	head := succeeds(ids[0])
	relay := broker.NewRelay(head, message, "gone", func(*broker.Envelope) bool { return true })
	if err := b.PassOn(t.Context(), head, relay, 2); err != nil || len(relay.Tasks) != 2 {
		t.Fatalf("relay of %v, %v", relay.Tasks, err)
	}
	succeeds(ids[1])
	if _, err := r.client.Retry(t.Context(), ids[1]); err != nil {
		t.Fatal(err)
	}
	runningBy(t, b, ids[2], "gone", message) // and dies
	r.run(t, worker.Config{Concurrency: 4})
	r.succeeds(t, ids...)
	if task := r.get(t, ids[2]); task.Crashes != 1 {
		t.Errorf("%d crashes, want that of its first worker", task.Crashes)
	}
	if diff := cmp.Diff([]pelton.ID{ids[2], ids[3], ids[1]}, log.of("k")); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
	r.idle(t)
	r.noTurns(t)
}

// Who waits behind a long task of a relay is run by another turn, if its line has more than one.
func TestNobodyWaitsBehindALongTask(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	log, slow, release := newLineLog(), make(chan pelton.ID, 1), make(chan struct{})
	r.on("a", func(_ context.Context, task *pelton.Task) (json.RawMessage, error) {
		defer log.enter(task)()
		return nil, nil
	})
	r.on("slow", func(ctx context.Context, task *pelton.Task) (json.RawMessage, error) {
		defer log.enter(task)()
		slow <- task.ID
		select {
		case <-release:
		case <-ctx.Done():
		}
		return nil, nil
	})
	r.limit(t, pelton.Limit{Name: "k", ConcurrencyKey: "k", MaxRunning: 2})
	kinds := slices.Repeat([]string{"a"}, 100)
	kinds[7] = "slow"
	ids := r.inLine(t, kinds...)
	r.run(t, worker.Config{Concurrency: 4})
	receive(t, slow, "start of the long one")
	r.succeeds(t, slices.Delete(slices.Clone(ids), 7, 8)...)
	close(release)
	r.succeeds(t, ids[7])
	if peak := log.peak("k"); peak > 2 {
		t.Errorf("%d tasks ran at a time", peak)
	}
	r.idle(t)
	r.noTurns(t)
}

// A worker that stops in the middle of a relay leaves the line to the others, in order.
func TestRelayEndsWithItsWorker(t *testing.T) {
	t.Parallel()
	srv := brokertest.StartServer(t)
	r := rigOn(t, brokertest.Connect(t, srv), producer.Config{Lease: 20 * time.Second})
	log := newLineLog()
	var first *process
	var once sync.Once
	ready := make(chan struct{})
	r.on("a", func(_ context.Context, task *pelton.Task) (json.RawMessage, error) {
		defer log.enter(task)()
		<-ready
		if len(log.of("k")) > 20 {
			once.Do(first.cancel)
		}
		return nil, nil
	})
	ids := r.enqueueMany(t, 200, "a", pelton.WithConcurrencyKey("k"))
	first = r.run(t, worker.Config{Concurrency: 4})
	close(ready)
	if err := first.wait(t); err != nil {
		t.Errorf("Run = %v", err)
	}
	began := time.Now()
	r.run(t, worker.Config{Concurrency: 4})
	r.succeeds(t, ids...)
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the others needed %s: somebody waited for a lease", took)
	}
	if diff := cmp.Diff(ids, log.of("k")); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
	r.idle(t)
	r.noTurns(t)
}

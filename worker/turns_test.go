package worker_test

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/worker"
)

// However a task ends, its turn goes to the next; as long as it has not ended, it
// keeps it.
func TestTurnIsGivenBackAtTheEnd(t *testing.T) {
	t.Parallel()
	type handler = func(ctx context.Context, task *pelton.Task) (json.RawMessage, error)
	fail := func(err error) handler {
		return func(context.Context, *pelton.Task) (json.RawMessage, error) { return nil, err }
	}
	onceThen := func(err error) handler { // a first run that ends with err, and then success
		var mu sync.Mutex
		ran := false
		return func(context.Context, *pelton.Task) (json.RawMessage, error) {
			mu.Lock()
			defer mu.Unlock()
			if ran {
				return nil, nil
			}
			ran = true
			return nil, err
		}
	}
	for name, tc := range map[string]struct {
		first handler
		opts  []pelton.Option
		want  pelton.State
	}{
		"success":        {fail(nil), nil, pelton.Succeeded},
		"discard":        {fail(pelton.Discard(errors.New("no"))), nil, pelton.Failed},
		"last attempt":   {fail(errors.New("no")), []pelton.Option{pelton.WithMaxAttempts(1)}, pelton.Failed},
		"bad result":     {func(context.Context, *pelton.Task) (json.RawMessage, error) { return json.RawMessage("{"), nil }, nil, pelton.Failed},
		"panic":          {func(context.Context, *pelton.Task) (json.RawMessage, error) { panic("no") }, []pelton.Option{pelton.WithMaxAttempts(1)}, pelton.Failed},
		"retry":          {onceThen(pelton.RetryAfter(50*time.Millisecond, errors.New("again"))), nil, pelton.Succeeded},
		"snooze":         {onceThen(pelton.Snooze(50 * time.Millisecond)), nil, pelton.Succeeded},
		"retry, then no": {fail(pelton.RetryAfter(10*time.Millisecond, errors.New("no"))), []pelton.Option{pelton.WithMaxAttempts(3)}, pelton.Failed},
		"expiry":         {fail(nil), nil, pelton.Expired},
		"own timeout": {func(ctx context.Context, _ *pelton.Task) (json.RawMessage, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}, []pelton.Option{pelton.WithTimeout(50 * time.Millisecond), pelton.WithMaxAttempts(1)}, pelton.Failed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			log := newLineLog()
			r.on("first", func(ctx context.Context, task *pelton.Task) (json.RawMessage, error) {
				defer log.enter(task)()
				return tc.first(ctx, task)
			})
			r.on("second", func(_ context.Context, task *pelton.Task) (json.RawMessage, error) {
				defer log.enter(task)()
				return nil, nil
			})
			opts := append([]pelton.Option{pelton.WithConcurrencyKey("k")}, tc.opts...)
			if tc.want == pelton.Expired {
				opts = append(opts, pelton.WithExpiresAt(time.Now().Add(300*time.Millisecond)))
			}
			first := r.enqueue(t, "first", opts...)
			if first.ConcurrencyKey != "k" || first.State != pelton.Queued {
				t.Errorf("task is %+v", first)
			}
			second := r.enqueue(t, "second", pelton.WithConcurrencyKey("k"))
			if tc.want == pelton.Expired {
				<-time.After(time.Until(first.ExpiresAt))
			}
			r.run(t, worker.Config{})
			ended := r.finished(t, first.ID)
			if ended.State != tc.want {
				t.Errorf("first ended %s: %+v", ended.State, ended.Error)
			}
			r.succeeds(t, second.ID)
			if after := r.get(t, second.ID); after.StartedAt.Before(ended.FinishedAt) {
				t.Errorf("second started at %s, before the first ended at %s", after.StartedAt, ended.FinishedAt)
			}
			if log.peak("k") > 1 {
				t.Error("both ran at a time")
			}
			r.idle(t)
			r.noTurns(t)
		})
	}
}

// A cancelled task leaves its line wherever it stands, and its handler has the turn
// until it has returned.
func TestCancelInALine(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	log := newLineLog()
	started, release := make(chan struct{}, 1), make(chan struct{})
	r.on("stubborn", func(ctx context.Context, task *pelton.Task) (json.RawMessage, error) {
		defer log.enter(task)()
		started <- struct{}{}
		<-ctx.Done()
		<-release
		return nil, nil
	})
	r.on("a", func(_ context.Context, task *pelton.Task) (json.RawMessage, error) {
		defer log.enter(task)()
		return nil, nil
	})
	cancel := func(id pelton.ID) {
		t.Helper()
		if task, err := r.client.Cancel(t.Context(), id); err != nil || task.State != pelton.Cancelled {
			t.Errorf("cancel = %+v, %v", task, err)
		}
	}
	w := r.run(t, worker.Config{})
	running := r.enqueue(t, "stubborn", pelton.WithConcurrencyKey("k")).ID
	receive(t, started, "start")
	waiting := r.enqueue(t, "a", pelton.WithConcurrencyKey("k")).ID
	delayed := r.enqueue(t, "a", pelton.WithConcurrencyKey("k"), pelton.WithDelay(time.Hour)).ID
	last := r.enqueue(t, "a", pelton.WithConcurrencyKey("k")).ID
	cancel(waiting)
	cancel(delayed)
	cancel(running)
	cancel(running) // which must not take the turn of a handler that runs
	if task := r.get(t, last); task.State != pelton.Queued {
		t.Errorf("the next is %s while the cancelled handler runs", task.State)
	}
	close(release)
	r.succeeds(t, last)
	if log.peak("k") != 1 {
		t.Error("two ran at a time")
	}
	if diff := cmp.Diff([]pelton.ID{running, last}, log.of("k")); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
	r.idle(t)
	r.noTurns(t)
	if err := w.stop(t); err != nil {
		t.Errorf("Run = %v", err)
	}

	// Called, and not started: no worker is there.
	first, second := r.enqueue(t, "a", pelton.WithConcurrencyKey("l")).ID, r.enqueue(t, "a", pelton.WithConcurrencyKey("l")).ID
	b := r.broker(t)
	record, err := b.LoadRecord(t.Context(), first)
	if err != nil {
		t.Fatal(err)
	}
	if called, err := b.Called(t.Context(), record); err != nil || !called {
		t.Fatalf("called = %t, %v", called, err)
	}
	cancel(first)
	record, err = b.LoadRecord(t.Context(), second)
	if err != nil {
		t.Fatal(err)
	}
	if called, err := b.Called(t.Context(), record); err != nil || !called {
		t.Errorf("the next was called = %t, %v, want so by the cancel", called, err)
	}
	r.run(t, worker.Config{})
	r.succeeds(t, second)
	r.idle(t)
	r.noTurns(t)
}

// A cancelled task that waits for its next attempt gives its turn back at once.
func TestCancelBetweenAttempts(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.on("flaky", func(context.Context, *pelton.Task) (json.RawMessage, error) {
		return nil, pelton.RetryAfter(time.Hour, errors.New("no"))
	})
	r.on("a", func(context.Context, *pelton.Task) (json.RawMessage, error) { return nil, nil })
	r.run(t, worker.Config{})
	flaky, next := r.enqueue(t, "flaky", pelton.WithConcurrencyKey("k")).ID, r.enqueue(t, "a", pelton.WithConcurrencyKey("k")).ID
	eventually(t, "the first waits for its next attempt", func() bool { return r.get(t, flaky).State == pelton.Retrying })
	if task := r.get(t, next); task.State != pelton.Queued || task.Attempt != 0 {
		t.Errorf("the next is %s while the first has its turn", task.State)
	}
	if _, err := r.client.Cancel(t.Context(), flaky); err != nil {
		t.Error(err)
	}
	r.succeeds(t, next)
	r.noTurns(t)
}

// A task that is retried after its end goes to the end of the line.
func TestRetryGoesToTheEndOfTheLine(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	log := newLineLog()
	started, release := make(chan struct{}), make(chan struct{})
	r.on("doomed", func(_ context.Context, task *pelton.Task) (json.RawMessage, error) {
		if len(task.Errors) > 0 {
			defer log.enter(task)()
			return nil, nil
		}
		return nil, pelton.Discard(errors.New("no"))
	})
	r.on("block", func(context.Context, *pelton.Task) (json.RawMessage, error) {
		close(started)
		<-release
		return nil, nil
	})
	r.on("a", func(_ context.Context, task *pelton.Task) (json.RawMessage, error) {
		defer log.enter(task)()
		return nil, nil
	})
	r.run(t, worker.Config{})
	key := pelton.WithConcurrencyKey("k")
	doomed := r.enqueue(t, "doomed", key).ID
	r.finished(t, doomed)
	r.enqueue(t, "block", key)
	receive(t, started, "start")
	before := r.enqueue(t, "a", key).ID
	if task, err := r.client.Retry(t.Context(), doomed); err != nil || task.State != pelton.Queued || task.ConcurrencyKey != "k" {
		t.Errorf("retry = %+v, %v", task, err)
	}
	if _, err := r.client.Retry(t.Context(), doomed); err != nil { // repeated: another place, which is void
		t.Error(err)
	}
	after := r.enqueue(t, "a", key).ID
	close(release)
	r.succeeds(t, before, doomed, after)
	if diff := cmp.Diff([]pelton.ID{before, doomed, after}, log.of("k")); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
	r.idle(t)
	r.noTurns(t)
}

// A delayed task takes its place when its time comes.
func TestDelayedTaskTakesItsPlaceLater(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	log := newLineLog()
	r.on("a", func(_ context.Context, task *pelton.Task) (json.RawMessage, error) {
		defer log.enter(task)()
		return nil, nil
	})
	r.run(t, worker.Config{})
	key := pelton.WithConcurrencyKey("k")
	delayed := r.enqueue(t, "a", key, pelton.WithDelay(3*time.Second))
	if delayed.State != pelton.Scheduled {
		t.Errorf("delayed task is %s", delayed.State)
	}
	now := r.enqueue(t, "a", key)
	r.succeeds(t, now.ID, delayed.ID)
	if diff := cmp.Diff([]pelton.ID{now.ID, delayed.ID}, log.of("k")); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
	if task := r.get(t, delayed.ID); task.StartedAt.Before(task.RunAt) {
		t.Errorf("started at %s, due at %s", task.StartedAt, task.RunAt)
	}
}

// A worker that shuts down gives its task back with its turn: another worker goes
// on, and nobody overtakes.
func TestTurnOutlivesAShutdown(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	log := newLineLog()
	started := make(chan struct{}, 2)
	block := worker.NewMux()
	block.Handle("a", worker.HandlerFunc(func(ctx context.Context, task *pelton.Task) (json.RawMessage, error) {
		defer log.enter(task)()
		started <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	}))
	w := runOn(t, r.nc, block, worker.Config{Grace: 10 * time.Millisecond})
	key := pelton.WithConcurrencyKey("k")
	ids := r.enqueueMany(t, 3, "a", key)
	receive(t, started, "start")
	if err := w.stop(t); !errors.Is(err, pelton.ErrGraceExceeded) {
		t.Errorf("Run = %v", err)
	}
	if task := r.get(t, ids[0]); task.State != pelton.Queued || task.Attempt != 0 {
		t.Errorf("released task is %+v", task)
	}
	r.on("a", func(_ context.Context, task *pelton.Task) (json.RawMessage, error) {
		defer log.enter(task)()
		return nil, nil
	})
	r.run(t, worker.Config{})
	r.succeeds(t, ids...)
	if diff := cmp.Diff(ids, log.of("k")); diff != "" || log.peak("k") != 1 {
		t.Errorf("%d at a time, order (-want +got):\n%s", log.peak("k"), diff)
	}
}

// A task of a kind that no worker knows yet keeps its turn, so that order holds.
func TestUnknownKindKeepsItsTurn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	log := newLineLog()
	handle := worker.HandlerFunc(func(_ context.Context, task *pelton.Task) (json.RawMessage, error) {
		defer log.enter(task)()
		return nil, nil
	})
	old, fresh := worker.NewMux(), worker.NewMux()
	old.Handle("old", handle)
	fresh.Handle("old", handle)
	fresh.Handle("new", handle)
	w := runOn(t, r.nc, old, worker.Config{})
	key := pelton.WithConcurrencyKey("k")
	first, second := r.enqueue(t, "new", key).ID, r.enqueue(t, "old", key).ID
	eventually(t, "the first is put off", func() bool { return r.get(t, first).Revision > 1 })
	if task := r.get(t, second); task.State != pelton.Queued {
		t.Errorf("the second is %s", task.State)
	}
	if err := w.stop(t); err != nil {
		t.Error(err)
	}
	runOn(t, r.nc, fresh, worker.Config{})
	r.succeeds(t, first, second)
	if diff := cmp.Diff([]pelton.ID{first, second}, log.of("k")); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
	r.noTurns(t)
}

// A task that another one with its unique key replaces gives its turn back, in
// whatever place it stands.
func TestReplacedTaskLeavesItsLine(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.on("a", func(context.Context, *pelton.Task) (json.RawMessage, error) { return nil, nil })
	key := pelton.WithConcurrencyKey("k")
	replace := pelton.WithUnique(pelton.Unique{Key: "u", OnConflict: pelton.ConflictReplace})
	first := r.enqueue(t, "a", key, replace).ID
	b := r.broker(t)
	record, err := b.LoadRecord(t.Context(), first)
	if err != nil {
		t.Fatal(err)
	}
	if called, err := b.Called(t.Context(), record); err != nil || !called {
		t.Fatalf("called = %t, %v", called, err)
	}
	second := r.enqueue(t, "a", key, replace, pelton.WithDelay(time.Hour)).ID
	third := r.enqueue(t, "a", key, replace).ID
	r.run(t, worker.Config{})
	r.succeeds(t, third)
	for _, id := range []pelton.ID{first, second} {
		if task := r.get(t, id); task.State != pelton.Cancelled {
			t.Errorf("replaced task is %s", task.State)
		}
	}
	r.idle(t)
	r.noTurns(t)
}

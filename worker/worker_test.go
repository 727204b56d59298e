package worker_test

import (
	"context"
	"encoding/json"
	"errors"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/producer"
	"github.com/peltonq/pelton/worker"
)

func TestTaskSucceeds(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	seen := make(chan *pelton.Task, 1)
	fences := make(chan uint64, 1)
	const raw = `{"html": "<b>&amp;</b>",  "n": 1.0}`
	r.on("echo", func(ctx context.Context, task *pelton.Task) (json.RawMessage, error) {
		seen <- worker.From(ctx)
		fences <- worker.Fence(ctx)
		return task.Payload, nil
	})
	w := r.run(t, worker.Config{})
	before := time.Now().Add(-time.Second)
	enqueued, err := r.client.Enqueue(t.Context(), pelton.Spec{
		Kind: "echo", Payload: json.RawMessage(raw), Priority: pelton.High, Labels: map[string]string{"tenant": "acme"},
	})
	if err != nil {
		t.Fatal(err)
	}
	task := r.finished(t, enqueued.ID)
	if string(task.Result) != raw || task.State != pelton.Succeeded || task.Attempt != 1 || task.Worker != w.ID() || task.Error != nil {
		t.Errorf("task = %+v", task)
	}
	if task.StartedAt.Before(before) || task.FinishedAt.Before(task.StartedAt.Truncate(time.Millisecond)) {
		t.Errorf("started %s, finished %s", task.StartedAt, task.FinishedAt)
	}
	got := receive(t, seen, "task of the handler's ctx")
	if got.ID != enqueued.ID || got.State != pelton.Running || got.Attempt != 1 || got.Labels["tenant"] != "acme" {
		t.Errorf("From = %+v", got)
	}
	if fence := receive(t, fences, "fence"); fence <= enqueued.Revision || fence >= task.Revision {
		t.Errorf("fence %d is not between revisions %d and %d", fence, enqueued.Revision, task.Revision)
	}
	r.idle(t)
}

// TestWritesPerTask pins the cost of a task: what the broker stores is the price.
func TestWritesPerTask(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var calls atomic.Int32
	r.on("ok", func(context.Context, *pelton.Task) (json.RawMessage, error) { return nil, nil })
	r.on("once", func(_ context.Context, task *pelton.Task) (json.RawMessage, error) {
		if calls.Add(1); task.Attempt == 1 {
			return nil, pelton.RetryAfter(0, errors.New("again"))
		}
		return nil, nil
	})
	r.run(t, worker.Config{})
	js, err := jetstream.New(r.nc)
	if err != nil {
		t.Fatal(err)
	}
	written := func(stream string) uint64 {
		s, err := js.Stream(t.Context(), stream)
		if err != nil {
			t.Fatal(err)
		}
		return s.CachedInfo().State.LastSeq
	}
	const n = 10
	r.succeeds(t, r.enqueueMany(t, n, "ok")...)
	recorded := written("KV_pelton_STATE_0")
	if recorded == 0 || recorded > n { // succeeded, some of them together
		t.Errorf("%d record writes for %d tasks", recorded, n)
	}
	if got := written("pelton_TASKS_0"); got != n {
		t.Errorf("%d task messages for %d tasks", got, n)
	}
	r.succeeds(t, r.enqueue(t, "once").ID)
	if got := written("KV_pelton_STATE_0") - recorded; got != 4 { // the seal of its segment, retrying, running, succeeded
		t.Errorf("%d record writes for a retried task", got)
	}
	if got := written("pelton_TASKS_0"); got != n+3 { // the task, its schedule, and what that fired
		t.Errorf("%d task messages for a retried task", got-n)
	}
	for _, stream := range []string{"pelton_DEAD", "pelton_KEYED_0", "KV_pelton_KEYS_0", "pelton_DUE_0"} {
		if got := written(stream); got != 0 {
			t.Errorf("%d messages in %s", got, stream)
		}
	}
}

func TestRetryThenSuccess(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	attempts := make(chan int, 10)
	r.on("flaky", func(_ context.Context, task *pelton.Task) (json.RawMessage, error) {
		attempts <- task.Attempt
		if task.Attempt < 3 {
			return nil, pelton.RetryAfter(20*time.Millisecond, errors.New("not yet"))
		}
		return json.RawMessage(`"at last"`), nil
	})
	r.run(t, worker.Config{})
	task := r.finished(t, r.enqueue(t, "flaky").ID)
	if task.State != pelton.Succeeded || task.Attempt != 3 || string(task.Result) != `"at last"` || task.Crashes != 0 {
		t.Errorf("task = %+v", task)
	}
	if len(task.Errors) != 2 || task.Errors[1].Attempt != 2 || task.Errors[1].Message != "not yet" || task.Errors[1].Reason != pelton.ReasonError {
		t.Errorf("errors = %+v", task.Errors)
	}
	for want := 1; want <= 3; want++ {
		if got := receive(t, attempts, "attempt"); got != want {
			t.Errorf("attempt %d, want %d", got, want)
		}
	}
}

// A task's own backoff counts, then its kind's.
func TestBackoffOfTaskAndKind(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	slow := pelton.NewKind[struct{}, struct{}]("down", pelton.WithBackoff(pelton.Backoff{Initial: 10 * time.Hour, Max: 10 * time.Hour}))
	worker.HandleFunc(r.Mux, slow, func(context.Context, struct{}) error { return errors.New("no route") })
	r.run(t, worker.Config{})
	for want, opts := range map[time.Duration][]pelton.Option{
		10 * time.Hour: nil,
		time.Minute:    {pelton.WithBackoff(pelton.Backoff{Initial: time.Minute})},
	} {
		task, err := producer.Enqueue(t.Context(), r.client, slow, struct{}{}, opts...)
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "it waits for its next attempt", func() bool { return r.get(t, task.ID).State == pelton.Retrying })
		task = r.get(t, task.ID)
		delay := task.RunAt.Sub(task.Errors[0].At)
		if delay < want*3/4-time.Second || delay > want*5/4+time.Second {
			t.Errorf("the next attempt comes after %s, want %s within a quarter", delay, want)
		}
	}
}

func TestErrorIsRetriedBySchedule(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.on("down", func(context.Context, *pelton.Task) (json.RawMessage, error) { return nil, errors.New("no route") })
	worker.HandleFunc(r.Mux, pelton.NewKind[struct{ N int }, struct{}]("typed"), func(context.Context, struct{ N int }) error { return nil })
	w := r.run(t, worker.Config{})
	for _, tc := range []struct {
		kind   string
		reason pelton.Reason
	}{{"down", pelton.ReasonError}, {"typed", pelton.ReasonPayload}} {
		task, err := r.client.Enqueue(t.Context(), pelton.Spec{Kind: tc.kind, Payload: json.RawMessage(`{"N":"a string"}`)})
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "the task is retrying", func() bool {
			task = r.get(t, task.ID)
			return task.State == pelton.Retrying
		})
		if task.Attempt != 1 || task.Error == nil || task.Error.Reason != tc.reason {
			t.Errorf("%s: task = %+v, error %+v", tc.kind, task, task.Error)
		}
		if in := task.RunAt.Sub(task.Error.At); in < 740*time.Millisecond || in > 1260*time.Millisecond {
			t.Errorf("%s: next attempt in %s, want 1 s ± 25 %%", tc.kind, in)
		}
	}
	if err := w.stop(t); err != nil {
		t.Error(err)
	}
}

func TestFailures(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	wait := func(ctx context.Context) error {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	r.on("error", func(context.Context, *pelton.Task) (json.RawMessage, error) {
		return nil, pelton.RetryAfter(0, errors.New("no luck"))
	})
	r.on("discard", func(context.Context, *pelton.Task) (json.RawMessage, error) {
		return nil, pelton.Discard(errors.New("no such user"))
	})
	r.on("panic", func(context.Context, *pelton.Task) (json.RawMessage, error) { panic("oh no") })
	r.on("goexit", func(context.Context, *pelton.Task) (json.RawMessage, error) {
		runtime.Goexit()
		return nil, nil
	})
	r.on("timeout", func(ctx context.Context, _ *pelton.Task) (json.RawMessage, error) { return nil, wait(ctx) })
	r.on("large", func(context.Context, *pelton.Task) (json.RawMessage, error) {
		return json.RawMessage(`"` + strings.Repeat("x", pelton.MaxPayload) + `"`), nil
	})
	r.on("text", func(context.Context, *pelton.Task) (json.RawMessage, error) { return json.RawMessage("plain"), nil })
	worker.Handle(r.Mux, pelton.NewKind[int, func()]("func"), func(context.Context, int) (func(), error) { return func() {}, nil })
	r.run(t, worker.Config{})
	b := r.broker(t)
	for _, tc := range []struct {
		kind        string
		maxAttempts int
		attempt     int
		reason      pelton.Reason
		message     string
	}{
		{"error", 3, 3, pelton.ReasonError, "no luck"},
		{"discard", 3, 1, pelton.ReasonDiscarded, "no such user"},
		{"panic", 1, 1, pelton.ReasonPanic, "panic: oh no"},
		{"goexit", 1, 1, pelton.ReasonGoexit, "Goexit"},
		{"timeout", 1, 1, pelton.ReasonTimeout, "timeout"},
		{"large", 3, 1, pelton.ReasonResult, "larger than"},
		{"text", 3, 1, pelton.ReasonResult, "not JSON"},
		{"func", 3, 1, pelton.ReasonResult, "encode result of func()"},
	} {
		timeout := patience
		if tc.reason == pelton.ReasonTimeout {
			timeout = 200 * time.Millisecond
		}
		task := r.enqueue(t, tc.kind, pelton.WithMaxAttempts(tc.maxAttempts), pelton.WithTimeout(timeout))
		task = r.finished(t, task.ID)
		if task.State != pelton.Failed || task.Attempt != tc.attempt || len(task.Errors) != tc.attempt || len(task.Result) > 0 {
			t.Errorf("%s: %+v", tc.kind, task)
			continue
		}
		if f := task.Error; f.Reason != tc.reason || f.Attempt != tc.attempt || !strings.Contains(f.Message, tc.message) {
			t.Errorf("%s: error = %+v", tc.kind, f)
		}
		if hasStack := strings.Contains(task.Error.Stack, "worker_test.go"); hasStack != (tc.kind == "panic") {
			t.Errorf("%s: stack %q", tc.kind, task.Error.Stack)
		}
		r.idle(t) // the dead letter is kept before the message goes
		letter, err := b.LoadDead(t.Context(), task.Queue, task.ID)
		if err != nil {
			t.Errorf("%s: %v", tc.kind, err)
			continue
		}
		if diff := cmp.Diff(task.Errors, letter.Errors); letter.State != pelton.Failed || diff != "" {
			t.Errorf("%s: dead letter is %s, errors (-record +letter):\n%s", tc.kind, letter.State, diff)
		}
	}
}

func TestMiddlewareAndHandleFunc(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var steps []string // written by one task at a time
	around := func(name string) func(worker.Handler) worker.Handler {
		return func(next worker.Handler) worker.Handler {
			return worker.HandlerFunc(func(ctx context.Context, task *pelton.Task) (json.RawMessage, error) {
				steps = append(steps, name+" in")
				value, err := next.ServeTask(ctx, task)
				steps = append(steps, name+" out")
				return value, err
			})
		}
	}
	r.Use(around("outer"))
	worker.HandleFunc(r.Mux, pelton.NewKind[[]int, struct{}]("sum"), func(_ context.Context, numbers []int) error {
		steps = append(steps, "handler")
		if len(numbers) != 2 {
			return pelton.Discard(errors.New("two numbers, please"))
		}
		return nil
	})
	r.Use(around("inner")) // also around what is there already
	r.run(t, worker.Config{})
	task, err := producer.Enqueue(t.Context(), r.client, pelton.NewKind[[]int, struct{}]("sum"), []int{1, 2})
	if err != nil {
		t.Fatal(err)
	}
	if task = r.finished(t, task.ID); task.State != pelton.Succeeded || len(task.Result) != 0 {
		t.Errorf("task = %+v", task)
	}
	if diff := cmp.Diff([]string{"outer in", "inner in", "handler", "inner out", "outer out"}, steps); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
}

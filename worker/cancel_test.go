package worker_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/worker"
)

// toldWithin bounds what takes milliseconds. A worker that is not told learns of a
// cancel by its next sign of life, every ten seconds.
const toldWithin = 5 * time.Second

func TestCancelRunning(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	started := make(chan struct{})
	causes := make(chan error, 1)
	r.on("long", func(ctx context.Context, _ *pelton.Task) (json.RawMessage, error) {
		close(started)
		<-ctx.Done()
		causes <- context.Cause(ctx)
		return json.RawMessage(`"all the same"`), nil
	})
	r.run(t, worker.Config{})
	id := r.enqueue(t, "long").ID
	receive(t, started, "start")
	began := time.Now()
	task, err := r.client.Cancel(t.Context(), id)
	if err != nil || task.State != pelton.Cancelled {
		t.Fatalf("cancel = %+v, %v", task, err)
	}
	if cause := receive(t, causes, "end of the handler's ctx"); !errors.Is(cause, pelton.ErrCancelled) {
		t.Errorf("cause = %v", cause)
	}
	if took := time.Since(began); took > toldWithin {
		t.Errorf("cancel took %s", took)
	}
	r.idle(t)
	if task = r.get(t, id); task.State != pelton.Cancelled || len(task.Result) > 0 || task.FinishedAt.IsZero() {
		t.Errorf("task = %+v", task)
	}
}

// TestCancelAroundTheStart cancels at about the moment of the start: either the
// handler never runs, or its ctx ends.
func TestCancelAroundTheStart(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	g := newGauge()
	r.on("long", func(ctx context.Context, task *pelton.Task) (json.RawMessage, error) {
		defer g.enter(task.ID.String())()
		<-ctx.Done()
		return nil, ctx.Err()
	})
	r.run(t, worker.Config{})
	ran := 0
	for i := range 40 {
		id := r.enqueue(t, "long").ID
		if i%2 == 0 { // the first moment at which it is known to run
			eventually(t, "the task runs", func() bool { return r.get(t, id).State == pelton.Running })
		}
		began := time.Now()
		if _, err := r.client.Cancel(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the handler has ended", func() bool { return g.running(id.String()) == 0 })
		if took := time.Since(began); took > toldWithin {
			t.Errorf("cancel took %s", took)
		}
		ran += g.peak(id.String())
	}
	if ran < 10 {
		t.Errorf("only %d handlers ran", ran)
	}
	r.idle(t)
}

func TestCancelledBeforeStartNeverStarts(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.on("never", func(context.Context, *pelton.Task) (json.RawMessage, error) {
		t.Error("a cancelled task was started")
		return nil, nil
	})
	r.on("after", func(context.Context, *pelton.Task) (json.RawMessage, error) { return nil, nil })
	for _, opt := range []pelton.Option{pelton.WithDelay(0), pelton.WithDelay(50 * time.Millisecond)} {
		if _, err := r.client.Cancel(t.Context(), r.enqueue(t, "never", opt).ID); err != nil {
			t.Fatal(err)
		}
	}
	after := r.enqueue(t, "after", pelton.WithDelay(100*time.Millisecond))
	r.run(t, worker.Config{})
	r.succeeds(t, after.ID)
	r.idle(t)
}

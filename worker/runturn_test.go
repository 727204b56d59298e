package worker_test

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
	"github.com/peltonq/pelton/producer"
	"github.com/peltonq/pelton/worker"
)

func withPayload(text string) pelton.Option {
	return func(s *pelton.Spec) { s.Payload = json.RawMessage(strconv.Quote(text)) }
}

// A task of a kind with a limit that has room takes no place in a line, whatever becomes of it, and its turn is given back.
func TestRunsTakeTheirTurns(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	slow := make(chan struct{}, 1)
	var snoozed atomic.Bool
	r.on("few", func(ctx context.Context, task *pelton.Task) (json.RawMessage, error) {
		var how string
		if err := json.Unmarshal(task.Payload, &how); err != nil {
			return nil, err
		}
		switch {
		case how == "fail":
			return nil, errors.New("no")
		case how == "retry" && task.Attempt == 1:
			return nil, pelton.RetryAfter(10*time.Millisecond, errors.New("again"))
		case how == "snooze" && snoozed.CompareAndSwap(false, true):
			return nil, pelton.Snooze(10 * time.Millisecond)
		case how == "panic":
			panic("no")
		case how == "slow":
			slow <- struct{}{}
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return nil, nil
	})
	r.limit(t, pelton.Limit{Name: "few", Kind: "few", MaxRunning: 1})
	w := r.run(t, worker.Config{Concurrency: 4, Grace: 100 * time.Millisecond})
	task := func(how string) pelton.ID {
		attempts := 1
		if how == "retry" {
			attempts = 2
		}
		return r.enqueue(t, "few", pelton.WithMaxAttempts(attempts), withPayload(how)).ID
	}
	want := map[string]pelton.State{"succeed": pelton.Succeeded, "fail": pelton.Failed, "panic": pelton.Failed, "retry": pelton.Succeeded, "snooze": pelton.Succeeded}
	for range 2 {
		for how, state := range want {
			if got := r.finished(t, task(how)); got.State != state {
				t.Errorf("task that is to %s is %s", how, got.State)
			}
		}
	}
	cancelled := task("slow")
	receive(t, slow, "start")
	if _, err := r.client.Cancel(t.Context(), cancelled); err != nil {
		t.Fatal(err)
	}
	if got := r.finished(t, cancelled); got.State != pelton.Cancelled {
		t.Errorf("cancelled task is %s", got.State)
	}
	r.noTurns(t) // its message went before its handler
	released := task("slow")
	receive(t, slow, "start")
	if err := w.stop(t); !errors.Is(err, pelton.ErrGraceExceeded) {
		t.Errorf("Run = %v, want ErrGraceExceeded", err)
	}
	r.noTurns(t)
	r.run(t, worker.Config{Concurrency: 4})
	receive(t, slow, "start of the task that was given back")
	if _, err := r.client.Cancel(t.Context(), released); err != nil {
		t.Fatal(err)
	}
	r.idle(t)
	r.noTurns(t)
	if info, err := r.jetStream(t).Stream(t.Context(), "pelton_KEYED_0"); err != nil {
		t.Error(err)
	} else if last := info.CachedInfo().State.LastSeq; last != 0 {
		t.Errorf("%d places were taken", last)
	}
}

// The turn of a worker that dies is its task's: nobody else has it before another worker has taken that over.
func TestTurnOfARunOutlivesItsWorker(t *testing.T) {
	t.Parallel()
	srv := brokertest.StartServer(t)
	const lease = time.Second
	r := rigOn(t, brokertest.Connect(t, srv), producer.Config{Lease: lease})
	var running, most, starts atomic.Int64
	began := make(chan struct{}, 10)
	r.on("few", func(ctx context.Context, task *pelton.Task) (json.RawMessage, error) {
		now := running.Add(1)
		defer running.Add(-1)
		most.Store(max(most.Load(), now))
		if starts.Add(1); string(task.Payload) == `"dies"` && starts.Load() == 1 {
			began <- struct{}{}
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return nil, nil
	})
	r.limit(t, pelton.Limit{Name: "few", Kind: "few", MaxRunning: 1})
	nc := brokertest.Connect(t, srv)
	w, err := worker.New(nc, r.Mux, worker.Config{Concurrency: 1, Lease: lease, Grace: lease})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- w.Run(t.Context()) }()
	first := r.enqueue(t, "few", withPayload("dies")).ID
	receive(t, began, "start")
	r.run(t, worker.Config{Concurrency: 4, Lease: lease})
	others := r.enqueueMany(t, 20, "few")
	nc.Close()
	r.succeeds(t, append(others, first)...)
	if most.Load() != 1 {
		t.Errorf("%d ran at a time", most.Load())
	}
	_ = receive(t, ended, "end of the worker that died")
	r.idle(t)
	r.noTurns(t)
}

package worker_test

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
	"github.com/peltonq/pelton/producer"
	"github.com/peltonq/pelton/worker"
)

// hold waits until the named count of g is n, so that a bound is seen to be
// reached, or for a moment if it cannot be.
func hold(ctx context.Context, g *gauge, name string, n int) {
	bound := time.NewTimer(5 * time.Second)
	defer bound.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for g.peak(name) < n {
		select {
		case <-tick.C:
		case <-bound.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// TestLimitsHoldExactly loads every priority at once: each reaches its limit and
// never goes beyond, nor do all of them together.
func TestLimitsHoldExactly(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	limits := map[pelton.Priority]int{pelton.Critical: 3, pelton.High: 2, pelton.Low: 1}
	g := newGauge()
	r.on("work", func(ctx context.Context, task *pelton.Task) (json.RawMessage, error) {
		leave := g.enter(string(task.Priority), "all")
		defer leave()
		want := limits[task.Priority]
		if want == 0 {
			want = 1
		}
		hold(ctx, g, string(task.Priority), want)
		return nil, nil
	})
	var ids []pelton.ID
	for _, p := range pelton.Priorities() {
		ids = append(ids, r.enqueueMany(t, 60, "work", pelton.WithPriority(p))...)
	}
	r.run(t, worker.Config{Concurrency: 8, Limits: limits})
	r.succeeds(t, ids...)
	for p, want := range limits {
		if got := g.peak(string(p)); got != want {
			t.Errorf("%d %s tasks ran at once, limit %d", got, p, want)
		}
	}
	if got := g.peak("all"); got > 8 {
		t.Errorf("%d tasks ran at once in 8 slots", got)
	}
}

func TestReserveIsKept(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	g := newGauge()
	release := make(chan struct{})
	r.on("work", func(_ context.Context, task *pelton.Task) (json.RawMessage, error) {
		leave := g.enter(string(task.Priority))
		defer leave()
		if task.Priority == pelton.Low {
			<-release
		}
		return nil, nil
	})
	lows := r.enqueueMany(t, 20, "work", pelton.WithPriority(pelton.Low))
	r.run(t, worker.Config{Concurrency: 4, Reserves: map[pelton.Priority]int{pelton.Critical: 2}})
	eventually(t, "low tasks fill what they may", func() bool { return g.running("low") == 2 })
	r.succeeds(t, r.enqueueMany(t, 10, "work", pelton.WithPriority(pelton.Critical))...)
	if got := g.peak("low"); got != 2 {
		t.Errorf("%d low tasks ran at once beside a reserve of 2 in 4 slots", got)
	}
	close(release)
	r.succeeds(t, lows...)
}

func TestSeveralQueues(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.on("work", func(context.Context, *pelton.Task) (json.RawMessage, error) { return nil, nil })
	r.run(t, worker.Config{Queues: []string{"a", "b"}, Concurrency: 2})
	other := r.enqueue(t, "work", pelton.WithQueue("c"))
	for _, queue := range []string{"a", "b"} {
		for _, p := range pelton.Priorities() {
			r.succeeds(t, r.enqueueMany(t, 5, "work", pelton.WithQueue(queue), pelton.WithPriority(p))...)
		}
	}
	if task := r.get(t, other.ID); task.State != pelton.Queued {
		t.Errorf("a task of a queue that nobody serves is %s", task.State)
	}
}

func TestTwoWorkersShareAQueue(t *testing.T) {
	t.Parallel()
	srv := brokertest.StartServer(t)
	r := rigOn(t, brokertest.Connect(t, srv), producer.Config{})
	var mu sync.Mutex
	ran := map[string]int{}
	pair := make(chan struct{})
	r.on("work", func(ctx context.Context, task *pelton.Task) (json.RawMessage, error) {
		mu.Lock()
		ran[task.Worker]++
		mu.Unlock()
		select { // nobody ends a task before the other has one too
		case pair <- struct{}{}:
			return nil, nil
		case <-pair:
			return nil, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	})
	for range 2 {
		runOn(t, brokertest.Connect(t, srv), r.Mux, worker.Config{Concurrency: 1})
	}
	r.succeeds(t, r.enqueueMany(t, 100, "work", pelton.WithTimeout(patience))...)
	r.idle(t)
	mu.Lock()
	defer mu.Unlock()
	total := 0
	for id, n := range ran {
		total += n
		if n != 50 {
			t.Errorf("worker %s ran %d of 100 tasks", id, n)
		}
	}
	if total != 100 {
		t.Errorf("100 tasks ran %d times", total)
	}
}

func TestOrderOfAcceptance(t *testing.T) {
	t.Parallel()
	for _, concurrency := range []int{1, 8} {
		r := newRig(t)
		var mu sync.Mutex
		var order []pelton.ID
		wave := make(chan struct{})
		r.on("work", func(ctx context.Context, task *pelton.Task) (json.RawMessage, error) {
			mu.Lock()
			mine := wave
			if order = append(order, task.ID); len(order)%concurrency == 0 { // all slots have started one
				close(wave)
				wave = make(chan struct{})
			}
			mu.Unlock()
			select {
			case <-mine:
				return nil, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		})
		ids := r.enqueueMany(t, 200, "work")
		w := r.run(t, worker.Config{Concurrency: concurrency})
		r.succeeds(t, ids...)
		if err := w.stop(t); err != nil {
			t.Error(err)
		}
		if len(order) != len(ids) {
			t.Fatalf("%d tasks started %d times", len(ids), len(order))
		}
		for want, id := range ids {
			if at := slices.Index(order, id); at/concurrency != want/concurrency {
				t.Errorf("concurrency %d: task %d started as number %d", concurrency, want, at)
			}
		}
	}
}

// TestCPUBound keeps the processor's handlers to their number and the other slots
// for those that wait.
func TestCPUBound(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	g := newGauge()
	release := make(chan struct{})
	r.on("compute", func(context.Context, *pelton.Task) (json.RawMessage, error) {
		leave := g.enter("cpu")
		defer leave()
		<-release
		return nil, nil
	}, worker.CPUBound())
	r.on("io", func(context.Context, *pelton.Task) (json.RawMessage, error) { return nil, nil })
	r.run(t, worker.Config{Concurrency: 4, CPUSlots: 1})
	computing := r.enqueueMany(t, 5, "compute")
	eventually(t, "one computes", func() bool { return g.running("cpu") == 1 })
	r.succeeds(t, r.enqueueMany(t, 50, "io")...)
	if got := g.running("cpu"); got != 1 {
		t.Errorf("%d compute", got)
	}
	for _, id := range computing {
		if task := r.get(t, id); task.Attempt > 1 || len(task.Errors) > 0 {
			t.Errorf("waiting for the processor burnt an attempt: %+v", task)
		}
	}
	close(release)
	r.succeeds(t, computing...)
	if got := g.peak("cpu"); got != 1 {
		t.Errorf("%d computed at once, want 1", got)
	}
}

// TestCancelledWhileTheProcessorIsTaken is dropped without a seat.
func TestCancelledWhileTheProcessorIsTaken(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	started, release := make(chan struct{}, 10), make(chan struct{})
	r.on("compute", func(context.Context, *pelton.Task) (json.RawMessage, error) {
		started <- struct{}{}
		<-release
		return nil, nil
	}, worker.CPUBound())
	first := r.enqueue(t, "compute")
	cancelled := r.enqueue(t, "compute")
	if _, err := r.client.Cancel(t.Context(), cancelled.ID); err != nil {
		t.Fatal(err)
	}
	r.run(t, worker.Config{Concurrency: 2, CPUSlots: 1})
	receive(t, started, "start")
	b := r.broker(t)
	eventually(t, "the cancelled task's message is gone", func() bool {
		q, err := b.Queue(t.Context(), pelton.DefaultQueue)
		if err != nil {
			t.Fatal(err)
		}
		return q.Ready == 0 && q.Running == 1 && q.Scheduled == 0
	})
	close(release)
	r.succeeds(t, first.ID)
	r.idle(t)
}

// TestHighPassesABacklog: counted from the last high task's acceptance, all of
// them have started before 5 % of the waiting low ones have.
func TestHighPassesABacklog(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const lows, highs = 2000, 20
	var lowStarts, highStarts, lowsBefore atomic.Int64
	allHigh := make(chan struct{})
	r.on("work", func(_ context.Context, task *pelton.Task) (json.RawMessage, error) {
		if task.Priority == pelton.Low {
			lowStarts.Add(1)
		} else if highStarts.Add(1) == highs {
			lowsBefore.Store(lowStarts.Load())
			close(allHigh)
		}
		<-time.After(5 * time.Millisecond)
		return nil, nil
	})
	r.enqueueMany(t, lows, "work", pelton.WithPriority(pelton.Low))
	r.run(t, worker.Config{Concurrency: 8})
	eventually(t, "low tasks run", func() bool { return lowStarts.Load() >= 16 })
	for range highs {
		r.enqueue(t, "work", pelton.WithPriority(pelton.High))
	}
	accepted := lowStarts.Load()
	receive(t, allHigh, "start of the last high task")
	waiting := lows - accepted
	if passed := lowsBefore.Load() - accepted; passed > waiting/20 {
		t.Errorf("%d of %d low tasks started before the last of %d high ones", passed, waiting, highs)
	}
}

// TestNothingStarves floods a worker's only slot with high tasks: a low one still
// gets its turn within MaxWait.
func TestNothingStarves(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var stop atomic.Bool
	r.on("flood", func(ctx context.Context, _ *pelton.Task) (json.RawMessage, error) {
		if stop.Load() {
			return nil, nil
		}
		_, err := r.client.EnqueueMany(ctx, []pelton.Spec{{Kind: "flood", Priority: pelton.High}, {Kind: "flood", Priority: pelton.High}})
		return nil, err
	})
	r.on("low", func(context.Context, *pelton.Task) (json.RawMessage, error) {
		stop.Store(true)
		return nil, nil
	})
	r.enqueueMany(t, 10, "flood", pelton.WithPriority(pelton.High))
	r.run(t, worker.Config{Concurrency: 1, MaxWait: 200 * time.Millisecond})
	low := r.enqueue(t, "low", pelton.WithPriority(pelton.Low))
	r.succeeds(t, low.ID) // without MaxWait it never starts
}

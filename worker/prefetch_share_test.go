package worker_test

import (
	"context"
	"encoding/json"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
	"github.com/peltonq/pelton/internal/brokertest"
	"github.com/peltonq/pelton/producer"
	"github.com/peltonq/pelton/worker"
)

// handedOut is how many tasks of the default queue workers have, in slots or not, and
// how many they gave back that nobody has taken since.
func handedOut(t *testing.T, b *broker.Broker) int {
	t.Helper()
	q, err := b.Queue(t.Context(), pelton.DefaultQueue)
	if err != nil {
		t.Fatal(err)
	}
	return int(q.Running)
}

// Of slow tasks a worker has no more than it runs, even if it is used to fast ones,
// so a second one finds its share.
func TestSlowTasksAreNotHoarded(t *testing.T) {
	t.Parallel()
	const slots, fast, slow = 4, 1000, 80
	srv := brokertest.StartServer(t)
	r := rigOn(t, brokertest.Connect(t, srv), producer.Config{})
	var mu sync.Mutex
	starts, left := map[string]int{}, slow
	lastLeft := 0 // when the second worker came
	ends := make(chan struct{}, slow)
	r.on("fast", func(context.Context, *pelton.Task) (json.RawMessage, error) { return nil, nil })
	r.on("slow", func(_ context.Context, task *pelton.Task) (json.RawMessage, error) {
		mu.Lock()
		if starts[task.Worker]++; starts[task.Worker] == 1 {
			lastLeft = left
		}
		left--
		mu.Unlock()
		<-time.After(100 * time.Millisecond)
		ends <- struct{}{}
		return nil, nil
	})
	work := func() *process {
		return runOn(t, brokertest.Connect(t, srv), r.Mux, worker.Config{Concurrency: slots})
	}
	r.enqueueMany(t, fast, "fast")
	ids := r.enqueueMany(t, slow, "slow")
	work()
	receive(t, ends, "end of a slow task")
	second := work()
	r.succeeds(t, ids...)
	mu.Lock()
	defer mu.Unlock()
	if got := starts[second.ID()]; got < lastLeft/3 {
		t.Errorf("the second worker ran %d of the %d that were left when it came", got, lastLeft)
	}
}

// A burst of critical tasks passes thousands of low ones, those that wait in the
// worker included: from the first one's start to the last one's, no more low ones start
// than in a few ways to the broker, in each of which those start that are in hand: the burst
// comes by two or three requests. It is there at once, when its priority
// is resumed: how soon the broker takes it in and hands out its first is not the worker's doing.
func TestCriticalPassesWhatWasPrefetched(t *testing.T) {
	t.Parallel()
	const slots, lows, burst = 8, 20000, 50
	f := newFleet(t)
	var lowStarts, burstStarts, passed atomic.Int64
	all := make(chan struct{})
	f.on("k", func(_ context.Context, task *pelton.Task) (json.RawMessage, error) {
		if task.Priority == pelton.Low {
			lowStarts.Add(1)
			return nil, nil
		}
		switch burstStarts.Add(1) {
		case 1:
			passed.Add(-lowStarts.Load())
		case burst:
			passed.Add(lowStarts.Load())
			close(all)
		}
		return nil, nil
	})
	for range lows / pelton.MaxBatch {
		f.enqueueMany(t, pelton.MaxBatch, "k", pelton.WithPriority(pelton.Low))
	}
	f.pause(t, pelton.Critical)
	f.enqueueMany(t, burst, "k", pelton.WithPriority(pelton.Critical))
	f.work(t, 1, worker.Config{Concurrency: slots})
	eventually(t, "low tasks run", func() bool { return lowStarts.Load() >= lows/20 })
	f.resume(t, pelton.Critical)
	receive(t, all, "start of the last critical task")
	const inHand, ways = 256, 8
	if n := passed.Load(); n > ways*inHand {
		t.Errorf("%d low tasks started between the first and the last of %d critical ones", n, burst)
	}
}

// A worker that stops gives back at once what it has and has not started.
func TestShutdownGivesBackWhatWasPrefetched(t *testing.T) {
	t.Parallel()
	const slots, fast, more = 2, 1000, 1 << 30
	r := newRig(t)
	release := make(chan struct{})
	var left atomic.Int64
	stuck := make(chan pelton.ID, slots)
	left.Store(fast)
	r.on("k", func(_ context.Context, task *pelton.Task) (json.RawMessage, error) {
		if left.Add(-1) < 0 {
			stuck <- task.ID
			<-release
		}
		return nil, nil
	})
	b := r.broker(t)
	ids := r.enqueueMany(t, 2*fast, "k")
	first := r.run(t, worker.Config{Concurrency: slots})
	// A task that runs has a record when it has run for a while, not at once.
	for range slots {
		id := receive(t, stuck, "a task that takes a slot")
		eventually(t, "its record says running", func() bool { return r.get(t, id).State == pelton.Running })
	}
	if n := handedOut(t, b); n <= slots {
		t.Errorf("%d tasks are handed out: nothing was prefetched", n)
	}
	first.cancel()
	left.Store(more)
	r.run(t, worker.Config{Concurrency: slots})
	// The count first: to read all of them takes a busy machine seconds, of the first one's grace.
	eventually(t, "another worker runs all but what runs", func() bool {
		q, err := b.Queue(t.Context(), pelton.DefaultQueue)
		if err != nil {
			t.Fatal(err)
		}
		return q.Ready == 0 && q.Running == slots
	})
	starts := map[pelton.State]int{}
	for _, id := range ids {
		starts[r.get(t, id).State]++
	}
	if starts[pelton.Running] != slots || starts[pelton.Succeeded] != len(ids)-slots {
		t.Errorf("states are %v", starts)
	}
	close(release)
	if err := first.wait(t); err != nil {
		t.Errorf("Run = %v", err)
	}
	r.succeeds(t, ids...)
	for _, id := range ids {
		if task := r.get(t, id); task.Attempt != 1 || task.Crashes != 0 {
			t.Errorf("task = %+v", task)
		}
	}
}

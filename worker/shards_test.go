package worker_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
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

// shardedRig is a rig whose installation has so many shards.
func shardedRig(t *testing.T, shards int) *rig {
	t.Helper()
	r := newRig(t)
	r.grow(t, shards)
	return r
}

// grow makes more shards, and returns when the rig's client uses them.
func (r *rig) grow(t *testing.T, shards int) {
	t.Helper()
	if _, err := r.broker(t).GrowShards(t.Context(), shards); err != nil {
		t.Fatal(err)
	}
	within(t, 2*time.Second, "the client to use all shards", func() bool {
		seen := map[uint8]bool{}
		for range 4 * shards {
			seen[r.enqueue(t, "probe", pelton.WithQueue("probes")).ID.Shard()] = true
		}
		return len(seen) == shards
	})
}

// starts notes which tasks were started, in order.
type starts struct {
	mu  sync.Mutex
	ids []pelton.ID
}

func (s *starts) add(id pelton.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ids = append(s.ids, id)
}

func (s *starts) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.ids)
}

// TestShardsAreServedFairly floods four shards, and one ten times as much: while all have something, each has
// its share of the slots.
func TestShardsAreServedFairly(t *testing.T) {
	t.Parallel()
	const shards, each = 4, 60
	r := shardedRig(t, shards)
	var started starts
	r.on("work", func(_ context.Context, task *pelton.Task) (json.RawMessage, error) {
		started.add(task.ID)
		<-time.After(2 * time.Millisecond)
		return nil, nil
	})
	want := map[pelton.ID]bool{}
	left := map[uint8]int{0: 10 * each, 1: each, 2: each, 3: each}
	for all := 13 * each; all > 0; {
		task := r.enqueue(t, "work")
		if shard := task.ID.Shard(); left[shard] > 0 {
			left[shard]--
			all--
			want[task.ID] = true
		} else if _, err := r.client.Cancel(t.Context(), task.ID); err != nil {
			t.Fatal(err)
		}
	}
	r.run(t, worker.Config{Concurrency: 4})
	within(t, 30*time.Second, "all to be started", func() bool { return started.count() == len(want) })
	ended := map[uint8]int{} // at which start the last of a shard was
	seen := map[uint8]int{}
	for i, id := range started.ids {
		if !want[id] {
			t.Fatalf("task %s was started, and is not one that waits", id)
		}
		delete(want, id)
		ended[id.Shard()] = i
		seen[id.Shard()]++
	}
	// With equal shares the small ones are done after four times as many starts as each has.
	for shard := uint8(1); shard < shards; shard++ {
		if seen[shard] != each || ended[shard] > 2*shards*each {
			t.Errorf("shard %d: %d tasks, the last one was start %d, want it before %d", shard, seen[shard], ended[shard], 2*shards*each)
		}
	}
}

// TestPrioritiesHoldOverShards lets low tasks wait in all shards, and critical ones come: they go first,
// whatever their shard. Handlers take so long that nothing is in hand ahead of a free slot:
// what critical tasks pass then is TestCriticalPassesWhatWasPrefetched's.
func TestPrioritiesHoldOverShards(t *testing.T) {
	t.Parallel()
	const shards = 4
	r := shardedRig(t, shards)
	var started starts
	first, release := make(chan struct{}, 100), make(chan struct{})
	r.on("work", func(_ context.Context, task *pelton.Task) (json.RawMessage, error) {
		started.add(task.ID)
		first <- struct{}{}
		<-release
		<-time.After(60 * time.Millisecond)
		return nil, nil
	})
	r.on("warm", func(context.Context, *pelton.Task) (json.RawMessage, error) { return nil, nil })
	r.run(t, worker.Config{Concurrency: 1})
	for range 2 * shards { // so that the lanes are open
		r.succeeds(t, r.enqueue(t, "warm", pelton.WithPriority(pelton.Critical)).ID)
	}
	low, critical := map[pelton.ID]bool{}, map[pelton.ID]bool{}
	low[r.enqueue(t, "work", pelton.WithPriority(pelton.Low)).ID] = true
	receive(t, first, "start")
	for range 5 * shards {
		low[r.enqueue(t, "work", pelton.WithPriority(pelton.Low)).ID] = true
	}
	for range 3 * shards {
		critical[r.enqueue(t, "work", pelton.WithPriority(pelton.Critical)).ID] = true
	}
	close(release)
	all := len(low) + len(critical)
	within(t, 20*time.Second, "all to be started", func() bool { return started.count() == all })
	passed, left := -1, len(critical) // the first low one was there before
	for _, id := range started.ids {
		if critical[id] {
			left--
		} else if left > 0 {
			passed++
		}
	}
	// Each shard may have answered that it has nothing before the task came. If shards went before
	// priorities, or each lane in turn, as many low ones as critical ones would have started.
	if passed > shards {
		t.Errorf("%d low tasks were started while %d critical ones waited", passed, len(critical))
	}
}

// TestIdleWorkersHearOfEachShard starts tasks of all shards at once on an idle worker.
func TestIdleWorkersHearOfEachShard(t *testing.T) {
	t.Parallel()
	r := shardedRig(t, 3)
	r.on("work", func(context.Context, *pelton.Task) (json.RawMessage, error) { return nil, nil })
	r.run(t, worker.Config{Concurrency: 2})
	r.succeeds(t, r.enqueue(t, "work").ID) // opens the lane
	for range 9 {
		task := r.enqueue(t, "work")
		r.succeedsWithin(t, 5*time.Second, task.ID)
	}
}

// TestWorkersFollowGrowth lets an installation grow beneath a worker, with tasks of all sorts.
func TestWorkersFollowGrowth(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	r := rigOn(t, nc, producer.Config{})
	var (
		mu    sync.Mutex
		order = map[string][]int{}
	)
	r.on("work", func(context.Context, *pelton.Task) (json.RawMessage, error) { return nil, nil })
	tries := map[pelton.ID]int{}
	r.on("again", func(_ context.Context, task *pelton.Task) (json.RawMessage, error) {
		mu.Lock()
		defer mu.Unlock()
		if tries[task.ID]++; tries[task.ID] < 2 {
			return nil, pelton.RetryAfter(10*time.Millisecond, fmt.Errorf("not yet"))
		}
		return nil, nil
	})
	r.on("keyed", func(_ context.Context, task *pelton.Task) (json.RawMessage, error) {
		var n int
		if err := json.Unmarshal(task.Payload, &n); err != nil {
			return nil, err
		}
		mu.Lock()
		defer mu.Unlock()
		order[task.ConcurrencyKey] = append(order[task.ConcurrencyKey], n)
		return nil, nil
	})
	r.run(t, worker.Config{Concurrency: 8})
	var ids []pelton.ID
	shards := map[uint8]int{}
	const rounds = 60
	for i := range rounds {
		if i == rounds/3 {
			if _, err := r.broker(t).GrowShards(t.Context(), 4); err != nil {
				t.Fatal(err)
			}
			r.grow(t, 4)
		}
		keyed, err := r.client.Enqueue(t.Context(), pelton.Spec{Kind: "keyed", Payload: fmt.Append(nil, i)}, pelton.WithConcurrencyKey(fmt.Sprint("k", i%3)))
		if err != nil {
			t.Fatal(err)
		}
		for _, task := range []*pelton.Task{keyed, r.enqueue(t, "work"), r.enqueue(t, "again"), r.enqueue(t, "work", pelton.WithDelay(50*time.Millisecond))} {
			ids = append(ids, task.ID)
			shards[task.ID.Shard()]++
		}
	}
	many := r.enqueueMany(t, 300, "work")
	for _, id := range many {
		shards[id.Shard()]++
	}
	r.succeedsWithin(t, 30*time.Second, append(ids, many...)...)
	for shard := range uint8(4) {
		if shards[shard] < 40 {
			t.Errorf("shard %d has %d tasks: %v", shard, shards[shard], shards)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	for key, seen := range order {
		for i := range seen[1:] {
			if seen[i] > seen[i+1] {
				t.Errorf("key %s ran out of order: %v", key, seen)
				break
			}
		}
	}
}

// TestMaxRunningOverShards sets max_running while tasks wait, and run, in three shards: a moment later no more than
// so many run at a time, and all are run in the end, once. It takes as long as the turns of two shards.
func TestMaxRunningOverShards(t *testing.T) {
	t.Parallel()
	const most, each = 2, 8
	r := shardedRig(t, 3)
	running := newGauge()
	started := make(chan struct{}, 3*each)
	var watched atomic.Bool
	r.on("work", func(_ context.Context, task *pelton.Task) (json.RawMessage, error) {
		names := []string{"all"}
		if watched.Load() {
			names = append(names, "watched")
		}
		defer running.enter(names...)()
		if n := running.running("all"); watched.Load() && n > most {
			t.Errorf("task %s of shard %d is number %d that runs", task.ID, task.ID.Shard(), n)
		}
		started <- struct{}{}
		<-time.After(200 * time.Millisecond)
		return nil, nil
	})
	var ids []pelton.ID
	for range 3 * each {
		ids = append(ids, r.enqueue(t, "work").ID)
	}
	r.run(t, worker.Config{Concurrency: 4})
	for range 4 {
		receive(t, started, "start")
	}
	b := r.broker(t)
	_, err := b.SetQueue(t.Context(), pelton.DefaultQueue, true, func(cfg *broker.QueueConfig) error {
		cfg.Settings.MaxRunning = map[pelton.Priority]int{pelton.Normal: most}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	within(t, 2*time.Second, "those of before to end", func() bool { return running.running("all") <= most })
	watched.Store(true)
	tending, stop := context.WithCancel(t.Context())
	var sweep sync.WaitGroup
	sweep.Go(func() { // as a server's sweep does
		for tending.Err() == nil {
			if err := b.TendTurns(tending); err != nil && tending.Err() == nil {
				t.Error(err)
			}
			select {
			case <-time.After(300 * time.Millisecond):
			case <-tending.Done():
			}
		}
	})
	r.succeedsWithin(t, time.Minute, ids...)
	stop()
	sweep.Wait()
	if peak := running.peak("watched"); peak != most {
		t.Errorf("%d ran at a time, want %d", peak, most)
	}
	if n := len(started); n != 3*each-4 {
		t.Errorf("%d starts, want %d", n+4, 3*each)
	}
}

// TestFirstTaskInAnyShard gives queues that a worker watches their first task, each in another shard: it
// starts without a lane that could not be opened.
func TestFirstTaskInAnyShard(t *testing.T) {
	t.Parallel()
	r := shardedRig(t, 3)
	r.on("k", func(context.Context, *pelton.Task) (json.RawMessage, error) { return nil, nil })
	queues := make([]string, 9)
	for i := range queues {
		queues[i] = fmt.Sprintf("fresh%d", i)
	}
	var log lockedLog
	r.run(t, worker.Config{Queues: queues, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	for _, queue := range queues {
		r.succeeds(t, r.enqueue(t, "k", pelton.WithQueue(queue)).ID)
	}
	if text := log.String(); strings.Contains(text, "WARN") {
		t.Errorf("the worker says: %s", text)
	}
}

type lockedLog struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lockedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lockedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

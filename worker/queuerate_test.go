package worker_test

import (
	"slices"
	"testing"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/redistest"
	"github.com/peltonq/pelton/redislimit"
	"github.com/peltonq/pelton/worker"
)

// The rate of a queue holds over all workers; its tasks wait in the queue, no
// attempt counts, another queue goes on, and a change is followed.
func TestQueueRate(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	starts, m := f.logStarts("k", "other"), f.measure(t)
	f.set(t, `{"rate":{"limit":50,"burst":5,"on_error":"closed"}}`)
	server := redistest.Start(t)
	without, seen := &fallbacks{}, &putOffs{}
	for range 3 {
		limiter, err := redislimit.Open(t.Context(), server.URL, redislimit.Config{Observer: without})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = limiter.Close() })
		f.work(t, 1, worker.Config{Concurrency: 4, Limiter: limiter, Observer: seen, Queues: []string{pelton.DefaultQueue, "free"}})
	}
	begin := time.Now()
	limited := f.enqueueMany(t, 155, "k")
	free := f.enqueueMany(t, 100, "other", pelton.WithQueue("free"))
	f.succeeds(t, free...)
	if took := time.Since(begin); took > 2*time.Second && m.quiet(t) {
		t.Errorf("100 tasks of another queue took %s", took)
	}
	f.succeeds(t, limited...)
	if took := time.Since(begin).Seconds(); took < 2.9 || took > 3.4 && m.quiet(t) && without.Load() == 0 { // (155-5)/50
		t.Errorf("155 tasks at 50/s took %.2f s", took)
	}
	got := starts.starts("k")
	boundHolds(t, m, got, pelton.Limit{Rate: pelton.RateLimit{Limit: 50, Burst: 5}})
	if task := f.get(t, limited[154]); task.Attempt != 1 {
		t.Errorf("attempt %d", task.Attempt)
	}
	if most := seen.most(); most > 0 {
		t.Errorf("a task was put off %d times", most)
	}
	starts.mu.Lock()
	moved := 0
	for i, id := range starts.ids["k"] {
		was := slices.Index(limited, id)
		moved += max(was-i, i-was)
	}
	starts.mu.Unlock()
	if apart := float64(moved) / 155; apart > 12 && m.quiet(t) {
		t.Errorf("tasks started %.1f places from their order", apart)
	}

	f.set(t, `{"rate":null}`)
	eventually(t, "the rate is lifted", func() bool {
		begin := time.Now()
		f.succeeds(t, f.enqueueMany(t, 50, "k")...)
		return time.Since(begin) < 500*time.Millisecond
	})
}

// A closed queue is asked for nothing until its limiter is back.
func TestQueueRateClosed(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	starts := f.logStarts("k")
	f.set(t, `{"rate":{"limit":100,"on_error":"closed"}}`)
	server := redistest.Start(t)
	limiter, err := redislimit.Open(t.Context(), server.URL, redislimit.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = limiter.Close() })
	f.work(t, 1, worker.Config{Limiter: limiter})
	f.succeeds(t, f.enqueueMany(t, 5, "k")...)
	server.Kill()
	ids := f.enqueueMany(t, 10, "k")
	stays(t, 3*time.Second, "nothing starts", func() bool { return len(starts.starts("k")) == 5 })
	server.Run()
	f.succeeds(t, ids...)
	if task := f.get(t, ids[9]); task.Attempt != 1 {
		t.Errorf("attempt %d", task.Attempt)
	}
}

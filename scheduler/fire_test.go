package scheduler

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
	"github.com/peltonq/pelton/internal/brokertest"
)

// Three servers, one schedule: each tick has one task, under the tick's id, and the
// task knows its nominal time.
func TestEachTickHasOneTask(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for range 3 {
		b.run(newClient(t, b.nc))
	}
	var mu sync.Mutex
	started := map[time.Time]int{}
	b.work(func(_ context.Context, task *pelton.Task) error {
		mu.Lock()
		defer mu.Unlock()
		if task.Schedule == nil || task.Schedule.Name != "s" {
			t.Errorf("task of schedule %+v", task.Schedule)
			return nil
		}
		started[task.Schedule.Tick]++
		return nil
	})
	// A tick that the machine holds up for more than a second would count as missed.
	b.put(pelton.Schedule{Name: "s", Cron: "@every 1s", CatchUp: pelton.CatchUpAll})
	s := b.until("s", "after four ticks", func(s *pelton.Schedule) bool {
		list := runs(s)
		return len(list) >= 4 && list[3].State == pelton.Succeeded
	})
	last := time.Time{}
	mu.Lock()
	defer mu.Unlock()
	for _, run := range runs(s)[:4] {
		if !last.IsZero() && run.Tick.Sub(last) != time.Second || run.Tick.Nanosecond() != 0 {
			t.Errorf("tick %s after %s", run.Tick, last)
		}
		last = run.Tick
		task, err := b.tasks.Get(t.Context(), run.TaskID)
		if err != nil {
			t.Fatal(err)
		}
		if late := task.CreatedAt.Sub(run.Tick); late < -time.Millisecond || !run.TaskID.Time().Equal(run.Tick) {
			t.Errorf("the task of tick %s was enqueued %s later, its id says %s", run.Tick, late, run.TaskID.Time())
		}
		if diff := cmp.Diff(&pelton.TaskSchedule{Name: "s", Tick: run.Tick}, task.Schedule); diff != "" {
			t.Error(diff)
		}
		if started[run.Tick] != 1 {
			t.Errorf("the task of tick %s was started %d times", run.Tick, started[run.Tick])
		}
	}
	if len(s.Next) != shownNext || !s.Next[0].After(last) || s.Next[1].Sub(s.Next[0]) != time.Second {
		t.Errorf("next %v", s.Next)
	}
}

// The broker is down across ten ticks: none, the last, or all of them come after it.
func TestCatchUpAfterDowntime(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	policies := []pelton.CatchUp{pelton.CatchUpNone, pelton.CatchUpLast, pelton.CatchUpAll}
	var first time.Time
	func() {
		srv := brokertest.StartServer(t, brokertest.In(dir))
		nc := brokertest.Connect(t, srv)
		b := benchOn(t, nc)
		stop := b.run(b.c)
		first = b.now().Truncate(time.Second).Add(3 * time.Second)
		for _, policy := range policies {
			b.put(pelton.Schedule{Name: string(policy), Every: time.Second, StartsAt: first, EndsAt: first.Add(9 * time.Second), CatchUp: policy})
		}
		stop()
		b.c.Close()
		b.tasks.Close()
		nc.Close()
		brokertest.Stop(t, srv)
	}()
	if !time.Now().Before(first) {
		t.Fatalf("the broker was not down by %s", first)
	}
	<-time.After(time.Until(first.Add(9*time.Second + onTime + 100*time.Millisecond)))
	b := benchOn(t, brokertest.Connect(t, brokertest.StartServer(t, brokertest.In(dir))))
	b.run(b.c)
	for policy, want := range map[pelton.CatchUp][]int{
		pelton.CatchUpNone: nil,
		pelton.CatchUpLast: {9},
		pelton.CatchUpAll:  {0, 1, 2, 3, 4, 5, 6, 7, 8, 9},
	} {
		s := b.until(string(policy), "over", func(s *pelton.Schedule) bool {
			return len(s.Last) > 0 && s.Last[0].Tick.Equal(first.Add(9*time.Second))
		})
		var got []int
		for _, run := range runs(s) {
			got = append(got, int(run.Tick.Sub(first)/time.Second))
			task, err := b.tasks.Get(t.Context(), run.TaskID)
			if err != nil || !task.Schedule.Tick.Equal(run.Tick) {
				t.Errorf("%s: task %+v of tick %s: %v", policy, task, run.Tick, err)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", policy, diff)
		}
		if missed := s.Last[0].Skipped; (policy == pelton.CatchUpNone) != (missed == pelton.SkippedMissed) {
			t.Errorf("%s: the last tick is skipped for %q", policy, missed)
		}
		if len(s.Next) != 0 {
			t.Errorf("%s: next %v after its end", policy, s.Next)
		}
	}
}

// A tick that is repeated from any gap between its writes has one task, also when that
// is over and its record has expired.
func TestRepeatedTickIsDropped(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	at := b.now().Add(time.Hour).Truncate(time.Second)
	b.put(pelton.Schedule{Name: "s", At: at})
	v, err := b.c.load(t.Context(), "s")
	if err != nil {
		t.Fatal(err)
	}
	stale := *v.state
	if err := b.c.step(t.Context(), v, at, false); err != nil {
		t.Fatal(err)
	}
	id := pelton.TickID("s", v.doc.Incarnation, at, 0)
	task, err := b.tasks.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	// Another server, which had read the state before.
	v.state = &stale
	if err := b.c.step(t.Context(), v, at, true); !errors.Is(err, broker.ErrStale) {
		t.Errorf("second server: %v, want ErrStale", err)
	}
	if again, err := b.tasks.Get(t.Context(), id); err != nil || again.Revision != task.Revision {
		t.Errorf("the task has changed: %+v, %v", again, err)
	}
	// And one that comes when the task is forgotten.
	r, err := b.c.b.LoadRecord(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.c.b.DropRecord(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	v, err = b.c.load(t.Context(), "s")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.c.step(t.Context(), v, at.Add(time.Minute), true); err != nil {
		t.Fatal(err)
	}
	if _, err := b.tasks.Get(t.Context(), id); !errors.Is(err, pelton.ErrNotFound) {
		t.Errorf("the tick ran again: %v", err)
	}
	if s := b.get("s"); len(s.Last) != 1 || len(s.Next) != 0 {
		t.Errorf("last %+v, next %v", s.Last, s.Next)
	}
}

// A record without a message, as a crash leaves it, gets the message from the repeat.
func TestRepeatCompletesTheTask(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	at := b.now().Add(time.Hour).Truncate(time.Second)
	b.put(pelton.Schedule{Name: "s", At: at})
	v, err := b.c.load(t.Context(), "s")
	if err != nil {
		t.Fatal(err)
	}
	spec, err := v.doc.Schedule.Task.Normalized(at)
	if err != nil {
		t.Fatal(err)
	}
	r := broker.NewRecord(pelton.TickID("s", v.doc.Incarnation, at, 0), spec, at)
	r.Schedule = &pelton.TaskSchedule{Name: "s", Tick: at}
	if err := b.c.b.CreateRecord(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if err := b.c.step(t.Context(), v, at, true); err != nil {
		t.Fatal(err)
	}
	started := make(chan pelton.ID, 1)
	b.work(func(_ context.Context, task *pelton.Task) error {
		started <- task.ID
		return nil
	})
	select {
	case id := <-started:
		if id != r.ID {
			t.Errorf("task %s was started, want %s", id, r.ID)
		}
	case <-time.After(10 * time.Second):
		t.Error("the task has no message")
	}
}

// The message of the next tick is lost: the reconciler leaves it again, or deals with
// the tick itself if that is overdue.
func TestReconcile(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	s := b.put(pelton.Schedule{Name: "later", Every: time.Hour})
	if err := b.c.b.DropTicks(t.Context(), "later"); err != nil {
		t.Fatal(err)
	}
	soon := b.now().Add(2 * time.Second).Truncate(time.Millisecond)
	b.put(pelton.Schedule{Name: "overdue", At: soon})
	if err := b.c.b.DropTicks(t.Context(), "overdue"); err != nil {
		t.Fatal(err)
	}
	<-time.After(time.Until(soon.Add(overdue + 200*time.Millisecond)))
	b.run(b.c)
	b.until("overdue", "run", func(s *pelton.Schedule) bool { return len(runs(s)) == 1 })
	if missing, err := b.c.b.MissesTick(t.Context(), "later", s.Next[0]); err != nil || missing {
		t.Errorf("the next tick is missing: %t, %v", missing, err)
	}
}

// A schedule whose task is refused says why; the others go on, and so does it.
func TestFailing(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.run(b.c)
	holder, err := b.tasks.Enqueue(t.Context(), pelton.Spec{Kind: "k", Unique: &pelton.Unique{Key: "u"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.tasks.Enqueue(t.Context(), pelton.Spec{Kind: "k", Queue: "full"}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.c.b.SetQueue(t.Context(), "full", true, func(cfg *broker.QueueConfig) error {
		cfg.Settings.MaxDepth = 1
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	b.put(pelton.Schedule{Name: "unique", Every: time.Second, Task: pelton.Spec{Kind: "k", Unique: &pelton.Unique{Key: "u"}}})
	b.put(pelton.Schedule{Name: "full", Every: time.Second, Task: pelton.Spec{Kind: "k", Queue: "full"}})
	b.put(pelton.Schedule{Name: "good", Every: time.Second})
	s := b.until("unique", "failing", func(s *pelton.Schedule) bool { return s.Failing != nil })
	if s.Failing.Tick.IsZero() || s.Failing.At.Before(s.Failing.Tick) || !strings.Contains(s.Failing.Reason, holder.ID.String()) {
		t.Errorf("failing %+v", s.Failing)
	}
	b.until("full", "failing", func(s *pelton.Schedule) bool {
		return s.Failing != nil && strings.Contains(s.Failing.Reason, "queue is full")
	})
	b.until("good", "going on", func(s *pelton.Schedule) bool { return len(runs(s)) >= 2 && s.Failing == nil })
	if _, err := b.tasks.Cancel(t.Context(), holder.ID); err != nil {
		t.Fatal(err)
	}
	// Its own task holds the key from then on, so that it soon fails again.
	b.until("unique", "mended", func(s *pelton.Schedule) bool { return len(runs(s)) == 1 })
}

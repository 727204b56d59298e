package scheduler

import (
	"context"
	"testing"
	"time"

	"github.com/peltonq/pelton"
)

// With queue, the second task starts when the first is over: its line does that, not
// the server that enqueued it, which is gone. A limit for all keys does not let it in.
func TestQueuedOverlapWaits(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	limit, err := pelton.Limit{Name: "keys", ConcurrencyKey: "*", MaxRunning: 5}.Normalized()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.c.b.SaveLimit(t.Context(), limit); err != nil {
		t.Fatal(err)
	}
	started, release := make(chan time.Time, 4), make(chan struct{})
	b.work(func(ctx context.Context, task *pelton.Task) error {
		started <- task.Schedule.Tick
		select {
		case <-release:
		case <-ctx.Done():
		}
		return nil
	})
	server := newClient(t, b.nc)
	stop := b.run(server)
	b.put(pelton.Schedule{Name: "s", Every: time.Second, Overlap: pelton.OverlapQueue})
	receive := func(what string) time.Time {
		t.Helper()
		select {
		case tick := <-started:
			return tick
		case <-time.After(15 * time.Second):
			t.Fatal("no " + what)
			return time.Time{}
		}
	}
	first := receive("first task")
	s := b.until("s", "skipping", func(s *pelton.Schedule) bool { return s.Last[0].Skipped == pelton.SkippedOverlap })
	stop()
	list := runs(s)
	if len(list) != 2 || list[0].State != pelton.Running || list[1].State == pelton.Running {
		t.Errorf("runs %+v", list)
	}
	select {
	case tick := <-started:
		t.Errorf("the task of %s runs beside that of %s", tick, first)
	default:
	}
	release <- struct{}{}
	if second := receive("second task"); !second.After(first) || !second.Equal(list[1].Tick) {
		t.Errorf("second is %s, the first was %s", second, first)
	}
	release <- struct{}{}
	b.until("s", "over", func(s *pelton.Schedule) bool { return runs(s)[1].State == pelton.Succeeded })
}

// With cancel, a running handler's ctx ends, and the next task starts.
func TestCancellingOverlap(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	started, ended := make(chan time.Time, 100), make(chan time.Time, 100)
	b.work(func(ctx context.Context, task *pelton.Task) error {
		started <- task.Schedule.Tick
		<-ctx.Done()
		ended <- task.Schedule.Tick
		return ctx.Err()
	})
	stop := b.run(b.c)
	b.put(pelton.Schedule{Name: "s", Every: time.Second, Overlap: pelton.OverlapCancel})
	for want := 0; want < 3; want++ {
		select {
		case <-ended:
		case <-time.After(15 * time.Second):
			t.Fatalf("%d handlers have ended", want)
		}
	}
	if _, err := b.c.Pause(t.Context(), "s"); err != nil {
		t.Fatal(err)
	}
	stop() // which lets a tick that is under way end
	list := runs(b.get("s"))
	if len(list) < 3 || list[1].State != pelton.Cancelled {
		t.Errorf("runs %+v", list)
	}
	if _, err := b.tasks.Cancel(t.Context(), list[len(list)-1].TaskID); err != nil {
		t.Fatal(err)
	}
}

// A task that runs while many ticks are skipped for it is not forgotten.
func TestLongTaskIsNotForgotten(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	start := b.now().Add(time.Hour).Truncate(time.Second)
	b.put(pelton.Schedule{Name: "s", Every: time.Minute, StartsAt: start, Overlap: pelton.OverlapSkip})
	for n := range 60 {
		v, err := b.c.load(t.Context(), "s")
		if err == nil {
			err = b.c.step(t.Context(), v, start.Add(time.Duration(n)*time.Minute), false)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	s := b.get("s")
	if list := runs(s); len(list) != 1 || !list[0].Tick.Equal(start) || s.Last[0].Skipped != pelton.SkippedOverlap {
		t.Errorf("last %+v", s.Last)
	}
}

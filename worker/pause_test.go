package worker_test

import (
	"context"
	"encoding/json"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/worker"
)

func TestPausedLaneHandsOutNothing(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	s := f.watchStalls(t)
	var low, high atomic.Int64
	f.on("k", func(_ context.Context, task *pelton.Task) (json.RawMessage, error) {
		if task.Priority == pelton.Low {
			low.Add(1)
		} else {
			high.Add(1)
		}
		timer := time.NewTimer(2 * time.Millisecond)
		defer timer.Stop()
		<-timer.C
		return nil, nil
	})
	f.work(t, 2, worker.Config{Concurrency: 1})
	more := func() {
		t.Helper()
		f.enqueueMany(t, 20, "k", pelton.WithPriority(pelton.Low))
		f.enqueueMany(t, 20, "k", pelton.WithPriority(pelton.High))
	}
	more()
	eventually(t, "both lanes are served", func() bool { return low.Load() == 20 && high.Load() == 20 })

	// The workers knock on an empty lane while it is paused.
	f.pause(t, pelton.Low)
	more()
	eventually(t, "the other lane goes on", func() bool { return high.Load() == 40 })
	stays(t, time.Second, "low is paused", func() bool { return low.Load() == 20 })
	f.resume(t, pelton.Low)
	eventually(t, "low goes on", func() bool { return low.Load() == 40 })

	// The workers are in the middle of a backlog while it is paused.
	const backlog = 800
	f.enqueueMany(t, backlog, "k", pelton.WithPriority(pelton.Low))
	eventually(t, "they have begun", func() bool { return low.Load() > 50 })
	asked := time.Now()
	f.pause(t, "")
	s.elapse(time.Second, asked)
	after := low.Load()
	if after == 40+backlog {
		t.Fatal("the backlog was done before its pause held")
	}
	stays(t, time.Second, "all is paused", func() bool { return low.Load() == after })
	f.resume(t, "")
	eventually(t, "the backlog is done", func() bool { return low.Load() == 40+backlog })
	if q, err := f.admin.Queue(t.Context(), pelton.DefaultQueue); err != nil || q.Dead != 0 {
		t.Errorf("queue = %+v, %v", q, err)
	}
}

// A lane that is used for the first time while its queue is paused is paused.
func TestPausedQueueOpensPausedLanes(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	started := make(chan pelton.ID, 10)
	f.on("k", func(_ context.Context, task *pelton.Task) (json.RawMessage, error) {
		started <- task.ID
		return nil, nil
	})
	f.set(t, `{"max_running":{"critical":1}}`)
	f.pause(t, "")
	f.work(t, 2, worker.Config{})
	task := f.enqueue(t, "k", pelton.WithPriority(pelton.Critical))
	stays(t, 500*time.Millisecond, "nothing runs", func() bool { return len(started) == 0 })
	f.resume(t, pelton.Critical)
	f.succeeds(t, task.ID)
}

// A task that was handed out and waits for a processor is given back.
func TestPauseStartsNothingThatWasHandedOut(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	started, release := make(chan pelton.ID, 10), make(chan struct{}, 10)
	f.on("k", func(_ context.Context, task *pelton.Task) (json.RawMessage, error) {
		started <- task.ID
		<-release
		return nil, nil
	}, worker.CPUBound())
	logger, messages := watchLog()
	f.work(t, 1, worker.Config{Concurrency: 4, CPUSlots: 1, Logger: logger})
	tasks := f.enqueueMany(t, 2, "k")
	first := receive(t, started, "start")
	eventually(t, "both are out", func() bool {
		q, err := f.admin.Queue(t.Context(), pelton.DefaultQueue)
		return err == nil && q.Running == 2
	})
	f.pause(t, "")
	logged(t, messages, "lane changed") // the worker knows
	release <- struct{}{}
	f.succeeds(t, first)
	stays(t, 500*time.Millisecond, "the other is not started", func() bool { return len(started) == 0 })
	f.resume(t, "")
	receive(t, started, "second start")
	release <- struct{}{}
	f.succeeds(t, tasks...)
}

// A running task goes on while its lane is paused, and its retry waits for the end
// of the pause.
func TestPauseLeavesRunningTasksAlone(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	started, release := make(chan struct{}, 1), make(chan error, 1)
	f.on("k", func(context.Context, *pelton.Task) (json.RawMessage, error) {
		started <- struct{}{}
		return nil, <-release
	})
	f.work(t, 2, worker.Config{})
	task := f.enqueue(t, "k")
	receive(t, started, "start")
	f.pause(t, "")
	eventually(t, "it runs", func() bool { return f.get(t, task.ID).State == pelton.Running })
	stays(t, 300*time.Millisecond, "it runs", func() bool { return f.get(t, task.ID).State == pelton.Running })
	release <- pelton.RetryAfter(0, errors.New("again"))
	eventually(t, "it waits", func() bool { return f.get(t, task.ID).State == pelton.Queued })
	stays(t, 300*time.Millisecond, "it is not started", func() bool { return len(started) == 0 })
	waits := f.enqueue(t, "k")
	if cancelled, err := f.client.Cancel(t.Context(), waits.ID); err != nil || cancelled.State != pelton.Cancelled {
		t.Errorf("cancel while paused = %+v, %v", cancelled, err)
	}
	f.resume(t, "")
	receive(t, started, "second start")
	release <- nil
	if done := f.finished(t, task.ID); done.State != pelton.Succeeded || done.Attempt != 2 || done.Crashes != 0 {
		t.Errorf("task = %+v", done)
	}
}

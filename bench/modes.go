package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// measured is one value of one metric.
type measured struct {
	metric string
	value  float64
}

// metric says how values are to be read.
type metric struct {
	Name string `json:"name"`
	Unit string `json:"unit"`
	// Less is true where smaller values are better.
	Less bool `json:"less,omitempty"`
}

// mode is one measurement of one contestant, which has been reset and holds have
// tasks, all without a time, that warmed it up.
type mode struct {
	name    string
	metrics []metric
	once    bool          // its values do not vary enough to be repeated
	long    bool          // not part of the short form
	within  time.Duration // bound of one measurement; 0 means modeWithin
	run     func(ctx context.Context, c contestant, s scale, have int) ([]measured, error)
}

// scale bounds a run: each step ends after so many tasks or so much time.
type scale struct {
	Reps    int           `json:"repetitions"`
	Tasks   int           `json:"tasks"`  // of enqueue, batch, drain, and both at once
	Within  time.Duration `json:"within"` // of what sends tasks, per step
	Samples int           `json:"samples"`
	Queued  int           `json:"queued"` // tasks of the memory mode
}

// shortScale takes less than 10 minutes with all contestants; fullScale up to an hour.
var (
	shortScale = scale{Reps: 3, Tasks: 10_000, Within: time.Second, Samples: 200, Queued: 20_000}
	fullScale  = scale{Reps: 5, Tasks: 50_000, Within: 4 * time.Second, Samples: 2000, Queued: 200_000}
)

const (
	warmTasks   = 200
	modeWithin  = 2 * time.Minute // bound of one measurement
	settleFor   = 2 * time.Second // before memory is read, so that caches are written
	rateUnit    = "tasks/s"
	onePerTask  = "B/task"
	enqueueMode = "enqueue"
)

var modes = []mode{
	{
		name:    enqueueMode,
		metrics: []metric{{Name: "enqueue, 1 caller", Unit: rateUnit}, {Name: "enqueue, 16 callers", Unit: rateUnit}, {Name: "enqueue, 64 callers", Unit: rateUnit}},
		run:     runEnqueue,
	},
	{name: "batch", metrics: []metric{{Name: "batches of 1,000", Unit: rateUnit}}, run: runBatch},
	{name: "drain", metrics: []metric{{Name: "drain, 1 worker process", Unit: rateUnit}}, run: drainBy(1, "drain, 1 worker process")},
	{name: "drain2", metrics: []metric{{Name: "drain, 2 worker processes", Unit: rateUnit}}, run: drainBy(2, "drain, 2 worker processes")},
	{name: "both", metrics: []metric{{Name: "enqueue and work at once", Unit: rateUnit}}, run: runBoth},
	{
		name:    "latency",
		metrics: []metric{{Name: "latency at 100/s, p50", Unit: "ms", Less: true}, {Name: "latency at 100/s, p99", Unit: "ms", Less: true}},
		run:     latencyAt(10*time.Millisecond, "latency at 100/s"),
	},
	{
		name: "latency1k", long: true,
		metrics: []metric{{Name: "latency at 1,000/s, p50", Unit: "ms", Less: true}, {Name: "latency at 1,000/s, p99", Unit: "ms", Less: true}},
		run:     latencyAt(time.Millisecond, "latency at 1,000/s"),
	},
	{
		name: "memory", once: true,
		metrics: []metric{
			{Name: "memory, queued", Unit: onePerTask, Less: true},
			{Name: "disk, queued", Unit: onePerTask, Less: true},
			{Name: "disk, finished", Unit: onePerTask, Less: true},
		},
		run: runMemory,
	},
	growthMode(10_000, 100_000, 1_000_000),
}

// runEnqueue is how many tasks a second callers get confirmed who wait for each.
func runEnqueue(ctx context.Context, c contestant, s scale, _ int) ([]measured, error) {
	var got []measured
	for _, step := range []struct {
		callers int
		metric  string
	}{{1, "enqueue, 1 caller"}, {16, "enqueue, 16 callers"}, {64, "enqueue, 64 callers"}} {
		n, took, err := c.enqueue(ctx, load{callers: step.callers, n: s.Tasks, within: s.Within})
		if err != nil {
			return nil, err
		}
		got = append(got, measured{step.metric, perSecond(n, took)})
	}
	return got, nil
}

func runBatch(ctx context.Context, c contestant, s scale, _ int) ([]measured, error) {
	n, took, err := c.batch(ctx, load{n: 2 * s.Tasks, within: s.Within})
	if err != nil {
		return nil, err
	}
	return []measured{{"batches of 1,000", perSecond(n, took)}}, nil
}

// fillUp enqueues n tasks as fast as the contestant can, and tells how many it has
// then.
func fillUp(ctx context.Context, c contestant, n, have int) (int, error) {
	l := load{callers: 64, n: n, within: modeWithin / 2}
	sent, _, err := c.batch(ctx, l)
	if errors.Is(err, errNoBatch) {
		sent, _, err = c.enqueue(ctx, l)
	}
	if err == nil && sent < n {
		err = fmt.Errorf("%d of %d tasks were enqueued within %s", sent, n, l.within)
	}
	return have + sent, err
}

// drainBy is how many tasks a second worker processes handle that are queued, from
// the end of the first task to the end of the last: their start is not measured.
func drainBy(processes int, name string) func(context.Context, contestant, scale, int) ([]measured, error) {
	return func(ctx context.Context, c contestant, s scale, have int) (_ []measured, err error) {
		if have, err = fillUp(ctx, c, s.Tasks, have); err != nil {
			return nil, err
		}
		crew := newCrew()
		stop, err := c.hire(ctx, crew, processes)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, stop()) }()
		first, last, err := crew.await(ctx, have)
		if err != nil {
			return nil, err
		}
		return []measured{{name, perSecond(have-1, last.Sub(first))}}, nil
	}
}

// runBoth is how many tasks a second 64 callers enqueue and one worker process
// handles meanwhile, until all are done.
func runBoth(ctx context.Context, c contestant, s scale, have int) (_ []measured, err error) {
	crew := newCrew()
	stop, err := c.hire(ctx, crew, 1)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	if _, _, err := crew.await(ctx, have); err != nil {
		return nil, err
	}
	began := time.Now()
	n, _, err := c.enqueue(ctx, load{callers: 64, n: s.Tasks, within: s.Within})
	if err != nil {
		return nil, err
	}
	_, last, err := crew.await(ctx, have+n)
	if err != nil {
		return nil, err
	}
	return []measured{{"enqueue and work at once", perSecond(n, last.Sub(began))}}, nil
}

// latencyAt is from before the call that enqueues to the first line of the handler
// in another process, on an otherwise idle system with one task each gap.
func latencyAt(gap time.Duration, name string) func(context.Context, contestant, scale, int) ([]measured, error) {
	return func(ctx context.Context, c contestant, s scale, have int) (_ []measured, err error) {
		crew := newCrew()
		stop, err := c.hire(ctx, crew, 1)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, stop()) }()
		if _, _, err := crew.await(ctx, have); err != nil {
			return nil, err
		}
		if err := c.paced(ctx, s.Samples, gap); err != nil {
			return nil, err
		}
		if _, _, err := crew.await(ctx, have+s.Samples); err != nil {
			return nil, err
		}
		took := crew.latencies()
		if len(took) != s.Samples {
			return nil, fmt.Errorf("%d of %d tasks came with a time", len(took), s.Samples)
		}
		return []measured{{name + ", p50", quantile(took, 0.5)}, {name + ", p99", quantile(took, 0.99)}}, nil
	}
}

// runMemory is what tasks cost the broker: resident memory and disk while they are
// queued, and the disk that is still taken when all have been handled.
func runMemory(ctx context.Context, c contestant, s scale, have int) (_ []measured, err error) {
	look := func() (memory, disk float64, err error) {
		if err := wait(ctx, settleFor); err != nil {
			return 0, 0, err
		}
		pids, data := c.footprint()
		memory, err1 := memoryOf(pids)
		disk, err2 := diskOf(data)
		return memory, disk, errors.Join(err1, err2)
	}
	memory0, disk0, err := look()
	if err != nil {
		return nil, err
	}
	all, err := fillUp(ctx, c, s.Queued, have)
	if err != nil {
		return nil, err
	}
	memory1, disk1, err := look()
	if err != nil {
		return nil, err
	}
	crew := newCrew()
	stop, err := c.hire(ctx, crew, 1)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	if _, _, err := crew.await(ctx, all); err != nil {
		return nil, err
	}
	_, disk2, err := look()
	if err != nil {
		return nil, err
	}
	n := float64(all - have)
	got := []measured{{"disk, queued", (disk1 - disk0) / n}, {"disk, finished", (disk2 - disk0) / n}}
	if pids, _ := c.footprint(); len(pids) > 0 {
		got = append(got, measured{"memory, queued", (memory1 - memory0) / n})
	}
	return got, nil
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"math"
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
	once    bool // its values do not vary enough to be repeated, or it takes too long
	briefly bool // it is not repeated in the short form
	// only names the contestants that it measures, and brief those of the short form
	// in which modes are not chosen by name. Nil means all that want it.
	only   []string
	brief  []string
	within time.Duration // bound of one measurement; 0 means modeWithin
	run    func(ctx context.Context, c contestant, s scale, have int) ([]measured, error)
}

const (
	warmTasks     = 200
	modeWithin    = 2 * time.Minute // bound of one measurement
	settleFor     = 2 * time.Second // before memory is read, so that caches are written
	rateUnit      = "tasks/s"
	onePerTask    = "B/task"
	enqueueMode   = "enqueue"
	batchMetric   = "batches of 1,000"
	drainMetric   = "drain, 1 worker process"
	drain2Metric  = "drain, 2 worker processes"
	bothMetric    = "enqueue and work at once"
	latencyMetric = "latency at 100/s"
	million       = 1_000_000
)

func enqueueBy(callers int) string {
	if callers == 1 {
		return "enqueue, 1 caller"
	}
	return fmt.Sprintf("enqueue, %d callers", callers)
}

// quantiles are two metrics of what took some time.
func quantiles(name string) []metric {
	return []metric{{Name: name + ", p50", Unit: "ms", Less: true}, {Name: name + ", p99", Unit: "ms", Less: true}}
}

// quantilesOf are the values of quantiles.
func quantilesOf(name string, took []float64) []measured {
	return []measured{{name + ", p50", quantile(took, 0.5)}, {name + ", p99", quantile(took, 0.99)}}
}

var (
	nobody    = []string{}
	ownPelton = []string{namePelton}
)

var modes = []mode{
	{
		name:    enqueueMode,
		metrics: []metric{{Name: enqueueBy(1), Unit: rateUnit}, {Name: enqueueBy(16), Unit: rateUnit}, {Name: enqueueBy(64), Unit: rateUnit}},
		run:     runEnqueue,
	},
	{name: "batch", metrics: []metric{{Name: batchMetric, Unit: rateUnit}}, run: runBatch},
	{name: "drain", metrics: []metric{{Name: drainMetric, Unit: rateUnit}}, run: drainBy(1, drainMetric)},
	{name: "drain2", metrics: []metric{{Name: drain2Metric, Unit: rateUnit}}, briefly: true, run: drainBy(2, drain2Metric)},
	{name: "both", metrics: []metric{{Name: bothMetric, Unit: rateUnit}}, run: runBoth},
	queuedMode(), // this and the next early, since they are read when all is done
	retainedMode,
	{name: "latency", metrics: quantiles(latencyMetric), run: latencyAt(10*time.Millisecond, latencyMetric)},
	{name: "latency1k", brief: nobody, metrics: quantiles("latency at 1,000/s"), run: latencyAt(time.Millisecond, "latency at 1,000/s")},
	{
		name: "memory", once: true,
		metrics: []metric{
			{Name: "memory, queued", Unit: onePerTask, Less: true},
			{Name: "disk, queued", Unit: onePerTask, Less: true},
			{Name: "disk, finished", Unit: onePerTask, Less: true},
		},
		run: runMemory,
	},
	growthMode(),
	queuesMode(1, 10, 100),
	fleetMode(1, 4, 16, 64),
	criticalMode,
	idleMode,
	syncedModeOf,
	pollMode,
}

// runEnqueue is how many tasks a second callers get confirmed who wait for each.
func runEnqueue(ctx context.Context, c contestant, s scale, _ int) ([]measured, error) {
	var got []measured
	for _, callers := range s.Callers {
		n, took, err := c.enqueue(ctx, load{callers: callers, n: 2 * s.Tasks, within: s.Within})
		if err != nil {
			return nil, err
		}
		got = append(got, measured{enqueueBy(callers), perSecond(n, took)})
	}
	return got, nil
}

func runBatch(ctx context.Context, c contestant, s scale, _ int) ([]measured, error) {
	n, took, err := c.batch(ctx, load{n: 2 * s.Tasks, within: s.Within})
	if err != nil {
		return nil, err
	}
	return []measured{{batchMetric, perSecond(n, took)}}, nil
}

// slowestFill bounds a fill: it is several times what the slowest contestant takes
// for a task.
const slowestFill = 300 * time.Microsecond

// fillUp enqueues n tasks as fast as the contestant can, and tells how many it has
// then.
func fillUp(ctx context.Context, c contestant, n, have int) (int, error) {
	l := load{callers: 64, n: n, within: max(modeWithin/2, time.Duration(n)*slowestFill)}
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
// the end of the first task to the end of the last, or until some seconds are over:
// their start is not measured.
func drainBy(processes int, name string) func(context.Context, contestant, scale, int) ([]measured, error) {
	return func(ctx context.Context, c contestant, s scale, have int) (_ []measured, err error) {
		if have, err = fillUp(ctx, c, s.Drain, have); err != nil {
			return nil, err
		}
		crew := newCrew()
		stop, err := c.hire(ctx, crew, processes)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, stop()) }()
		rate, err := crew.rate(ctx, have, s.DrainFor)
		return []measured{{name, rate}}, err
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
	return []measured{{bothMetric, perSecond(n, last.Sub(began))}}, nil
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
		return quantilesOf(name, took), nil
	}
}

// runMemory is what tasks cost the broker: resident memory and disk while they are
// queued, and the disk that is still taken when all have been handled.
func runMemory(ctx context.Context, c contestant, s scale, have int) (_ []measured, err error) {
	look := func() (memory, disk float64, err error) { return takes(ctx, c) }
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

// takes is what a contestant's broker takes of memory and disk, in bytes, when its
// memory has not shrunk for settleFor, or after some times that.
func takes(ctx context.Context, c contestant) (memory, disk float64, err error) {
	const (
		step    = 500 * time.Millisecond
		shrinks = 512 << 10 // a change that says that more may be given back
	)
	pids, data := c.footprint()
	mark := math.Inf(1)
	for still, past := time.Duration(0), time.Duration(0); still < settleFor && past < 5*settleFor; still, past = still+step, past+step {
		if err := wait(ctx, step); err != nil {
			return 0, 0, err
		}
		if memory, err = memoryOf(pids); err != nil {
			return 0, 0, err
		}
		if memory < mark-shrinks {
			mark, still = memory, 0
		}
	}
	disk, err = diskOf(data)
	return memory, disk, err
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

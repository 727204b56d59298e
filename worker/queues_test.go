package worker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/admin"
	"github.com/peltonq/pelton/internal/broker"
	"github.com/peltonq/pelton/internal/brokertest"
	"github.com/peltonq/pelton/producer"
	"github.com/peltonq/pelton/worker"
)

// fleet is an installation whose producer, operator and workers each have a
// connection of their own, as processes do.
type fleet struct {
	*rig
	admin   *admin.Client
	connect func() *nats.Conn
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	srv := brokertest.StartServer(t)
	connect := func() *nats.Conn { return brokertest.Connect(t, srv) }
	operator, err := admin.New(t.Context(), connect(), admin.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(operator.Close)
	return &fleet{rig: rigOn(t, connect(), producer.Config{}), admin: operator, connect: connect}
}

// work runs n workers.
func (f *fleet) work(t *testing.T, n int, cfg worker.Config) {
	t.Helper()
	for range n {
		runOn(t, f.connect(), f.Mux, cfg)
	}
}

func (f *fleet) set(t *testing.T, patch string) {
	t.Helper()
	if _, err := f.admin.PatchQueue(t.Context(), pelton.DefaultQueue, []byte(patch)); err != nil {
		t.Fatal(err)
	}
}

func (f *fleet) pause(t *testing.T, p pelton.Priority) {
	t.Helper()
	if _, err := f.admin.Pause(t.Context(), pelton.DefaultQueue, p); err != nil {
		t.Fatal(err)
	}
}

func (f *fleet) resume(t *testing.T, p pelton.Priority) {
	t.Helper()
	if _, err := f.admin.Resume(t.Context(), pelton.DefaultQueue, p); err != nil {
		t.Fatal(err)
	}
}

// stays checks that a condition holds for d.
func stays(t *testing.T, d time.Duration, what string, cond func() bool) {
	t.Helper()
	over := time.After(d)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		if !cond() {
			t.Fatalf("no longer: %s", what)
		}
		select {
		case <-tick.C:
		case <-over:
			return
		}
	}
}

func TestMaxRunningOverTheFleet(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	g := newGauge()
	release := make(chan struct{})
	f.on("hold", func(_ context.Context, task *pelton.Task) (json.RawMessage, error) {
		defer g.enter("hold")()
		<-release
		return nil, nil
	})
	f.on("quick", func(_ context.Context, task *pelton.Task) (json.RawMessage, error) {
		defer g.enter(string(task.Payload))()
		timer := time.NewTimer(time.Millisecond)
		defer timer.Stop()
		<-timer.C
		return nil, nil
	})
	f.set(t, `{"max_running":{"normal":3}}`)
	f.work(t, 4, worker.Config{Concurrency: 4})
	quick := func(phase string) (ids []pelton.ID) {
		t.Helper()
		specs := make([]pelton.Spec, 150)
		for i := range specs {
			specs[i] = pelton.Spec{Kind: "quick", Payload: json.RawMessage(`"` + phase + `"`)}
		}
		items, err := f.client.EnqueueMany(t.Context(), specs)
		if err != nil {
			t.Fatal(err)
		}
		for _, item := range items {
			ids = append(ids, item.Task.ID)
		}
		return ids
	}
	f.succeeds(t, quick("three")...)
	if peak := g.peak(`"three"`); peak > 3 {
		t.Errorf("%d ran at once, more than 3", peak)
	}

	held := f.enqueueMany(t, 10, "hold")
	eventually(t, "three run", func() bool { return g.running("hold") == 3 })
	stays(t, 300*time.Millisecond, "no more than three run", func() bool { return g.running("hold") == 3 })
	f.set(t, `{"max_running":{"normal":5}}`)
	eventually(t, "five run", func() bool { return g.running("hold") == 5 })
	stays(t, 300*time.Millisecond, "no more than five run", func() bool { return g.running("hold") == 5 })
	f.set(t, `{"max_running":{"normal":1}}`) // those that run go on
	stays(t, 300*time.Millisecond, "five run", func() bool { return g.running("hold") == 5 })
	close(release)
	f.succeeds(t, held...)
	f.succeeds(t, quick("one")...)
	if peak := g.peak(`"one"`); peak > 1 {
		t.Errorf("%d ran at once, more than 1", peak)
	}
	f.set(t, `{"max_running":null}`)
	f.succeeds(t, quick("any")...)
	if peak := g.peak(`"any"`); peak < 2 {
		t.Errorf("without the setting %d ran at once", peak)
	}
}

// A lane that may not run more holds back no lane below it.
func TestBoundedLaneHoldsBackNobody(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	release, started := make(chan struct{}), make(chan struct{}, 10)
	f.on("hold", func(context.Context, *pelton.Task) (json.RawMessage, error) {
		started <- struct{}{}
		<-release
		return nil, nil
	})
	f.on("quick", func(context.Context, *pelton.Task) (json.RawMessage, error) { return nil, nil })
	f.set(t, `{"max_running":{"high":1}}`)
	log, messages := watchLog()
	runOn(t, f.connect(), f.Mux, worker.Config{Concurrency: 2, Logger: log})
	held := f.enqueueMany(t, 5, "hold", pelton.WithPriority(pelton.High))
	receive(t, started, "start")
	for range 5 { // each batch meets the open request on the lane above
		f.succeeds(t, f.enqueueMany(t, 100, "quick", pelton.WithPriority(pelton.Low))...)
	}
	if len(started) > 0 {
		t.Error("a second task of the bounded lane runs")
	}
	close(release)
	f.succeeds(t, held...)
	for len(messages) > 0 {
		if message := <-messages; message == "request of a lane was not answered" {
			t.Error("the dispatcher waited for a lane that does not answer")
		}
	}
}

// TestRetriedTasksHoldNothing is the promise that 500 tasks in a 10-minute backoff do
// not slow a lane that is limited to 2.
func TestRetriedTasksHoldNothing(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.on("broken", func(context.Context, *pelton.Task) (json.RawMessage, error) {
		return nil, pelton.RetryAfter(10*time.Minute, errors.New("not now"))
	})
	g := newGauge()
	f.on("quick", func(context.Context, *pelton.Task) (json.RawMessage, error) {
		defer g.enter("quick")()
		return nil, nil
	})
	f.set(t, `{"max_running":{"normal":2}}`)
	f.work(t, 2, worker.Config{})
	f.enqueueMany(t, 500, "broken")
	queue := func() *pelton.Queue {
		t.Helper()
		q, err := f.admin.Queue(t.Context(), pelton.DefaultQueue)
		if err != nil {
			t.Fatal(err)
		}
		if d := q.Priorities[pelton.Normal]; d.Running > 2 {
			t.Fatalf("%d messages are out on a lane limited to 2", d.Running)
		}
		return q
	}
	within(t, 3*patience, "all wait for their retry, and nothing is out", func() bool {
		q := queue()
		return q.Scheduled == 500 && q.Ready == 0 && q.Running == 0
	})
	f.succeeds(t, f.enqueueMany(t, 200, "quick")...)
	if peak := g.peak("quick"); peak > 2 {
		t.Errorf("%d ran at once", peak)
	}
	if q := queue(); q.Scheduled != 500 {
		t.Errorf("%d tasks wait for their retry", q.Scheduled)
	}
}

// dieWith makes a waiting task look as if its worker had died with it, for the n-th
// time. The lane must be paused.
func (f *fleet) dieWith(t *testing.T, id pelton.ID, before int) {
	t.Helper()
	b := f.broker(t)
	r, err := b.LoadRecord(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	r.State, r.Owner, r.Crashes, r.Attempt, r.StartedAt = pelton.Running, "nobody-1-00000000", before, 1, time.Now()
	r.Carrier = f.lastTask(t)
	if err := b.SaveRecord(t.Context(), r); err != nil {
		t.Fatal(err)
	}
}

func TestMaxCrashes(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.on("k", func(context.Context, *pelton.Task) (json.RawMessage, error) { return nil, nil })
	f.set(t, `{"lease":"6s"}`) // a silent owner is asked for a part of it
	f.work(t, 1, worker.Config{})
	f.succeeds(t, f.enqueue(t, "k").ID)
	for _, tc := range []struct {
		setting string
		before  int // deaths before this one
		poison  bool
	}{
		{"null", 1, false},
		{"null", 2, true},
		{"1", 0, true},
		{"5", 3, false},
		{"5", 4, true},
	} {
		f.set(t, `{"max_crashes":`+tc.setting+`}`)
		f.pause(t, "")
		task := f.enqueue(t, "k")
		f.dieWith(t, task.ID, tc.before)
		f.resume(t, "")
		name := fmt.Sprintf("max_crashes %s, death %d", tc.setting, tc.before+1)
		done := f.finished(t, task.ID)
		switch {
		case done.Crashes != tc.before+1:
			t.Errorf("%s: %d crashes", name, done.Crashes)
		case tc.poison && (done.State != pelton.Failed || done.Error.Reason != pelton.ReasonPoison):
			t.Errorf("%s: %s, %+v", name, done.State, done.Error)
		case !tc.poison && done.State != pelton.Succeeded:
			t.Errorf("%s: %s, %+v", name, done.State, done.Error)
		}
	}
}

// A lease that gets shorter, and longer again, while a task runs takes it from
// nobody: its worker follows before the broker does.
func TestLeaseChangesUnderARunningTask(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	var runs atomic.Int32
	started, release := make(chan struct{}, 10), make(chan struct{})
	f.on("k", func(ctx context.Context, _ *pelton.Task) (json.RawMessage, error) {
		runs.Add(1)
		started <- struct{}{}
		select {
		case <-release:
			return nil, nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	})
	f.work(t, 2, worker.Config{})
	task := f.enqueue(t, "k")
	receive(t, started, "start")
	// After that the last sign of life is older than the lease will be: they come every
	// ten seconds.
	stays(t, 4500*time.Millisecond, "one run", func() bool { return runs.Load() == 1 })
	f.set(t, `{"lease":"4s"}`)
	stays(t, 8*time.Second, "one run", func() bool { return runs.Load() == 1 })
	f.set(t, `{"lease":"8s"}`)
	stays(t, 3*time.Millisecond, "one run", func() bool { return runs.Load() == 1 })
	f.set(t, `{"lease":null}`)
	stays(t, 500*time.Millisecond, "one run", func() bool { return runs.Load() == 1 })
	close(release)
	if done := f.finished(t, task.ID); done.State != pelton.Succeeded || done.Attempt != 1 || done.Crashes != 0 {
		t.Errorf("task = %+v", done)
	}
	settled, err := f.broker(t).SettleLane(t.Context(), broker.Lane{Queue: pelton.DefaultQueue, Priority: pelton.Normal}, false)
	if err != nil || settled.Lease != broker.DefaultLease {
		t.Errorf("settled = %+v, %v", settled, err)
	}
}

// What a crash left between the settings and the lanes, workers mend when they come.
func TestWorkersMendLanes(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	g := newGauge()
	release := make(chan struct{})
	f.on("k", func(context.Context, *pelton.Task) (json.RawMessage, error) {
		defer g.enter("k")()
		<-release
		return nil, nil
	})
	ids := f.enqueueMany(t, 8, "k")
	f.lagBehind(t, `{"lanes":["normal"],"settings":{"max_running":{"normal":2},"lease":"25s"}}`)
	f.work(t, 2, worker.Config{})
	eventually(t, "two run", func() bool { return g.running("k") == 2 })
	stays(t, 300*time.Millisecond, "two run", func() bool { return g.running("k") == 2 })
	// And when it happens while they are there, a few seconds after: a lease that is
	// too long is for them to shorten too. None is so short that a worker that gets no
	// processor loses what it runs.
	s := f.watchStalls(t)
	changed := time.Now()
	f.lagBehind(t, `{"lanes":["normal"],"settings":{"max_running":{"normal":4},"lease":"15s"}}`)
	const look = 10*time.Second + time.Second // after 5 to 10 s, and then a shorter lease is put off for a second
	s.within(t, look, changed, "four run", func() bool { return g.running("k") == 4 })
	s.within(t, look, changed, "the lease is short", func() bool { return f.ackWait(t) == 15*time.Second })
	close(release)
	f.succeeds(t, ids...)
	if peak := g.peak("k"); peak != 4 {
		t.Errorf("%d ran at once", peak)
	}
}

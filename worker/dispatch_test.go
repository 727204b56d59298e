package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
)

// bench drives a dispatcher by hand: what it does is written to log.
type bench struct {
	*dispatcher
	clock   time.Time
	log     []string
	refuses error // what pulls say
	offline bool
	waits   []time.Duration // of the requests that wait
}

// fakePuller notes what is asked of it.
type fakePuller struct {
	bench  *bench
	name   string
	onStop func()
}

func (p *fakePuller) Pull(batch int, wait time.Duration) error {
	if p.bench.refuses != nil {
		return p.bench.refuses
	}
	verb := "probe"
	if wait > 0 {
		verb = "knock"
		p.bench.waits = append(p.bench.waits, wait)
	}
	p.bench.note("%s %s %d", verb, p.name, batch)
	return nil
}

func (p *fakePuller) Stand(batch int, wait time.Duration) error {
	if p.bench.refuses != nil {
		return p.bench.refuses
	}
	p.bench.waits = append(p.bench.waits, wait)
	p.bench.note("knock %s %d", p.name, batch)
	return nil
}

func (p *fakePuller) Close(context.Context) {
	if p.onStop != nil {
		p.onStop()
	}
}

func newBench(b bounds, ranked ...int) *bench {
	x := &bench{clock: time.Unix(1e9, 0)}
	x.dispatcher = &dispatcher{
		bounds: b, maxWait: 30 * time.Second, now: func() time.Time { return x.clock }, log: slog.New(slog.DiscardHandler),
		start:    func(h kept) { x.note("start %s %d", h.lane.puller.(*fakePuller).name, h.delivery.Seq) },
		giveBack: func(l *lane, d *broker.Delivery) { x.note("nak %s %d", l.puller.(*fakePuller).name, d.Seq) },
		reopen: func(l *lane) {
			l.generation++
			x.note("reopen %s", l.puller.(*fakePuller).name)
		},
		online: func() bool { return !x.offline }, inbox: newInbox(), resumed: make(chan kept), paced: make(chan pace), freed: make(chan int, b.total), stopped: make(chan struct{}),
	}
	for i, rank := range ranked {
		l := &lane{rank: rank, Lane: broker.Lane{Queue: fmt.Sprintf("q%d", i), Priority: pelton.Priorities()[rank]}}
		l.lease.Store(int64(30 * time.Second))
		l.puller = &fakePuller{bench: x, name: fmt.Sprintf("%d:%s", i, l.Priority)}
		x.add(l)
	}
	return x
}

func (x *bench) note(format string, args ...any) { x.log = append(x.log, fmt.Sprintf(format, args...)) }

// expect compares what was done since the last call.
func (x *bench) expect(t *testing.T, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, x.log); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	x.log = nil
}

func (x *bench) deliver(i int, seqs ...uint64) {
	for _, seq := range seqs {
		x.on(laneEvent{lane: x.lanes[i], generation: x.lanes[i].generation, delivery: &broker.Delivery{Seq: seq}})
	}
}

func (x *bench) end(i int, err error) {
	x.on(laneEvent{lane: x.lanes[i], generation: x.lanes[i].generation, end: broker.PullEnd{Err: err}})
}

func (x *bench) free(rank int) { x.running[rank]-- }

func TestDispatchSweepsFromHighToLow(t *testing.T) {
	t.Parallel()
	x := newBench(slots(4), low, high, critical)
	x.fill()
	x.expect(t, "probe 2:critical 4")
	x.fill() // one probe at a time
	x.expect(t)
	x.end(2, nil)
	x.fill()
	x.expect(t, "probe 1:high 4")
	x.deliver(1, 11, 12)
	x.fill() // it may bring more
	x.expect(t, "start 1:high 11", "start 1:high 12")
	x.end(1, nil)
	x.fill()
	x.expect(t, "probe 0:low 2")
	x.deliver(0, 21, 22)
	x.fill() // no slot is left
	x.expect(t, "start 0:low 21", "start 0:low 22")

	// What is known of the higher lanes is stale by the time a slot is free.
	x.free(low)
	x.fill()
	x.expect(t, "probe 2:critical 1")
	x.end(2, nil)
	x.fill()
	x.expect(t, "probe 1:high 1")
	x.deliver(1, 13)
	x.expect(t, "start 1:high 13")
}

func TestDispatchKnocksOnEmptyLanes(t *testing.T) {
	t.Parallel()
	x := newBench(slots(4, atMost(low, 1)), high, low)
	x.fill()
	x.end(0, nil)
	x.fill()
	x.deliver(1, 1) // its limit
	x.fill()
	x.expect(t, "probe 0:high 4", "probe 1:low 1", "start 1:low 1", "knock 0:high 1")
	x.fill()
	x.expect(t) // one knock is enough

	x.deliver(0, 2) // the knock is answered: the lane may have more
	x.fill()
	x.expect(t, "start 0:high 2", "probe 0:high 2")
	x.end(0, nil)
	x.fill()
	x.expect(t, "knock 0:high 1")

	x.end(0, nil) // nothing came in 30 s: knock again, without a probe
	x.fill()
	x.expect(t, "knock 0:high 1")
}

func TestDispatchWithoutRoomKnocksNowhere(t *testing.T) {
	t.Parallel()
	x := newBench(slots(1), high, low)
	x.fill()
	x.end(0, nil)
	x.fill()
	x.deliver(1, 1)
	x.fill()
	x.expect(t, "probe 0:high 1", "probe 1:low 1", "start 1:low 1")
	x.free(low)
	x.fill() // what was empty then may have a task now
	x.expect(t, "probe 0:high 1")
}

func TestDispatchGivesBackWhatHasNoRoom(t *testing.T) {
	t.Parallel()
	x := newBench(slots(1), high, low)
	x.fill()
	x.end(0, nil)
	x.fill()
	x.end(1, nil)
	x.fill()
	x.expect(t, "probe 0:high 1", "probe 1:low 1", "knock 0:high 1", "knock 1:low 1")
	x.deliver(0, 1)
	x.deliver(1, 2)
	x.fill()
	x.expect(t, "start 0:high 1", "nak 1:low 2")
	x.free(high)
	x.fill()
	x.expect(t, "probe 0:high 1")
	x.end(0, nil)
	x.fill() // the lane whose task was given back is asked, not knocked at
	x.expect(t, "probe 1:low 1")
}

func TestDispatchResetOnReconnect(t *testing.T) {
	t.Parallel()
	x := newBench(slots(4), high, low)
	x.fill()
	x.end(0, nil)
	x.fill()
	x.expect(t, "probe 0:high 4", "probe 1:low 4")
	x.reset()
	x.fill()
	x.expect(t, "reopen 1:low", "probe 0:high 4") // only the one with an open request

	// What the forgotten request brings after all is run, and says nothing of
	// the request that is open now.
	x.end(0, nil)
	x.fill()
	x.expect(t, "probe 1:low 4")
	old := x.lanes[1].generation - 1
	x.on(laneEvent{lane: x.lanes[1], generation: old, delivery: &broker.Delivery{Seq: 5}})
	x.on(laneEvent{lane: x.lanes[1], generation: old})
	x.fill()
	x.expect(t, "start 1:low 5")
	x.deliver(1, 6, 7, 8, 9)
	x.expect(t, "start 1:low 6", "start 1:low 7", "start 1:low 8", "nak 1:low 9")
}

func TestDispatchReopensALaneThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	x := newBench(slots(4), high, low)
	x.fill()
	x.clock = x.clock.Add(probeWait - 1)
	x.overdue()
	x.fill()
	x.expect(t, "probe 0:high 4")
	x.clock = x.clock.Add(1)
	x.overdue()
	x.fill() // the others go on meanwhile
	x.expect(t, "reopen 0:high", "probe 1:low 4")
	x.end(1, nil)
	x.fill()
	x.expect(t, "knock 1:low 1")
	if got := x.nextLook(); got != laneBackoff {
		t.Errorf("next look in %s, want %s", got, laneBackoff)
	}
	x.clock = x.clock.Add(laneBackoff)
	x.overdue()
	x.fill()
	x.expect(t, "probe 0:high 4")
	x.end(0, nil)
	x.fill()
	x.expect(t, "knock 0:high 1")
	x.clock = x.clock.Add(knockWait + knockSlack)
	x.overdue()
	x.expect(t, "reopen 0:high", "reopen 1:low")
}

// A request that waits is over before the leases are of tasks that were alive when it was made: the broker
// of a host that went dark must not answer it with one of them.
func TestDispatchKnocksForLessThanALeaseLasts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ lease, want time.Duration }{
		{time.Second, time.Second}, {6 * time.Second, 3600 * time.Millisecond}, {30 * time.Second, 18 * time.Second}, {time.Hour, 30 * time.Second},
	} {
		x := newBench(slots(4), high, low)
		for _, l := range x.lanes {
			l.lease.Store(int64(c.lease))
		}
		x.rule(0, laneRules{bounded: true})
		x.fill()
		x.clock = x.clock.Add(headStart)
		x.overdue()
		x.fill()
		x.end(1, nil)
		x.fill()
		x.expect(t, "knock 0:high 1", "probe 1:low 4", "knock 1:low 1")
		for _, wait := range x.waits {
			if wait < c.want/32 || wait > c.want {
				t.Errorf("a request waits for %s with a lease of %s, want at most %s", wait, c.lease, c.want)
			}
		}
		x.clock = x.clock.Add(c.want + knockSlack)
		x.overdue()
		x.expect(t, "reopen 0:high", "reopen 1:low")
	}
}

// The requests of all workers for a lane end at the same instants, whenever they were made, and so
// do those of the queue's other lanes. Those of another queue do not.
func TestDispatchRenewsTogether(t *testing.T) {
	t.Parallel()
	base := time.Unix(1_800_000_000, 0)
	ends := func(queue string, step, until time.Duration) map[time.Time]int {
		l := &lane{Lane: broker.Lane{Queue: queue}}
		l.lease.Store(int64(30 * time.Second))
		all := map[time.Time]int{}
		for at := time.Duration(0); at < until; at += step {
			all[base.Add(at+l.knockFor(base.Add(at)))]++
		}
		return all
	}
	a, b := ends("emails", 7*time.Millisecond, time.Minute), ends("reports", 7*time.Millisecond, time.Minute)
	if len(a) < 4 || len(a) > 5 {
		t.Errorf("requests of a minute end at %d instants: %v", len(a), a)
	}
	for end := range a {
		if b[end] > 0 {
			t.Errorf("requests of both queues end at %s", end)
		}
	}
	for end := range ends("emails", 11*time.Millisecond, time.Minute) {
		if a[end] == 0 {
			t.Errorf("a request that was made between others ends at an instant of its own, %s", end)
		}
	}
}

// A request that hangs is noticed in its own time, also after one that may take longer.
func TestDispatchNoticesTheShortestKnock(t *testing.T) {
	t.Parallel()
	x := newBench(slots(4), high, low)
	x.lanes[0].lease.Store(int64(time.Hour))
	x.lanes[1].lease.Store(int64(6 * time.Second))
	x.fill()
	x.end(0, nil)
	x.fill()
	x.end(1, nil)
	x.fill()
	x.log = nil
	x.clock = x.clock.Add(3600*time.Millisecond + knockSlack)
	x.overdue()
	x.expect(t, "reopen 1:low")
}

func TestDispatchBacksOffARefusingLane(t *testing.T) {
	t.Parallel()
	x := newBench(slots(4), high, low)
	x.fill()
	x.expect(t, "probe 0:high 4")
	x.end(0, errors.New("409 leadership change"))
	x.fill()
	x.expect(t, "probe 1:low 4")
	x.end(1, nil)
	x.fill()
	x.expect(t, "knock 1:low 1")
	if got := x.nextLook(); got != laneBackoff {
		t.Errorf("next look in %s, want %s", got, laneBackoff)
	}
	x.clock = x.clock.Add(laneBackoff)
	x.refuses = pelton.ErrUnavailable // no connection
	x.fill()
	x.refuses = nil
	x.fill()
	x.expect(t)
	x.clock = x.clock.Add(laneBackoff)
	x.fill()
	x.expect(t, "probe 0:high 4")
}

// TestDispatchRun runs the loop itself: a stalled lane is noticed although others
// keep it busy, and at the end everything that still comes is given back.
func TestDispatchRun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		x := newBench(slots(1), high)
		x.now = time.Now
		x.lanes[0].offered = time.Now()
		reopened := make(chan struct{}, 1)
		x.reopen = func(l *lane) {
			l.generation++
			select {
			case reopened <- struct{}{}:
			default:
			}
		}
		x.start = func(h kept) { x.freed <- h.lane.rank }
		ctx, stop := context.WithCancel(t.Context())
		late := x.lanes[0]
		x.lanes[0].puller.(*fakePuller).onStop = func() {
			x.report(laneEvent{lane: late, generation: late.generation, delivery: &broker.Delivery{Seq: 77}})
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			x.run(ctx, make(chan struct{}))
		}()
		// Deliveries of an earlier puller, more often than the timer could fire.
		busy := time.NewTicker(500 * time.Microsecond)
		defer busy.Stop()
		began := time.Now()
		for open := true; open && time.Since(began) < 2*probeWait; {
			select {
			case <-busy.C:
				x.report(laneEvent{lane: late, generation: -1, delivery: &broker.Delivery{Seq: 1}})
			case <-reopened:
				open = false
			}
		}
		if took := time.Since(began); took < probeWait || took > probeWait+10*time.Millisecond {
			t.Errorf("stalled lane noticed after %s, want %s", took, probeWait)
		}
		stop()
		<-done
		x.report(laneEvent{lane: late, delivery: &broker.Delivery{Seq: 78}}) // nobody reads any more
		x.log = x.log[len(x.log)-2:]
		x.expect(t, "nak 0:high 77", "nak 0:high 78")
	})
}

package worker

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
)

// flow makes the bench believe that so many slots of a priority become free in a
// second, each soon after it was taken.
func (x *bench) flow(rank int, perSecond float64) { x.meter.ends[rank] = perSecond }

// next lets one task of a priority end and what follows happen.
func (x *bench) next(rank int) {
	x.free(rank)
	x.fill()
}

func TestDispatchPrefetches(t *testing.T) {
	t.Parallel()
	x := newBench(slots(2), low)
	x.flow(low, 250) // 5 in 20 ms
	x.fill()
	x.expect(t, "probe 0:low 7")
	x.deliver(0, 1, 2, 3, 4, 5, 6, 7)
	x.fill()
	x.expect(t, "start 0:low 1", "start 0:low 2")
	for _, seq := range []int{3, 4} {
		x.next(low)
		x.expect(t, fmt.Sprintf("start 0:low %d", seq))
	}
	x.next(low) // half of it is used
	x.expect(t, "start 0:low 5", "probe 0:low 3")
	x.next(low)
	x.deliver(0, 8)
	x.end(0, nil) // there is no more
	x.fill()      // but it wants to know when there is, although all slots are taken
	x.expect(t, "start 0:low 6", "knock 0:low 3")
	x.deliver(0, 9)
	x.next(low)
	x.next(low)
	x.next(low)
	x.expect(t, "start 0:low 7", "start 0:low 8", "start 0:low 9") // the knock is for two more
	x.deliver(0, 10, 11)
	x.fill()
	x.expect(t, "probe 0:low 3")

	x.flow(low, 90)
	x.meter.runs[low] = 2 // for 22 ms each
	x.deliver(0, 12)
	x.end(0, nil)
	x.fill()
	x.expect(t) // what was asked for is kept, but nothing more, not even by a knock
	for seq := range 3 {
		x.next(low)
		x.expect(t, fmt.Sprintf("start 0:low %d", 10+seq))
	}
	x.next(low)
	x.expect(t, "probe 0:low 1")
}

// A critical task goes before all that waits, and finds a knock although all slots are
// taken and nothing critical has run yet.
func TestDispatchPrefetchesInOrderOfPriority(t *testing.T) {
	t.Parallel()
	x := newBench(slots(2), low, critical)
	x.flow(low, 300)
	x.fill()
	x.end(1, nil)
	x.fill()
	x.deliver(0, 1, 2, 3, 4, 5, 6, 7, 8)
	x.fill()
	x.expect(t, "probe 1:critical 8", "knock 1:critical 6", "probe 0:low 8", "start 0:low 1", "start 0:low 2") // all there is room for
	x.deliver(1, 100, 101)
	x.fill()
	x.expect(t) // it is open for four more
	x.deliver(1, 102)
	x.end(1, nil)
	x.fill()
	x.expect(t, "knock 1:critical 3")
	for _, next := range []string{"1:critical 100", "1:critical 101", "1:critical 102", "0:low 3"} {
		x.running[critical], x.running[low] = 0, 1
		x.serve()
		x.expect(t, "start "+next)
	}
}

// A knock for several that comes at a bad time is taken back, or what is given back would
// come straight back by it.
func TestDispatchTakesBackAKnockForSeveral(t *testing.T) {
	t.Parallel()
	x := newBench(slots(1), low)
	x.flow(low, 1000)
	x.fill()
	x.end(0, nil)
	x.fill()
	x.deliver(0, 1)
	x.fill()
	x.expect(t, "probe 0:low 21", "knock 0:low 20", "start 0:low 1")
	x.deliver(0, 2) // it may wait
	x.fill()
	x.expect(t)
	x.flow(low, 0)
	x.deliver(0, 3)
	x.fill()
	x.expect(t, "reopen 0:low", "nak 0:low 3")
	x.next(low)
	x.expect(t, "start 0:low 2")
}

// What waits has no room: it does not keep a slot from others.
func TestDispatchPrefetchesWithinBounds(t *testing.T) {
	t.Parallel()
	x := newBench(slots(3, atMost(high, 1), reserve(critical, 1)), high, low)
	x.flow(high, 100)
	x.flow(low, 100)
	x.fill()
	x.deliver(0, 1, 2, 3, 4, 5) // one is its limit
	x.fill()
	x.expect(t, "probe 0:high 5", "start 0:high 1", "probe 1:low 3")
	x.deliver(1, 11, 12, 13) // reserve
	x.fill()
	x.expect(t, "start 1:low 11")
	x.next(low)
	x.expect(t, "start 1:low 12", "probe 1:low 1")
	x.end(1, nil)
	x.next(high)
	x.expect(t, "start 0:high 2", "knock 1:low 1")
}

// Of lanes with max_running or a rate nothing waits here: when there is a slot and it
// is theirs, they are asked first, and meanwhile that slot is nobody else's.
func TestDispatchPrefetchesNothingOfABoundedLane(t *testing.T) {
	t.Parallel()
	for name, rules := range map[string]laneRules{"max_running": {bounded: true}, "rate": {most: 1}} {
		x := newBench(slots(2), high, low)
		x.change(laneChange{x.lanes[0], rules})
		x.flow(low, 300)
		x.fill()
		x.log = nil
		x.end(0, nil)
		x.fill()
		x.deliver(1, 1, 2, 3, 4)
		x.fill()
		x.expect(t, "probe 1:low 8", "start 1:low 1", "start 1:low 2")
		x.end(1, nil)
		x.fill() // answered or not, the knock tells of a task
		x.expect(t, "knock 1:low 4", "knock 0:high 1")
		x.deliver(0, 100)
		x.fill()
		x.expect(t, "nak 0:high 100")
		x.next(low)
		verb := "probe"
		if rules.bounded {
			verb = "knock" // the fake's word for a request that waits
		}
		x.expect(t, verb+" 0:high 1")
		x.next(low)
		x.expect(t, "start 1:low 3") // of two slots one is promised
		x.deliver(0, 100)
		x.expect(t, "start 0:high 100")
		if x.turn != nil {
			t.Errorf("%s: a slot is still promised", name)
		}
		x.next(high)
		x.end(0, nil)
		x.fill()
		x.expect(t, verb+" 0:high 1", "start 1:low 4", "knock 0:high 1")
	}
}

// A promise does not outlive a request that nobody answers.
func TestDispatchPromiseEnds(t *testing.T) {
	t.Parallel()
	x := newBench(slots(1), high, low)
	x.change(laneChange{x.lanes[0], laneRules{bounded: true}})
	x.flow(low, 300)
	x.fill()
	x.end(0, nil)
	x.fill()
	x.deliver(1, 1, 2, 3)
	x.end(1, nil)
	x.lanes[0].state = laneUnknown
	x.place(x.lanes[0])
	x.log = nil
	x.next(low)
	x.expect(t, "knock 1:low 4", "knock 0:high 1")
	x.clock = x.clock.Add(headStart)
	x.overdue()
	x.fill()
	x.expect(t, "start 1:low 2")
}

func TestDispatchStarvedLaneGoesBeforeWhatWaits(t *testing.T) {
	t.Parallel()
	x := newBench(slots(1), high, low)
	x.flow(high, 500) // 10 in 20 ms
	x.fill()
	x.deliver(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)
	x.fill()
	x.expect(t, "probe 0:high 11", "start 0:high 1")
	x.next(high)
	x.expect(t, "start 0:high 2") // low is not asked: high ones leave it nothing
	x.lanes[1].offered = x.clock.Add(-x.maxWait - 1)
	x.place(x.lanes[1])
	x.next(high)
	x.expect(t, "probe 1:low 1") // the slot waits for it
	x.serve()
	x.expect(t)
	x.deliver(1, 100)
	x.fill()
	x.expect(t, "start 1:low 100")
	x.next(low)
	x.expect(t, "start 0:high 3") // its turn is over

	// Nothing there: the slot goes on at once.
	x.lanes[1].offered = x.clock.Add(-x.maxWait - 1)
	x.place(x.lanes[1])
	x.next(high)
	x.expect(t, "probe 1:low 1")
	x.end(1, nil)
	x.fill()
	x.expect(t, "start 0:high 4")

	// One of it waits here.
	x.put(kept{lane: x.lanes[1], delivery: &broker.Delivery{Seq: 101}, since: x.clock})
	x.lanes[1].offered = x.clock.Add(-x.maxWait - 1)
	x.place(x.lanes[1])
	x.next(high)
	x.expect(t, "start 1:low 101")
	x.next(low)
	x.expect(t, "start 0:high 5")
}

func TestDispatchGivesBackWhatWaitedTooLong(t *testing.T) {
	t.Parallel()
	prefetched := func() *bench {
		x := newBench(slots(1), low)
		x.flow(low, 300)
		x.fill()
		x.deliver(0, 1, 2, 3)
		x.end(0, nil)
		x.fill()
		x.expect(t, "probe 0:low 7", "start 0:low 1", "knock 0:low 4")
		return x
	}
	x := prefetched()
	x.clock = x.clock.Add(staleAfter / 2)
	x.deliver(0, 4)
	x.clock = x.clock.Add(staleAfter/2 - 1)
	x.expire()
	x.expect(t)
	if got := x.nextLook(); got != time.Millisecond {
		t.Errorf("next look in %s", got)
	}
	x.clock = x.clock.Add(1)
	x.expire()
	x.expect(t, "reopen 0:low", "nak 0:low 2", "nak 0:low 3")
	if got := x.nextLook(); got != staleAfter/2 {
		t.Errorf("next look in %s, want %s", got, staleAfter/2)
	}

	// They must not come back by the worker's own knock.
	x = prefetched()
	x.clock = x.clock.Add(staleAfter)
	x.expire()
	x.expect(t, "reopen 0:low", "nak 0:low 2", "nak 0:low 3")

	x = prefetched()
	x.lanes[0].lease.Store(int64(time.Second))
	x.clock = x.clock.Add(time.Second/6 - 1)
	x.expire()
	x.expect(t)
	x.clock = x.clock.Add(1)
	x.expire()
	x.expect(t, "reopen 0:low", "nak 0:low 2", "nak 0:low 3")

	// Work got slower meanwhile: nothing would be asked for any more.
	x = prefetched()
	x.clock = x.clock.Add(prefetchFor)
	if got := x.nextLook(); got != waitsAhead-prefetchFor {
		t.Errorf("next look in %s, want %s", got, waitsAhead-prefetchFor)
	}
	x.flow(low, 0)
	x.clock = x.clock.Add(waitsAhead - prefetchFor - 1)
	x.expire()
	x.expect(t)
	x.clock = x.clock.Add(1)
	x.expire()
	x.expect(t, "reopen 0:low", "nak 0:low 2", "nak 0:low 3")

	// Without a connection nobody would hear of it.
	x = prefetched()
	x.offline = true
	x.clock = x.clock.Add(5 * time.Second)
	x.expire()
	x.expect(t)
	if got := x.nextLook(); got != 5*time.Second {
		t.Errorf("next look in %s, want a third of the lease", got)
	}
	x.next(low)
	x.expect(t) // by now it may be somebody else's
	x.offline = false
	x.reset()
	x.expire()
	x.expect(t, "reopen 0:low", "nak 0:low 2", "nak 0:low 3")
	x = prefetched()
	for _, k := range x.lanes[0].stock {
		k.delivery.Fresh = true
	}
	x.reset()
	for _, k := range x.lanes[0].stock {
		if k.delivery.Fresh {
			t.Errorf("%d may have been started elsewhere", k.delivery.Seq)
		}
	}
	x.next(low)
	x.expect(t, "reopen 0:low", "start 0:low 2", "probe 0:low 5")
	x.returnStock(x.lanes[0])
	if x.stock != (stock{typical: x.stock.typical}) {
		t.Errorf("stock = %+v", x.stock)
	}
}

// A rate that lets more start than a worker has ahead is no reason to ask for few.
func TestMostOfARate(t *testing.T) {
	t.Parallel()
	rate := func(limit, burst int, per time.Duration) *broker.RevisedLimit {
		return &broker.RevisedLimit{Limit: pelton.Limit{Rate: pelton.RateLimit{Limit: limit, Burst: burst, Per: per}}}
	}
	for want, of := range map[int][]*broker.RevisedLimit{
		0:             {nil, rate(1000, 1, time.Second), rate(1, mostAhead, time.Hour), rate(1_000_000, 1_000_000, time.Second)},
		60:            {rate(100, 10, time.Second)},
		1:             {rate(1, 1, time.Second)},
		mostAhead - 1: {rate(500, 5, time.Second), rate(1, mostAhead-1, time.Hour)},
	} {
		for _, r := range of {
			if got := mostOf(r); got != want {
				t.Errorf("%+v: %d, want %d", r, got, want)
			}
		}
	}
}

func TestDispatchGivesBackWhatWaitsOfAChangedLane(t *testing.T) {
	t.Parallel()
	for _, rules := range []laneRules{{paused: true}, {bounded: true}, {most: 5}} {
		x := newBench(slots(1), low, low)
		x.flow(low, 300)
		x.fill()
		x.deliver(0, 1, 2)
		x.deliver(0, 3)
		x.log = nil
		x.change(laneChange{x.lanes[0], rules})
		x.expect(t, "reopen 0:low", "nak 0:low 2", "nak 0:low 3")
		if x.stock.all != 0 || x.probing != nil {
			t.Errorf("%+v: %+v waits", rules, x.stock)
		}
	}
}

// What waits is bounded by bytes, too.
func TestDispatchBoundsWhatWaits(t *testing.T) {
	t.Parallel()
	x := newBench(slots(1), low)
	x.flow(low, 1e5)
	x.fill()
	x.expect(t, fmt.Sprintf("probe 0:low %d", 1+mostAhead))
	payload := make([]byte, 1<<20)
	for seq := range uint64(7) {
		x.on(laneEvent{lane: x.lanes[0], delivery: &broker.Delivery{Seq: seq, Envelope: &broker.Envelope{Payload: payload}}})
	}
	x.expect(t, "start 0:low 0", "nak 0:low 5", "nak 0:low 6")
	x.end(0, nil)
	x.free(low)
	x.serve()
	x.free(low)
	x.serve()
	x.expect(t, "start 0:low 1", "start 0:low 2")
	if n := x.stock.missing(low, mostAhead); n < 2 || n > 5 {
		t.Errorf("%d are asked for, with room for 2 MiB", n)
	}
	for range 3 {
		x.free(low)
		x.serve()
	}
	if x.stock.all != 0 || x.stock.bytes != 0 {
		t.Errorf("stock = %+v", x.stock)
	}
}

func TestDispatchRunMeasuresAndGivesBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		x := newBench(slots(2), low)
		x.now = time.Now
		l := x.lanes[0]
		l.offered = time.Now()
		started := make(chan uint64, 2)
		x.start = func(h kept) { started <- h.delivery.Seq }
		seq, largest := uint64(0), 0
		l.puller = pullFunc(func(batch int) { // there is always more
			largest = max(largest, batch)
			for range batch {
				seq++
				x.report(laneEvent{lane: l, delivery: &broker.Delivery{Seq: seq}})
			}
		})
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		done := make(chan struct{})
		go func() { defer close(done); x.run(ctx, nil) }()
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for range 300 { // 2 each ms: 40 in 20 ms
			for range 2 {
				<-started
				x.freed <- low
			}
			<-tick.C
		}
		if largest < 20 || largest > 44 {
			t.Errorf("at most %d were asked for at a time", largest)
		}
		synctest.Wait()
		x.giveBack = func(_ *lane, d *broker.Delivery) { x.note("nak %d", d.Seq) }
		stop()
		<-done
		x.report(laneEvent{lane: l, delivery: &broker.Delivery{Seq: seq + 1}}) // nobody looks any more
		seq++
		var want []string
		for n := seq - uint64(len(x.log)) + 1; n <= seq; n++ {
			want = append(want, fmt.Sprintf("nak %d", n))
		}
		if len(want) < 2 {
			t.Error("nothing waited")
		}
		x.expect(t, want...)
	})
}

type pullFunc func(batch int)

func (f pullFunc) Pull(batch int, _ time.Duration) error  { f(batch); return nil }
func (f pullFunc) Stand(batch int, _ time.Duration) error { f(batch); return nil }
func (f pullFunc) Close(context.Context)                  {}

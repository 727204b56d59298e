package worker

import (
	"errors"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/peltonq/pelton/internal/broker"
)

// expectSameChoice compares the choice among the lanes that the ranking gives to that among all
// lanes, and what is looked at for its time with what has one.
func expectSameChoice(t *rapid.T, x *bench) {
	t.Helper()
	x.look(x.clock)
	all := make([]laneView, len(x.lanes))
	for i, l := range x.lanes {
		allowed := prefetch(x.meter.throughput, x.bounds, x.running, l.rank)
		all[i] = l.view(x.clock, allowed, x.stock.missing(l.rank, allowed))
		if l.state == laneKnocking && (x.ranking.knocks.IsZero() || x.ranking.knocks.After(l.deadline)) {
			t.Fatalf("knocks are looked at from %v, %s is overdue from %v", x.ranking.knocks, l.Priority, l.deadline)
		}
		if (l.state == laneProbing) != (x.probing == l) {
			t.Fatalf("state %d of %s, which is asked: %t", l.state, l.Priority, x.probing == l)
		}
		if l.state == laneUnknown && l.retryAt.After(x.clock) && !l.rules.paused && len(l.stock) == 0 && (x.ranking.wakes.IsZero() || x.ranking.wakes.After(l.retryAt)) {
			t.Fatalf("%s rests until %v and is woken at %v", l.Priority, l.retryAt, x.ranking.wakes)
		}
	}
	chosen := func(views []laneView, i int) int {
		if i < 0 {
			return i
		}
		return views[i].number
	}
	wantLane, wantBatch := nextLane(all, x.bounds, x.held(), x.clock, x.maxWait)
	lane, batch := nextLane(x.views, x.bounds, x.held(), x.clock, x.maxWait)
	if chosen(x.views, lane) != chosen(all, wantLane) || batch != wantBatch {
		t.Fatalf("%d is asked for %d, of all lanes it would be %d for %d", chosen(x.views, lane), batch, wantLane, wantBatch)
	}
	if got, want := chosen(x.views, nextStart(x.views, x.bounds, x.held(), x.clock, x.maxWait)), nextStart(all, x.bounds, x.held(), x.clock, x.maxWait); got != want {
		t.Fatalf("%d gets the next slot, of all lanes it would be %d", got, want)
	}
}

// TestDispatchModel does what can happen, in any order: nobody gets more slots than
// they may, tasks of a lane start in the order of their arrival, and every delivery
// is started, given back, or waits, which few do, and not for long.
func TestDispatchModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		total := rapid.IntRange(1, 6).Draw(t, "total")
		b := slots(total)
		for rank := range b.limit {
			b.limit[rank] = rapid.IntRange(1, total).Draw(t, "limit")
		}
		b.reserve[critical] = min(rapid.IntRange(0, 1).Draw(t, "reserve"), total-1)
		x := newBench(b, low, high, low, critical, low)
		done := map[uint64]bool{}
		last := map[*lane]uint64{}
		x.start = func(h kept) {
			if h.delivery.Seq <= last[h.lane] || done[h.delivery.Seq] {
				t.Fatalf("%d started after %d", h.delivery.Seq, last[h.lane])
			}
			last[h.lane], done[h.delivery.Seq] = h.delivery.Seq, true
		}
		x.giveBack = func(_ *lane, d *broker.Delivery) {
			if done[d.Seq] {
				t.Fatalf("%d given back, and was started or given back before", d.Seq)
			}
			done[d.Seq] = true
		}
		seq := uint64(0)
		anyLane := func(t *rapid.T) *lane { return rapid.SampledFrom(x.lanes).Draw(t, "lane") }
		t.Repeat(map[string]func(*rapid.T){
			"deliver": func(t *rapid.T) {
				l := anyLane(t)
				for range min(l.want, rapid.IntRange(1, 5).Draw(t, "n")) {
					seq++
					x.on(laneEvent{lane: l, generation: l.generation, delivery: &broker.Delivery{Seq: seq}})
				}
			},
			"late": func(t *rapid.T) {
				seq++
				x.on(laneEvent{lane: anyLane(t), generation: -1, delivery: &broker.Delivery{Seq: seq}})
			},
			"end": func(t *rapid.T) {
				if l := anyLane(t); l.want > 0 {
					left := rapid.IntRange(0, l.want).Draw(t, "left")
					x.on(laneEvent{lane: l, generation: l.generation, end: broker.PullEnd{Left: left}})
				}
			},
			"free": func(t *rapid.T) {
				if rank := rapid.IntRange(0, ranks-1).Draw(t, "rank"); x.running[rank] > 0 {
					x.release(rank)
				}
			},
			"time": func(t *rapid.T) {
				x.clock = x.clock.Add(time.Duration(rapid.IntRange(1, 2000).Draw(t, "ms")) * time.Millisecond)
				x.overdue()
				x.expire()
			},
			"rate": func(t *rapid.T) {
				x.flow(rapid.IntRange(0, ranks-1).Draw(t, "rank"), float64(rapid.IntRange(0, 2000).Draw(t, "rate")))
			},
			"change": func(t *rapid.T) {
				x.change(laneChange{anyLane(t), laneRules{
					paused: rapid.Bool().Draw(t, "paused"), bounded: rapid.Bool().Draw(t, "bounded"), most: rapid.IntRange(0, 2).Draw(t, "most"),
				}})
			},
			"reset": func(*rapid.T) { x.reset() },
			"slow": func(t *rapid.T) {
				x.slow(pace{anyLane(t).Queue, x.clock.Add(time.Duration(rapid.IntRange(0, 500).Draw(t, "ms")) * time.Millisecond)})
			},
			"moved": func(t *rapid.T) { x.on(laneEvent{moved: &anyLane(t).Lane}) },
			"refuse": func(t *rapid.T) {
				x.refuses = errors.New("refused")
				x.fill()
				x.refuses = nil
			},
			"": func(t *rapid.T) {
				expectSameChoice(t, x)
				x.fill()
				expectSameChoice(t, x)
				waits, held := stock{typical: x.stock.typical}, 0
				for _, l := range x.lanes {
					waits.of[l.rank] += len(l.stock)
					waits.all += len(l.stock)
					if len(l.stock) > 0 && (!l.prefetched() || b.room(x.held(), l.rank) > 0) {
						t.Fatalf("%d of %s wait, rules %+v, held %v", len(l.stock), l.Priority, l.rules, x.held())
					}
					if len(l.stock) > 0 && slices.ContainsFunc(l.stock, func(k kept) bool { return done[k.delivery.Seq] }) {
						t.Fatalf("%+v waits and is done", l.stock)
					}
				}
				if waits != x.stock || waits.all > mostAhead || len(done)+waits.all != int(seq) {
					t.Fatalf("%+v wait, counted as %+v, %d of %d done", waits, x.stock, len(done), seq)
				}
				for rank, n := range x.running {
					if n > b.limit[rank] {
						t.Fatalf("rank %d holds %d slots, limit %d", rank, n, b.limit[rank])
					}
					held += max(n, b.reserve[rank])
				}
				if held > total {
					t.Fatalf("%v held and %v reserved of %d slots", x.running, b.reserve, total)
				}
				if x.probing == nil && x.turn != nil {
					t.Fatal("a slot is promised to a lane that is not asked")
				}
			},
		})
	})
}

package worker

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/peltonq/pelton/internal/broker"
)

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
		x := newBench(b, low, high, low, critical)
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
					x.on(laneEvent{lane: l, generation: l.generation})
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
			"": func(t *rapid.T) {
				x.fill()
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

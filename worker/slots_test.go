package worker

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

const (
	critical, high, normal, low = 0, 1, 2, 3
)

// slots are bounds without limits and reserves, which opts add.
func slots(total int, opts ...func(*bounds)) bounds {
	b := bounds{total: total, limit: [ranks]int{total, total, total, total}}
	for _, opt := range opts {
		opt(&b)
	}
	return b
}

func atMost(rank, n int) func(*bounds)  { return func(b *bounds) { b.limit[rank] = n } }
func reserve(rank, n int) func(*bounds) { return func(b *bounds) { b.reserve[rank] = n } }

func TestRoom(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		bounds  bounds
		running [ranks]int
		rank    int
		want    int
	}{
		"idle":                             {slots(8), [ranks]int{}, low, 8},
		"partly busy":                      {slots(8), [ranks]int{1, 2, 0, 3}, low, 2},
		"full":                             {slots(8), [ranks]int{8}, critical, 0},
		"limit":                            {slots(8, atMost(low, 2)), [ranks]int{}, low, 2},
		"limit reached":                    {slots(8, atMost(low, 2)), [ranks]int{0, 0, 0, 2}, low, 0},
		"another's limit":                  {slots(8, atMost(low, 2)), [ranks]int{0, 0, 0, 2}, high, 6},
		"limit above what is free":         {slots(8, atMost(low, 5)), [ranks]int{0, 0, 6, 0}, low, 2},
		"another's reserve":                {slots(8, reserve(critical, 3)), [ranks]int{}, low, 5},
		"another's reserve in part in use": {slots(8, reserve(critical, 3)), [ranks]int{2, 0, 0, 0}, low, 5},
		"another's reserve in use":         {slots(8, reserve(critical, 3)), [ranks]int{4, 0, 0, 0}, low, 4},
		"own reserve":                      {slots(8, reserve(critical, 3)), [ranks]int{0, 0, 0, 5}, critical, 3},
		"several reserves":                 {slots(8, reserve(critical, 3), reserve(high, 2)), [ranks]int{1, 0, 0, 0}, normal, 3},
		"reserve and limit":                {slots(4, reserve(critical, 1), atMost(low, 1)), [ranks]int{}, low, 1},
		"more run than there are slots":    {slots(2), [ranks]int{3}, low, 0},
		"more run than the limit":          {slots(8, atMost(low, 1)), [ranks]int{0, 0, 0, 2}, low, 0},
	} {
		if got := tc.bounds.room(tc.running, tc.rank); got != tc.want {
			t.Errorf("%s: room = %d, want %d", name, got, tc.want)
		}
	}
}

func TestNextLane(t *testing.T) {
	t.Parallel()
	const maxWait = 30 * time.Second
	now := time.Now()
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	ask := func(rank int, offered time.Duration) laneView {
		return laneView{rank: rank, askable: true, offered: ago(offered)}
	}
	deaf := func(rank int, offered time.Duration) laneView { return laneView{rank: rank, offered: ago(offered)} }
	for name, tc := range map[string]struct {
		lanes     []laneView
		bounds    bounds
		running   [ranks]int
		want, max int
	}{
		"no lanes":               {nil, slots(8), [ranks]int{}, -1, 0},
		"nothing askable":        {[]laneView{deaf(high, 0), deaf(low, time.Hour)}, slots(8), [ranks]int{}, -1, 0},
		"no slot":                {[]laneView{ask(high, 0)}, slots(2), [ranks]int{0, 0, 2, 0}, -1, 0},
		"one lane":               {[]laneView{ask(low, 0)}, slots(8), [ranks]int{}, 0, 8},
		"highest first":          {[]laneView{ask(low, 0), ask(high, 0), ask(normal, 0)}, slots(8), [ranks]int{}, 1, 8},
		"highest not askable":    {[]laneView{ask(low, 0), deaf(high, 0)}, slots(8), [ranks]int{}, 0, 8},
		"highest at its limit":   {[]laneView{ask(low, 0), ask(high, 0)}, slots(8, atMost(high, 1)), [ranks]int{0, 1, 0, 0}, 0, 7},
		"batch within the limit": {[]laneView{ask(high, 0)}, slots(8, atMost(high, 3)), [ranks]int{0, 1, 0, 0}, 0, 2},
		"batch spares a reserve": {[]laneView{ask(low, 0)}, slots(8, reserve(critical, 2)), [ranks]int{}, 0, 6},
		"only a reserve is left": {[]laneView{ask(high, 0), ask(low, time.Hour)}, slots(2, reserve(critical, 1)), [ranks]int{0, 1, 0, 0}, -1, 0},
		"reserve for its owner":  {[]laneView{ask(high, 0), ask(critical, 0)}, slots(2, reserve(critical, 1)), [ranks]int{0, 1, 0, 0}, 1, 1},
		"equals: asked longest ago": {
			[]laneView{ask(normal, time.Second), ask(normal, 3*time.Second), ask(normal, 2*time.Second)}, slots(8), [ranks]int{}, 1, 8,
		},
		"waited, but not too long":   {[]laneView{ask(high, 0), ask(low, maxWait)}, slots(8), [ranks]int{}, 0, 8},
		"starved takes one slot":     {[]laneView{ask(high, 0), ask(low, maxWait+1)}, slots(8), [ranks]int{}, 1, 1},
		"most starved first":         {[]laneView{ask(high, 0), ask(normal, 2*maxWait), ask(low, 3*maxWait)}, slots(8), [ranks]int{}, 2, 1},
		"starved without room":       {[]laneView{ask(high, 0), ask(low, time.Hour)}, slots(8, atMost(low, 1)), [ranks]int{0, 0, 0, 1}, 0, 7},
		"starved but not askable":    {[]laneView{ask(high, 0), deaf(low, time.Hour)}, slots(8), [ranks]int{}, 0, 8},
		"the highest itself starved": {[]laneView{ask(high, time.Hour), ask(low, 0)}, slots(8), [ranks]int{}, 0, 8},
	} {
		got, batch := nextLane(tc.lanes, tc.bounds, tc.running, now, maxWait)
		if got != tc.want || batch != tc.max {
			t.Errorf("%s: nextLane = %d, %d; want %d, %d", name, got, batch, tc.want, tc.max)
		}
	}
}

// TestNextLaneKeepsBounds starts and ends tasks as a worker would and looks at
// every step whether somebody holds more than they may.
func TestNextLaneKeepsBounds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		total := rapid.IntRange(1, 12).Draw(t, "total")
		b := bounds{total: total}
		left := total - 1 // as Config.bounds demands: a slot for everybody
		for rank := range b.limit {
			b.limit[rank] = rapid.IntRange(1, total).Draw(t, "limit")
			b.reserve[rank] = rapid.IntRange(0, min(left, b.limit[rank])).Draw(t, "reserve")
			left -= b.reserve[rank]
		}
		lanes := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) laneView {
			return laneView{rank: rapid.IntRange(0, ranks-1).Draw(t, "rank"), askable: true}
		}), 1, 8).Draw(t, "lanes")
		now := time.Now()
		for i := range lanes {
			lanes[i].offered = now
		}
		var running [ranks]int
		t.Repeat(map[string]func(*rapid.T){
			"start": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 20).Draw(t, "seconds")) * time.Second)
				for i := range lanes {
					lanes[i].askable = rapid.Bool().Draw(t, "askable")
				}
				next, batch := nextLane(lanes, b, running, now, 30*time.Second)
				if next < 0 {
					for _, l := range lanes {
						if l.askable && b.room(running, l.rank) > 0 {
							t.Fatalf("lane of rank %d has room and is not asked", l.rank)
						}
					}
					return
				}
				if !lanes[next].askable || batch < 1 {
					t.Fatalf("nextLane = %d, %d of %+v", next, batch, lanes)
				}
				lanes[next].offered = now
				running[lanes[next].rank] += rapid.IntRange(0, batch).Draw(t, "delivered")
			},
			"end": func(t *rapid.T) {
				if rank := rapid.IntRange(0, ranks-1).Draw(t, "rank"); running[rank] > 0 {
					running[rank]--
				}
			},
			"": func(t *rapid.T) {
				held := 0
				for rank, n := range running {
					if n > b.limit[rank] {
						t.Fatalf("rank %d holds %d slots, limit %d", rank, n, b.limit[rank])
					}
					held += max(n, b.reserve[rank])
				}
				if held > total {
					t.Fatalf("%v held and %v reserved of %d slots", running, b.reserve, total)
				}
			},
		})
	})
}

func TestCPUPoolLeavesASlot(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ slots, concurrency, want int }{
		{slots: 2, concurrency: 16, want: 8},
		{slots: 12, concurrency: 16, want: 12},
		{slots: 64, concurrency: 16, want: 15},
		{slots: 4, concurrency: 1, want: 1},
		{slots: 1, concurrency: 2, want: 1},
	} {
		pool := newCPUPool(tc.slots, tc.concurrency)
		got := 0
		for pool.sit() {
			got++
		}
		if got != tc.want {
			t.Errorf("%d of %d slots for CPU-bound tasks that compute %d at a time, want %d", got, tc.concurrency, tc.slots, tc.want)
		}
		pool.stand()
		if !pool.sit() {
			t.Error("no seat after one became free")
		}
	}
}

package worker

import (
	"math"
	"testing"
	"testing/synctest"
	"time"
)

func TestPrefetch(t *testing.T) {
	t.Parallel()
	type all = [ranks]float64
	for name, tc := range map[string]struct {
		ends    all
		runs    all
		bounds  bounds
		running [ranks]int
		rank    int
		want    int
	}{
		"nothing measured":                  {all{0, 0, 0, 0}, all{0, 0, 0, 8}, slots(8), [ranks]int{0, 0, 0, 8}, low, 0},
		"20 ms of work":                     {all{0, 0, 0, 5000}, all{0, 0, 0, 8}, slots(8), [ranks]int{0, 0, 0, 8}, low, 100},
		"at most so many":                   {all{0, 0, 0, 1e6}, all{0, 0, 0, 8}, slots(8), [ranks]int{0, 0, 0, 8}, low, mostAhead},
		"one slot, 1 ms each":               {all{0, 0, 0, 1000}, all{0, 0, 0, 1}, slots(1), [ranks]int{0, 0, 0, 1}, low, 20},
		"one slot, 20 ms each":              {all{0, 0, 0, 50}, all{0, 0, 0, 1}, slots(1), [ranks]int{0, 0, 0, 1}, low, 0},
		"64 slots, 100 ms each":             {all{0, 0, 0, 640}, all{0, 0, 0, 64}, slots(64), [ranks]int{0, 0, 0, 64}, low, 0},
		"64 slots, 20 ms each":              {all{0, 0, 0, 3200}, all{0, 0, 0, 64}, slots(64), [ranks]int{0, 0, 0, 64}, low, 0},
		"64 slots, 16 ms each":              {all{0, 0, 0, 4000}, all{0, 0, 0, 64}, slots(64), [ranks]int{0, 0, 0, 64}, low, 32},
		"64 slots, 100 ms each, together":   {all{0, 0, 0, 1100}, all{0, 0, 0, 60}, slots(64), [ranks]int{}, low, 0},
		"64 slots, 10 ms each":              {all{0, 0, 0, 6400}, all{0, 0, 0, 64}, slots(64), [ranks]int{0, 0, 0, 64}, low, 128},
		"a higher one finds all of it":      {all{0, 0, 0, 5000}, all{0, 0, 0, 8}, slots(8), [ranks]int{0, 0, 0, 8}, critical, 100},
		"a lower one what higher ones take": {all{0, 4500, 0, 500}, all{0, 7, 0, 1}, slots(8), [ranks]int{0, 7, 0, 1}, low, 10},
		"a lower one nothing":               {all{0, 5000, 0, 0}, all{0, 8, 0, 0}, slots(8), [ranks]int{0, 8, 0, 0}, low, 0},
		"what a limit lets it have":         {all{0, 0, 4500, 500}, all{0, 1, 6, 1}, slots(8, atMost(high, 1)), [ranks]int{0, 1, 6, 1}, high, 0},
		"at its limit, its own slots":       {all{0, 500, 4500, 0}, all{0, 1, 7, 0}, slots(8, atMost(high, 1)), [ranks]int{0, 1, 7, 0}, high, 10},
		"not what others reserve":           {all{0, 0, 0, 5000}, all{0, 1, 0, 1}, slots(2, reserve(low, 1)), [ranks]int{0, 1, 0, 1}, high, 0},
	} {
		if got := prefetch(throughput{tc.ends, tc.runs}, tc.bounds, tc.running, tc.rank); got != tc.want {
			t.Errorf("%s: prefetch = %d, want %d", name, got, tc.want)
		}
	}
}

func TestMeter(t *testing.T) {
	t.Parallel()
	var m meter
	now := time.Unix(1e9, 0)
	near := func(what string, got, want float64) {
		t.Helper()
		if got < want*0.98 || got > want*1.02 {
			t.Errorf("%s: %f in a second, want %f", what, got, want)
		}
	}
	m.pass([ranks]int{}, now)
	tick := func(each, running, times int) {
		for range times {
			now = now.Add(time.Millisecond)
			m.count[low] += each
			m.pass([ranks]int{low: running}, now)
		}
	}
	tick(5, 8, 9)
	near("before something is measured", m.ends[low], 0)
	tick(5, 8, 501)
	near("a steady rate", m.ends[low], 5000)
	near("all run", m.runs[low], 8)
	tick(1, 2, 500)
	near("another one", m.ends[low], 1000)
	near("few run", m.runs[low], 2)
	near("of nobody else", m.ends[high]+m.runs[high], 0)
	tick(0, 0, 60)
	near("after as long as it remembers", m.ends[low], 1000/math.E)
	near("as long", m.runs[low], 2/math.E)
	now = now.Add(time.Minute)
	m.count[low] = 6
	m.pass([ranks]int{low: 3}, now)
	near("a long while", m.ends[low], 0.1)
	near("for as long", m.runs[low], 3)

	// Handlers of 100 ms that all begin and end together are as slow as those that
	// do not.
	for range 20 {
		tick(0, 64, 99)
		tick(64, 64, 1)
		for range 9 {
			if n := prefetch(m.throughput, slots(64), [ranks]int{}, low); n != 0 {
				t.Fatalf("prefetch = %d", n)
			}
			tick(0, 64, 10)
		}
		tick(0, 64, 10)
	}
}

func TestStockMissing(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		stock   stock
		allowed int
		want    int
	}{
		"none allowed":              {stock{}, 0, 0},
		"all":                       {stock{}, 100, 100},
		"more than half is there":   {stock{of: [ranks]int{low: 51}, all: 51}, 100, 0},
		"half is there":             {stock{of: [ranks]int{low: 50}, all: 50}, 100, 50},
		"one, and it is there":      {stock{of: [ranks]int{low: 1}, all: 1}, 1, 0},
		"others have most places":   {stock{of: [ranks]int{high: 250}, all: 250}, 100, 6},
		"others have all places":    {stock{of: [ranks]int{high: 270}, all: 270}, 100, 0},
		"as many as there is room":  {stock{typical: 256 << 10}, 100, 16},
		"others' payloads are here": {stock{of: [ranks]int{high: 15}, all: 15, bytes: 15 * 256 << 10, typical: 256 << 10}, 100, 1},
		"no room":                   {stock{of: [ranks]int{high: 16}, all: 16, bytes: 16 * 256 << 10, typical: 256 << 10}, 100, 0},
	} {
		if got := tc.stock.missing(low, tc.allowed); got != tc.want {
			t.Errorf("%s: missing = %d, want %d", name, got, tc.want)
		}
	}
}

func TestNextStart(t *testing.T) {
	t.Parallel()
	const maxWait = 30 * time.Second
	now := time.Now()
	view := func(rank int, offered time.Duration) laneView {
		return laneView{rank: rank, offered: now.Add(-offered)}
	}
	waits := func(rank int, offered time.Duration) laneView {
		v := view(rank, offered)
		v.waits = true
		return v
	}
	ask := func(rank int, offered time.Duration) laneView {
		v := view(rank, offered)
		v.askable = true
		return v
	}
	direct := func(rank int, offered time.Duration) laneView {
		v := ask(rank, offered)
		v.direct = true
		return v
	}
	for name, tc := range map[string]struct {
		lanes   []laneView
		bounds  bounds
		running [ranks]int
		want    int
	}{
		"nothing waits":                   {[]laneView{ask(high, time.Hour), view(low, 0)}, slots(8), [ranks]int{}, -1},
		"no slot":                         {[]laneView{waits(high, 0)}, slots(2), [ranks]int{0, 0, 2, 0}, -1},
		"highest first":                   {[]laneView{waits(low, 0), waits(high, 0), waits(normal, 0)}, slots(8), [ranks]int{}, 1},
		"highest at its limit":            {[]laneView{waits(low, 0), waits(high, 0)}, slots(8, atMost(high, 1)), [ranks]int{0, 1, 0, 0}, 0},
		"only a reserve is left":          {[]laneView{waits(low, 0)}, slots(2, reserve(critical, 1)), [ranks]int{0, 1, 0, 0}, -1},
		"equals: longest ago":             {[]laneView{waits(low, time.Second), waits(low, 3*time.Second)}, slots(8), [ranks]int{}, 1},
		"higher, may have one":            {[]laneView{ask(high, 0), waits(low, 0)}, slots(8), [ranks]int{}, 1},
		"higher, may have one, not here":  {[]laneView{direct(high, 0), waits(low, 0)}, slots(8), [ranks]int{}, 0},
		"equal, not here, longer ago":     {[]laneView{direct(low, 2), waits(low, 1)}, slots(8), [ranks]int{}, 0},
		"lower, not here":                 {[]laneView{direct(low, 2), waits(high, 1)}, slots(8), [ranks]int{}, 1},
		"not here, and no room for it":    {[]laneView{direct(high, 0), waits(low, 0)}, slots(8, atMost(high, 1)), [ranks]int{0, 1, 0, 0}, 1},
		"not here, nothing waits":         {[]laneView{direct(high, 0)}, slots(8), [ranks]int{}, -1},
		"waited, but not too long":        {[]laneView{waits(high, 0), waits(low, maxWait)}, slots(8), [ranks]int{}, 0},
		"starved, and one of it is here":  {[]laneView{waits(high, 0), waits(low, maxWait+1)}, slots(8), [ranks]int{}, 1},
		"starved, and has to be asked":    {[]laneView{waits(high, 0), ask(low, maxWait+1)}, slots(8), [ranks]int{}, 1},
		"starved, and cannot be asked":    {[]laneView{waits(high, 0), view(low, maxWait+1)}, slots(8), [ranks]int{}, 0},
		"starved without room":            {[]laneView{waits(high, 0), waits(low, time.Hour)}, slots(8, atMost(low, 1)), [ranks]int{0, 0, 0, 1}, 0},
		"most starved first":              {[]laneView{waits(high, 0), waits(normal, 2*maxWait), ask(low, 3*maxWait)}, slots(8), [ranks]int{}, 2},
		"the highest itself starved":      {[]laneView{waits(high, time.Hour), waits(low, 0)}, slots(8), [ranks]int{}, 0},
		"room for the starved one alone":  {[]laneView{waits(high, 0), ask(low, time.Hour)}, slots(8, atMost(high, 1)), [ranks]int{0, 1, 0, 0}, -1},
		"starved, but what waits has all": {[]laneView{waits(high, 0), ask(low, time.Hour)}, slots(2, reserve(high, 1)), [ranks]int{0, 0, 1, 0}, 0},
	} {
		if got := nextStart(tc.lanes, tc.bounds, tc.running, now, maxWait); got != tc.want {
			t.Errorf("%s: nextStart = %d, want %d", name, got, tc.want)
		}
	}
}

// Nothing that is reported gets lost: it is looked at, or given back by close, or put
// says that nobody will.
func TestInbox(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const each = 1000
		in := newInbox()
		refused := make(chan int, 2)
		for sender := range 2 {
			go func() {
				n := 0
				for i := range each {
					if !in.put(laneEvent{generation: sender*each + i}) {
						n++
					}
				}
				refused <- n
			}()
		}
		var got []int
		var read []laneEvent
		note := func(events []laneEvent) {
			for _, e := range events {
				got = append(got, e.generation)
			}
		}
		for len(got) < each/2 {
			<-in.more
			read = in.look(read)
			note(read)
		}
		note(in.close())
		if n := len(got) + <-refused + <-refused; n != 2*each {
			t.Errorf("%d of %d events are accounted for", n, 2*each)
		}
		last := [2]int{-1, each - 1}
		for _, n := range got {
			if sender := n / each; n != last[sender]+1 {
				t.Fatalf("event %d after %d", n, last[sender])
			} else {
				last[sender] = n
			}
		}
		if in.put(laneEvent{}) {
			t.Error("put after close says yes")
		}
	})
}

package worker

import (
	"container/heap"
	"slices"
	"time"
)

// ranking keeps the lanes in the order in which they are to be asked, so that a turn of
// the dispatcher does not look at all of them: of lanes of one priority whose tasks may wait
// here, or may not, only the one that had a slot longest ago can be the next. With
// few tasks of each of many queues, most lanes are in none of its parts.
type ranking struct {
	askable [ranks][2]laneHeap // 0: lanes of which tasks may wait here; 1: the others
	stocked []*lane            // of which tasks wait here, in the order of the first
	empty   []*lane            // that were found empty and not knocked on yet, and some that are not empty any more
	resting []*lane            // not to be asked before their retryAt, and some that are not resting any more
	wakes   time.Time          // when the first of those is to be asked; zero without
	knocks  time.Time          // before which no knock is overdue; zero without knocks
}

// place is where the ranking has a lane.
type place struct {
	in      *laneHeap // nil: in none
	at      int       // in it
	empty   bool
	resting bool
}

// place puts a lane where it belongs. It is to be called after every change of what that depends
// on: its state, its rules, retryAt, offered, and whether tasks of it wait.
func (d *dispatcher) place(l *lane) {
	r := &d.ranking
	var to *laneHeap
	switch {
	case l.state == laneEmpty:
		if !l.place.empty {
			l.place.empty = true
			r.empty = append(r.empty, l)
		}
	case l.state != laneUnknown || l.rules.paused || len(l.stock) > 0:
	case !l.retryAt.IsZero() && l.retryAt.After(d.now()):
		if r.wakes.IsZero() || l.retryAt.Before(r.wakes) {
			r.wakes = l.retryAt
		}
		if !l.place.resting {
			l.place.resting = true
			r.resting = append(r.resting, l)
		}
	case l.prefetched():
		to = &r.askable[l.rank][0]
	default:
		to = &r.askable[l.rank][1]
	}
	switch in := l.place.in; {
	case in == to && to != nil:
		heap.Fix(to, l.place.at)
	case in == to:
	default:
		if in != nil {
			heap.Remove(in, l.place.at)
		}
		if l.place.in = to; to != nil {
			heap.Push(to, l)
		}
	}
}

// wake lets lanes be asked whose time has come.
func (d *dispatcher) wake(now time.Time) {
	r := &d.ranking
	if r.wakes.IsZero() || r.wakes.After(now) {
		return
	}
	rested := slices.Clone(r.resting)
	clear(r.resting)
	r.resting, r.wakes = r.resting[:0], time.Time{}
	for _, l := range rested {
		l.place.resting = false
		d.place(l)
	}
}

// emptied gives the lanes that were found empty since the last call, in the order in which
// they came to the worker.
func (d *dispatcher) emptied() []*lane {
	if len(d.ranking.empty) == 0 {
		return nil
	}
	lanes := d.ranking.empty
	d.ranking.empty = nil
	for _, l := range lanes {
		l.place.empty = false
	}
	slices.SortFunc(lanes, func(a, b *lane) int { return a.number - b.number })
	return lanes
}

// look is what the choice of lanes has to know of them: of those alone that it may fall on.
// It is good until the next; seen are the lanes that its views are of.
func (d *dispatcher) look(now time.Time) []laneView {
	d.wake(now)
	var allowed, ahead [ranks]int
	for rank := range allowed {
		allowed[rank] = prefetch(d.meter.throughput, d.bounds, d.running, rank)
		ahead[rank] = d.stock.missing(rank, allowed[rank])
	}
	d.seen, d.views = append(d.seen[:0], d.ranking.stocked...), d.views[:0]
	for rank := range d.ranking.askable {
		for _, first := range d.ranking.askable[rank] {
			if len(first) > 0 {
				d.seen = append(d.seen, first[0])
			}
		}
	}
	for _, l := range d.seen {
		d.views = append(d.views, l.view(now, allowed[l.rank], ahead[l.rank]))
	}
	return d.views
}

// view is what the choice of lanes has to know of l, of whose priority so many tasks may wait here
// and so many are to be asked for.
func (l *lane) view(now time.Time, allowed, ahead int) laneView {
	v := laneView{rank: l.rank, number: l.number, askable: l.askable(now), waits: len(l.stock) > 0, direct: true, offered: l.offered}
	if l.prefetched() {
		v.direct, v.ahead = allowed == 0, ahead
	}
	return v
}

// laneHeap has the lane on top that had a slot longest ago. It is for container/heap.
type laneHeap []*lane

func (h laneHeap) Len() int { return len(h) }

func (h laneHeap) Less(i, j int) bool {
	return h[i].offered.Before(h[j].offered) || h[i].offered.Equal(h[j].offered) && h[i].number < h[j].number
}

func (h laneHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place.at, h[j].place.at = i, j
}

// Push appends a *lane.
func (h *laneHeap) Push(x any) {
	l := x.(*lane)
	l.place.at = len(*h)
	*h = append(*h, l)
}

// Pop takes the last lane.
func (h *laneHeap) Pop() any {
	last := len(*h) - 1
	l := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return l
}

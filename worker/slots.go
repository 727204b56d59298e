package worker

import "time"

// ranks is the number of priorities; index 0 is critical, 3 is low.
const ranks = 4

// bounds are the slots of a process and who may hold them.
type bounds struct {
	total   int
	limit   [ranks]int // most slots of a priority
	reserve [ranks]int // slots no other priority may take
}

// room is how many further slots a priority may take while running holds what
// every priority runs now.
func (b bounds) room(running [ranks]int, rank int) int {
	free := b.total
	for other, n := range running {
		free -= n
		if other != rank {
			free -= max(0, b.reserve[other]-n)
		}
	}
	return max(0, min(free, b.limit[rank]-running[rank]))
}

// laneView is what the choice of the next lane needs to know of one.
type laneView struct {
	rank    int
	number  int       // by which lanes are told apart that are equal in all else
	askable bool      // it may have a task, and no request is open
	waits   bool      // a task of it waits here for a slot
	direct  bool      // no task of it may wait here: it is asked when there is a slot
	ahead   int       // tasks to ask for beyond free slots
	offered time.Time // when it last had a slot, or nothing for one
}

// before reports whether a lane comes before another: by priority, among equals
// the one that had a slot longest ago.
func (l laneView) before(other laneView) bool {
	return l.rank < other.rank || l.rank == other.rank && l.longer(other)
}

// longer reports whether a lane had its last slot longer ago than another.
func (l laneView) longer(other laneView) bool {
	return l.offered.Before(other.offered) || l.offered.Equal(other.offered) && l.number < other.number
}

// nextLane decides which lane is asked next, and for how many tasks at most:
// the highest priority that may have a task and has room or may prefetch, among
// equals the one that had a slot longest ago. A lane that was passed over for longer
// than maxWait comes before all others, for one task, when there is a slot for it.
// It returns -1 when no lane can be asked.
func nextLane(lanes []laneView, b bounds, running [ranks]int, now time.Time, maxWait time.Duration) (lane, batch int) {
	best, starved := -1, -1
	for i, l := range lanes {
		room := b.room(running, l.rank)
		if !l.askable || room+l.ahead == 0 {
			continue
		}
		if room > 0 && now.Sub(l.offered) > maxWait && (starved < 0 || l.longer(lanes[starved])) {
			starved = i
		}
		if best < 0 || l.before(lanes[best]) {
			best = i
		}
	}
	switch {
	case best < 0:
		return -1, 0
	case starved >= 0 && lanes[starved].rank > lanes[best].rank:
		return starved, 1
	default:
		return best, b.room(running, lanes[best].rank) + lanes[best].ahead
	}
}

// nextStart decides who gets the next slot, when tasks wait here for one: the
// highest priority that has room, among equals the lane that had a slot longest ago.
// A lane that was passed over for longer than maxWait comes before all others. The
// lane may have to be asked for its task first: one that starves, and one of which
// nothing may wait here. It returns -1 when what waits has no room.
func nextStart(lanes []laneView, b bounds, running [ranks]int, now time.Time, maxWait time.Duration) (lane int) {
	best, starved, waits := -1, -1, false
	for i, l := range lanes {
		if !l.waits && !l.askable || b.room(running, l.rank) == 0 {
			continue
		}
		waits = waits || l.waits
		if now.Sub(l.offered) > maxWait && (starved < 0 || l.longer(lanes[starved])) {
			starved = i
		}
		if (l.waits || l.direct) && (best < 0 || l.before(lanes[best])) {
			best = i
		}
	}
	switch {
	case !waits:
		return -1
	case starved >= 0 && lanes[starved].rank > lanes[best].rank:
		return starved
	default:
		return best
	}
}

// cpuPool bounds the CPU-bound handlers of a process in two ways: how many
// compute, and how many may sit in slots, so that the rest stays for others.
type cpuPool struct {
	seats   chan struct{} // held while in a slot
	running chan struct{} // held while computing
}

// newCPUPool lets slots handlers compute. CPU-bound tasks may hold half of the
// worker's slots, or as many as can compute if that is more, but never the last.
func newCPUPool(slots, concurrency int) *cpuPool {
	seats := min(max(slots, concurrency/2), max(1, concurrency-1))
	return &cpuPool{seats: make(chan struct{}, seats), running: make(chan struct{}, slots)}
}

// sit takes a seat; false means that CPU-bound tasks hold their share of slots.
func (p *cpuPool) sit() bool {
	select {
	case p.seats <- struct{}{}:
		return true
	default:
		return false
	}
}

func (p *cpuPool) stand() { <-p.seats }

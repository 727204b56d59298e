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
	askable bool      // it may have a task, and no request is open
	offered time.Time // when it last was asked for a task
}

// nextLane decides which lane is asked next, and for how many tasks at most:
// the highest priority that may have a task and has room, among equals the one
// that was asked longest ago. A lane that was passed over for longer than maxWait
// comes before all others, for one task. It returns -1 when no lane can be asked.
func nextLane(lanes []laneView, b bounds, running [ranks]int, now time.Time, maxWait time.Duration) (lane, batch int) {
	best, starved := -1, -1
	for i, l := range lanes {
		if !l.askable || b.room(running, l.rank) == 0 {
			continue
		}
		if now.Sub(l.offered) > maxWait && (starved < 0 || l.offered.Before(lanes[starved].offered)) {
			starved = i
		}
		if best < 0 || l.rank < lanes[best].rank || l.rank == lanes[best].rank && l.offered.Before(lanes[best].offered) {
			best = i
		}
	}
	switch {
	case best < 0:
		return -1, 0
	case starved >= 0 && lanes[starved].rank > lanes[best].rank:
		return starved, 1
	default:
		return best, b.room(running, lanes[best].rank)
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

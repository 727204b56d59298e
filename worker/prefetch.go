package worker

import (
	"math"
	"slices"
	"time"

	"github.com/peltonq/pelton/internal/broker"
)

const (
	// prefetchFor is how much work is asked for ahead of free slots: about what ends
	// in that time, so that slots find the next task here and requests are large.
	prefetchFor = 20 * time.Millisecond
	// waitsAhead is how long what was asked for ahead waits if work got slower
	// meanwhile, so much that nothing would be now.
	waitsAhead = 10 * prefetchFor
	// mostAhead and mostAheadBytes bound what waits here, all lanes together, and
	// with it the memory. Bytes are those of payloads.
	mostAhead      = 256
	mostAheadBytes = 4 << 20
	// meterEvery is how long is counted before it becomes a part of the average,
	// meterMemory the time in which that follows.
	meterEvery  = 10 * time.Millisecond
	meterMemory = 60 * time.Millisecond
)

// throughput is what a worker gets done of each priority.
type throughput struct {
	ends [ranks]float64 // slots that become free in a second
	runs [ranks]float64 // slots that are taken
}

// meter measures a worker's throughput: an average of about meterMemory.
type meter struct {
	throughput
	since time.Time // what follows is of the time from then to seen
	seen  time.Time
	count [ranks]int     // slots that became free
	spent [ranks]float64 // seconds in slots
}

// pass counts the time up to now, in which running did not change.
func (m *meter) pass(running [ranks]int, now time.Time) {
	if m.since.IsZero() {
		m.since, m.seen = now, now
	}
	for rank, n := range running {
		m.spent[rank] += float64(n) * now.Sub(m.seen).Seconds()
	}
	m.seen = now
	counted := now.Sub(m.since)
	if counted < meterEvery {
		return
	}
	share := -math.Expm1(-counted.Seconds() / meterMemory.Seconds())
	for rank := range m.count {
		m.ends[rank] += share * (float64(m.count[rank])/counted.Seconds() - m.ends[rank])
		m.runs[rank] += share * (m.spent[rank]/counted.Seconds() - m.runs[rank])
	}
	m.since, m.count, m.spent = now, [ranks]int{}, [ranks]float64{}
}

// prefetch is how many tasks of a priority may wait for a slot of this worker.
//
// Of the slots that become free in prefetchFor it counts those that it may have and
// that no higher priority is about to take again: so a critical task that comes
// into a flood of low ones finds the whole of it, and a low one what higher ones
// leave. As many tasks run as end in the time that one takes (Little's law), so when
// more run than end in prefetchFor, one takes longer than that: then there is none, and
// another worker may have what this one cannot start soon. From half of that time up
// it gets less.
func prefetch(t throughput, b bounds, running [ranks]int, rank int) int {
	var ends, runs float64
	for other := rank; other < ranks; other++ {
		then := running
		then[other] = max(0, then[other]-1)
		if b.room(then, rank) > 0 {
			ends += t.ends[other] * prefetchFor.Seconds()
			runs += t.runs[other]
		}
	}
	return int(max(0, min(ends, 2*(ends-runs), mostAhead)))
}

// stock is what waits for slots, of all lanes.
type stock struct {
	of      [ranks]int
	all     int
	bytes   int
	typical float64 // payload of late
}

// add counts a delivery in.
func (s *stock) add(rank, size int) {
	s.of[rank]++
	s.all++
	s.bytes += size
	s.typical += (float64(size) - s.typical) / 8
}

// remove counts a delivery out.
func (s *stock) remove(rank, size int) {
	s.of[rank]--
	s.all--
	s.bytes -= size
}

// fits reports whether one more of that size may wait, whoever it is.
func (s *stock) fits(size int) bool { return s.all < mostAhead && s.bytes+size <= mostAheadBytes }

// missing is how many tasks of a priority are to be asked for when allowed of them may
// wait. As long as more than half of those do, it is none: requests are to be large.
func (s *stock) missing(rank, allowed int) int {
	if 2*s.of[rank] > allowed {
		return 0
	}
	n := min(allowed-s.of[rank], mostAhead-s.all)
	if s.typical >= 1 {
		n = min(n, int(float64(mostAheadBytes-s.bytes)/s.typical))
	}
	return max(0, n)
}

// prefetched reports whether tasks of the lane may wait here. With max_running each
// would take the place of one that runs, and a rate starts few.
func (l *lane) prefetched() bool { return !l.rules.paused && !l.rules.bounded && l.rules.most == 0 }

func (l *lane) askable(now time.Time) bool {
	return l.state == laneUnknown && !l.rules.paused && !l.retryAt.After(now)
}

func size(delivery *broker.Delivery) int {
	if delivery.Envelope == nil {
		return 0
	}
	return len(delivery.Envelope.Payload)
}

// allowed is how many deliveries of the lane's priority may wait now.
func (d *dispatcher) allowed(l *lane) int {
	if !l.prefetched() {
		return 0
	}
	return prefetch(d.meter.throughput, d.bounds, d.running, l.rank)
}

// mayWait reports whether a delivery may wait for a slot: as many as were asked for,
// and what comes late or to a knock if there is a slot for it soon.
func (d *dispatcher) mayWait(l *lane, delivery *broker.Delivery) bool {
	return l.prefetched() && d.stock.fits(size(delivery)) && d.stock.of[l.rank] < max(l.hold, d.allowed(l))
}

// soon reports whether what answers a knock may wait for a slot, or, of a lane whose
// tasks may not, whether there will be a slot that it can be promised.
func (d *dispatcher) soon(l *lane) bool {
	n := prefetch(d.meter.throughput, d.bounds, d.running, l.rank)
	if l.prefetched() {
		n -= d.stock.of[l.rank]
	}
	return n > 0
}

// put lets a delivery wait for a slot, behind those of its lane that came before.
func (d *dispatcher) put(k kept) {
	k.lane.stock = append(k.lane.stock, k)
	d.stock.add(k.lane.rank, size(k.delivery))
	if len(k.lane.stock) == 1 {
		d.ranking.stocked = append(d.ranking.stocked, k.lane)
		d.place(k.lane)
	}
}

// pop takes the longest waiting delivery of a lane.
func (d *dispatcher) pop(l *lane) kept {
	k := l.stock[0]
	l.stock[0] = kept{}
	if l.stock = l.stock[1:]; len(l.stock) == 0 {
		l.stock = nil
		d.ranking.stocked = slices.DeleteFunc(d.ranking.stocked, func(other *lane) bool { return other == l })
		d.place(l)
	}
	d.stock.remove(l.rank, size(k.delivery))
	return k
}

// returnStock gives back all of a lane that waits, in order.
func (d *dispatcher) returnStock(l *lane) {
	for len(l.stock) > 0 {
		d.giveBack(l, d.pop(l).delivery)
	}
}

// patience is how long a delivery of a lane may wait for a slot: then another worker may
// have one. It stays well below lease/3, by which a delivery must have started. Without
// a connection that is the bound: giving it back would go nowhere, and the task would be
// nobody's until its lease is over.
func (d *dispatcher) patience(l *lane) time.Duration {
	switch most := min(staleAfter, l.leaseNow()/6); {
	case !d.online():
		return l.leaseNow() / 3
	case d.allowed(l) == 0:
		return min(most, waitsAhead)
	default:
		return most
	}
}

// expire gives back what has waited too long, and takes back the lane's open knock, which
// it would answer.
func (d *dispatcher) expire() {
	if d.stock.all == 0 {
		return
	}
	now := d.now()
	for _, l := range slices.Clone(d.ranking.stocked) {
		patience := d.patience(l)
		if now.Sub(l.stock[0].since) < patience {
			continue
		}
		if l.state == laneKnocking {
			d.reopen(l)
			l.state, l.want = laneUnknown, 0
			d.place(l)
		}
		for len(l.stock) > 0 && now.Sub(l.stock[0].since) >= patience {
			d.giveBack(l, d.pop(l).delivery)
		}
	}
}

// serve gives free slots to what waits for them: to what a limit held first, then
// to what was prefetched. A lane that comes first and has to be asked for its task is
// promised a slot: it is the turn of one at a time. Without a connection nothing that was
// prefetched starts: if the broker was started anew, it may be somebody else's by now.
func (d *dispatcher) serve() {
	d.restart()
	now := d.now()
	if t := d.turn; t != nil && t.state != laneProbing && !t.askable(now) {
		d.turn = nil
	}
	if d.stock.all == 0 || d.free() == 0 || !d.online() {
		return
	}
	views := d.look(now)
	for d.stock.all > 0 {
		if d.turn != nil {
			for i := range views {
				views[i].askable = false
			}
		}
		next := nextStart(views, d.bounds, d.held(), now, d.maxWait)
		if next < 0 {
			return
		}
		l := d.seen[next]
		if len(l.stock) == 0 {
			d.turn = l
			continue
		}
		l.offered = now
		d.begin(d.pop(l)) // which places it, once nothing of it waits
		views[next].waits, views[next].offered = len(l.stock) > 0, now
	}
}

// begin starts what has a slot.
func (d *dispatcher) begin(k kept) {
	d.running[k.lane.rank]++
	d.start(k)
}

// free is how many slots nobody has.
func (d *dispatcher) free() int {
	free := d.bounds.total
	for _, n := range d.running {
		free -= n
	}
	return free
}

// held is who holds slots, the promised one included.
func (d *dispatcher) held() [ranks]int {
	held := d.running
	if d.turn != nil {
		held[d.turn.rank]++
	}
	return held
}

package worker

import (
	"hash/fnv"
	"time"
)

const (
	// knockWait is how long a request on an empty lane stays open at most; see
	// lane.knockWait.
	knockWait = 30 * time.Second
	// knockLeast is how long it stays open at least.
	knockLeast = time.Second
	// knockSlack is how much later than that its end may come before it is taken
	// for lost.
	knockSlack = 5 * time.Second
	// A knock is for leastStanding tasks at most, or more if there are few lanes, up to
	// mostStanding: all may bring what they are for when the worker has got slow.
	leastStanding = 8
	mostStanding  = 64
	// followAfter is how long half of a knock has to last if another is to follow it. Where tasks come
	// faster, what gathers while the lane is asked anew makes requests and packets large.
	followAfter = prefetchFor / 2
	// knockPhases is how many instants there are in a period at which requests are renewed.
	knockPhases = 128
)

// knockWait is how long a request that waits stays open at most: three fifths of a lease. If this host goes
// dark, the broker does not know for minutes, and answers the request with one of the tasks
// that come back with their leases: that one would be out of sight for another lease. Leases last
// for two thirds after the last sign of life, so by then the request is over.
func (l *lane) knockWait() time.Duration {
	return min(knockWait, max(knockLeast, 3*l.leaseNow()/5))
}

// knockFor is how long a request stays open that is made now: until the next instant of its
// queue, of which there is one in every knockWait, or a little less. All workers that serve the
// lane renew their requests at that instant, and those of most other queues are at others: each
// request and its end are written to the log of the lane's consumer, on as many brokers as
// keep a copy, and there they are one entry instead of one for each worker, in a log
// that is synced once in a while instead of all the time. It goes by the clock of this host; if that
// is not like others', its requests are renewed by themselves.
func (l *lane) knockFor(now time.Time) time.Duration {
	least := l.knockWait() / 32 // a clock that is slightly slow must not lead to two renewals
	period := l.knockWait() - least
	queue := fnv.New32a()
	_, _ = queue.Write([]byte(l.Queue)) // never fails
	phase := period * time.Duration(queue.Sum32()%knockPhases) / knockPhases
	wait := period - (time.Duration(now.UnixNano())+phase)%period
	if wait < least {
		wait += period
	}
	return wait
}

// knock leaves a waiting request with every empty lane that has room, or will have
// soon. Without, what is known of an empty lane goes stale. ahead is those alone whose tasks
// may wait here: they do not wait for the answer of a lower lane, and what that brings does not
// take their room.
func (d *dispatcher) knock(ahead bool) {
	if ahead && (len(d.ranking.empty) == 0 || !d.spare()) {
		return
	}
	for _, l := range d.emptied() {
		if l.state != laneEmpty {
			continue
		}
		batch := d.standing(l)
		switch {
		case d.allowed(l) > d.stock.of[l.rank]:
		case ahead:
			d.place(l) // later
			continue
		case d.bounds.room(d.running, l.rank) == 0 && !d.soon(l):
			l.state = laneUnknown
			d.place(l)
			continue
		}
		now := d.now()
		if err := l.puller.Stand(batch, l.knockFor(now)); err != nil {
			d.refused(l, err)
			continue
		}
		l.want, l.hold, l.stood = batch, 0, now
		d.knocking(l, now)
	}
}

// prolong lets a knock for several be followed by another when half of it is used up, so
// that a lane in which tasks come one after the other is never without one: what comes
// while it is asked anew waits for two ways to the broker. Whoever cannot be asked is as soon
// as the knock is used up.
func (d *dispatcher) prolong(l *lane, now time.Time) {
	target := d.standing(l)
	if 2*l.want > target || target < 2 || now.Sub(l.stood) < followAfter {
		return
	}
	// Not until the instant of the queue: the end of a request may be lost beside one of the same
	// lane at the same time, if a task is just being handed out.
	if err := l.puller.Stand(target-l.want, l.knockWait()); err == nil {
		l.want, l.stood = target, now
		l.follows++
		l.deadline = now.Add(l.knockWait() + knockSlack)
	}
}

// spare reports whether a task of any priority may wait here.
func (d *dispatcher) spare() bool {
	for rank, waits := range d.stock.of {
		if prefetch(d.meter.throughput, d.bounds, d.running, rank) > waits {
			return true
		}
	}
	return false
}

// standing is how many tasks a knock is for: one, or, where more may wait for a slot, some, so that
// a busy worker has those that come while it would ask again.
func (d *dispatcher) standing(l *lane) int {
	most := min(max(leastStanding, mostAhead/len(d.lanes)), mostStanding)
	return min(max(1, d.allowed(l)-d.stock.of[l.rank]), most)
}

// knocking notes that a request waits with the lane from now on.
func (d *dispatcher) knocking(l *lane, now time.Time) {
	l.state, l.follows, l.deadline = laneKnocking, 0, now.Add(l.knockWait()+knockSlack)
	if d.ranking.knocks.IsZero() || l.deadline.Before(d.ranking.knocks) {
		d.ranking.knocks = l.deadline
	}
	d.place(l)
}

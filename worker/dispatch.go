package worker

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/peltonq/pelton/internal/broker"
)

const (
	// knockWait is how long a request on an empty lane stays open.
	knockWait = 30 * time.Second
	// knockSlack is how much later than that its end may come before it is taken
	// for lost.
	knockSlack = 5 * time.Second
	// probeWait is how long the broker may take over a request for what is ready
	// now. Only a stalled or restarting broker does.
	probeWait = 2 * time.Second
	// headStart is how long a lane with max_running is waited for before lower ones
	// are asked: whether it has a task that may start, the broker does not say.
	headStart = 5 * time.Millisecond
	// laneBackoff follows a request that could not be made or was refused.
	laneBackoff = 250 * time.Millisecond
)

// dispatcher shares the free slots among the lanes. All its fields belong to the
// goroutine that runs it; the outside speaks to it through events and freed.
//
// It asks for no more than it can start: a free slot first, then a request for
// what is ready, lane after lane from the highest priority down. Lanes that had
// nothing get a request that waits (a knock), one task each, so that an idle
// worker is told at once. A task that answers a knock when the last slot has just
// been taken is given back, which the broker hands on at once.
//
// A lane with max_running is different: while as many tasks run as may, the broker
// keeps a request for what is ready now until one ends. Such a lane gets a request
// that waits from the start, one task each; it holds back lower lanes for a moment
// and then counts as knocked on. A paused lane is not asked at all.
type dispatcher struct {
	bounds   bounds
	maxWait  time.Duration
	now      func() time.Time
	log      *slog.Logger
	start    func(kept)                    // runs the delivery and then sends to freed
	giveBack func(*lane, *broker.Delivery) // naks it
	reopen   func(*lane)                   // replaces the puller of a lane whose request hangs

	lanes   []*lane
	running [ranks]int
	probing *lane
	waiting []kept // that may start and find no slot; bounded by what may be held

	added   chan *lane
	changed chan laneChange
	resumed chan kept // deliveries whose limits let them start
	paced   chan pace
	events  chan laneEvent
	freed   chan int      // rank of a slot that became free; never blocks its sender
	stopped chan struct{} // closed when nobody reads events any more
}

// report hands an event of a puller to the dispatcher.
func (d *dispatcher) report(e laneEvent) {
	select {
	case d.events <- e:
	case <-d.stopped:
		if e.delivery != nil {
			d.giveBack(e.lane, e.delivery)
		}
	}
}

// resume hands a held delivery to the dispatcher.
func (d *dispatcher) resume(h kept) {
	select {
	case d.resumed <- h:
	case <-d.stopped:
		d.giveBack(h.lane, h.delivery)
	}
}

// pace says that a queue's limiter has nothing left: its lanes are not to be asked
// before then.
type pace struct {
	queue string
	until time.Time
}

// tellPace hands a pace to the dispatcher.
func (d *dispatcher) tellPace(p pace) {
	select {
	case d.paced <- p:
	case <-d.stopped:
	}
}

func (d *dispatcher) slow(p pace) {
	for _, l := range d.lanes {
		if l.Queue != p.queue || l.retryAt.After(p.until) {
			continue
		}
		if l.retryAt = p.until; l.state == laneEmpty {
			l.state = laneUnknown
		}
	}
}

// restart starts held deliveries that wait for a slot, the longest waiting first,
// before anything new is asked for. Those for which there is none in time are given
// back: another worker may have one.
func (d *dispatcher) restart() {
	now := d.now()
	d.waiting = slices.DeleteFunc(d.waiting, func(h kept) bool {
		switch {
		case now.Sub(h.since) >= staleAfter, h.lane.rules.paused:
			d.giveBack(h.lane, h.delivery)
		case d.bounds.room(d.running, h.lane.rank) > 0:
			d.running[h.lane.rank]++
			d.start(h)
		default:
			return false
		}
		return true
	})
}

// add takes a new lane in. It counts as just offered: nobody has passed it over.
func (d *dispatcher) add(l *lane) {
	l.offered = d.now()
	d.lanes = append(d.lanes, l)
}

// fill asks for tasks as long as there is room for them.
func (d *dispatcher) fill() {
	d.restart()
	for d.probing == nil {
		now := d.now()
		views := make([]laneView, len(d.lanes))
		for i, l := range d.lanes {
			views[i] = laneView{rank: l.rank, askable: l.state == laneUnknown && !l.rules.paused && !l.retryAt.After(now), offered: l.offered}
		}
		next, batch := nextLane(views, d.bounds, d.running, now, d.maxWait)
		if next < 0 {
			break
		}
		l := d.lanes[next]
		l.offered = now
		wait, patience := time.Duration(0), probeWait
		if l.rules.most > 0 {
			batch = min(batch, l.rules.most)
		}
		if l.rules.bounded {
			batch, wait, patience = 1, knockWait, headStart
		}
		if err := l.puller.Pull(batch, wait); err != nil {
			d.refused(l, err)
			continue
		}
		l.state, l.want, l.deadline = laneProbing, batch, now.Add(patience)
		d.probing = l
	}
	if d.probing == nil {
		d.knock()
	}
}

// knock leaves a waiting request with every empty lane that has room. Without
// room, what is known of an empty lane goes stale.
func (d *dispatcher) knock() {
	for _, l := range d.lanes {
		if l.state != laneEmpty {
			continue
		}
		if d.bounds.room(d.running, l.rank) == 0 {
			l.state = laneUnknown
			continue
		}
		if err := l.puller.Pull(1, knockWait); err != nil {
			d.refused(l, err)
			continue
		}
		l.state, l.want, l.deadline = laneKnocking, 1, d.now().Add(knockWait+knockSlack)
	}
}

func (d *dispatcher) refused(l *lane, err error) {
	d.log.Debug("lane cannot be asked", "queue", l.Queue, "priority", string(l.Priority), "error", err)
	l.state, l.want, l.retryAt = laneUnknown, 0, d.now().Add(laneBackoff)
}

func (d *dispatcher) on(e laneEvent) {
	current := e.generation == e.lane.generation
	switch {
	case e.delivery != nil:
		if current {
			d.count(e.lane)
		}
		d.take(e.lane, e.delivery)
	case current:
		d.ended(e.lane, e.end)
	}
}

// ended notes the end of a lane's open request.
func (d *dispatcher) ended(l *lane, end broker.PullEnd) {
	if d.probing == l {
		d.probing = nil
	}
	l.want = 0
	switch {
	case end.Err != nil:
		d.refused(l, end.Err)
	case l.state == laneProbing, l.state == laneKnocking:
		l.state, l.offered = laneEmpty, d.now()
	case l.state == laneUnknown, l.state == laneEmpty: // of a request that was complete
	}
}

// count notes a delivery of a lane's open request.
func (d *dispatcher) count(l *lane) {
	if l.want == 0 {
		return
	}
	if l.want--; l.want == 0 { // the request is complete, and the lane may have more
		l.state = laneUnknown
		if d.probing == l {
			d.probing = nil
		}
	}
}

// take starts a delivery if there still is room for it, else gives it back.
func (d *dispatcher) take(l *lane, delivery *broker.Delivery) {
	l.offered = d.now()
	if l.rules.paused || d.bounds.room(d.running, l.rank) == 0 {
		d.giveBack(l, delivery)
		return
	}
	d.running[l.rank]++
	d.start(kept{lane: l, delivery: delivery, way: &broker.Limited{}})
}

// change gives a lane new rules. What was asked under the old ones is taken back:
// a pause must not be answered, and a probe of a lane that is bounded now might
// never be.
func (d *dispatcher) change(c laneChange) {
	l := c.lane
	l.rules = c.rules
	if d.probing == l {
		d.probing = nil
	}
	if l.state == laneProbing || l.state == laneKnocking {
		d.reopen(l)
	}
	l.state, l.want, l.retryAt, l.offered = laneUnknown, 0, time.Time{}, d.now()
}

// reset gives up all open requests: the connection was lost, and most likely they
// with it. The broker may still answer those that it did not notice were lost.
func (d *dispatcher) reset() {
	d.probing = nil
	for _, l := range d.lanes {
		if l.state == laneProbing || l.state == laneKnocking {
			d.reopen(l)
		}
		l.state, l.want, l.retryAt = laneUnknown, 0, time.Time{}
	}
}

// overdue gives up requests that were not answered in time.
func (d *dispatcher) overdue() {
	now := d.now()
	for _, l := range d.lanes {
		open := l.state == laneProbing || l.state == laneKnocking
		if !open || l.deadline.After(now) {
			continue
		}
		if l.state == laneProbing && l.rules.bounded {
			d.probing = nil
			l.state, l.deadline = laneKnocking, now.Add(knockWait+knockSlack)
			continue
		}
		d.log.Warn("request of a lane was not answered", "queue", l.Queue, "priority", string(l.Priority))
		if d.probing == l {
			d.probing = nil
		}
		d.reopen(l)
		l.state, l.want, l.retryAt = laneUnknown, 0, now.Add(laneBackoff)
	}
}

// nextLook is when overdue and fill have to be called even if nothing happens.
func (d *dispatcher) nextLook() time.Duration {
	now := d.now()
	at := now.Add(knockWait)
	if len(d.waiting) > 0 { // the first has waited longest
		at = d.waiting[0].since.Add(staleAfter)
	}
	for _, l := range d.lanes {
		if (l.state == laneProbing || l.state == laneKnocking) && l.deadline.Before(at) {
			at = l.deadline
		}
		if l.retryAt.After(now) && l.retryAt.Before(at) {
			at = l.retryAt
		}
	}
	return max(at.Sub(now), time.Millisecond)
}

// run dispatches until ctx ends, then takes back all requests and gives back what
// they still bring.
func (d *dispatcher) run(ctx context.Context, reconnected <-chan struct{}) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		d.overdue() // not only when the timer fires: under load it never gets to
		d.fill()
		timer.Reset(d.nextLook())
		select {
		case e := <-d.events:
			d.on(e)
		case h := <-d.resumed:
			h.since = d.now()
			d.waiting = append(d.waiting, h)
		case p := <-d.paced:
			d.slow(p)
		case rank := <-d.freed:
			d.running[rank]--
			d.collectFreed()
		case l := <-d.added:
			d.add(l)
		case c := <-d.changed:
			d.change(c)
		case <-reconnected:
			d.reset()
		case <-timer.C:
		case <-ctx.Done():
			d.drain(context.WithoutCancel(ctx))
			return
		}
	}
}

// collectFreed takes all slots that are free by now, so that one request can ask
// for all of them.
func (d *dispatcher) collectFreed() {
	for {
		select {
		case rank := <-d.freed:
			d.running[rank]--
		default:
			return
		}
	}
}

// drainWait bounds the taking back of requests at shutdown.
const drainWait = time.Second

func (d *dispatcher) drain(ctx context.Context) {
	defer close(d.stopped)
	ctx, cancel := context.WithTimeout(ctx, drainWait)
	defer cancel()
	for _, h := range d.waiting {
		d.giveBack(h.lane, h.delivery)
	}
	var closing sync.WaitGroup
	for _, l := range d.lanes {
		closing.Go(func() { l.puller.Close(ctx) })
	}
	closed := make(chan struct{})
	go func() { closing.Wait(); close(closed) }()
	for {
		select {
		case e := <-d.events:
			if e.delivery != nil {
				d.giveBack(e.lane, e.delivery)
			}
		case h := <-d.resumed:
			d.giveBack(h.lane, h.delivery)
		case <-d.paced:
		case <-closed:
			return
		}
	}
}

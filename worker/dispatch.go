package worker

import (
	"log/slog"
	"slices"
	"time"

	"github.com/peltonq/pelton/internal/broker"
)

const (
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
// goroutine that runs it; the outside speaks to it through its inbox, freed and the
// other channels.
//
// It asks for what it can start, and for what it can start soon: see prefetch. It
// sends a request for what is ready, lane after lane from the highest priority down.
// Lanes that had nothing get a request that waits (a knock), so that
// an idle worker is told at once, and a busy one of what is to go first: for one task, or for
// some if tasks may wait here. What comes
// when there is no slot waits for one, and goes before what waits of lower priorities.
// If there is none soon it is given back, which the broker hands on at once.
//
// A lane with max_running is different: while as many tasks run as may, the broker
// keeps a request for what is ready now until one ends. Such a lane gets a request
// that waits from the start, one task each; it holds back lower lanes for a moment
// and then counts as knocked on. Nothing of it waits here, as it would have the place
// of one that runs: when there is a slot, the lane is asked first. A paused lane is
// not asked at all.
//
// A crash leaves what waits here to the broker, like what runs: it comes back with its
// lease, and nothing was written about it.
type dispatcher struct {
	bounds   bounds
	maxWait  time.Duration
	now      func() time.Time
	log      *slog.Logger
	start    func(kept)                    // runs the delivery and then sends to freed
	giveBack func(*lane, *broker.Delivery) // naks it
	online   func() bool                   // there is a connection to nak on
	reopen   func(*lane)                   // replaces the puller of a lane whose request hangs

	lanes   []*lane
	running [ranks]int
	probing *lane
	turn    *lane  // that the next free slot is for, when it was asked
	waiting []kept // that may start and find no slot; bounded by what may be held
	meter   meter
	stock   stock // what was prefetched
	ranking ranking
	views   []laneView  // room for look
	seen    []*lane     // that the views are of
	read    []laneEvent // room for the next look into the inbox

	inbox   *inbox // of pullers
	added   chan *lane
	changed chan laneChange
	resumed chan kept // deliveries whose limits let them start
	paced   chan pace
	freed   chan int      // rank of a slot that became free; never blocks its sender
	stopped chan struct{} // closed when nobody reads the channels any more
}

// report hands an event of a puller to the dispatcher.
func (d *dispatcher) report(e laneEvent) {
	if !d.inbox.put(e) && e.delivery != nil {
		d.giveBack(e.lane, e.delivery)
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
		d.place(l)
	}
}

// restart starts held deliveries that wait for a slot, the longest waiting first,
// before anything new is asked for. Those for which there is none in time are given
// back: another worker may have one.
func (d *dispatcher) restart() {
	if len(d.waiting) == 0 {
		return
	}
	now := d.now()
	d.waiting = slices.DeleteFunc(d.waiting, func(h kept) bool {
		switch {
		case now.Sub(h.since) >= staleAfter, h.lane.rules.paused:
			d.giveBack(h.lane, h.delivery)
		case d.bounds.room(d.held(), h.lane.rank) > 0:
			d.begin(h)
		default:
			return false
		}
		return true
	})
}

// add takes a new lane in. It counts as just offered: nobody has passed it over.
func (d *dispatcher) add(l *lane) {
	l.offered, l.number = d.now(), len(d.lanes)
	d.lanes = append(d.lanes, l)
	d.place(l)
}

// fill gives free slots to what waits, and asks for tasks as long as there is room
// for them.
func (d *dispatcher) fill() {
	d.serve()
	d.knock(true)
	for d.probing == nil {
		now := d.now()
		l, batch := d.next(now)
		if l == nil {
			break
		}
		if d.bounds.room(d.running, l.rank) > 0 {
			l.offered = now
		}
		wait, patience := time.Duration(0), probeWait
		if l.rules.most > 0 {
			batch = min(batch, l.rules.most)
		}
		if l.rules.bounded {
			batch, wait, patience = 1, l.knockFor(now), headStart
		}
		if err := l.puller.Pull(batch, wait); err != nil {
			d.refused(l, err)
			continue
		}
		l.state, l.want, l.deadline = laneProbing, batch, now.Add(patience)
		if l.hold = 0; d.allowed(l) > 0 {
			l.hold = d.stock.of[l.rank] + batch
		}
		d.probing = l
		d.place(l)
	}
	if d.probing == nil {
		d.knock(false)
	}
}

// next is the lane that is asked next, and for how many tasks; nil if none is.
func (d *dispatcher) next(now time.Time) (l *lane, batch int) {
	if d.turn != nil && d.turn.askable(now) {
		return d.turn, 1
	}
	next, batch := nextLane(d.look(now), d.bounds, d.held(), now, d.maxWait)
	if next < 0 {
		return nil, 0
	}
	return d.seen[next], batch
}

func (d *dispatcher) refused(l *lane, err error) {
	d.log.Debug("lane cannot be asked", "queue", l.Queue, "priority", string(l.Priority), "error", err)
	d.rest(l)
}

// rest puts a lane off of which no request is open any more.
func (d *dispatcher) rest(l *lane) {
	l.state, l.want, l.hold, l.retryAt = laneUnknown, 0, 0, d.now().Add(laneBackoff)
	d.place(l)
}

func (d *dispatcher) on(e laneEvent) {
	if e.moved != nil {
		d.moved(*e.moved)
		return
	}
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
	if l.state == laneKnocking && l.follows > 0 && end.Err == nil && 0 < end.Left && end.Left < l.want { // of one, and another is open
		l.want -= end.Left
		l.follows--
		return
	}
	if d.probing == l {
		d.probing = nil
	}
	l.want, l.hold = 0, 0
	switch {
	case end.Err != nil:
		d.refused(l, end.Err)
	case l.state == laneProbing, l.state == laneKnocking:
		l.state, l.offered = laneEmpty, d.now()
		d.place(l)
	case l.state == laneUnknown, l.state == laneEmpty: // of a request that was complete
	}
}

// count notes a delivery of a lane's open request.
func (d *dispatcher) count(l *lane) {
	if l.want == 0 {
		return
	}
	l.want--
	if l.state == laneKnocking {
		l.offered = d.now() // it had nothing until now
		d.prolong(l, l.offered)
	}
	if l.want == 0 { // the request is complete, and the lane may have more
		l.state = laneUnknown
		if d.probing == l {
			d.probing = nil
		}
		d.place(l)
	}
}

// take starts a delivery if there still is room for it, else it waits or is given
// back.
func (d *dispatcher) take(l *lane, delivery *broker.Delivery) {
	if d.stock.all > 0 { // those before it first
		d.serve()
	}
	if d.turn == l {
		d.turn = nil
	}
	now := d.now()
	k := kept{lane: l, delivery: delivery, way: &broker.Limited{}, since: now}
	switch {
	case l.rules.paused:
		d.giveBack(l, delivery)
	case len(l.stock) == 0 && d.bounds.room(d.held(), l.rank) > 0:
		l.offered = now
		d.place(l)
		d.begin(k)
	case d.mayWait(l, delivery):
		d.put(k)
	default:
		if l.state == laneKnocking { // or it would come straight back
			d.reopen(l)
			l.state, l.want = laneUnknown, 0
			d.place(l)
		}
		d.giveBack(l, delivery)
	}
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
	d.returnStock(l)
	l.state, l.want, l.hold, l.retryAt, l.offered = laneUnknown, 0, 0, time.Time{}, d.now()
	d.place(l)
}

// reset gives up all open requests: the connection was lost, and most likely they
// with it. The broker may still answer those that it did not notice were lost. If it
// was started anew, it has handed to others what waits here: that is looked up
// before it starts.
func (d *dispatcher) reset() {
	d.probing = nil
	for _, l := range d.lanes {
		if l.state == laneProbing || l.state == laneKnocking {
			d.reopen(l)
		}
		l.state, l.want, l.hold, l.retryAt = laneUnknown, 0, 0, time.Time{}
		d.place(l)
		for _, k := range l.stock {
			k.delivery.Fresh = false
		}
	}
}

// moved asks a lane anew whose consumer has another leader: the open request is lost with
// the one before it.
func (d *dispatcher) moved(of broker.Lane) {
	for _, l := range d.lanes {
		if l.Lane != of || l.state != laneProbing && l.state != laneKnocking {
			continue
		}
		if d.probing == l {
			d.probing = nil
		}
		d.reopen(l)
		l.state, l.want, l.hold, l.retryAt = laneUnknown, 0, 0, time.Time{}
		d.place(l)
	}
}

// overdue gives up requests that were not answered in time. Knocks are looked at when the
// first of them may be overdue.
func (d *dispatcher) overdue() {
	now := d.now()
	if l := d.probing; l != nil && !l.deadline.After(now) {
		if l.rules.bounded {
			d.probing = nil
			d.knocking(l, now)
		} else {
			d.unanswered(l)
		}
	}
	if d.ranking.knocks.IsZero() || d.ranking.knocks.After(now) {
		return
	}
	d.ranking.knocks = time.Time{}
	for _, l := range d.lanes {
		switch {
		case l.state != laneKnocking:
		case !l.deadline.After(now):
			d.unanswered(l)
		case d.ranking.knocks.IsZero() || l.deadline.Before(d.ranking.knocks):
			d.ranking.knocks = l.deadline
		}
	}
}

// unanswered gives up the open request of a lane.
func (d *dispatcher) unanswered(l *lane) {
	d.log.Warn("request of a lane was not answered", "queue", l.Queue, "priority", string(l.Priority))
	if d.probing == l {
		d.probing = nil
	}
	d.reopen(l)
	d.rest(l)
}

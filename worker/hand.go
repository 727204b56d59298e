package worker

import (
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
)

// mostHeld bounds what a worker holds, and with it the memory: 64 MB if every
// payload were as large as it may be. It is also how many starts of limited tasks
// a worker can space in a quarter of a second, in which the broker's schedules
// come together.
const mostHeld = 256

// kept is a delivery that waits in the worker's hand, without a slot, until a
// limit lets it start. It is not written down: if the worker dies, it comes back
// with its lease.
type kept struct {
	lane     *lane
	delivery *broker.Delivery
	way      *broker.Limited // through its limits
	slot     *slot           // that it holds, once it was started
	since    time.Time       // when it could start and found no slot; of the dispatcher
}

// keeper bounds what is kept in hand.
type keeper struct {
	places chan struct{}
	resume func(kept) // hands it to the dispatcher, or gives it back at shutdown
	pace   func(pace) // tells the dispatcher
}

func newKeeper() *keeper { return &keeper{places: make(chan struct{}, mostHeld)} }

// take takes a place in the hand, if there is one.
func (h *keeper) take() bool {
	select {
	case h.places <- struct{}{}:
		return true
	default:
		return false
	}
}

func (h *keeper) release() { <-h.places }

// keepInHand keeps a delivery until then and hands it to the dispatcher again. Its place
// was taken before.
func (w *Worker) keepInHand(h kept, until time.Time) {
	w.tasks.Go(func() {
		defer w.keeper.release()
		timer := time.NewTimer(time.Until(until))
		defer timer.Stop()
		select {
		case <-timer.C:
			w.keeper.resume(h)
		case <-w.stopping:
			w.giveBack(h.lane, h.delivery)
		}
	})
}

// pausedBy stands where a limit's name would; see Observer.PutOff.
const pausedBy = "pause"

// limited holds a task against the limits, when it could start. done means that it
// was put off or is held, or that the attempt to do so ended with err.
func (w *Worker) limited(r *run, c candidate, now time.Time) (done bool, err error) {
	rules := w.rules.Load()
	kind, key := r.record.Kind, r.record.RateKey
	if until := rules.paused(kind, key, r.record.RunAt, now); !until.IsZero() {
		return true, w.putOff(r, c, limitVerdict{until: until, putOff: true, by: pausedBy, paused: true})
	}
	if c.way.Times == 0 && len(c.way.Passes) == 0 && r.record.Limited != nil {
		*c.way = *r.record.Limited // else it was asked before, in this hand
	}
	queue := c.lane.rate.Load()
	if queue == nil && r.record.Limited == nil && !rules.apply(kind, key) {
		return false, nil
	}
	in := hand{near: min(nearBy, c.lane.startBy(c.delivery)/2)}
	if !c.takeover { // its crash is to be written down first
		in.free = w.keeper.take()
	}
	verdict := w.limits.check(w.hard, rules, queue, kind, key, c.way, in)
	if in.free && !verdict.until.IsZero() && !verdict.putOff && !verdict.giveBack {
		w.keepInHand(kept{lane: c.lane, delivery: c.delivery, way: c.way}, verdict.until)
		return true, nil
	}
	if in.free {
		w.keeper.release()
	}
	switch {
	case verdict.putOff, verdict.giveBack && c.takeover:
		return true, w.putOff(r, c, verdict)
	case verdict.giveBack:
		w.keeper.pace(pace{c.lane.Queue, verdict.until}) // first, or it would come straight back
		w.giveBack(c.lane, c.delivery)
		return true, nil
	case !verdict.until.IsZero(): // it cannot be held, and its start is counted
		return true, w.putOff(r, c, verdict)
	default:
		return false, nil
	}
}

// putOff puts a task back until its limits may let it start. No attempt counts.
func (w *Worker) putOff(r *run, c candidate, v limitVerdict) error {
	way := *c.way
	way.Times++
	if way.By = v.by; v.paused {
		way.By = ""
	}
	r.record.Limited = &way
	r.record.Deferrals, r.record.DeferredAt = 0, time.Time{}
	r.log().Debug("task put off by a limit", "limit", v.by, "until", v.until)
	err := r.putBack(pelton.Scheduled, v.until)
	if err == nil {
		w.cfg.Observer.PutOff(r.record.Task(v.until), v.by)
	}
	return err
}

package scheduler

import (
	"time"

	"github.com/peltonq/pelton"
)

const (
	// onTime is how late a tick may be looked at for the first time, and onRedelivery
	// how late after the one who had it died, before it counts as missed.
	onTime       = time.Second
	onRedelivery = 5 * time.Second
	// maxTicks bounds the ticks of one decision. What is left is decided next.
	maxTicks = 50
)

// plan is what is to be done about a schedule at a moment.
type plan struct {
	ticks  []time.Time // to be enqueued, in their order
	missed time.Time   // the last tick that is left out; zero if none is
	// last is the tick up to which everything is decided then; zero if there is
	// nothing to decide.
	last time.Time
	// next is the first tick that is not decided, and wake when it is due; zero if
	// there is none.
	next, wake time.Time
}

// decide says which ticks after a moment are to be enqueued now, and which is next.
// slack is how late a tick may be without being missed.
//
// A tick that is due is on time, or was missed. Those that are on time are enqueued;
// what becomes of the others is the catch-up policy's. They are decided in their
// order, at most maxTicks at a time.
func decide(r *rule, policy pelton.CatchUp, window time.Duration, after, now time.Time, slack time.Duration) plan {
	var p plan
	from := after
	leave := func(until time.Time) { // out all ticks that are due up to a moment
		if tick := r.latest(from, until); !tick.IsZero() {
			p.missed, p.last, from = tick, tick, tick
		}
	}
	border := now.Add(-slack) // what is due up to then was missed
	switch policy {
	case pelton.CatchUpAll:
		leave(now.Add(-max(window, slack) - time.Millisecond))
	case pelton.CatchUpLast:
		if tick := r.latest(from, border.Add(-1)); !tick.IsZero() {
			p.ticks, p.last, from = append(p.ticks, tick), tick, tick
		}
	case pelton.CatchUpNone:
		leave(border.Add(-1))
	default:
		leave(border.Add(-1))
	}
	tick := r.next(from)
	for ; !tick.IsZero() && len(p.ticks) < maxTicks && !r.due(tick).After(now); tick = r.next(tick) {
		p.ticks, p.last = append(p.ticks, tick), tick
	}
	if !tick.IsZero() {
		p.next, p.wake = tick, r.due(tick)
	}
	return p
}

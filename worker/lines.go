package worker

import (
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
)

// starts reports whether the admission is of a task that was not started before,
// so that one in a line must have its turn.
func (a admission) starts() bool {
	switch a {
	case admitStart, admitExpire, admitDefer, admitUnknown:
		return true
	case admitTakeover, admitAdopt, admitDrop, admitRepublish, admitBury, admitLine, admitAlone:
		return false
	default:
		return false
	}
}

// turn decides what comes before the admission of a task that may be bound to a
// line: without its turn its message is dropped, because it will be called by
// another; a kind with a limit has a line of its own, in which a task that
// could start otherwise gets its turn at once, or which it enters. Plain tasks cost nothing here. ok is false when the broker
// could not say.
func (w *Worker) turn(c *candidate, record *broker.Record, what admission) (_ admission, ok bool) {
	if !what.starts() {
		return what, true
	}
	if record.InLine {
		called, err := w.b.Called(w.hard, record)
		switch {
		case err != nil:
			c.log().Warn("turn not looked up, task given back", "error", err)
			return what, false
		case !called:
			return admitDrop, true
		}
	}
	if what == admitStart && w.needsTurn(record) {
		return w.ownTurn(c, record)
	}
	return what, true
}

// enterLine puts the task into the line of its kind instead of starting it.
func (r *run) enterLine(now time.Time) error {
	r.record.QueueForKind(now)
	if err := r.insist(func() error { return r.w.b.EnsurePlaces(r.w.hard, r.record.Queue) }); err != nil {
		return err
	}
	if err := r.store(); err != nil {
		return err
	}
	if err := r.insist(func() error { return r.w.b.Publish(r.w.hard, r.record) }); err != nil {
		return err
	}
	return r.keepTurn()
}

// leaveBehind gives back what the task of a delivery that is not started may hold
// of its lines: what is from before it was requeued, and all of it if it is over.
// Whether somebody still runs the task is asked first: the broker may have
// forgotten who has what.
func (w *Worker) leaveBehind(r *run, c candidate) (ok bool) {
	rec, seq := r.record, c.delivery.Seq
	if !w.leaveOwnTurn(r, c) {
		return false
	}
	if len(rec.Places) == 0 {
		return true
	}
	if w.resume(r, c) {
		return false
	}
	if rec.State == pelton.Cancelled && rec.Carrier == seq && rec.Owner != w.id {
		sign, err := w.ownerSign(rec.Owner, rec.ID, c)
		if err != nil || sign == broker.SignRuns {
			r.log().Info("delivery of a cancelled task that its owner still runs left alone", "owner", rec.Owner, "error", err)
			return false
		}
	}
	err := w.b.LeaveDropped(w.hard, rec, c.delivery.Envelope, seq)
	if err != nil {
		w.giveUp(r, c, err)
	}
	return err == nil
}

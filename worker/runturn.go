package worker

import (
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
)

// needsTurn reports whether a run of the task needs a turn in the line of its kind, where it has no place.
func (w *Worker) needsTurn(record *broker.Record) bool {
	return w.b.KindLimited(record.Kind) && !record.StandsIn(broker.OfKind)
}

// ownTurn asks for a turn in the line of the task's kind for this run, and enters the line if there is none soon. A task that
// may have other limits to wait for enters the line, so as to hold no turn meanwhile.
func (w *Worker) ownTurn(c *candidate, record *broker.Record) (_ admission, ok bool) {
	if c.turn {
		return admitStart, true
	}
	rules := w.rules.Load()
	if !c.seated || record.Limited != nil || c.lane.rate.Load() != nil || rules.apply(record.Kind, record.RateKey) ||
		!rules.free(record.Kind, record.RateKey, time.Now()) {
		return admitLine, true
	}
	turn, most := record.RunTurn(c.delivery.Seq, w.id), c.lane.startBy(c.delivery)/2
	taken, other, err := w.b.AskTurn(w.hard, turn).Await(w.hard, most, w.stopping)
	if err == nil && other != "" {
		var runs bool
		if runs, err = w.runsElsewhere(*c, other); runs {
			return admitAlone, true
		}
		if err == nil {
			if taken, other, err = w.b.AskTurn(w.hard, turn.From(other)).Await(w.hard, most, w.stopping); err == nil && other != "" {
				err = errSilent // somebody else was quicker
			}
		}
	}
	switch {
	case err != nil:
		c.log().Warn("turn not asked for, task given back", "error", err)
		return admitStart, false
	case !taken:
		return admitLine, true
	}
	c.turn = true
	return admitStart, true
}

// runsElsewhere reports whether another worker, which has the turn by the delivery's message, still runs the task. Then
// the delivery is left alone: that one's heartbeats extend its lease.
func (w *Worker) runsElsewhere(c candidate, other string) (bool, error) {
	sign, err := w.ownerSign(other, c.delivery.Envelope.ID, c)
	if err == nil && sign == broker.SignRuns {
		c.log().Info("delivery of a task that another worker runs left alone", "worker", other)
	}
	return err == nil && sign == broker.SignRuns, err
}

// giveBackWith is giveBackFor of a delivery whose run may have its turn. That goes with the message, which may lie in
// a lane that is paused, so it goes first. If it cannot be given back, who gets the message has it.
func (w *Worker) giveBackWith(c candidate, delay time.Duration) {
	if c.turn {
		if err := w.b.GiveTurnNow(w.hard, c.delivery.Envelope.RunTurn(c.delivery.Seq, w.id)); err != nil {
			c.log().Debug("turn not given back", "error", err)
		}
	}
	w.giveBackFor(c.lane, c.delivery, delay)
}

// mayHaveTurn reports whether the run may have a turn in the line of its kind by its message: its own,
// or one of a worker that had the message before.
func (r *run) mayHaveTurn() bool {
	return r.turn || !r.delivery.First() && r.w.needsTurn(r.record)
}

// runTurn is that turn.
func (r *run) runTurn() broker.RunTurn { return r.env.RunTurn(r.delivery.Seq, r.w.id) }

// giveTurn gives that turn back, if there is one.
func (r *run) giveTurn() error {
	if !r.mayHaveTurn() {
		return nil
	}
	return r.insist(func() error { return r.w.b.GiveTurnNow(r.w.hard, r.runTurn()) })
}

// leaveOwnTurn gives back the turn that a delivery which is not started may have in the line of its kind. A task that
// was cancelled may still run where it was started: then the delivery is left alone.
func (w *Worker) leaveOwnTurn(r *run, c candidate) (ok bool) {
	if !r.turn && !w.needsTurn(r.record) {
		return true
	}
	var err error
	if !r.turn && r.record.State == pelton.Cancelled {
		var other string
		if other, err = w.b.TurnHolder(w.hard, r.runTurn()); err == nil && other == "" {
			return true
		}
		if err == nil && other != w.id {
			var runs bool
			if runs, err = w.runsElsewhere(c, other); runs {
				return false
			}
		}
	}
	if err == nil {
		err = w.b.GiveTurnNow(w.hard, r.runTurn())
	}
	if err != nil {
		w.giveUp(r, c, err)
	}
	return err == nil
}

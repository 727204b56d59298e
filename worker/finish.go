package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
	"github.com/peltonq/pelton/internal/failpoint"
)

var (
	// errLost is a task that is no longer this run's: send nothing.
	errLost = errors.New("task belongs to somebody else")
	// errOver is a task that ended without this run's doing: acknowledge, discard.
	errOver = errors.New("task is over")
)

// finish carries out what the handler's end means for the task. The outcome of a plain
// success may still be under way when it returns.
func (r *run) finish(res result, cause error) {
	r.mu.Lock()
	if r.fenced || r.late(time.Now()) {
		cause = pelton.ErrFenced
	}
	if r.progress != nil {
		r.record.Progress = r.progress
	}
	r.mu.Unlock()

	now := time.Now()
	v := outcome(res, r.record.Attempt, r.record.MaxAttempts, cause, now, r.record.Backoff, random())
	for _, scope := range v.pauses {
		r.pauseOthers(scope, now.Add(min(v.pause, pelton.MaxPause)))
	}
	var err error
	switch v.step {
	case stepNothing:
		err = errLost
	case stepDiscard:
		err = r.discard()
	case stepRelease:
		err = r.release()
	case stepSucceed:
		r.record.Ended, r.record.Result = r.record.Attempt, v.value
		if r.succeedSoon(now) {
			return
		}
		err = r.conclude(pelton.Succeeded, now, nil)
	case stepFail:
		r.record.Ended = r.record.Attempt
		err = r.conclude(pelton.Failed, now, &v.failure)
	case stepSnooze:
		err = r.putBack(pelton.Scheduled, now.Add(v.delay))
	case stepRetry:
		r.record.Ended = r.record.Attempt
		r.record.Fail(v.failure)
		r.log().Info("attempt failed, task will be retried", "attempt", r.record.Attempt, "reason", string(v.failure.Reason), "in", v.delay.String(), "error", v.failure.Message)
		err = r.putBack(pelton.Retrying, now.Add(v.delay))
	}
	r.settled(v.step.outcome(), err, now)
}

// settled follows the last write of a run; err is why it was not made.
func (r *run) settled(how Outcome, err error, at time.Time) {
	switch {
	case err == nil:
	case errors.Is(err, errOver):
		r.log().Info("result discarded: the task is over")
		_ = r.passOn() // if it fails, the message comes to somebody who does it
		how = OutcomeCancelled
	default:
		r.log().Warn("outcome not recorded, the task will run again", "error", err)
		how = OutcomeLost
	}
	if r.w.cfg.Observer != (nobody{}) { // for whom no task has to be made
		r.w.cfg.Observer.Ended(r.record.Task(at), how, at.Sub(r.record.StartedAt))
	}
	r.leave()
}

// soonest bounds what a success that is written off the handler's path may hold in memory.
const (
	soonest       = 4 << 10 // bytes of payload and result
	mostFinishing = 256
)

// succeedSoon writes the success of a task that holds nothing, and does not wait for it: the
// slot is free for the next one. Its message is acknowledged after the write was. Anything
// but an ordinary answer is dealt with as if the write had not been tried. False
// means that nothing was done.
//
// At most mostFinishing successes are under way. More wait here, with their slots.
func (r *run) succeedSoon(now time.Time) bool {
	rec := r.record
	if len(rec.Places) > 0 || rec.Unique != nil || len(rec.Payload)+len(rec.Result) > soonest || failpoint.Broken(failpoint.AckFirst) {
		return false
	}
	select {
	case r.w.finishing <- struct{}{}:
	default:
		select {
		case r.w.finishing <- struct{}{}:
		case <-r.w.hard.Done():
			return false
		}
		if r.lateNow() { // by now
			<-r.w.finishing
			return false
		}
	}
	r.w.tasks.Add(1)
	first := rec.Revision == 0
	rec.State, rec.FinishedAt = pelton.Succeeded, now.UTC().Truncate(time.Microsecond)
	err := r.w.b.SaveRecordSoon(r.w.hard, rec, func(err error) { // on the connection's reader: it must not block
		if err != nil {
			go r.succeedAfterAll(now)
			return
		}
		failpoint.At(failpoint.FinishRecorded)
		if first {
			failpoint.At(failpoint.FreshFinished)
		}
		if r.mayHaveTurn() {
			r.w.b.GiveTurn(r.w.hard, r.runTurn(), func(err error) { r.succeeded(err, now) })
			return
		}
		r.succeeded(nil, now)
	})
	if err != nil {
		r.succeedAfterAll(now)
	}
	return true
}

// succeeded ends the message of a task whose success is stored. If its turn could not be given back, the message
// comes to somebody who does it.
func (r *run) succeeded(turn error, now time.Time) {
	if turn == nil {
		r.ack()
	}
	r.settled(OutcomeSucceeded, nil, now)
	r.written()
}

func (r *run) written() {
	<-r.w.finishing
	r.w.tasks.Done()
}

// succeedAfterAll writes the success by the ordinary way. If the first write had landed, it
// will be found.
func (r *run) succeedAfterAll(now time.Time) {
	defer r.written()
	r.settled(OutcomeSucceeded, r.conclude(pelton.Succeeded, now, nil), now)
}

// pauseOthers keeps the tasks of the same kind, or with the same rate key, from
// starting until then. It comes before the outcome is written: a crash in between
// leaves a pause too many. A pause that cannot be written is a few more answers of
// the kind that the handler got, no reason to lose its outcome.
func (r *run) pauseOthers(scope pelton.Pauses, until time.Time) {
	p := broker.Pause{Until: until.UTC()}
	switch scope {
	case pelton.PauseKind:
		p.Kind = r.record.Kind
	case pelton.PauseKey:
		p.RateKey = r.record.RateKey
	}
	if p.Kind == "" && p.RateKey == "" || time.Until(until) <= 0 {
		return
	}
	ctx, cancel := context.WithTimeout(r.w.hard, min(time.Second, r.lane.leaseNow()/6))
	defer cancel()
	if err := r.w.b.SavePause(ctx, p); err != nil {
		r.log().Warn("fleet not paused", "until", until, "error", err)
		return
	}
	r.log().Info("fleet paused", "kind_paused", p.Kind, "rate_key_paused", p.RateKey, "until", until)
}

// conclude writes a terminal state, keeps a dead letter of a failed task, and
// acknowledges.
func (r *run) conclude(state pelton.State, now time.Time, f *pelton.Failure) error {
	r.record.State, r.record.FinishedAt = state, now.UTC().Truncate(time.Microsecond)
	if f != nil {
		if f.At.IsZero() {
			f.At, f.Attempt = r.record.FinishedAt, r.record.Attempt
		}
		r.record.Fail(*f)
	}
	r.ackFirst()
	if err := r.store(); err != nil {
		return err
	}
	failpoint.At(failpoint.FinishRecorded)
	if state == pelton.Failed {
		r.log().Error("task failed", "attempt", r.record.Attempt, "reason", string(f.Reason), "error", f.Message)
		if err := r.insist(func() error { return r.w.b.PublishDead(r.w.hard, r.record) }); err != nil {
			return err
		}
		failpoint.At(failpoint.FailBuried)
	}
	if err := r.passOn(); err != nil {
		return err
	}
	r.releaseKey()
	return nil
}

// releaseKey gives the unique key of a task back that is over. Should that fail,
// the next task with the key reads that this one is over. Other tasks pay nothing.
func (r *run) releaseKey() {
	if r.record.Unique == nil {
		return
	}
	failpoint.At(failpoint.KeyEnded)
	if err := r.w.b.ReleaseKey(r.w.hard, r.record); err != nil {
		r.log().Debug("unique key not released", "error", err)
	}
	failpoint.At(failpoint.KeyReleased)
}

// putBack writes that the task waits until at, publishes its next epoch to the
// schedule and acknowledges this one. A delayed nak would occupy the lane.
func (r *run) putBack(state pelton.State, at time.Time) error {
	if err := r.insist(func() error { return r.w.b.EnsureScheduled(r.w.hard, r.record.Lane()) }); err != nil {
		return err
	}
	if at = at.UTC(); at.Year() > pelton.MaxRunYear { // a handler may say anything
		at = time.Date(pelton.MaxRunYear, time.December, 31, 0, 0, 0, 0, time.UTC)
	}
	r.record.State, r.record.RunAt = state, at
	r.record.Attempt, r.record.InLine = r.record.Ended, false
	r.record.Epoch++
	if err := r.store(); err != nil {
		return err
	}
	failpoint.At(failpoint.PutBackRecorded)
	if err := r.insist(func() error { return r.w.b.Publish(r.w.hard, r.record) }); err != nil {
		return err
	}
	failpoint.At(failpoint.PutBackPublished)
	return r.keepTurn()
}

// release gives the task back as it was before it started.
func (r *run) release() error {
	r.record.State, r.record.Released, r.record.Attempt = pelton.Queued, true, r.record.Ended
	if err := r.store(); err != nil {
		return err
	}
	failpoint.At(failpoint.ReleaseRecorded)
	r.log().Info("task released")
	_ = r.giveTurn() // else whoever gets the message has it
	r.mu.Lock()
	defer r.mu.Unlock()
	r.w.nak(r.delivery, 0, r.log())
	return nil
}

// discard ends a run whose cancel signal came. Only the record can say that the
// task is cancelled; if it does not, the signal was wrong, and the task goes back.
func (r *run) discard() error {
	var now *broker.Record
	err := r.insist(func() (err error) { now, err = r.w.b.LoadRecord(r.w.hard, r.record.ID); return err })
	if err != nil {
		return err
	}
	if now.State.Terminal() {
		return errOver
	}
	r.log().Warn("cancel signal for a task that is not cancelled")
	return r.release()
}

// store writes the record until the outcome is known. A run that has started
// reconciles a lost compare-and-swap: errOver or errLost if the task is not its
// own any more. One that has not started gets broker.ErrStale, to look again.
func (r *run) store() error {
	for {
		err := r.insist(func() error {
			err := r.w.b.SaveRecord(r.w.hard, r.record)
			if errors.Is(err, pelton.ErrUnknownOutcome) {
				return errors.Join(broker.ErrStale, err) // what it is now, only a read can tell
			}
			return err
		})
		if !errors.Is(err, broker.ErrStale) {
			return err
		}
		if r.begun.IsZero() {
			return broker.ErrStale
		}
		stored, err := r.reconcile()
		if err != nil || stored {
			return err
		}
	}
}

// reconcile finds out what a lost compare-and-swap means. stored: the write was
// our own and had landed. Without it and without an error the task is still ours,
// and the write can be tried at the revision that was read.
func (r *run) reconcile() (stored bool, err error) {
	var now *broker.Record
	if err := r.insist(func() (err error) { now, err = r.w.b.LoadRecord(r.w.hard, r.record.ID); return err }); err != nil {
		return false, err
	}
	rec := r.record
	switch {
	case now.State == rec.State && now.Epoch == rec.Epoch && now.Owner == rec.Owner && now.Carrier == rec.Carrier && now.StartedAt.Equal(rec.StartedAt):
		rec.Revision = now.Revision
		return true, nil
	case now.State.Terminal():
		return false, errOver
	case r.fence.Load() == 0 && now.InLine && now.Epoch > rec.Epoch: // it was cancelled, and requeued
		return false, errOver
	case now.Revision == 0, now.Revision == r.unfixed && r.fence.Load() == 0: // nothing was written as yet
		rec.Revision = now.Revision
		return false, nil
	case r.mine(now):
		rec.Revision = now.Revision
		return false, nil
	default:
		return false, errLost
	}
}

// mine reports whether a record that was read is still of this very run.
func (r *run) mine(now *broker.Record) bool {
	rec := r.record
	return now.State == pelton.Running && now.Owner == r.w.id && now.Carrier == rec.Carrier && now.StartedAt.Equal(rec.StartedAt)
}

// insist repeats a call while the broker is unavailable, as long as the lease
// holds: after that the task is another worker's.
func (r *run) insist(do func() error) error {
	wait := 50 * time.Millisecond
	for {
		if late := r.lateNow(); late {
			return fmt.Errorf("%w: the lease is over", errLost)
		}
		err := do()
		if !repeatable(err) || r.w.hard.Err() != nil {
			return err
		}
		pause(r.w.hard, wait)
		wait = min(2*wait, time.Second)
	}
}

// repeatable reports whether a call that ended with err can simply be made again.
// A stale write cannot: only a read tells what it is now.
func repeatable(err error) bool {
	switch {
	case errors.Is(err, broker.ErrStale):
		return false
	default:
		return errors.Is(err, pelton.ErrUnavailable) || errors.Is(err, pelton.ErrUnknownOutcome)
	}
}

func (r *run) lateNow() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.fenced || r.late(time.Now())
}

// ack takes the message out of the stream. Should that get lost, the next
// delivery finds the record and is dropped.
func (r *run) ack() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.delivery.Ack(); err != nil {
		r.log().Debug("ack not sent", "error", err)
	}
}

// ackFirst is what the fault suite must notice: an acknowledgement of something
// that is not recorded yet.
func (r *run) ackFirst() {
	if failpoint.Broken(failpoint.AckFirst) {
		r.ack()
		_ = r.w.nc.Flush() // the process ends next
		failpoint.At(failpoint.AckedFirst)
	}
}

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

// act carries out an admission. broker.ErrStale means that the record changed
// under it and nothing was done; every other end is handled.
func (w *Worker) act(r *run, what admission, c candidate) error {
	now := time.Now()
	switch what {
	case admitDrop:
		r.log().Debug("delivery dropped", "state", string(r.record.State), "carrier", r.record.Carrier, "seq", r.delivery.Seq)
		if w.leaveBehind(r, c) {
			r.ack()
		}
	case admitRepublish:
		if failpoint.Broken(failpoint.NoRepublish) {
			r.ack()
			return nil
		}
		if err := w.b.Publish(w.hard, r.record); err != nil {
			r.log().Warn("successor not published, delivery given back", "error", err)
			w.giveBackFor(c.lane, c.delivery, brokenDelay)
			return nil
		}
		failpoint.At(failpoint.RepublishPublished)
		if w.leaveBehind(r, c) {
			r.ack()
		}
	case admitBury:
		if err := w.b.PublishDead(w.hard, r.record); err != nil {
			r.log().Warn("dead letter not kept, delivery given back", "error", err)
			w.giveBackFor(c.lane, c.delivery, brokenDelay)
			return nil
		}
		if w.leaveBehind(r, c) {
			r.ack()
		}
	case admitLine:
		return r.enterLine(now)
	case admitExpire:
		return r.conclude(pelton.Expired, now, &pelton.Failure{Message: "expired before it ran", Reason: pelton.ReasonExpired})
	case admitUnknown:
		return r.conclude(pelton.Failed, now, &pelton.Failure{
			Message: fmt.Sprintf("no worker knew kind %s for %s", r.record.Kind, unknownKindFor), Reason: pelton.ReasonUnknownKind,
		})
	case admitDefer:
		if r.record.Deferrals == 0 {
			r.record.DeferredAt = now.UTC()
		}
		at := now.Add(deferral(r.record.Deferrals))
		r.record.Deferrals++
		r.log().Info("task of an unknown kind put off", "until", at)
		return r.putBack(pelton.Scheduled, at)
	case admitTakeover:
		if over, err := w.takeover(r, c, now); err != nil || over {
			return err
		}
		c.takeover = true
		r.turn = r.turn || w.needsTurn(r.record) // most likely
		return w.start(r, c, now)
	case admitStart:
		return w.start(r, c, now)
	case admitAdopt, admitAlone: // done by the caller
	}
	return nil
}

// takeover finds out why the broker handed out a task that has an owner. It counts
// a crash if the owner is gone without having released the task, and fails the task
// when that happened too often. over means that the delivery was dealt with.
//
// An owner that runs the task and holds its lease keeps it: the broker restarted
// and has forgotten who has what, or this delivery lay in a stopped process while
// the lease went by. Nothing is sent then. The owner's heartbeats extend the lease of this
// delivery too (to nats-server they name the message, not the delivery), and if it
// dies after all, the broker hands the task out again.
func (w *Worker) takeover(r *run, c candidate, now time.Time) (over bool, err error) {
	if failpoint.Broken(failpoint.NoCarrier) { // the owner's word would hold copies back too
		return false, nil
	}
	if r.record.Owner == w.id { // a start whose outcome was unknown, or a fenced run
		return false, nil
	}
	sign, err := w.ownerSign(r.record.Owner, r.record.ID, c)
	if err != nil {
		r.log().Warn("owner not looked up, delivery given back", "error", err)
		w.giveBackFor(c.lane, c.delivery, brokenDelay)
		return true, nil
	}
	if sign == broker.SignRuns {
		r.log().Info("delivery of a task that its owner runs left alone", "owner", r.record.Owner)
		return true, nil
	}
	r.log().Warn("task taken over", "owner", r.record.Owner, "owner_present", sign == broker.SignHere)
	if sign == broker.SignHere {
		return false, nil
	}
	r.record.Crashes++
	if failpoint.Broken(failpoint.CrashBurns) {
		r.record.Ended++
	}
	w.cfg.Observer.Crashed(r.record.Task(now))
	if r.record.Crashes < int(c.lane.maxCrashes.Load()) {
		return false, nil
	}
	return true, r.conclude(pelton.Failed, now, &pelton.Failure{
		Message: fmt.Sprintf("%d deliveries died with their worker", r.record.Crashes), Reason: pelton.ReasonPoison,
	})
}

// settle is how long after the broker came back its other clients may need to
// come back too.
const settle = 5 * time.Second

// errSilent is an owner that may have died since its last sign of life, or not.
var errSilent = errors.New("it does not answer, and its heartbeat is not over")

// ownerSign finds out about the owner of a task: it is asked, until it answers or is gone.
// Right after the broker was away, its workers may be on their way, with or without a
// heartbeat: then it asks again until they have had their time, or the delivery must be started.
//
// An owner that is silent while its heartbeat lasts may have died just now: that of a task
// that kills the process of its broker always has. It is not taken for alive, or the crash would
// never be counted, nor for dead before it has had its time: that is errSilent, and the next
// delivery asks again. A heartbeat lasts for half a lease at most.
func (w *Worker) ownerSign(owner string, id pelton.ID, c candidate) (broker.Sign, error) {
	settling := func() bool { return time.Since(time.Unix(0, w.connected.Load())) <= settle }
	for waits := settling(); ; {
		ctx, cancel := context.WithTimeout(w.hard, min(time.Second, c.lane.leaseNow()/6))
		sign, err := w.b.AskPresence(ctx, owner, id)
		cancel()
		if err != nil || sign != broker.SignNone {
			return sign, err
		}
		const again = 100 * time.Millisecond
		if !settling() || c.lane.startBy(c.delivery) < 2*again || ended(w.hard.Done()) {
			present, err := w.b.Present(w.hard, owner)
			if err == nil && present && (settling() || !waits) {
				err = errSilent
			}
			return broker.SignNone, err
		}
		pause(w.hard, again)
	}
}

// start executes the task, or puts it off if it computes and has no seat, or if
// limits say so.
func (w *Worker) start(r *run, c candidate, now time.Time) error {
	if !c.seated {
		return r.putBack(pelton.Scheduled, now.Add(cpuDelay))
	}
	if done, err := w.limited(r, c, now); done {
		return err
	}
	return w.execute(r, c)
}

// newRun prepares what is done with one delivery.
func (w *Worker) newRun(c candidate, record *broker.Record) *run {
	return &run{
		w: w, lane: c.lane, slot: c.slot, env: c.delivery.Envelope, lease: c.lane.leaseNow(), delivery: c.delivery, record: record, contact: c.delivery.Arrived, relay: c.relay, turn: c.turn,
		started: make(chan struct{}), done: make(chan struct{}), cancel: func(error) {}, stop: func() {},
	}
}

// execute starts the task by compare-and-swap, runs its handler and finishes it.
// The run is entered before it is written: whoever reads that the task runs here
// finds it, a cancel signal as well as a second delivery.
func (w *Worker) execute(r *run, c candidate) error {
	ctx := &handlerContext{parent: w.base}
	r.cancel, r.stop, r.begun = ctx.end, ctx.release, time.Now()
	other, dropped := w.enter(r)
	if other != nil {
		w.outwait(other, c)
		return broker.ErrStale
	}
	begun, err := false, broker.ErrStale
	if !dropped || !c.fresh { // else its record says that it was cancelled
		begun, err = w.begin(r, c)
	}
	if begun {
		r.prepare(ctx)
	}
	close(r.started) // from here on it may get a keeper
	if !begun {
		r.leave()
		return err
	}
	call(r.ctx, c.entry.handler, r.task, r.returned)
	return nil
}

// prepare makes what the handler gets.
func (r *run) prepare(ctx *handlerContext) {
	ctx.begin(r.begun.Add(r.record.Timeout), contextValue{run: r, task: r.task, locks: &r.locks})
	r.ctx = ctx
	r.locks = lockSession{
		from: r.w, ctx: r.ctx, holder: pelton.LockHolder{TaskID: r.task.ID, Kind: r.task.Kind, Worker: r.w.id}, lease: r.lane.leaseNow(), fence: r.token,
	}
}

// begin writes that the task runs here, unless its delivery is fresh: then that is
// written when it has run for a while. begun is false when it does not: then
// the delivery was given back, or the error is broker.ErrStale.
func (w *Worker) begin(r *run, c candidate) (begun bool, err error) {
	rec := r.record
	rec.State, rec.Owner, rec.Carrier, rec.Epoch = pelton.Running, w.id, c.delivery.Seq, c.delivery.Envelope.Epoch
	rec.Attempt, rec.Released, rec.Progress = rec.Ended+1, false, nil
	rec.Deferrals, rec.DeferredAt, rec.Limited = 0, time.Time{}, nil
	rec.InLine = false // its turn is kept from here on, until it is over
	rec.StartedAt = time.Now().UTC().Truncate(time.Microsecond)
	if c.fresh {
		r.unfixed = rec.Revision
		failpoint.At(failpoint.FreshStarted)
	} else if err = w.b.SaveRecord(w.hard, rec); err == nil {
		failpoint.At(failpoint.StartRecorded)
	}
	switch {
	case err == nil:
		r.task = rec.Task(rec.StartedAt)
		if !c.fresh {
			r.fence.Store(rec.Revision)
		} else {
			r.task.Revision = 0 // there is no record of the run
		}
		w.cfg.Observer.Started(r.task, max(rec.StartedAt.Sub(c.delivery.Published), 0))
		return true, nil
	case errors.Is(err, broker.ErrStale), errors.Is(err, pelton.ErrUnknownOutcome):
		// Unknown: if it was written, the record names this delivery, and the next
		// look takes it over from ourselves.
		return false, fmt.Errorf("start: %w", errors.Join(broker.ErrStale, err))
	default:
		r.log().Warn("task not started, given back", "error", err)
		w.giveBackWith(c, brokenDelay)
		return false, nil
	}
}

// leave ends the run in this process.
func (r *run) leave() {
	r.stop()
	r.w.leave(r)
	r.mu.Lock()
	close(r.done)
	r.mu.Unlock()
	if k := r.keeper.Load(); k != nil { // none comes after done
		k.stop()
	}
}

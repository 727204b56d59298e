package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
)

const (
	// unreadableDelay puts off a message of a newer version for a newer worker.
	unreadableDelay = 30 * time.Second
	// cpuDelay puts off a CPU-bound task while such tasks hold their share of slots.
	cpuDelay = time.Second
)

// handle takes one delivery from its arrival to its last write. It holds a slot
// until it returns.
func (w *Worker) handle(l *lane, delivery *broker.Delivery) {
	log := w.cfg.Logger.With("queue", l.Queue)
	switch {
	case errors.Is(delivery.Err, broker.ErrNewer):
		log.Warn("task of a newer version put off", "error", delivery.Err)
		w.signal(log, delivery.NakWithDelay(unreadableDelay))
		return
	case delivery.Err != nil:
		log.Error("message that is no task dropped", "seq", delivery.Seq, "error", delivery.Err)
		w.signal(log, delivery.Ack())
		return
	}
	env := delivery.Envelope
	log = log.With("task_id", env.ID.String(), "kind", env.Kind)
	entry, known := w.mux.lookup(env.Kind)
	if known && entry.cpuBound {
		if !w.cpu.sit() {
			w.postpone(l, delivery, log)
			return
		}
		defer w.cpu.stand()
		if !w.awaitCPU(l, delivery) {
			giveBack(log, delivery)
			return
		}
		defer func() { <-w.cpu.running }()
	}
	w.admit(l, delivery, entry, known, log)
}

// awaitCPU waits for a turn to compute; false means that the delivery got old.
func (w *Worker) awaitCPU(l *lane, delivery *broker.Delivery) bool {
	timer := time.NewTimer(l.lease/3 - time.Since(delivery.Arrived))
	defer timer.Stop()
	select {
	case w.cpu.running <- struct{}{}:
		return true
	case <-timer.C:
		return false
	case <-w.base.Done():
		return false
	}
}

// postpone defers a delivery that this worker cannot start now, by its record.
func (w *Worker) postpone(l *lane, delivery *broker.Delivery, log *slog.Logger) {
	record, err := w.load(delivery)
	if err != nil {
		w.unloadable(delivery, err, log)
		return
	}
	env := delivery.Envelope
	now := time.Now()
	if admit(record, env.Epoch, delivery.Seq, w.id, false, true, now) != admitStart {
		giveBack(log, delivery) // something else is to be done, by who has a slot for it
		return
	}
	r := w.newRun(l, delivery, record, log)
	if err := r.putBack(pelton.Scheduled, now.Add(cpuDelay)); err != nil {
		giveBack(log, delivery)
	}
}

func (w *Worker) load(delivery *broker.Delivery) (*broker.Record, error) {
	return w.b.LoadRecord(w.hard, delivery.Envelope.ID)
}

// unloadable ends a delivery whose record cannot be read.
func (w *Worker) unloadable(delivery *broker.Delivery, err error, log *slog.Logger) {
	switch {
	case errors.Is(err, pelton.ErrNotFound):
		// Records come before messages and outlive them, so this one is of a task
		// that is over and forgotten.
		log.Warn("message without a record dropped", "seq", delivery.Seq)
		w.signal(log, delivery.Ack())
	case errors.Is(err, broker.ErrNewer):
		w.signal(log, delivery.NakWithDelay(unreadableDelay))
	case errors.Is(err, broker.ErrMalformed):
		log.Error("record unreadable, task put off", "error", err)
		w.signal(log, delivery.NakWithDelay(unreadableDelay))
	default:
		log.Warn("record not read, task given back", "error", err)
		giveBack(log, delivery)
	}
}

// admit asks the record what to do with the delivery, and does it. A lost
// compare-and-swap means that somebody else did something: ask again.
func (w *Worker) admit(l *lane, delivery *broker.Delivery, entry entry, known bool, log *slog.Logger) {
	for {
		record, err := w.load(delivery)
		if err != nil {
			w.unloadable(delivery, err, log)
			return
		}
		now := time.Now()
		if now.Sub(delivery.Arrived) > l.lease/3 {
			giveBack(log, delivery) // too old to start: the lease may be over before the first heartbeat
			return
		}
		here := w.running(record.ID)
		what := admit(record, delivery.Envelope.Epoch, delivery.Seq, w.id, here != nil && here.healthy(), known, now)
		if what == admitAdopt {
			if !here.adopt(delivery) {
				<-here.done
				continue
			}
			log.Info("delivery of a task that runs here adopted")
			return
		}
		r := w.newRun(l, delivery, record, log)
		err = w.act(r, what, entry)
		if !errors.Is(err, broker.ErrStale) {
			return
		}
	}
}

// act carries out an admission. broker.ErrStale means that the record changed
// under it and nothing was done; every other end is handled.
func (w *Worker) act(r *run, what admission, entry entry) error {
	now := time.Now()
	switch what {
	case admitDrop:
		r.log.Debug("delivery dropped", "state", string(r.record.State), "carrier", r.record.Carrier, "seq", r.delivery.Seq)
		r.ack()
	case admitRepublish:
		if err := r.republish(); err != nil {
			r.log.Warn("successor not published, delivery given back", "error", err)
			giveBack(r.log, r.delivery)
			return nil
		}
		r.ack()
	case admitBury:
		if err := w.b.PublishDead(w.hard, r.record); err != nil {
			r.log.Warn("dead letter not kept, delivery given back", "error", err)
			giveBack(r.log, r.delivery)
			return nil
		}
		r.ack()
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
		r.log.Info("task of an unknown kind put off", "until", at)
		return r.putBack(pelton.Scheduled, at)
	case admitTakeover:
		poisoned, err := w.takeover(r, now)
		if err != nil || poisoned {
			return err
		}
		return w.execute(r, entry)
	case admitStart:
		return w.execute(r, entry)
	case admitAdopt: // done by the caller
	}
	return nil
}

// takeover counts a crash if the task's owner is gone without having released it,
// and fails the task when that happened too often.
func (w *Worker) takeover(r *run, now time.Time) (poisoned bool, err error) {
	present, err := w.b.Present(w.hard, r.record.Owner)
	if err != nil {
		r.log.Warn("owner not looked up, delivery given back", "error", err)
		giveBack(r.log, r.delivery)
		return true, nil
	}
	r.log.Warn("task taken over", "owner", r.record.Owner, "owner_present", present)
	if present {
		return false, nil
	}
	r.record.Crashes++
	if r.record.Crashes < pelton.DefaultMaxCrashes {
		return false, nil
	}
	return true, r.conclude(pelton.Failed, now, &pelton.Failure{
		Message: fmt.Sprintf("%d deliveries died with their worker", r.record.Crashes), Reason: pelton.ReasonPoison,
	})
}

// signal logs an acknowledgement that could not be sent: the lease repairs it.
func (w *Worker) signal(log *slog.Logger, err error) {
	if err != nil {
		log.Debug("acknowledgement not sent", "error", err)
	}
}

// newRun prepares what is done with one delivery.
func (w *Worker) newRun(l *lane, delivery *broker.Delivery, record *broker.Record, log *slog.Logger) *run {
	return &run{
		w: w, lease: l.lease, delivery: delivery, record: record, log: log,
		contact: delivery.Arrived, done: make(chan struct{}), told: make(chan struct{}, 1),
		cancel: func(error) {},
	}
}

// execute starts the task by compare-and-swap, runs its handler and finishes it.
func (w *Worker) execute(r *run, entry entry) error {
	rec := r.record
	rec.State, rec.Owner, rec.Carrier, rec.Epoch = pelton.Running, w.id, r.delivery.Seq, r.delivery.Envelope.Epoch
	rec.Attempt, rec.Released, rec.Progress = rec.Ended+1, false, nil
	rec.Deferrals, rec.DeferredAt = 0, time.Time{}
	rec.StartedAt = time.Now().UTC()
	if err := w.b.SaveRecord(w.hard, rec); err != nil {
		if errors.Is(err, broker.ErrStale) || errors.Is(err, pelton.ErrUnknownOutcome) {
			// Unknown: if it was written, the record names this delivery, and the
			// next look takes it over from ourselves.
			return fmt.Errorf("start: %w", errors.Join(broker.ErrStale, err))
		}
		r.log.Warn("task not started, given back", "error", err)
		giveBack(r.log, r.delivery)
		return nil
	}
	r.fence = rec.Revision
	ctx, cancel := context.WithCancelCause(w.base)
	defer cancel(nil)
	r.cancel = cancel
	w.enter(r)

	handlerEnded := r.serve(ctx, entry.handler)
	w.leave(r)
	close(r.done)
	if handlerEnded != nil { // leaked: the slot is held until the handler returns
		w.addLeaked(1)
		defer w.addLeaked(-1)
		select {
		case <-handlerEnded:
		case <-w.hard.Done():
		}
	}
	return nil
}

package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/failpoint"
)

// RunNow brings the time of a delayed or retrying task forward to now. A task with a
// concurrency key takes its place in its line, and is called from there. One that
// reads queued is ready already, and one that a limit or a pause put off has had its
// time and goes by the limit: nothing changes for both, and neither is an error.
// pelton.ErrConflict means that the task runs or is over; it comes with the record.
// Errors otherwise: pelton.ErrNotFound; pelton.ErrUnavailable, when nothing was
// written; pelton.ErrUnknownOutcome.
//
// Written are the record, then the message, in one write with the end of its
// schedule. Both keep the task's epoch, so that it does not matter who is faster, the
// schedule or this call: a second copy is dropped by the carrier rule.
//
// Crash window: after the record and before the message, a task reads queued whose
// message waits in the schedule, for its old time. Repeating the call publishes it,
// because the schedule is still there, and so does the sweep.
func (b *Broker) RunNow(ctx context.Context, id pelton.ID) (*Record, error) {
	ctx, cancel := context.WithTimeout(ctx, requeueTimeout)
	defer cancel()
	for {
		r, err := b.LoadRecord(ctx, id)
		if err != nil {
			return nil, fmt.Errorf("run: %w", err)
		}
		switch {
		case r.State == pelton.Queued:
			return r, nil
		case !r.waitsForTime():
			return r, fmt.Errorf("run task %s: %w: it is %s", id, pelton.ErrConflict, r.State)
		case r.Limited != nil:
			return r, nil
		}
		now := time.Now().UTC()
		if !r.RunAt.After(now) {
			return r, b.finishRunNow(ctx, r)
		}
		if err := b.ensure(ctx, r); err != nil {
			return nil, fmt.Errorf("run task %s: %w", id, err)
		}
		r.RunAt = now
		err = b.SaveRecord(ctx, r)
		switch {
		case err == nil:
			failpoint.At(failpoint.RunRecorded)
			err = b.fire(context.WithoutCancel(ctx), r)
			failpoint.At(failpoint.RunPublished)
			return r, err
		case ctx.Err() != nil:
			return nil, fmt.Errorf("run: %w", err)
		case errors.Is(err, ErrStale), errors.Is(err, pelton.ErrUnknownOutcome):
			// Look at what it is now.
		default:
			return nil, fmt.Errorf("run: %w", err)
		}
	}
}

// finishRunNow publishes the message of a task whose time has come, if it is still in
// the schedule.
func (b *Broker) finishRunNow(ctx context.Context, r *Record) error {
	stream, subject := b.scheduleOf(r)
	_, err := b.get(ctx, stream, getRequest{LastFor: subject}, false)
	switch {
	case errors.Is(err, pelton.ErrNotFound):
		return nil // it fired
	case err != nil:
		return fmt.Errorf("run task %s: %w: %w", r.ID, pelton.ErrUnknownOutcome, err)
	default:
		return b.fire(ctx, r)
	}
}

// scheduleOf is where the schedule of the record's epoch is, if it has one.
func (b *Broker) scheduleOf(r *Record) (stream, subject string) {
	if r.InLine {
		return b.keyed(commonShard), b.laterPlace(commonShard, r.Queue, r.ID, r.Epoch)
	}
	shard := r.ID.Shard()
	return b.tasks(shard), b.scheduled(shard, r.Queue, r.Priority, r.ID, r.Epoch)
}

// fire publishes the message of a task whose time has come, as its schedule would:
// one write, which also takes the schedule away.
func (b *Broker) fire(ctx context.Context, r *Record) error {
	w, err := b.readyWrite(nil, r.Envelope())
	if r.InLine {
		w, err = b.placeWrite(r)
	}
	if err != nil {
		return err
	}
	_, schedule := b.scheduleOf(r)
	w.header = firedBy(schedule)
	if _, err := b.do(ctx, w); err != nil {
		return fmt.Errorf("run task %s: %w: its record says that its time has come: %w", r.ID, pelton.ErrUnknownOutcome, err)
	}
	return nil
}

// Headers of a message that a schedule fired (nats-server 2.12, ADR-51).
const (
	headerScheduler    = "Nats-Scheduler"
	headerScheduleNext = "Nats-Schedule-Next"
)

// firedBy makes the broker take the schedule away when it stores the message.
func firedBy(schedule string) nats.Header {
	return nats.Header{headerScheduler: {schedule}, headerScheduleNext: {"purge"}}
}

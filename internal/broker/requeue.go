package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/failpoint"
)

// requeueTimeout bounds a requeue that keeps losing its compare-and-swap.
const requeueTimeout = 10 * time.Second

// restart makes the record of a task that is over that of one that waits for its
// first attempt. Id, payload and error history stay; attempts and crashes start
// anew, and an expires_at that has passed is dropped: the task is wanted now.
func (r *Record) restart(now time.Time) {
	r.KeySpent = r.Unique != nil && !r.wantsKey()
	r.State = pelton.Queued
	r.Epoch++
	if len(r.Places) > 0 && r.Carrier > 0 {
		r.Former = r.Carrier
	}
	r.EnterLine() // at its end
	r.Result, r.Progress = nil, nil
	r.RunAt, r.StartedAt, r.FinishedAt = time.Time{}, time.Time{}, time.Time{}
	r.Attempt, r.Ended, r.Crashes = 0, 0, 0
	r.Owner, r.Carrier, r.Released, r.LetterDropped = "", 0, false, false
	r.Deferrals, r.DeferredAt, r.Limited = 0, time.Time{}, nil
	r.Replaced = r.Replaced && r.KeySpent // what does not take its key again has no window either
	if !r.ExpiresAt.After(now) {
		r.ExpiresAt = time.Time{}
	}
}

// requeued reports whether the task was put back by a requeue and has not started
// since. No other write leaves a queued record of a later epoch without a carrier.
func (r *Record) requeued() bool {
	return r.State == pelton.Queued && r.Epoch > 0 && r.Carrier == 0
}

// Requeue puts a task that is over back into its lane under the next epoch, and
// deletes its dead letter. A task whose record is gone is made anew from its dead
// letter. pelton.ErrConflict means that the task is not over or, as a
// *pelton.UniqueError, that another holds its unique key; it comes with the record.
// Errors otherwise: pelton.ErrNotFound; pelton.ErrUnavailable, when nothing was
// written; pelton.ErrUnknownOutcome.
//
// Crash windows: after the unique key and before the record, a lock of a task that
// is over, which others take (unique.go); after the record and before the message, a
// queued record without a message; after the message, a letter that outlives its
// task's failure. Repeating the call finishes all, and the sweep the second: another
// copy of the message is dropped at admission by the carrier rule. So a task that
// was requeued and has not started is no conflict.
func (b *Broker) Requeue(ctx context.Context, id pelton.ID) (*Record, error) {
	ctx, cancel := context.WithTimeout(ctx, requeueTimeout)
	defer cancel()
	letter, err := b.FindDead(ctx, id)
	if err != nil && !errors.Is(err, pelton.ErrNotFound) && !errors.Is(err, ErrMalformed) {
		return nil, fmt.Errorf("requeue: %w", err)
	}
	return b.requeue(ctx, id, letter)
}

// RequeueDead is Requeue for a dead letter that was read. A letter whose task was
// requeued before and has ended otherwise since is out of date: it is deleted,
// and the error is pelton.ErrConflict.
func (b *Broker) RequeueDead(ctx context.Context, letter *Record) (*Record, error) {
	ctx, cancel := context.WithTimeout(ctx, requeueTimeout)
	defer cancel()
	r, err := b.LoadRecord(ctx, letter.ID)
	if err == nil && r.State.Terminal() && r.State != pelton.Failed && r.Epoch > letter.Epoch {
		b.dropLetter(ctx, letter)
		return r, fmt.Errorf("requeue task %s: %w: it was retried before and has %s", r.ID, pelton.ErrConflict, r.State)
	}
	return b.requeue(ctx, letter.ID, letter)
}

// requeue does the work; letter may be nil. It ends with ctx at the latest.
func (b *Broker) requeue(ctx context.Context, id pelton.ID, letter *Record) (*Record, error) {
	for {
		r, err := b.LoadRecord(ctx, id)
		switch {
		case errors.Is(err, pelton.ErrNotFound) && letter != nil:
			fresh := *letter
			r = &fresh
			// Read before the key is taken: whoever takes it from us makes it stale.
			if r.Revision, err = b.vacancy(ctx, id); errors.Is(err, ErrStale) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("requeue: %w", err)
			}
		case err != nil:
			return nil, fmt.Errorf("requeue: %w", err)
		case r.requeued():
			return r, b.finishRequeue(ctx, r, letter)
		case !r.State.Terminal() && letter != nil && letter.Epoch < r.Epoch:
			b.dropLetter(ctx, letter) // it was requeued and runs, or has run
			return r, nil
		case !r.State.Terminal():
			return r, fmt.Errorf("requeue task %s: %w: it is %s", id, pelton.ErrConflict, r.State)
		}
		err = b.room.check()
		if err == nil {
			err = b.EnsureLane(ctx, r.Lane())
		}
		if err == nil && r.ConcurrencyKey != "" {
			err = b.EnsurePlaces(ctx, r.Queue)
		}
		if err != nil {
			return nil, fmt.Errorf("requeue task %s: %w", id, err)
		}
		if r.wantsKey() {
			if err := b.takeKey(ctx, r, r.Epoch+1); err != nil {
				return r, fmt.Errorf("requeue task %s: %w", id, err)
			}
		}
		r.restart(time.Now())
		err = b.SaveRecord(ctx, r)
		switch {
		case err == nil:
			failpoint.At(failpoint.RequeueRecorded)
			return r, b.finishRequeue(context.WithoutCancel(ctx), r, letter)
		case ctx.Err() != nil:
			return nil, fmt.Errorf("requeue: %w", err)
		case errors.Is(err, ErrStale), errors.Is(err, pelton.ErrUnknownOutcome):
			// Look at what it is now.
		default:
			return nil, fmt.Errorf("requeue: %w", err)
		}
	}
}

// finishRequeue publishes the message of a requeued record and deletes the letter.
func (b *Broker) finishRequeue(ctx context.Context, r, letter *Record) error {
	if err := b.ensure(ctx, r); err != nil {
		return fmt.Errorf("requeue task %s: %w: %w", r.ID, pelton.ErrUnknownOutcome, err)
	}
	if err := b.Publish(ctx, r); err != nil {
		return fmt.Errorf("requeue: %w: the record says queued: %w", pelton.ErrUnknownOutcome, err)
	}
	failpoint.At(failpoint.RequeuePublished)
	if letter != nil {
		b.dropLetter(ctx, letter)
	}
	return nil
}

// dropLetter deletes the letter of a task that is not dead any more. What it
// cannot delete is found, and deleted, when somebody retries it.
func (b *Broker) dropLetter(ctx context.Context, letter *Record) {
	if err := b.DeleteDead(ctx, letter); err != nil && !errors.Is(err, pelton.ErrNotFound) {
		b.cfg.Logger.Warn("dead letter of a requeued task stays behind", "task_id", letter.ID.String(), "error", err)
	}
}

package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/failpoint"
)

// Cancel ends a task that is not over yet. A waiting task never starts; a running
// handler's ctx ends and its result is discarded, within a second while its
// worker is in reach. Cancelling a cancelled task finishes what an interrupted
// cancel left undone and is no error. pelton.ErrConflict means that the task
// ended otherwise; it comes with the record.
//
// Who wins a race is decided by the record alone: the cancel does if its write
// lands before the terminal one.
func (b *Broker) Cancel(ctx context.Context, id pelton.ID) (*Record, error) {
	for {
		r, err := b.LoadRecord(ctx, id)
		if err != nil {
			return nil, fmt.Errorf("cancel: %w", err)
		}
		was := r.State
		if was.Terminal() && was != pelton.Cancelled {
			return r, fmt.Errorf("cancel task %s: %w: it has %s", id, pelton.ErrConflict, was)
		}
		if was != pelton.Cancelled {
			r.State, r.FinishedAt = pelton.Cancelled, time.Now().UTC().Truncate(time.Microsecond)
			err := b.SaveRecord(ctx, r)
			if errors.Is(err, ErrStale) || errors.Is(err, pelton.ErrUnknownOutcome) {
				continue // read what it is now; ctx bounds the loop
			}
			if err != nil {
				return nil, fmt.Errorf("cancel: %w", err)
			}
			failpoint.At(failpoint.CancelRecorded)
		}
		b.releaseCancelled(context.WithoutCancel(ctx), r)
		return r, b.finishCancel(context.WithoutCancel(ctx), r, was)
	}
}

// finishCancel removes what a cancelled task has in the broker. Each step can be
// repeated, and what a crash leaves out here is dropped at admission.
func (b *Broker) finishCancel(ctx context.Context, r *Record, was pelton.State) error {
	if err := b.leaveCancelled(ctx, r, was); err != nil {
		return err
	}
	if was == pelton.Scheduled || was == pelton.Retrying || was == pelton.Cancelled {
		if err := b.CancelSchedules(ctx, r); err != nil {
			return fmt.Errorf("cancel task %s: %w", r.ID, err)
		}
	}
	if was == pelton.Running || was == pelton.Cancelled && r.Owner != "" {
		// Without an answer the holder learns of it at its next write.
		if _, err := b.SignalCancel(ctx, r.ID); errors.Is(err, pelton.ErrUnavailable) {
			return fmt.Errorf("cancel task %s: %w", r.ID, err)
		}
		return nil // the holder's message is its worker's to acknowledge
	}
	if r.InLine {
		b.hintCancel(r.ID) // it may run in a relay, and its record says that it waits
	}
	if seq := r.ID.Sequence(); seq > 0 && r.Carrier == 0 && r.Epoch == 0 {
		// It waits, or a worker has just taken it, which the record would say a moment later:
		// that worker gets the signal before the deletion is answered, at the latest it
		// learns of it when it writes the record.
		b.hintCancel(r.ID)
		if err := b.DeleteMessage(ctx, r.ID.Shard(), seq); err != nil {
			return fmt.Errorf("cancel task %s: %w", r.ID, err)
		}
	}
	if r.Carrier > 0 { // released: the message waits under a known sequence
		if err := b.DeleteMessage(ctx, r.ID.Shard(), r.Carrier); err != nil {
			return fmt.Errorf("cancel task %s: %w", r.ID, err)
		}
	}
	return nil
}

// releaseCancelled gives the unique key of a cancelled task back. Should that fail, the
// next task with the key reads that this one is over.
func (b *Broker) releaseCancelled(ctx context.Context, r *Record) {
	if err := b.ReleaseKey(ctx, r); err != nil {
		b.cfg.Logger.Debug("unique key not released", "task_id", r.ID.String(), "error", err)
	}
}

// leaveCancelled gives back the turn that a cancelled task may have. It comes first:
// the message that another step deletes is what would repair it. While a handler
// may still run, that is its worker's to do.
func (b *Broker) leaveCancelled(ctx context.Context, r *Record, was pelton.State) error {
	if was == pelton.Running {
		return nil
	}
	by := r.Carrier
	if was == pelton.Cancelled { // by an earlier call, which may have met a running one
		by = 0
	}
	if err := b.LeaveLines(ctx, r, by); err != nil {
		return fmt.Errorf("cancel task %s: %w", r.ID, err)
	}
	return nil
}

// hintCancel tells the worker that may run a task that its record does not say it runs, that it
// was cancelled. Nobody waits for its word.
func (b *Broker) hintCancel(id pelton.ID) {
	if err := b.conn.nc.Publish(b.cancelSignal(id), nil); err != nil {
		b.cfg.Logger.Debug("cancel signal not sent", "task_id", id.String(), "error", err)
	}
}

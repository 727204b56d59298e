package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/peltonq/pelton"
)

// Called reports whether a task that is InLine has its turn. If not, the message
// that brought it here may be dropped: the task will be called in a new one.
func (b *Broker) Called(ctx context.Context, r *Record) (bool, error) {
	line, place := r.waitsIn()
	doc, err := b.loadLine(ctx, line)
	for err == nil && !doc.has(r.ID, place.Epoch) {
		// The message came before the turn, or without one.
		if doc, err = b.settleLine(ctx, line, nil); err != nil || doc.has(r.ID, place.Epoch) {
			break
		}
		if err = b.saveLine(ctx, doc); err == nil {
			return false, nil
		}
		if errors.Is(err, ErrStale) && ctx.Err() == nil {
			doc, err = b.loadLine(ctx, line)
		}
	}
	if err != nil {
		return false, fmt.Errorf("look for the turn of task %s: %w", r.ID, err)
	}
	return true, nil
}

// LeaveLines gives back the turns of a task that is over, and calls the next ones.
// Repeating it changes nothing. by is the sequence of the message that the caller
// holds; while another one carries the task, its handler may still run, and the
// turns are left to whoever holds that.
func (b *Broker) LeaveLines(ctx context.Context, r *Record, by uint64) error {
	if len(r.Places) == 0 {
		return nil
	}
	if held, err := b.heldElsewhere(ctx, r.ID, r.Carrier, by); err != nil || held {
		return err
	}
	for _, place := range slices.Backward(r.Places) {
		_, err := b.settleLine(ctx, r.Line(place.Of), func(_ context.Context, g grant) (bool, error) {
			return g.ID == r.ID && g.Epoch == place.Epoch, nil
		})
		if err != nil {
			return fmt.Errorf("give back the turn of task %s: %w", r.ID, err)
		}
	}
	return nil
}

// LeaveEarlierLines gives back the turns that a task may hold from before it was
// requeued, or from before its record was forgotten: those that the message e of
// that time stands for. r is the record, nil if there is none.
func (b *Broker) LeaveEarlierLines(ctx context.Context, r *Record, e *Envelope, by uint64) error {
	if r != nil {
		if len(r.Places) == 0 || r.Places[0].Epoch <= e.Epoch {
			return nil // it is still the same turn
		}
		if held, err := b.heldElsewhere(ctx, r.ID, r.Former, by); err != nil || held {
			return err
		}
	}
	lines := []Line{e.Line(OfKind)}
	if e.ConcurrencyKey != "" {
		lines = append(lines, e.Line(OfKey))
	}
	for _, line := range lines {
		doc, err := b.loadLine(ctx, line)
		if err == nil && slices.ContainsFunc(doc.Granted, func(g grant) bool { return g.ID == e.ID && g.Epoch <= e.Epoch }) {
			_, err = b.settleLine(ctx, line, func(_ context.Context, g grant) (bool, error) {
				return g.ID == e.ID && g.Epoch <= e.Epoch, nil
			})
		}
		if err != nil {
			return fmt.Errorf("give back an earlier turn of task %s: %w", e.ID, err)
		}
	}
	return nil
}

// heldElsewhere reports whether the task is carried by a message other than by.
func (b *Broker) heldElsewhere(ctx context.Context, id pelton.ID, carrier, by uint64) (bool, error) {
	if carrier == 0 || carrier == by {
		return false, nil
	}
	_, err := b.get(ctx, b.tasks(id.Shard()), getRequest{Seq: carrier}, false)
	if errors.Is(err, pelton.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for the message of task %s: %w", id, err)
	}
	return true, nil
}

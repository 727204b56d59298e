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
	if b.seen.hasTurn(line, r.ID, place.Epoch) {
		return true, nil
	}
	// A message is quicker than the document. Most likely this process is about to write that.
	leave, err := b.lineDoors.enter(ctx, line)
	if err != nil {
		return false, fmt.Errorf("look for the turn of task %s: %w: %w", r.ID, pelton.ErrUnavailable, err)
	}
	leave()
	if b.seen.hasTurn(line, r.ID, place.Epoch) {
		return true, nil
	}
	doc, err := b.loadLine(ctx, line)
	for err == nil && !doc.has(r.ID, place.Epoch) {
		// The message came before the turn, or without one.
		if doc, err = b.settleLine(ctx, line, lineSettling{}); err != nil || doc.has(r.ID, place.Epoch) {
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
	return b.leaveLines(ctx, r, by, lineSettling{seen: true})
}

func (b *Broker) leaveLines(ctx context.Context, r *Record, by uint64, s lineSettling) error {
	if len(r.Places) == 0 {
		return nil
	}
	if held, err := b.heldElsewhere(ctx, r.ID, r.Carrier, by); err != nil || held {
		return s.held(err)
	}
	for _, place := range slices.Backward(r.Places) {
		var err error
		l, line := &leaver{id: r.ID, epoch: place.Epoch, by: by, how: howToLeave{s.fence, s.redone, s.front}}, r.Line(place.Of)
		if s.relay == nil {
			err = b.leaveLine(ctx, line, l)
		} else { // which takes what comes next by the turn of this one
			s.leavers = []*leaver{l}
			_, err = b.settleLine(ctx, line, s)
		}
		if err != nil {
			return fmt.Errorf("give back the turn of task %s: %w", r.ID, err)
		}
	}
	return nil
}

// LeaveDropped gives back the turns that a task may hold by a message that is about
// to be dropped without a start: those of before it was requeued, or was forgotten,
// and all of them if it is over. r is the record, nil if there is none; by is the
// message. Whoever is about to write that the task has its turn, and counts on the
// message, finds that the document has changed. pelton.ErrUnavailable also means that
// the task's own message is still there. Its holder gives back the task's turn, but may
// have done so already, and the turn may be of another call by now: the message must
// stay until that one is gone.
func (b *Broker) LeaveDropped(ctx context.Context, r *Record, e *Envelope, by uint64) error {
	return b.leaveDropped(ctx, r, e, by, lineSettling{seen: true, fence: true, redone: true})
}

func (b *Broker) leaveDropped(ctx context.Context, r *Record, e *Envelope, by uint64, dropped lineSettling) error {
	if r != nil && len(r.Places) > 0 && r.Places[0].Epoch <= e.Epoch { // it is still the same turn
		if !r.State.Terminal() {
			return nil
		}
		return b.leaveLines(ctx, r, by, dropped)
	}
	if err := b.leaveEarlierLines(ctx, r, e, by, dropped); err != nil {
		return err
	}
	if r == nil || !r.State.Terminal() {
		return nil
	}
	return b.leaveLines(ctx, r, by, lineSettling{seen: true})
}

// held is the answer where the turns are left to whoever holds another message.
func (s lineSettling) held(err error) error {
	if err == nil && s.fence {
		err = fmt.Errorf("%w: another message of the task is still there", pelton.ErrUnavailable)
	}
	return err
}

// leaveEarlierLines gives back the turns that a task may hold from before it was
// requeued, or from before its record was forgotten: those that the message e of
// that time stands for.
func (b *Broker) leaveEarlierLines(ctx context.Context, r *Record, e *Envelope, by uint64, s lineSettling) error {
	if r != nil {
		if len(r.Places) == 0 {
			return nil
		}
		if held, err := b.heldElsewhere(ctx, r.ID, r.Former, by); err != nil || held {
			return s.held(err)
		}
	}
	s.over = func(_ context.Context, g grant) (bool, error) { return g.ID == e.ID && g.Epoch <= e.Epoch, nil }
	lines := []Line{e.Line(OfKind)}
	if e.ConcurrencyKey != "" {
		lines = append(lines, e.Line(OfKey))
	}
	for _, line := range lines {
		if _, err := b.settleLine(ctx, line, s); err != nil {
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

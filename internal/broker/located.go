package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/failpoint"
)

// A plain task, which is ready at once and holds no key, is one write: its message. Its id
// is located: the message has the seed of it, and the sequence under which the
// broker stored the message completes it. Until the task was started for a while, or
// ended, or was changed by somebody, it has no record: what a record would say is in the
// message, which is found by the id.
//
// Everything that changes a task still does so by compare-and-swap: the record of
// a task that has none is created, which is refused to all but one.
//
// Crash windows:
//
//   - between the publish and its acknowledgement: the task is stored, nobody was told its
//     id. It runs. That is pelton.ErrUnknownOutcome;
//   - after the start of a first delivery and before there is a record: the message
//     is there, and its next delivery is no first one: its record is looked for, and
//     the task is started by the ordinary way (worker/admit.go);
//   - between the terminal record and the acknowledgement: the next delivery finds the
//     record. One that is gone by then would let the task run again, so tasks whose
//     records are kept for less than shortestLocated are not plain.
//
// A reader may meet a task that is just ending: no record yet, and then no message
// any more. So it looks for the record again after the message.

// shortestLocated is the retention from which on a task may be without a record. It
// is far more than the time between a terminal record and the next delivery of a
// message whose acknowledgement got lost.
const shortestLocated = 10 * time.Minute

// plain reports whether a new task needs no record while it waits.
func (r *Record) plain() bool {
	return r.State == pelton.Queued && r.Revision == 0 && r.Epoch == 0 && !r.InLine && len(r.Places) == 0 &&
		r.Unique == nil && r.Schedule == nil && r.KeepUntil.IsZero() && r.Retention >= shortestLocated
}

// enqueueLocated publishes a plain task and completes its id.
func (b *Broker) enqueueLocated(ctx context.Context, r *Record) error {
	r.ID, r.Revision = r.ID.Seed(), 0
	seq, err := b.PublishReady(ctx, r.Envelope())
	if err != nil {
		return err
	}
	failpoint.At(failpoint.EnqueuePublished)
	r.ID = r.ID.At(seq)
	return nil
}

// LoadFor is LoadRecord for the task of a delivery. One that has no record is in the
// delivery itself: its record is older than the acknowledgement of its message, so it is
// not over.
func (b *Broker) LoadFor(ctx context.Context, d *Delivery) (*Record, error) {
	if e := d.Envelope; e.Epoch > 0 || e.ID.Sequence() != d.Seq {
		return b.LoadRecord(ctx, e.ID)
	}
	r, err := b.loadRecord(ctx, d.Envelope.ID, false)
	if errors.Is(err, pelton.ErrNotFound) {
		return d.Unrecorded(), nil
	}
	return r, err
}

// Unrecorded is what a record would say of the delivery's task if it has none.
func (d *Delivery) Unrecorded() *Record { return unrecorded(d.Envelope) }

// unrecorded is what a record would say of a plain task that has none.
func unrecorded(e *Envelope) *Record {
	return &Record{Meta: e.Meta, State: pelton.Queued, Payload: e.Payload}
}

// locate finds a located task that had no record a moment ago: in its message, or,
// when that is gone, in the record that it must have got meanwhile.
func (b *Broker) locate(ctx context.Context, id pelton.ID) (*Record, error) {
	msg, err := b.get(ctx, b.tasks(id.Shard()), getRequest{Seq: id.Sequence()}, false)
	if err == nil {
		if e, ok := b.envelopeOf(msg, id); ok {
			return unrecorded(e), nil
		}
		err = pelton.ErrNotFound
	}
	if !errors.Is(err, pelton.ErrNotFound) {
		return nil, fmt.Errorf("locate task %s: %w", id, err)
	}
	if failpoint.Broken(failpoint.NoSecondLook) {
		return nil, fmt.Errorf("locate task %s: %w", id, err)
	}
	return b.loadRecord(ctx, id, false)
}

// envelopeOf reads a message as that of the task. Somebody else's message under the
// sequence of an id is what is left of a guess, or of a stream that was made anew.
func (b *Broker) envelopeOf(msg *stored, id pelton.ID) (*Envelope, bool) {
	if !strings.HasPrefix(msg.subject, b.readyPrefix(id.Shard())) {
		return nil, false
	}
	e, err := decodeMessage(msg.data, msg.seq)
	if err != nil || e.Epoch != 0 || e.ID != id && !failpoint.Broken(failpoint.SeedBlind) {
		return nil, false
	}
	e.ID = id
	return e, true
}

package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/failpoint"
)

// tickMemory is how long the record of a tick's task is kept at least, whatever its
// retention: it is what tells whoever repeats an interrupted tick that there was one.
const tickMemory = time.Hour

// ScheduleKey begins the concurrency key of tasks whose schedule lets one of them wait
// for another. Limits of concurrency keys do not touch it.
const ScheduleKey = "schedule:"

// EnqueueTick enqueues the task of a tick, whose id schedule and tick determine:
// created says that this call did, otherwise r is as it was found. made is the record
// that is the tick's task now: r, or what an earlier call made of it, or, with
// pelton.ConflictExisting, the task that holds the unique key. It is nil if the task
// is over and its record has expired.
//
// Written are the lock of the unique key, the record, and the message. The record is
// created once, whoever calls this, and however often. Crash windows: a lock without a
// record is fenced and taken by others after some seconds (unique.go), or taken again
// by the repeat of this call; a record without a message gets it from the repeat, or
// from the sweep.
//
// Errors: *pelton.UniqueError; pelton.ErrUnavailable and pelton.ErrUnknownOutcome,
// after which the call is to be repeated.
func (b *Broker) EnqueueTick(ctx context.Context, r *Record) (made *Record, created bool, err error) {
	if err := b.room.check(); err != nil {
		return nil, false, err
	}
	if err := b.ensure(ctx, r); err != nil {
		return nil, false, err
	}
	r.keepUntil(r.CreatedAt.Add(tickMemory))
	if r.Unique != nil && r.Unique.Window > 0 {
		r.keepUntil(r.windowEnd())
	}
	for range createTries {
		// Read first: what is there already must not take its unique key again.
		old, expired, err := b.lastRecord(ctx, r)
		if err != nil || expired {
			return nil, false, err
		}
		if old != nil {
			return old, false, b.completeTick(ctx, old)
		}
		if r.Unique != nil {
			held, err := b.takeTickKey(ctx, r)
			if err != nil || held != nil {
				return held, false, err
			}
		}
		err = b.SaveRecord(ctx, r)
		if errors.Is(err, ErrStale) || errors.Is(err, pelton.ErrUnknownOutcome) {
			continue // somebody else's, a fence, or our own: read it
		}
		if err != nil {
			return nil, false, err
		}
		failpoint.At(failpoint.TickRecorded)
		// From here on the caller's going away must not leave half a task.
		if err := b.Publish(context.WithoutCancel(ctx), r); err != nil {
			return r, true, fmt.Errorf("%w: the record says that the task is enqueued: %w", pelton.ErrUnknownOutcome, err)
		}
		return r, true, nil
	}
	return nil, false, fmt.Errorf("enqueue task %s: %w: its record keeps changing", r.ID, pelton.ErrUnavailable)
}

// lastRecord reads what is there under the id of a task that is to be created. expired
// is one that was, and is forgotten. Otherwise r.Revision becomes what creating it has
// to expect: also in the place of a record that was fenced, or dropped because its
// message was refused, which never was a task.
func (b *Broker) lastRecord(ctx context.Context, r *Record) (old *Record, expired bool, err error) {
	msg, err := b.get(ctx, bucketStream(b.state(r.ID.Shard())), getRequest{LastFor: b.record(r.ID)}, false)
	switch {
	case errors.Is(err, pelton.ErrNotFound):
		r.Revision = 0
		return nil, false, nil
	case err != nil:
		return nil, false, fmt.Errorf("look for the record of task %s: %w", r.ID, err)
	case !msg.deleted():
		old, err = decodeRecord(msg.data, msg.seq)
		return old, false, err
	case msg.header.Get("KV-Operation") == "": // the broker's own marker
		return nil, true, nil
	default:
		r.Revision = msg.seq
		return nil, false, nil
	}
}

// completeTick publishes the message of a task that waits for its first start, which
// may never have been. A second copy is dropped at admission by the carrier rule.
func (b *Broker) completeTick(ctx context.Context, r *Record) error {
	if r.Epoch != 0 || r.Carrier != 0 || r.State != pelton.Queued && r.State != pelton.Scheduled {
		return nil
	}
	if err := b.Publish(ctx, r); err != nil {
		return fmt.Errorf("%w: the record is there, its message may not be: %w", pelton.ErrUnknownOutcome, err)
	}
	return nil
}

// takeTickKey takes the unique key for the task of a tick. held is the task that has
// it, if that is to answer.
func (b *Broker) takeTickKey(ctx context.Context, r *Record) (held *Record, err error) {
	for {
		err := b.takeKey(ctx, r, r.Epoch)
		var conflict *keyConflict
		switch {
		case !errors.As(err, &conflict):
			return nil, err
		case conflict.holder == nil:
		case r.Unique.OnConflict == pelton.ConflictExisting:
			return conflict.holder, nil
		case r.Unique.OnConflict == pelton.ConflictReplace && conflict.holder.replaceable():
			if err := b.replace(ctx, conflict.holder); err != nil {
				return nil, err
			}
			continue
		}
		return nil, fmt.Errorf("enqueue: %w", conflict)
	}
}

// HasPlace is pelton.ErrOverloaded if the queue is as full as its settings allow, as
// far as the broker's counters tell. What the spec does not say, the queue's settings
// fill in.
func (b *Broker) HasPlace(ctx context.Context, spec *pelton.Spec) error {
	queue := spec.Queue
	if queue == "" {
		queue = pelton.DefaultQueue
	}
	if pelton.ValidateQueue(queue) != nil {
		return nil //nolint:nilerr // checking the spec says it better
	}
	cfg, err := b.loadQueue(ctx, queue)
	if errors.Is(err, pelton.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	cfg.Settings.Fill(spec)
	if cfg.Settings.MaxDepth == 0 || spec.Delay > 0 {
		return nil
	}
	ready, err := b.Ready(ctx, queue)
	if err == nil && ready >= uint64(cfg.Settings.MaxDepth) {
		err = fmt.Errorf("queue %s: %w: it holds %d ready tasks", queue, pelton.ErrOverloaded, ready)
	}
	return err
}

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

// recordWrite is the write that stores r against its revision. A terminal record
// carries a TTL: its retention, or that of its dead letter, or longer if a key
// needs it.
func (b *Broker) recordWrite(r *Record) (write, error) { return b.recordWriteInto(nil, r) }

// recordWriteInto is recordWrite with the data in a slice that it overwrites, if it is large enough.
func (b *Broker) recordWriteInto(out []byte, r *Record) (write, error) {
	data, err := recordInto(out, r)
	if err != nil {
		return write{}, fmt.Errorf("encode record of task %s: %w", r.ID, err)
	}
	w := write{subject: b.record(r.ID), data: data, expect: r.Revision}
	switch {
	case r.State == pelton.Failed:
		w.ttl = max(pelton.FailedRetention, r.Retention)
	case r.State.Terminal():
		w.ttl = max(r.Retention, time.Second)
	}
	if w.ttl > 0 && !r.KeepUntil.IsZero() {
		w.ttl = max(w.ttl, r.KeepUntil.Sub(r.FinishedAt))
	}
	return w, nil
}

// NewRecord is the first record of a new task; spec is normalized as of now.
func NewRecord(id pelton.ID, spec pelton.Spec, now time.Time) *Record {
	r := new(Record)
	r.Begin(id, &spec, now)
	return r
}

// Begin makes r the first record of a new task, whatever it was before.
func (r *Record) Begin(id pelton.ID, spec *pelton.Spec, now time.Time) {
	*r = Record{
		Meta: Meta{
			ID: id, Kind: spec.Kind, Queue: spec.Queue, Priority: spec.Priority,
			MaxAttempts: spec.MaxAttempts, Timeout: spec.Timeout, Retention: spec.Retention, Backoff: spec.Backoff,
			CreatedAt: now.UTC().Truncate(time.Millisecond), ExpiresAt: spec.ExpiresAt, RateKey: spec.RateKey, Labels: spec.Labels,
			ConcurrencyKey: spec.ConcurrencyKey,
		},
		State: pelton.Queued, Payload: spec.Payload, Unique: spec.Unique,
	}
	if !spec.RunAt.IsZero() {
		r.State, r.RunAt = pelton.Scheduled, spec.RunAt
	}
	r.EnterLine()
}

// CreateRecord stores the record of a new task and sets its Revision.
// pelton.ErrConflict means that the id has a record already; a deleted or
// expired one does not count.
func (b *Broker) CreateRecord(ctx context.Context, r *Record) error {
	r.Revision = 0
	for range createTries {
		err := b.SaveRecord(ctx, r)
		if err == nil {
			return nil
		}
		r.Revision = 0
		if !errors.Is(err, ErrStale) {
			return err
		}
		// Expected 0 is refused while a delete marker is there: replace the marker.
		old, err := b.get(ctx, bucketStream(b.state(r.ID.Shard())), getRequest{LastFor: b.record(r.ID)}, false)
		switch {
		case errors.Is(err, pelton.ErrNotFound): // the marker has just gone
		case err != nil:
			return fmt.Errorf("create record of task %s: %w", r.ID, err)
		case !old.deleted():
			return fmt.Errorf("create record of task %s: %w: it exists", r.ID, pelton.ErrConflict)
		default:
			r.Revision = old.seq
		}
	}
	r.Revision = 0
	return fmt.Errorf("create record of task %s: %w: its key keeps changing", r.ID, pelton.ErrUnavailable)
}

// createTries is how often a create may meet a delete marker that comes or goes
// under its hands; each marker does so once.
const createTries = 4

// SaveRecord stores r if the record still has r.Revision, and sets r.Revision to
// the new one. Errors: ErrStale, pelton.ErrUnavailable, pelton.ErrUnknownOutcome.
func (b *Broker) SaveRecord(ctx context.Context, r *Record) error {
	r.Lone = false
	w, err := b.recordWrite(r)
	if err != nil {
		return err
	}
	if err := b.allow(ctx, r); err != nil {
		return fmt.Errorf("save record of task %s: %w", r.ID, err)
	}
	w.expect = expected(r)
	revision, err := b.do(ctx, w)
	if err != nil {
		return fmt.Errorf("save record of task %s: %w", r.ID, err)
	}
	r.Revision, r.Paged, r.Over = revision, false, 0
	b.announce(r)
	return nil
}

// expected is the revision that a write of the record replaces.
func expected(r *Record) uint64 {
	if failpoint.Broken(failpoint.NoCAS) && (r.Revision != 0 || r.ID.Sequence() > 0) {
		return anyRevision
	}
	if r.Paged {
		return r.Over
	}
	return r.Revision
}

// SaveRecordSoon is SaveRecord that does not wait for the answer: done gets what that would
// return, on the connection's reader or elsewhere, and must not block. An error means that done will not
// be called, and nothing was written. Successes of plain tasks go into pages.
func (b *Broker) SaveRecordSoon(ctx context.Context, r *Record, done func(error)) error {
	if r.Revision == 0 && r.ID.Sequence() > 0 {
		switch s := b.seals.of(segmentOf(r.ID)); {
		case s == nil && r.pageable() && b.pages():
			return b.saveInPage(ctx, r, done)
		case s == nil || !s.read:
			b.saveSealed(segmentOf(r.ID), outcomeWrite{r: r, done: done})
			return nil
		case s.has(r.ID):
			return ErrStale
		}
	}
	return b.saveAlone(ctx, r, done)
}

// saveAlone is SaveRecordSoon of what may have a record.
func (b *Broker) saveAlone(ctx context.Context, r *Record, done func(error)) error {
	r.Lone = false
	buf := b.buffers.get()
	w, err := b.recordWriteInto(*buf, r)
	if err != nil {
		return err
	}
	w.expect = expected(r)
	return b.start(ctx, w, func(revision uint64, err error) {
		if err == nil {
			b.buffers.put(buf, w.data)
			r.Revision, r.Paged, r.Over = revision, false, 0
			b.announce(r)
		}
		done(err)
	})
}

// LoadRecord reads a task's record from the leader. pelton.ErrNotFound means
// there is none, or no longer. That of a located task that has none yet is made from
// its message, with Revision 0: see located.go.
func (b *Broker) LoadRecord(ctx context.Context, id pelton.ID) (*Record, error) {
	r, err := b.loadRecord(ctx, id, false)
	if errors.Is(err, pelton.ErrNotFound) && id.Sequence() > 0 && int(id.Shard()) < b.Shards() {
		return b.locate(ctx, id)
	}
	return r, err
}

// ReadRecord reads a task's record from any replica if the records took a write a moment ago,
// and from the leader, once they did, if not. It also asks the leader before it says pelton.ErrNotFound:
// a follower may be behind.
func (b *Broker) ReadRecord(ctx context.Context, id pelton.ID) (*Record, error) {
	if !b.replication.anyCopy(id.Shard()) {
		if err := b.confirmMajority(ctx, id.Shard()); err != nil {
			return nil, fmt.Errorf("load record of task %s: %w", id, err)
		}
		return b.LoadRecord(ctx, id)
	}
	r, err := b.loadRecord(ctx, id, true)
	switch {
	case !errors.Is(err, pelton.ErrNotFound):
		return r, err
	case b.replication.many.Load():
		return b.LoadRecord(ctx, id)
	case id.Sequence() > 0 && int(id.Shard()) < b.Shards(): // that was the leader
		return b.locate(ctx, id)
	default:
		return nil, err
	}
}

func (b *Broker) loadRecord(ctx context.Context, id pelton.ID, stale bool) (*Record, error) {
	if known, err := b.knows(ctx, id.Shard()); err != nil {
		return nil, fmt.Errorf("load record of task %s: %w", id, err)
	} else if !known {
		return nil, fmt.Errorf("load record of task %s: %w: no shard %d", id, pelton.ErrNotFound, id.Shard())
	}
	if id.Sequence() > 0 {
		return b.loadLocated(ctx, id, stale)
	}
	msg, err := b.get(ctx, bucketStream(b.state(id.Shard())), getRequest{LastFor: b.record(id)}, stale)
	return recordIn(id, msg, err)
}

// recordIn is the record of a task in what a read of it brought.
func recordIn(id pelton.ID, msg *stored, err error) (*Record, error) {
	if err == nil && msg.deleted() {
		err = pelton.ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("load record of task %s: %w", id, err)
	}
	r, err := decodeRecord(msg.data, msg.seq)
	if err != nil {
		return nil, fmt.Errorf("load record of task %s: %w", id, err)
	}
	return r, nil
}

// DropRecord deletes a record that was created for a task whose message the
// broker then refused: the task never was. Later changes are left alone.
func (b *Broker) DropRecord(ctx context.Context, r *Record) error {
	if _, err := b.do(ctx, b.dropWrite(r)); err != nil {
		return fmt.Errorf("drop record of task %s: %w", r.ID, err)
	}
	return nil
}

func (b *Broker) dropWrite(r *Record) write {
	return write{subject: b.record(r.ID), expect: r.Revision, ttl: markerTTL, header: deleteMarker()}
}

// deleteMarker is the header by which a KV bucket knows a key that is gone. It is that of a purge, as nats-server (2.15,
// isSubjectDeleteMarker) takes it for a marker of its own: when the TTL of another one is over it stores one more, a moment after it
// has decided to, and so over what has been written at that instant.
func deleteMarker() nats.Header { return nats.Header{"KV-Operation": {"PURGE"}} }

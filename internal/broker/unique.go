package broker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/failpoint"
)

// A unique key has a lock in the bucket of locks, which names the task that holds
// it. The lock says who may become the holder, the holder's record whether it
// still is one:
//
//   - A lock moves by compare-and-swap alone. A task that is about to wait under its
//     key reads its record, then writes the lock, then writes the record at the
//     revision that it read; the first record of a task expects none at all.
//   - The lock is taken from another task only when that task's record says that it
//     does not hold the key, at the epoch that the lock names. From then on only a
//     requeue could make it a holder again, and that writes the lock before.
//   - If the record is not yet at that epoch, or not there at all, whoever wrote the
//     lock is between its two writes, or died there. Nobody can tell which, so after
//     a grace the record is fenced: written in place, as it is, or as a delete marker.
//     If the record had been read before, the write that would make the task a holder
//     fails, however late it comes. If it is read after, the lock is written after
//     that, and whoever fenced loses the compare-and-swap of the lock. So a lock that
//     names the own task already is written again, not relied upon.
//
// So no two tasks ever hold a key, however long a process stalls between two
// writes; clocks only decide when to look, and how long a window is. The release
// at the end of a task saves the next one a read and keeps the bucket small;
// nothing rests on it.

const (
	// keyGrace is how old a lock must be before its holder's record is missed.
	keyGrace = 2 * time.Second
	// keyPause is how often a lock is looked at meanwhile.
	keyPause = 20 * time.Millisecond
	// keySlack is how much longer than a key needs it a record is kept, for clocks
	// that differ.
	keySlack = 5 * time.Minute
)

// uniqueLock is the document of a unique key. Kind and Key are for people.
type uniqueLock struct {
	ID    pelton.ID `json:"id"`
	Epoch uint32    `json:"epoch,omitempty"` // at which the task holds the key
	Kind  string    `json:"kind"`
	Key   string    `json:"key"`
	// FreeAt is set when the holder is over and only its window is left.
	FreeAt time.Time `json:"free_at,omitzero"`
	// Published says that the holder's message of that epoch was certainly
	// published: see finishHolder.
	Published bool `json:"published,omitempty"`
}

// keyStanding is what a lock and the record of its holder say together.
type keyStanding int

const (
	keyFree      keyStanding = iota + 1
	keyHeld                  // its task waits, runs, or is within its window
	keyUnsettled             // its task is about to hold it, or its enqueuer died
)

// standing decides about a lock; holder is nil if there is no record.
func (l *uniqueLock) standing(holder *Record, now time.Time) keyStanding {
	switch {
	case holder != nil && holder.holdsKey(now):
		return keyHeld
	case !l.FreeAt.IsZero():
		if now.Before(l.FreeAt) && (holder == nil || !holder.Replaced) {
			return keyHeld
		}
		return keyFree
	case holder == nil, holder.Epoch < l.Epoch:
		return keyUnsettled
	default:
		return keyFree
	}
}

// started reports whether a worker has ever started the task since it was
// enqueued or requeued.
func (r *Record) started() bool { return !r.StartedAt.IsZero() || r.Attempt > 0 || r.Ended > 0 }

// windowEnd is until when the key is held although the task is over.
func (r *Record) windowEnd() time.Time { return r.CreatedAt.Add(r.Unique.Window) }

// holdsKey reports whether the task holds its unique key.
func (r *Record) holdsKey(now time.Time) bool {
	switch {
	case r.Unique == nil || r.Replaced:
		return false
	case r.Unique.Window > 0 && now.Before(r.windowEnd()):
		return true
	case r.State.Terminal() || r.KeySpent:
		return false
	default:
		return r.Unique.Until != pelton.UntilStarted || !r.started()
	}
}

// wantsKey reports whether a task that is over would hold its key if it were put
// back: not if it held it until it was started, and was.
func (r *Record) wantsKey() bool {
	return r.Unique != nil && !r.KeySpent && (r.Unique.Until != pelton.UntilStarted || !r.started())
}

// replaceable reports whether the task can be cancelled in favour of another.
func (r *Record) replaceable() bool {
	return (r.State == pelton.Queued || r.State == pelton.Scheduled) && !r.started()
}

// keyLock is the subject of a lock. Names are hashed, because they may hold any
// character, and the bucket's keys may not.
func (b *Broker) keyLock(prefix string, parts ...string) string {
	hash := sha256.New()
	for _, part := range parts { // lengths keep "a"+"bc" and "ab"+"c" apart
		_, _ = fmt.Fprintf(hash, "%d:%s", len(part), part) // never fails
	}
	return "$KV." + b.locks() + "." + prefix + hex.EncodeToString(hash.Sum(nil))
}

func (b *Broker) uniqueKey(kind, key string) string { return b.keyLock("unique.", kind, key) }

// lockWrite is the write of a lock's document.
func lockWrite(subject string, doc any, expect uint64, ttl time.Duration) (write, error) {
	data, err := json.Marshal(doc)
	if err != nil {
		return write{}, fmt.Errorf("encode lock: %w", err)
	}
	return write{subject: subject, data: data, expect: expect, ttl: ttl}, nil
}

// loadLock reads a lock's document. found is false if there is none: seq is then
// what a write that creates it has to expect.
func (b *Broker) loadLock(ctx context.Context, subject string, doc any) (seq uint64, at time.Time, found bool, err error) {
	msg, err := b.get(ctx, bucketStream(b.locks()), getRequest{LastFor: subject}, false)
	switch {
	case errors.Is(err, pelton.ErrNotFound):
		return 0, time.Time{}, false, nil
	case err != nil:
		return 0, time.Time{}, false, fmt.Errorf("load lock: %w", err)
	case msg.deleted():
		return msg.seq, msg.time, false, nil
	}
	if err := json.Unmarshal(msg.data, doc); err != nil {
		return 0, time.Time{}, false, fmt.Errorf("load lock %s: %w: %w", subject, ErrMalformed, err)
	}
	return msg.seq, msg.time, true, nil
}

// keyConflict is a unique key that another task holds. holder is nil when only its
// window is left.
type keyConflict struct {
	lock   uniqueLock
	holder *Record
}

func (e *keyConflict) Error() string { return e.public().Error() }

func (e *keyConflict) Unwrap() error { return e.public() }

func (e *keyConflict) public() *pelton.UniqueError {
	out := &pelton.UniqueError{Kind: e.lock.Kind, Key: e.lock.Key, Holder: e.lock.ID}
	if e.holder != nil {
		out.State = e.holder.Task(time.Now()).State
	}
	return out
}

// takeKey makes r's task the one that may hold its unique key, at r.Epoch or, for
// a requeue, at the epoch given, and sets r.KeyRevision. It waits for one whose
// enqueuer is at work. Errors: a *keyConflict; pelton.ErrUnavailable; ctx's end as
// that too. Nothing but the lock is written for r.
func (b *Broker) takeKey(ctx context.Context, r *Record, epoch uint32) error {
	subject := b.uniqueKey(r.Kind, r.Unique.Key)
	want := uniqueLock{ID: r.ID, Epoch: epoch, Kind: r.Kind, Key: r.Unique.Key}
	var seen sighting
	for expect := uint64(0); ; {
		w, err := lockWrite(subject, want, expect, 0)
		if err != nil {
			return err
		}
		seq, err := b.do(ctx, w)
		if err == nil {
			r.KeyRevision = seq
			return nil
		}
		// An unknown outcome is one that a read can tell: nobody else writes this id.
		if !errors.Is(err, ErrStale) && !errors.Is(err, pelton.ErrUnknownOutcome) {
			return fmt.Errorf("take unique key: %w", err)
		}
		if expect, err = b.vacate(ctx, subject, r.ID, &seen); err != nil {
			return err
		}
	}
}

// sighting is when a revision of a lock was first seen: the broker's clock may be
// ahead of ours.
type sighting struct {
	seq uint64
	at  time.Time
}

// first is how long ago that was.
func (s *sighting) first(seq uint64, now time.Time) time.Duration {
	if s.seq != seq {
		*s = sighting{seq, now}
	}
	return now.Sub(s.at)
}

// vacate waits until the task can take a lock, and answers the revision to expect.
func (b *Broker) vacate(ctx context.Context, subject string, id pelton.ID, seen *sighting) (expect uint64, err error) {
	for {
		var lock uniqueLock
		seq, at, found, err := b.loadLock(ctx, subject, &lock)
		switch {
		case err != nil:
			return 0, fmt.Errorf("take unique key: %w", err)
		case !found:
			return seq, nil
		case lock.ID == id: // of an earlier life, or of a try to come into this one
			return seq, nil
		}
		holder, err := b.LoadRecord(ctx, lock.ID)
		if err != nil && !errors.Is(err, pelton.ErrNotFound) {
			return 0, fmt.Errorf("look at the holder of a unique key: %w", err)
		}
		now := time.Now()
		switch lock.standing(holder, now) {
		case keyFree:
			return seq, nil
		case keyHeld:
			if failpoint.Broken(failpoint.KeyBlind) {
				return seq, nil
			}
			return 0, &keyConflict{lock, holder}
		case keyUnsettled:
			if now.Sub(at) < b.keyGrace && seen.first(seq, now) < b.keyGrace {
				if err := pause(ctx, keyPause); err != nil {
					return 0, err
				}
				continue
			}
			fenced, err := b.fence(ctx, lock.ID, holder)
			if err != nil {
				return 0, fmt.Errorf("take unique key from task %s: %w", lock.ID, err)
			}
			if fenced {
				b.cfg.Logger.Warn("unique key taken from a task that never came into its queue", "task_id", lock.ID.String(), "kind", lock.Kind)
				return seq, nil
			}
		}
	}
}

// fence gives the record of a task a new revision without changing it, so that a
// write that expects the old one fails. A record that is not there gets a delete
// marker, for good: nobody knows how late the write comes that it has to refuse.
// fenced is false when the record changed meanwhile.
func (b *Broker) fence(ctx context.Context, id pelton.ID, r *Record) (fenced bool, err error) {
	if r != nil {
		err = b.SaveRecord(ctx, r)
	} else {
		var vacancy uint64
		if vacancy, err = b.vacancy(ctx, id); err == nil {
			_, err = b.do(ctx, write{subject: b.record(id), expect: vacancy, header: deleteMarker()})
		}
	}
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, ErrStale), errors.Is(err, pelton.ErrUnknownOutcome):
		return false, nil
	default:
		return false, err
	}
}

// vacancy is what a write has to expect that creates the record of an id which has
// none. ErrStale means that it has one.
func (b *Broker) vacancy(ctx context.Context, id pelton.ID) (uint64, error) {
	msg, err := b.get(ctx, bucketStream(b.state(id.Shard())), getRequest{LastFor: b.record(id)}, false)
	switch {
	case errors.Is(err, pelton.ErrNotFound):
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("look for the record of task %s: %w", id, err)
	case !msg.deleted():
		return 0, ErrStale
	default:
		return msg.seq, nil
	}
}

// freeKept is how long a lock is kept after its window, so that whoever takes the key then replaces it. One that goes with the
// window takes another one with it that is written at that instant: nats-server (2.15) decides that a marker of the end is
// due, and stores that a moment later, whatever has come between.
const freeKept = time.Minute

// ReleaseKey gives the unique key of a task back that is over, or marks it as free
// from the end of its window on. It does nothing for other tasks, or if somebody
// else has the key by now. An error does not matter to the key: the record says
// that the task is over.
func (b *Broker) ReleaseKey(ctx context.Context, r *Record) error {
	if r.Unique == nil || r.KeyRevision == 0 || !r.State.Terminal() {
		return nil
	}
	subject := b.uniqueKey(r.Kind, r.Unique.Key)
	for expect := r.KeyRevision; ; {
		w := b.unlockWrite(subject, expect)
		if rest := time.Until(r.windowEnd()); rest > 0 && !r.Replaced {
			var err error
			lock := uniqueLock{ID: r.ID, Epoch: r.Epoch, Kind: r.Kind, Key: r.Unique.Key, FreeAt: r.windowEnd()}
			if w, err = lockWrite(subject, lock, expect, rest+freeKept); err != nil {
				return err
			}
		}
		_, err := b.do(ctx, w)
		if err == nil {
			return nil
		}
		if !errors.Is(err, ErrStale) {
			return fmt.Errorf("release unique key of task %s: %w", r.ID, err)
		}
		// Somebody else has it, or has noted in it that the message is there. Who puts
		// the task back writes a later epoch into it first.
		var lock uniqueLock
		seq, _, found, err := b.loadLock(ctx, subject, &lock)
		if err != nil {
			return fmt.Errorf("release unique key of task %s: %w", r.ID, err)
		}
		if !found || lock.ID != r.ID || lock.Epoch > r.Epoch || !lock.FreeAt.IsZero() {
			return nil
		}
		expect = seq
	}
}

// unlockWrite deletes a lock at a revision.
func (b *Broker) unlockWrite(subject string, revision uint64) write {
	return write{subject: subject, expect: revision, ttl: markerTTL, header: deleteMarker()}
}

// pause waits for d; the error is the end of ctx.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", pelton.ErrUnavailable, context.Cause(ctx))
	}
}

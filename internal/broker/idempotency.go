package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/peltonq/pelton"
)

// An idempotency key has a lock as well, which names the task that the key stands
// for and what was asked for. It is written first of all, so every repeat of the
// request finds out which task it is about:
//
//   - its record is there: the repeat answers with it. If it waits for its first
//     start, the message may never have been published: the repeat publishes it,
//     once, and notes so in the lock. A second copy is dropped at admission by the
//     carrier rule.
//   - no record, young lock: the first request is at work.
//   - no record, older lock: it died, or stalls. The repeat writes the lock anew,
//     with the same task, and goes on in its place. Creating the record decides who
//     of the two enqueues it: one id is created once.
//
// The record of such a task outlives the lock, so a record that is missing was
// never there. A lock is deleted only by the request that minted its id, and only
// if nobody wrote the lock since: then nobody else knows the id.

// Idempotency is a request's idempotency key. The zero value means none.
type Idempotency struct {
	Scope, Key  string
	Fingerprint string // of the request
}

func (i Idempotency) none() bool { return i.Key == "" }

// errMismatch is an idempotency key that stands for another request.
func errMismatch() error {
	return &pelton.ValidationError{Fields: []pelton.FieldError{{
		Field: "idempotency_key", Message: "was used for a different request within the last 24 hours",
	}}}
}

// idempotencyLock is the document of an idempotency key.
type idempotencyLock struct {
	ID          pelton.ID `json:"id"`
	Fingerprint string    `json:"fingerprint"`
	At          time.Time `json:"at"` // when the key was first used
	// Bound says that the task is another request's, which held the unique key.
	Bound bool `json:"bound,omitempty"`
	// Finished says that the task's message was certainly published.
	Finished bool `json:"finished,omitempty"`
}

// ttl is what is left of the key's time.
func (l *idempotencyLock) ttl(now time.Time) time.Duration {
	return max(l.At.Add(pelton.IdempotencyTTL).Sub(now), time.Second)
}

// Recall finds the task that an idempotency key stands for, without taking the key.
// pelton.ErrNotFound also means that the key stands for another request.
func (b *Broker) Recall(ctx context.Context, idem Idempotency) (Once, error) {
	var lock idempotencyLock
	_, _, found, err := b.loadLock(ctx, b.idempotencyKey(idem), &lock)
	if err == nil && (!found || lock.Fingerprint != idem.Fingerprint) {
		err = pelton.ErrNotFound
	}
	if err != nil {
		return Once{}, fmt.Errorf("recall: %w", err)
	}
	r, err := b.LoadRecord(ctx, lock.ID)
	return Once{Record: r, Existing: lock.Bound, Replayed: true}, err
}

func (b *Broker) idempotencyKey(idem Idempotency) string {
	return b.keyLock("idem.", idem.Scope, idem.Key)
}

// claim is the lock of an idempotency key in the hands of a request.
type claim struct {
	subject  string
	lock     idempotencyLock
	revision uint64
	minted   bool // by this request: nobody else has ever gone on in its place
}

// claimKey takes the idempotency key for r, or finds the task that it stands for:
// then replay is its record, and the claim's lock as it was found. A request that goes on in another's place takes its
// id over into r. Errors: a *pelton.ValidationError for another request's key;
// pelton.ErrInFlight; pelton.ErrConflict for a task that is not there any more.
func (b *Broker) claimKey(ctx context.Context, r *Record, idem Idempotency) (c *claim, replay *Record, err error) {
	now := time.Now()
	c = &claim{
		subject: b.idempotencyKey(idem),
		lock:    idempotencyLock{ID: r.ID, Fingerprint: idem.Fingerprint, At: now.UTC()},
	}
	for {
		wrote := b.writeClaim(ctx, c)
		if wrote == nil {
			c.minted = true
			return c, nil, nil
		}
		if !errors.Is(wrote, ErrStale) && !errors.Is(wrote, pelton.ErrUnknownOutcome) {
			return nil, nil, wrote
		}
		var (
			lock  idempotencyLock
			found bool
			at    time.Time
		)
		if c.revision, at, found, err = b.loadLock(ctx, c.subject, &lock); err != nil {
			if errors.Is(wrote, pelton.ErrUnknownOutcome) {
				err = errors.Join(wrote, err)
			}
			return nil, nil, err
		}
		if found {
			return b.join(ctx, r, c, lock, at)
		}
	}
}

// join goes on from a lock that is there. at is when it was last written.
func (b *Broker) join(ctx context.Context, r *Record, c *claim, lock idempotencyLock, at time.Time) (*claim, *Record, error) {
	if lock.Fingerprint != c.lock.Fingerprint {
		return nil, nil, errMismatch()
	}
	own := lock.ID == r.ID // an earlier try of this very request
	c.lock = lock
	task, err := b.LoadRecord(ctx, lock.ID)
	young := time.Since(at) < b.keyGrace
	switch {
	case err == nil:
		return c, task, b.finishEnqueue(ctx, c, task)
	case !errors.Is(err, pelton.ErrNotFound):
		return nil, nil, err
	case lock.Bound:
		return nil, nil, fmt.Errorf("%w: task %s, which this idempotency key stands for, is over and forgotten", pelton.ErrConflict, lock.ID)
	case own:
		c.minted = false // the earlier try's writes may still be on their way
		return c, nil, nil
	case young:
		return nil, nil, fmt.Errorf("%w: %w", pelton.ErrConflict, pelton.ErrInFlight)
	}
	r.ID = lock.ID
	err = b.writeClaim(ctx, c)
	if errors.Is(err, ErrStale) || errors.Is(err, pelton.ErrUnknownOutcome) {
		return nil, nil, fmt.Errorf("%w: %w", pelton.ErrConflict, pelton.ErrInFlight) // another repeat was faster
	}
	return c, nil, err
}

// writeClaim writes the lock at its revision, for the time that it has left.
func (b *Broker) writeClaim(ctx context.Context, c *claim) error {
	w, err := lockWrite(c.subject, c.lock, c.revision, c.lock.ttl(time.Now()))
	if err != nil {
		return err
	}
	seq, err := b.do(ctx, w)
	if err != nil {
		return fmt.Errorf("take idempotency key: %w", err)
	}
	c.revision = seq
	return nil
}

// abandon gives the key back after nothing was enqueued, if nobody else can have
// gone on in this request's place. It returns cause, why that was. Should the broker
// be out of reach, the key stays taken: that is an unknown outcome, which a repeat
// settles.
func (b *Broker) abandon(ctx context.Context, c *claim, cause error) error {
	if c == nil || !c.minted {
		return cause
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	_, err := b.do(ctx, b.unlockWrite(c.subject, c.revision))
	switch {
	case err == nil, errors.Is(err, ErrStale):
		return cause
	case errors.Is(cause, pelton.ErrUnavailable):
		return fmt.Errorf("%w: the idempotency key is still taken: %w", pelton.ErrUnknownOutcome, cause)
	default:
		b.cfg.Logger.Debug("idempotency key of a refused request stays behind", "error", err)
		return cause
	}
}

// finishEnqueue publishes what a dead request may have left unpublished, once. The
// first request may be alive and about to do so, and nobody can tell: the copy that
// is one too many is dropped at admission by the carrier rule. Leaving it to the first
// request would answer 202 for a task that has no message until the sweep comes by.
// The error is pelton.ErrUnknownOutcome: a repeat tries again.
func (b *Broker) finishEnqueue(ctx context.Context, c *claim, r *Record) error {
	if !r.neverStarted() || c.lock.Bound || c.lock.Finished {
		return nil
	}
	if err := b.publishAgain(ctx, r); err != nil {
		return fmt.Errorf("%w: the record is there, its message may not be: %w", pelton.ErrUnknownOutcome, err)
	}
	c.lock.Finished = true
	if err := b.writeClaim(ctx, c); err != nil {
		b.cfg.Logger.Debug("message of a repeated request published, but not noted", "task_id", r.ID.String(), "error", err)
	}
	return nil
}

// neverStarted reports whether the task still waits as it was enqueued: whoever
// enqueued it may have died before it published the message.
func (r *Record) neverStarted() bool {
	return r.Epoch == 0 && r.Carrier == 0 && (r.State == pelton.Queued || r.State == pelton.Scheduled)
}

// publishAgain publishes a message that may be there already.
func (b *Broker) publishAgain(ctx context.Context, r *Record) error {
	if err := b.ensure(ctx, r); err != nil {
		return err
	}
	return b.Publish(ctx, r)
}

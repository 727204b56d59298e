package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/failpoint"
)

// Once is what EnqueueOnce did.
type Once struct {
	Record   *Record // of the task that answers the request
	Existing bool    // it is another's, which holds the unique key
	Replayed bool    // it was enqueued for an earlier request with this idempotency key
}

// EnqueueOnce enqueues a task that has a unique key (r.Unique), an idempotency key,
// or both. Written are, in this order: the idempotency key's lock, the unique key's
// lock, the record, the message.
//
// Crash windows, after each of them:
//
//   - idempotency lock: a repeat is told to come back for some seconds, then goes on
//     in this request's place. Without a repeat the lock ends with its TTL.
//   - unique lock: as above; another task waits for some seconds for the record,
//     then fences it and takes the key (unique.go). A process that was not dead but
//     stalled finds its id burnt, and asks for the key again under a new one.
//   - record: a repeat publishes the message, and so does whoever is answered with
//     this task as the holder of its unique key; or else the sweep does.
//   - message: nothing is missing.
//
// With ConflictReplace the other task is cancelled before its key is taken: a crash
// in between has cancelled it in favour of a task that never was.
//
// Others may answer with the record as soon as it is there, so it is not dropped
// when the message is refused: the outcome is unknown then, and the sweep publishes
// it. Errors otherwise: *pelton.UniqueError; pelton.ErrInFlight; a
// *pelton.ValidationError for another request's idempotency key;
// pelton.ErrUnavailable, when nothing was enqueued; pelton.ErrUnknownOutcome.
// Calling it again with the same r goes on where it stopped.
func (b *Broker) EnqueueOnce(ctx context.Context, r *Record, idem Idempotency) (Once, error) {
	if err := b.room.check(); err != nil {
		if !idem.none() { // a repeat needs no room
			if once, recallErr := b.Recall(ctx, idem); recallErr == nil {
				return once, nil
			}
		}
		return Once{}, err
	}
	if err := b.ensure(ctx, r); err != nil {
		return Once{}, err
	}
	e := onceEnqueue{b: b, r: r}
	if !idem.none() {
		r.keepUntil(r.CreatedAt.Add(pelton.IdempotencyTTL))
		claim, replay, err := b.claimKey(ctx, r, idem)
		if err != nil {
			return Once{}, fmt.Errorf("enqueue task %s: %w", r.ID, err)
		}
		if replay != nil {
			return Once{Record: replay, Existing: claim.lock.Bound, Replayed: true}, nil
		}
		e.claim = claim
	}
	if r.Unique != nil && r.Unique.Window > 0 {
		r.keepUntil(r.windowEnd())
	}
	return e.run(ctx)
}

// keepUntil makes sure that the record outlives a key.
func (r *Record) keepUntil(t time.Time) {
	r.KeepUntil = later(r.KeepUntil, t.Add(keySlack))
}

// onceEnqueue is one EnqueueOnce; claim is nil without an idempotency key.
type onceEnqueue struct {
	b     *Broker
	r     *Record
	claim *claim
}

func (e *onceEnqueue) run(ctx context.Context) (Once, error) {
	for {
		if e.r.Unique != nil {
			done, err := e.unique(ctx)
			if err != nil || done.Record != nil {
				return done, err
			}
			failpoint.At(failpoint.KeyTaken)
		}
		made, err := e.create(ctx)
		switch {
		case errors.Is(err, errBurnt):
			if err := e.renew(ctx); err != nil {
				return Once{}, err
			}
		case err != nil:
			return Once{}, err
		case made != nil:
			return Once{Record: made, Replayed: true}, nil
		default:
			failpoint.At(failpoint.KeyRecorded)
			return e.publish(ctx)
		}
	}
}

// unique takes the unique key, or does what the task wants if another holds it. A
// zero Once without an error means that the key is the task's.
func (e *onceEnqueue) unique(ctx context.Context) (Once, error) {
	for {
		err := e.b.takeKey(ctx, e.r, e.r.Epoch)
		var conflict *keyConflict
		switch {
		case err == nil:
			return Once{}, nil
		case !errors.As(err, &conflict):
			return Once{}, e.b.abandon(ctx, e.claim, fmt.Errorf("enqueue task %s: %w", e.r.ID, err))
		case conflict.holder == nil: // only its window is left
		case e.r.Unique.OnConflict == pelton.ConflictExisting:
			return e.existing(ctx, conflict)
		case e.r.Unique.OnConflict == pelton.ConflictReplace && conflict.holder.replaceable():
			if err := e.b.replace(ctx, conflict.holder); err != nil {
				return Once{}, e.b.abandon(ctx, e.claim, err)
			}
			continue
		}
		return Once{}, e.b.abandon(ctx, e.claim, fmt.Errorf("enqueue: %w", conflict))
	}
}

// existing answers with the holder of the unique key, whose message is certainly
// there by then. An idempotency key stands for that from now on.
func (e *onceEnqueue) existing(ctx context.Context, conflict *keyConflict) (Once, error) {
	if err := e.b.finishHolder(ctx, conflict); err != nil { // before a repeat can rely on it
		return Once{}, e.b.abandon(ctx, e.claim, err)
	}
	if e.claim != nil {
		e.claim.lock.ID, e.claim.lock.Bound = conflict.holder.ID, true
		if err := e.b.writeClaim(ctx, e.claim); err != nil {
			return Once{}, e.lostClaim(ctx, err)
		}
	}
	return Once{Record: conflict.holder, Existing: true}, nil
}

// finishHolder publishes what a dead enqueuer may have left unpublished, before its
// task is the answer to another request, once for each process that is asked, and
// notes so in the key's lock. Whoever enqueues it may be alive and about to do so; a
// copy that is one too many is dropped at admission by the carrier rule. It is the
// same for a task that was requeued.
//
// Crash windows: after the message, another request publishes one more copy. The note
// gives the lock a revision that the holder's record does not know, which its release
// finds out (ReleaseKey). Whoever wants the lock meanwhile loses its compare-and-swap
// and looks again. The error is pelton.ErrUnavailable.
func (b *Broker) finishHolder(ctx context.Context, c *keyConflict) error {
	// A lock of another epoch is of a task that was put back without its key, within
	// its window: nothing could be noted of that message, and the sweep publishes it.
	r := c.holder
	if c.lock.Published || c.lock.Epoch != r.Epoch || !r.neverStarted() && !r.requeued() {
		return nil
	}
	subject := b.uniqueKey(r.Kind, r.Unique.Key)
	_, err, _ := b.finishing.Do(fmt.Sprintf("%s %d", r.ID, r.Epoch), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout) // of all who wait for it
		defer cancel()
		return nil, b.finishLocked(ctx, subject, r)
	})
	if err != nil {
		//nolint:errorlint // an unknown outcome of its own this request does not have: it enqueues nothing
		return fmt.Errorf("%w: message of task %s, which holds the unique key: %v", pelton.ErrUnavailable, r.ID, err)
	}
	return nil
}

// finishLocked publishes r's message unless the lock says that it is there.
func (b *Broker) finishLocked(ctx context.Context, subject string, r *Record) error {
	var lock uniqueLock
	seq, _, found, err := b.loadLock(ctx, subject, &lock)
	if err != nil {
		return err
	}
	current := found && lock.ID == r.ID && lock.Epoch == r.Epoch
	if current && lock.Published {
		return nil
	}
	if err := b.publishAgain(ctx, r); err != nil || !current {
		return err
	}
	lock.Published = true
	w, err := lockWrite(subject, lock, seq, 0)
	if err != nil {
		return err
	}
	if _, err := b.do(ctx, w); err != nil {
		b.cfg.Logger.Debug("message of a unique key's holder published, but not noted", "task_id", r.ID.String(), "error", err)
	}
	return nil
}

// lostClaim is an idempotency key's lock that could not be written: if another
// request goes on in this one's place, that is the one to ask.
func (e *onceEnqueue) lostClaim(ctx context.Context, err error) error {
	if errors.Is(err, ErrStale) {
		return fmt.Errorf("%w: %w", pelton.ErrConflict, pelton.ErrInFlight)
	}
	return e.b.abandon(ctx, e.claim, err)
}

// errBurnt is an id whose record was fenced: it will never have one.
var errBurnt = errors.New("the task's id was fenced")

// create writes the record. made is one that is there already: another request with
// the idempotency key was faster, or an earlier try of this one.
func (e *onceEnqueue) create(ctx context.Context) (made *Record, err error) {
	e.r.Revision = 0 // never over a delete marker: that is a fence
	err = e.b.SaveRecord(ctx, e.r)
	switch {
	case err == nil:
		return nil, nil //nolint:nilnil // documented: it was this request's
	case errors.Is(err, pelton.ErrUnknownOutcome):
		return nil, err
	case !errors.Is(err, ErrStale):
		return nil, e.rollBack(ctx, err)
	}
	made, err = e.b.LoadRecord(ctx, e.r.ID)
	if errors.Is(err, pelton.ErrNotFound) {
		return nil, errBurnt
	}
	if err == nil && e.claim != nil {
		err = e.b.finishEnqueue(ctx, e.claim, made)
	}
	return made, err
}

// rollBack gives the keys back of a task whose record was refused for cause. With an
// idempotency key the id may be known to others, who may yet create the record: then
// the unique key is left to whoever finds no record.
func (e *onceEnqueue) rollBack(ctx context.Context, cause error) error {
	if e.claim != nil {
		return e.b.abandon(ctx, e.claim, cause)
	}
	e.unlock(ctx)
	return cause
}

// unlock deletes the lock of the unique key of a task that will never have a record.
func (e *onceEnqueue) unlock(ctx context.Context) {
	if e.r.Unique == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	w := e.b.unlockWrite(e.b.uniqueKey(e.r.Kind, e.r.Unique.Key), e.r.KeyRevision)
	if _, err := e.b.do(ctx, w); err != nil && !errors.Is(err, ErrStale) {
		e.b.cfg.Logger.Debug("unique key of a refused task stays behind", "task_id", e.r.ID.String(), "error", err)
	}
}

// renew goes on under a new id in place of one that was fenced.
func (e *onceEnqueue) renew(ctx context.Context) error {
	e.unlock(ctx)
	e.r.ID = pelton.NewID(e.r.CreatedAt, e.r.ID.Shard())
	if e.claim == nil {
		return nil
	}
	e.claim.lock.ID = e.r.ID
	if err := e.b.writeClaim(ctx, e.claim); err != nil {
		return e.lostClaim(ctx, err)
	}
	return nil
}

// publish writes the message, whatever has become of the caller.
func (e *onceEnqueue) publish(ctx context.Context) (Once, error) {
	if err := e.b.Publish(context.WithoutCancel(ctx), e.r); err != nil {
		return Once{}, fmt.Errorf("%w: the record says that the task is enqueued: %w", pelton.ErrUnknownOutcome, err)
	}
	failpoint.At(failpoint.KeyPublished)
	return Once{Record: e.r}, nil
}

// replace cancels a task that nobody has started yet in favour of another with its
// unique key. No error also means that it changed meanwhile: the record will say.
// Its message is dropped at admission.
func (b *Broker) replace(ctx context.Context, r *Record) error {
	scheduled := r.waitsForTime()
	r.State, r.Replaced, r.FinishedAt = pelton.Cancelled, true, time.Now().UTC().Truncate(time.Microsecond)
	err := b.SaveRecord(ctx, r)
	switch {
	case errors.Is(err, ErrStale), errors.Is(err, pelton.ErrUnknownOutcome):
		return nil
	case err != nil:
		return fmt.Errorf("replace: %w", err)
	}
	b.cfg.Logger.Info("task replaced by another with its unique key", "task_id", r.ID.String(), "kind", r.Kind, "queue", r.Queue)
	if err := b.LeaveLines(ctx, r, r.Carrier); err != nil {
		b.cfg.Logger.Debug("turn of a replaced task left to its message", "task_id", r.ID.String(), "error", err)
		return nil // which stays for that
	}
	if scheduled {
		if err := b.CancelSchedules(ctx, r); err != nil {
			b.cfg.Logger.Debug("schedule of a replaced task stays behind", "task_id", r.ID.String(), "error", err)
		}
	}
	return nil
}

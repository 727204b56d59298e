package producer

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
)

const (
	// onceTimeout bounds an Enqueue with an idempotency key that tries again, if ctx
	// does not end it sooner.
	onceTimeout = 30 * time.Second
	// Between two tries it waits for 50 ms, then twice as long each time, up to a second.
	retryPause    = 50 * time.Millisecond
	maxRetryPause = time.Second
)

// Submit is Enqueue that tells more: whether the answer is a new task, the one that
// holds the unique key, or that of an earlier request with the idempotency key. It
// is one try: errors are those of Enqueue, and pelton.ErrInFlight.
func (c *Client) Submit(ctx context.Context, spec pelton.Spec, opts ...pelton.Option) (pelton.Enqueued, error) {
	if err := c.check(); err != nil {
		return pelton.Enqueued{}, err
	}
	spec.Apply(opts...)
	req, err := c.prepare(ctx, spec)
	if err != nil {
		return pelton.Enqueued{}, err
	}
	return c.submit(ctx, req)
}

// request is a spec that was checked.
type request struct {
	record *broker.Record // the first one of the task
	idem   broker.Idempotency
	// replay is the answer to an earlier request, of which this is a repeat that would
	// not pass any more.
	replay broker.Once
}

// plain reports whether nothing is to be looked up for the request.
func (r *request) plain() bool {
	return r.replay.Record == nil && r.idem.Key == "" && r.record.Unique == nil
}

// prepare checks a spec and makes its first record. A spec whose time has passed
// since may repeat a request that was in time.
func (c *Client) prepare(ctx context.Context, spec pelton.Spec) (request, error) {
	now := c.now()
	filled := spec
	c.queues.fill(&filled)
	full, invalid := filled.Normalized(now)
	if spec.IdempotencyKey == "" {
		if invalid != nil {
			return request{}, invalid
		}
		record, ok := c.begun.Get().(*broker.Record)
		if !ok {
			record = new(broker.Record)
		}
		record.Begin(c.newID(now, full), &full, now)
		return request{record: record}, nil
	}
	// The fingerprint goes without the settings of the queue: they may change between
	// a request and its repeat.
	timeless := spec
	if invalid != nil {
		timeless.Delay, timeless.RunAt, timeless.ExpiresAt = 0, time.Time{}, time.Time{}
	}
	normal, err := timeless.Normalized(now)
	if err != nil {
		return request{}, cmp.Or(invalid, err)
	}
	idem := broker.Idempotency{Scope: spec.IdempotencyScope, Key: spec.IdempotencyKey}
	if idem.Fingerprint, err = fingerprint(spec, normal); err != nil {
		return request{}, err
	}
	if invalid == nil {
		return request{record: broker.NewRecord(c.newID(now, full), full, now), idem: idem}, nil
	}
	replay, err := c.b.Recall(ctx, idem)
	if errors.Is(err, pelton.ErrNotFound) {
		return request{}, invalid
	}
	return request{replay: replay}, err
}

// newID mints the id of a new task, which says its shard.
func (c *Client) newID(now time.Time, spec pelton.Spec) pelton.ID {
	return pelton.NewID(now, c.b.Place(c.queues.bounded(spec.Queue, spec.Priority)))
}

// submit tries once. The error has the kind in front.
func (c *Client) submit(ctx context.Context, req request) (pelton.Enqueued, error) {
	var err error
	once := broker.Once{Record: req.record}
	switch {
	case req.replay.Record != nil:
		once = req.replay
	case req.plain():
		var land func()
		if land, err = c.queues.admit(ctx, req.record); err == nil {
			err = c.b.Enqueue(ctx, req.record)
			land()
		}
	default:
		once, err = c.once(ctx, req)
	}
	if err != nil {
		return pelton.Enqueued{}, fmt.Errorf("enqueue %s: %w", req.record.Kind, err)
	}
	out := pelton.Enqueued{Task: once.Record.Task(c.now()), Existing: once.Existing, Replayed: once.Replayed}
	if req.plain() && req.record.Revision == 0 { // it was stored as a message alone
		*req.record = broker.Record{} // or it would hold a payload
		c.begun.Put(req.record)
	}
	return out, nil
}

// once enqueues a task with keys. A queue that is full takes no new one, but a
// repeat is answered with the task that it repeats.
func (c *Client) once(ctx context.Context, req request) (broker.Once, error) {
	land, full := c.queues.admit(ctx, req.record)
	if full == nil {
		defer land()
		return c.b.EnqueueOnce(ctx, req.record, req.idem)
	}
	if req.idem.Key != "" && errors.Is(full, pelton.ErrOverloaded) {
		once, err := c.b.Recall(ctx, req.idem)
		if !errors.Is(err, pelton.ErrNotFound) {
			return once, err
		}
	}
	return broker.Once{}, full
}

// insist submits a request with an idempotency key until its outcome is known.
func (c *Client) insist(ctx context.Context, req request) (*pelton.Task, error) {
	ctx, cancel := context.WithTimeout(ctx, onceTimeout)
	defer cancel()
	unknown := false // a try may have enqueued it
	for wait := retryPause; ; wait = min(2*wait, maxRetryPause) {
		out, err := c.submit(ctx, req)
		if err == nil {
			return out.Task, nil
		}
		unknown = unknown || errors.Is(err, pelton.ErrUnknownOutcome)
		nothing := errors.Is(err, pelton.ErrUnavailable) || errors.Is(err, pelton.ErrClosed) // was done by this try
		again := errors.Is(err, pelton.ErrInFlight) || unknown && (nothing || errors.Is(err, pelton.ErrUnknownOutcome))
		if !again {
			return nil, err
		}
		if !c.closed.Load() && pause(ctx, wait) {
			continue
		}
		if unknown && nothing {
			err = fmt.Errorf("%w: %w", pelton.ErrUnknownOutcome, err)
		}
		return nil, err
	}
}

// pause waits for d and reports whether ctx lasts.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// fingerprint tells requests with one idempotency key apart. It covers what was
// asked for, with defaults filled in: normal has those. Times are as they were
// given, because normalized ones change with the time of the request. Fields that
// are absent leave no trace, so that versions with more fields agree on them.
func fingerprint(spec, normal pelton.Spec) (string, error) {
	payload := sha256.Sum256(normal.Payload)
	form, err := json.Marshal(struct {
		Kind        string            `json:"kind"`
		Queue       string            `json:"queue"`
		Priority    pelton.Priority   `json:"priority"`
		Delay       time.Duration     `json:"delay,omitempty"`
		RunAt       time.Time         `json:"run_at,omitzero"`
		ExpiresAt   time.Time         `json:"expires_at,omitzero"`
		Timeout     time.Duration     `json:"timeout"`
		MaxAttempts int               `json:"max_attempts"`
		Retention   time.Duration     `json:"retention"`
		Backoff     pelton.Backoff    `json:"backoff,omitzero"`
		RateKey     string            `json:"rate_key,omitempty"`
		Labels      map[string]string `json:"labels,omitempty"`
		Unique      *pelton.Unique    `json:"unique,omitempty"`
		Key         string            `json:"concurrency_key,omitempty"`
		Payload     []byte            `json:"payload"`
	}{
		Kind: normal.Kind, Queue: normal.Queue, Priority: normal.Priority,
		Delay: spec.Delay, RunAt: spec.RunAt.UTC(), ExpiresAt: spec.ExpiresAt.UTC(),
		Timeout: normal.Timeout, MaxAttempts: normal.MaxAttempts, Retention: normal.Retention,
		Backoff: normal.Backoff, RateKey: normal.RateKey, Labels: normal.Labels, Unique: normal.Unique, Key: normal.ConcurrencyKey, Payload: payload[:],
	})
	if err != nil {
		return "", fmt.Errorf("fingerprint of a request: %w", err)
	}
	hash := sha256.Sum256(form)
	return hex.EncodeToString(hash[:]), nil
}

// Package producer enqueues tasks, reads and awaits them, and cancels them.
package producer

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
)

// Config is how a Client finds its installation.
type Config struct {
	// Namespace of the installation in NATS. Empty means "pelton".
	Namespace string
	// Lease given to queues that this client is the first to use. Zero means 30 s.
	Lease time.Duration
	// Replicas of what this client is the first to create. Zero means 1.
	Replicas int
	// Tags that the servers of a cluster must have which hold what this client is the first to
	// create. None are any servers.
	Tags []string
	// Logger gets what an operator may want to know. Nil discards.
	Logger *slog.Logger
}

// Client enqueues tasks. It is safe for concurrent use.
type Client struct {
	b      *broker.Broker
	queues *queues
	log    *slog.Logger
	now    func() time.Time
	reads  chan struct{} // held by reads of records that are under way
	looks  looks
	hot    hotTasks
	begun  sync.Pool // of *broker.Record: first ones of plain tasks, of which nobody keeps one
	closed atomic.Bool
}

// New opens the installation on nc and creates in the broker what is missing.
// Errors: pelton.ErrUnavailable when the broker is out of reach,
// pelton.ErrConflict when streams of that name have settings Pelton cannot use,
// pelton.ErrInvalid for a bad Config. Make nc with nats.MaxReconnects(-1), so
// that it outlives a restart of the broker.
func New(ctx context.Context, nc *nats.Conn, cfg Config) (*Client, error) {
	b, err := broker.Open(ctx, nc, broker.Config{Namespace: cfg.Namespace, Lease: cfg.Lease, Replicas: cfg.Replicas, Tags: cfg.Tags, Logger: cfg.Logger})
	if err != nil {
		return nil, fmt.Errorf("open producer: %w", err)
	}
	q, err := watchQueues(ctx, b)
	if err != nil {
		b.Close()
		return nil, fmt.Errorf("open producer: %w", err)
	}
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	c := &Client{b: b, queues: q, log: log, now: time.Now, reads: make(chan struct{}, maxReads)}
	c.hot.b = b
	c.hot.read = func(ctx context.Context, id pelton.ID) (*broker.Record, error) {
		return c.reading(ctx, id, b.LoadRecord)
	}
	return c, nil
}

// maxReads is how many records are read at a time, for Get, Wait and Watch: a record
// may have a payload and a result of 256 KiB each. A read takes some 50 µs of a
// broker in the process.
const maxReads = 128

// reading runs one read of a record.
func (c *Client) reading(ctx context.Context, id pelton.ID, read func(context.Context, pelton.ID) (*broker.Record, error)) (*broker.Record, error) {
	select {
	case c.reads <- struct{}{}:
		defer func() { <-c.reads }()
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", pelton.ErrUnavailable, context.Cause(ctx))
	}
	r, err := read(ctx, id)
	if err == nil {
		c.hot.saw(r)
	}
	return r, err
}

// Close ends calls that are under way; their outcome is unknown. It does not
// close the NATS connection. While that is lost, it may take a second. Later calls are
// pelton.ErrClosed.
func (c *Client) Close() {
	if !c.closed.Swap(true) {
		c.b.Close()
		c.hot.close()
		c.queues.close()
		c.looks.going.Wait() // their calls have ended
	}
}

func (c *Client) check() error {
	if c.closed.Load() {
		return fmt.Errorf("producer: %w", pelton.ErrClosed)
	}
	return nil
}

// Enqueue stores a task and returns it; once it has, the task survives the death
// of every process. opts are applied to a copy of spec; what neither says, the
// settings of its queue do. Errors: *pelton.ValidationError; a *pelton.UniqueError
// when another task holds the unique key; pelton.ErrOverloaded and
// pelton.ErrUnavailable, when nothing was stored; pelton.ErrUnknownOutcome, when the
// task may have been: Enqueue does not try again, because that might enqueue it
// twice.
//
// With an idempotency key trying again is safe, and Enqueue does so until it knows
// what became of the task, ctx ends, or 30 s are over. The answer may then be the
// task of an earlier call with the same key, as it now stands.
func (c *Client) Enqueue(ctx context.Context, spec pelton.Spec, opts ...pelton.Option) (*pelton.Task, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	if len(opts) > 0 {
		spec = applied(spec, opts)
	}
	req, err := c.prepare(ctx, spec)
	if err != nil {
		return nil, err
	}
	if req.idem.Key != "" {
		return c.insist(ctx, req)
	}
	out, err := c.submit(ctx, req)
	return out.Task, err
}

// applied is a spec with options: one that has none stays off the heap.
func applied(spec pelton.Spec, opts []pelton.Option) pelton.Spec {
	spec.Apply(opts...)
	return spec
}

// Get reads a task. pelton.ErrNotFound means that it never was, or that its
// retention is over. A task that is asked for more than 16 times in 100 ms is kept in
// memory for as long as that goes on, and may then be older than it is by the time that
// an event takes, or, should that get lost, by a second: payload, result and labels are
// not to be changed.
func (c *Client) Get(ctx context.Context, id pelton.ID) (*pelton.Task, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	r, hot := c.hot.get(id, c.now()) //nolint:contextcheck // what is kept is kept for others
	var err error
	switch {
	case r != nil:
	case hot:
		r, err = c.looks.at(ctx, id, c.hot.read)
	default:
		r, err = c.reading(ctx, id, c.b.ReadRecord)
	}
	if err != nil {
		return nil, fmt.Errorf("get: %w", err)
	}
	return r.Task(c.now()), nil
}

const (
	// reread is how often a waiter looks at the record although no event came.
	reread = 2 * time.Second
	// mostRereads is how many such looks all waiters of a client together have in a
	// second: from 200 tasks on each waits longer. What they are for is an event that
	// was lost, because its writer died before it was sent, or the connection was full.
	mostRereads = 100
)

// rereadAfter is how long a waiter waits for an event when so many tasks are watched.
func rereadAfter(watched int) time.Duration {
	return max(reread, time.Duration(watched)*time.Second/mostRereads)
}

// Wait returns the task when it is over. When ctx ends before that, it returns
// the task as last seen together with ctx's cause. Other errors are those of Watch.
func (c *Client) Wait(ctx context.Context, id pelton.ID) (*pelton.Task, error) {
	last, err := c.watch(ctx, id, func(*pelton.Task) bool { return true })
	switch {
	case err == nil:
		return last, nil
	case ctx.Err() != nil:
		return last, fmt.Errorf("wait for task %s: %w", id, context.Cause(ctx))
	default:
		return last, fmt.Errorf("wait: %w", err)
	}
}

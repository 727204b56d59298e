package worker

import (
	"context"
	"sync"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
)

type contextKey struct{}

type contextValue struct {
	run   *run // nil outside a worker, as in peltontest.Run
	task  *pelton.Task
	locks *lockSession
}

// handlerContext is the ctx of a handler that a worker runs. Its timer, and its entry with its parent, cost more than
// the rest of a short run together, and most handlers never wait for its end: they are made when somebody does.
type handlerContext struct {
	parent   context.Context //nolint:containedctx // it is one, and has no deadline
	deadline time.Time
	value    contextValue

	mu     sync.Mutex
	cause  error           // of its end, before that was made
	inner  context.Context //nolint:containedctx // nil until somebody waits
	cancel context.CancelCauseFunc
	stop   context.CancelFunc
}

// begin says what the handler finds in it. Before that it may be ended, and nothing else.
func (c *handlerContext) begin(deadline time.Time, value contextValue) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline, c.value = deadline, value
}

// Deadline is when the task's timeout is over.
func (c *handlerContext) Deadline() (time.Time, bool) { return c.deadline, true }

// Done makes what ends.
func (c *handlerContext) Done() <-chan struct{} { return c.made().Done() }

// Err is what that of a ctx with a deadline would be, which is made only if it has ended.
func (c *handlerContext) Err() error {
	c.mu.Lock()
	alive := c.inner == nil && c.cause == nil
	c.mu.Unlock()
	if alive && c.parent.Err() == nil && time.Now().Before(c.deadline) {
		return nil
	}
	return c.made().Err()
}

// Value gives what the functions of this package look for. Others may be looking for the ctx that ends.
func (c *handlerContext) Value(key any) any {
	if key == (contextKey{}) {
		return c.value
	}
	return c.made().Value(key)
}

// end ends the ctx for the given cause, the first one counts; nil is context.Canceled.
func (c *handlerContext) end(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.cancel != nil:
		c.cancel(cause)
	case c.cause != nil, c.parent.Err() != nil, !c.deadline.IsZero() && !time.Now().Before(c.deadline): // it has ended
	case cause == nil:
		c.cause = context.Canceled
	default:
		c.cause = cause
	}
}

func (c *handlerContext) made() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inner == nil {
		parent := c.parent
		if c.cause != nil { // it ended before that may have
			parent = context.WithoutCancel(parent)
		}
		c.inner, c.cancel = context.WithCancelCause(parent)
		if c.cause != nil {
			c.cancel(c.cause)
		}
		c.inner, c.stop = context.WithDeadlineCause(c.inner, c.deadline, pelton.ErrTimeout)
	}
	return c.inner
}

// release ends the ctx, and gives back what was made.
func (c *handlerContext) release() {
	c.mu.Lock()
	stop := c.stop
	c.mu.Unlock()
	if stop != nil {
		stop()
	}
	c.end(nil)
}

// WithTask gives a handler's ctx a task without a worker, for tests: From finds
// it, Progress does nothing and Fence is 0. Locks are taken within the process: among
// all handlers that the same Mux serves and until each of them ends, or for a
// handler that is called directly, among what is done with this ctx.
func WithTask(ctx context.Context, task *pelton.Task) context.Context {
	return withLocks(ctx, task, newLocalLocks())
}

// withLocks is WithTask with these locks.
func withLocks(ctx context.Context, task *pelton.Task, from *localLocks) context.Context {
	holder := pelton.LockHolder{TaskID: task.ID, Kind: task.Kind, Worker: "none"}
	locks := newLockSession(ctx, from, holder, broker.DefaultLease)
	return context.WithValue(ctx, contextKey{}, contextValue{task: task, locks: locks})
}

// From gives the task that a handler's ctx belongs to, as it was when it started;
// nil for any other ctx.
func From(ctx context.Context) *pelton.Task {
	v, _ := ctx.Value(contextKey{}).(contextValue)
	return v.task
}

// Progress reports how far a handler has come: done of total units, and a word on
// it. It returns at once; the record shows the newest report within half a second,
// and the last one when the task ends. Outside a handler it does nothing.
func Progress(ctx context.Context, done, total int64, message string) {
	if v, _ := ctx.Value(contextKey{}).(contextValue); v.run != nil {
		v.run.report(pelton.Progress{Done: done, Total: total, Message: message}) //nolint:contextcheck // what it starts outlives the handler's ctx
	}
}

// Fence is a token that grows with every start of the task. A store that keeps
// the highest token it saw, and refuses writes with a lower one, is safe from a
// worker that lost its lease without knowing. It is 0 outside a worker, and for a
// task that was lost already. The first call in a task's first 50 ms waits for the write
// that records its start.
func Fence(ctx context.Context) uint64 {
	if v, _ := ctx.Value(contextKey{}).(contextValue); v.run != nil {
		return v.run.token()
	}
	return 0
}

package worker

import (
	"context"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
)

type contextKey struct{}

type contextValue struct {
	run   *run // nil outside a worker, as in peltontest.Run
	task  *pelton.Task
	locks *lockSession
}

// handlerContext is the ctx of a handler that a worker runs.
type handlerContext struct {
	context.Context //nolint:containedctx // it is one
	value           contextValue
}

// Value gives what the functions of this package look for.
func (c *handlerContext) Value(key any) any {
	if key == (contextKey{}) {
		return c.value
	}
	return c.Context.Value(key)
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

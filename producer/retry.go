package producer

import (
	"context"
	"time"

	"github.com/peltonq/pelton"
)

// Retry puts a task that is over, however it ended, back into its queue. It keeps
// its id, payload and error history; its result goes, its attempts and crashes
// start anew, and an expires_at that has passed is dropped. Its dead letter, if
// it has one, is deleted.
//
// pelton.ErrConflict means that the task is not over; it comes with the task.
// Repeating a Retry whose task has not started since finishes what an interrupted
// one left undone and is no error. Errors otherwise: pelton.ErrNotFound, when
// neither a record nor a dead letter is left; pelton.ErrUnavailable, when nothing
// was written; pelton.ErrUnknownOutcome.
func (c *Client) Retry(ctx context.Context, id pelton.ID) (*pelton.Task, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	r, err := c.b.Requeue(ctx, id)
	c.hot.changed(id)
	if r == nil {
		return nil, err
	}
	return r.Task(time.Now()), err
}

// Run lets a delayed or retrying task run now instead of at its time. It keeps its
// place behind others: workers start it when they come to it, one with a concurrency
// key when its turn comes, and rate limits and pauses hold. A task that reads queued
// is ready already, and one that a limit or a pause put off goes by that: it is
// answered as it stands. So repeating a Run is no error until the task has started,
// and finishes what an interrupted one left undone.
//
// pelton.ErrConflict means that the task runs or is over; it comes with the task.
// Errors otherwise: pelton.ErrNotFound; pelton.ErrUnavailable, when nothing was
// written; pelton.ErrUnknownOutcome.
func (c *Client) Run(ctx context.Context, id pelton.ID) (*pelton.Task, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	r, err := c.b.RunNow(ctx, id)
	c.hot.changed(id)
	if r == nil {
		return nil, err
	}
	return r.Task(time.Now()), err
}

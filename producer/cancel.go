package producer

import (
	"context"
	"time"

	"github.com/peltonq/pelton"
)

// Cancel ends a task that is not over yet. A waiting task never starts; a running
// handler's ctx ends and its result is discarded, within a second while its
// worker is in reach. Cancelling a cancelled task finishes what an interrupted
// cancel left undone and is no error. pelton.ErrConflict means that the task
// ended otherwise; it comes with the task.
//
// Who wins a race is decided by the record alone: the cancel does if its write
// lands before the terminal one.
func (c *Client) Cancel(ctx context.Context, id pelton.ID) (*pelton.Task, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	r, err := c.b.Cancel(ctx, id)
	c.hot.changed(id)
	if r == nil {
		return nil, err
	}
	return r.Task(c.now()), err
}

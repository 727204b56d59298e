package producer

import (
	"context"
	"errors"
	"fmt"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
)

// Unfinished lists the tasks of a kind that wait or run, ready ones first, each
// once. It reads every message in the tasks stream and is meant for tests and
// small installations.
func (c *Client) Unfinished(ctx context.Context, kind string) ([]*pelton.Task, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	var ids []pelton.ID
	seen := make(map[pelton.ID]bool)
	err := c.b.Scan(ctx, func(e *broker.Envelope) bool {
		if e.Kind == kind && !seen[e.ID] {
			seen[e.ID] = true
			ids = append(ids, e.ID)
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	tasks := make([]*pelton.Task, 0, len(ids))
	for _, id := range ids {
		switch task, err := c.Get(ctx, id); {
		case errors.Is(err, pelton.ErrNotFound): // over and forgotten meanwhile
		case err != nil:
			return nil, fmt.Errorf("list unfinished %s: %w", kind, err)
		case !task.State.Terminal():
			tasks = append(tasks, task)
		}
	}
	return tasks, nil
}

package cli

import (
	"context"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/metrics"
	"github.com/peltonq/pelton/producer"
)

// countedTasks counts what is enqueued through this process.
type countedTasks struct {
	*producer.Client
	metrics *metrics.Metrics
}

// Submit counts and enqueues a task.
func (c countedTasks) Submit(ctx context.Context, spec pelton.Spec, opts ...pelton.Option) (pelton.Enqueued, error) {
	out, err := c.Client.Submit(ctx, spec, opts...)
	c.count(out, err)
	return out, err
}

// EnqueueMany counts and enqueues each task.
func (c countedTasks) EnqueueMany(ctx context.Context, specs []pelton.Spec) ([]pelton.Enqueued, error) {
	items, err := c.Client.EnqueueMany(ctx, specs)
	for _, item := range items {
		c.count(item, item.Err)
	}
	return items, err
}

func (c countedTasks) count(out pelton.Enqueued, err error) {
	switch {
	case err != nil:
		c.metrics.Refused()
	case !out.Existing && !out.Replayed:
		c.metrics.Enqueued(out.Task)
	}
}

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

// Enqueue counts and enqueues a task.
func (c countedTasks) Enqueue(ctx context.Context, spec pelton.Spec, opts ...pelton.Option) (*pelton.Task, error) {
	task, err := c.Client.Enqueue(ctx, spec, opts...)
	c.count(task, err)
	return task, err
}

// EnqueueMany counts and enqueues each task.
func (c countedTasks) EnqueueMany(ctx context.Context, specs []pelton.Spec) ([]pelton.Enqueued, error) {
	items, err := c.Client.EnqueueMany(ctx, specs)
	for _, item := range items {
		c.count(item.Task, item.Err)
	}
	return items, err
}

func (c countedTasks) count(task *pelton.Task, err error) {
	if err != nil {
		c.metrics.Refused()
		return
	}
	c.metrics.Enqueued(task)
}

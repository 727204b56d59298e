package migration

import (
	"context"
	"errors"
	"fmt"

	"github.com/hibiken/asynq"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/producer"
)

// Forward is an asynq handler for tasks that were enqueued before the cut-over: it
// hands them to Pelton, each once, however often asynq runs it.
func Forward(client *producer.Client, queue string) asynq.Handler {
	return asynq.HandlerFunc(func(ctx context.Context, t *asynq.Task) error {
		id, ok := asynq.GetTaskID(ctx)
		if !ok {
			return errors.New("a task without an id")
		}
		_, err := client.Enqueue(ctx, pelton.Spec{Kind: t.Type(), Queue: queue, Payload: t.Payload()},
			pelton.WithIdempotencyKey("asynq:"+id))
		if errors.Is(err, pelton.ErrInvalid) {
			return fmt.Errorf("%w: %w", err, asynq.SkipRetry) // into asynq's archive: not JSON, or too large
		}
		return err // nil, or again later
	})
}

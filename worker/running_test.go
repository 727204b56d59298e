package worker_test

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/worker"
)

// TestRunningTaskSaysSo reads a plain task, which has no record when it starts, while
// its handler runs and asks for nothing.
func TestRunningTaskSaysSo(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	started, end := make(chan struct{}), make(chan struct{})
	r.on("long", func(context.Context, *pelton.Task) (json.RawMessage, error) {
		close(started)
		<-end
		return nil, nil
	})
	r.run(t, worker.Config{})
	id := r.enqueue(t, "long").ID
	receive(t, started, "start")
	eventually(t, "the task reads running", func() bool {
		task := r.get(t, id)
		return task.State == pelton.Running && task.Worker != "" && task.Attempt == 1 && !task.StartedAt.IsZero()
	})
	close(end)
	if task := r.finished(t, id); task.State != pelton.Succeeded {
		t.Errorf("task is %s", task.State)
	}
}

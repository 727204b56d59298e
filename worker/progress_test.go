package worker_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/worker"
)

func TestProgress(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	seen := make(chan struct{})
	r.on("steps", func(ctx context.Context, _ *pelton.Task) (json.RawMessage, error) {
		worker.Progress(ctx, 1, 3, "one")
		<-seen
		worker.Progress(ctx, 2, 3, "two")
		worker.Progress(ctx, 3, 3, "done")
		return nil, nil
	})
	r.run(t, worker.Config{})
	id := r.enqueue(t, "steps").ID
	eventually(t, "progress is in the record", func() bool {
		p := r.get(t, id).Progress
		return p != nil && *p == pelton.Progress{Done: 1, Total: 3, Message: "one"}
	})
	close(seen)
	task := r.finished(t, id)
	if diff := cmp.Diff(&pelton.Progress{Done: 3, Total: 3, Message: "done"}, task.Progress); task.State != pelton.Succeeded || diff != "" {
		t.Errorf("task is %s, progress (-want +got):\n%s", task.State, diff)
	}
}

// However often a handler reports, its record is written twice a second at most, and
// the last report is in it at the end.
func TestProgressIsThrottled(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var reports int64
	var took time.Duration
	r.on("eager", func(ctx context.Context, _ *pelton.Task) (json.RawMessage, error) {
		began := time.Now()
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for took < 1200*time.Millisecond {
			<-tick.C
			reports++
			worker.Progress(ctx, reports, 0, "")
			took = time.Since(began)
		}
		return nil, nil
	})
	r.run(t, worker.Config{})
	task := r.finished(t, r.enqueue(t, "eager").ID)
	js, err := jetstream.New(r.nc)
	if err != nil {
		t.Fatal(err)
	}
	records, err := js.Stream(t.Context(), "KV_pelton_STATE_0")
	if err != nil {
		t.Fatal(err)
	}
	writes := int64(records.CachedInfo().State.LastSeq) - 2 // the seal of its segment, and succeeded
	if most := 1 + int64(took/(500*time.Millisecond)); writes < 2 || writes > most {
		t.Errorf("%d writes for %d reports in %s, want 2 to %d", writes, reports, took, most)
	}
	if task.Progress == nil || task.Progress.Done != reports {
		t.Errorf("progress = %+v, the last report was %d", task.Progress, reports)
	}
}

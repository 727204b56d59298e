package scheduler

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
)

// Many servers look at one schedule at the same moments, as after a redelivery that was
// not needed: each tick has one record, and the state never goes back.
func TestManyServersAtOnce(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	start := b.now().Add(time.Hour).Truncate(time.Second)
	b.put(pelton.Schedule{Name: "s", Every: time.Minute, StartsAt: start, Jitter: 30 * time.Second})
	const servers, ticks = 6, 20
	var serving sync.WaitGroup
	for range servers {
		c := newClient(t, b.nc)
		serving.Go(func() {
			for n := range ticks {
				now := start.Add(time.Duration(n)*time.Minute + 30*time.Second)
				for {
					v, err := c.load(t.Context(), "s")
					if err == nil {
						err = c.step(t.Context(), v, now, false)
					}
					if err == nil {
						break
					}
					if !errors.Is(err, broker.ErrStale) {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	serving.Wait()
	list := runs(b.get("s"))
	if len(list) != ticks {
		t.Fatalf("%d runs, want %d", len(list), ticks)
	}
	for n, run := range list {
		if want := start.Add(time.Duration(n) * time.Minute); !run.Tick.Equal(want) {
			t.Errorf("run %d is of %s, want %s", n, run.Tick, want)
		}
		task, err := b.tasks.Get(t.Context(), run.TaskID)
		if err != nil || task.Revision == 0 || !task.Schedule.Tick.Equal(run.Tick) || task.State != pelton.Queued {
			t.Errorf("%+v, %v", task, err)
		}
	}
}

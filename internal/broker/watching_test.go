package broker

import (
	"math"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
)

// Whoever watches gets the events of his task from the moment that Watch returns,
// whoever comes and goes beside him, and with him the subscriptions go.
func TestWatchersShareSubscriptions(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	b := openOn(t, nc, Config{})
	before := nc.NumSubscriptions()
	var (
		watching sync.WaitGroup
		mu       sync.Mutex
		most     int
	)
	for i := range 600 {
		r := aRecord("q", pelton.Normal)
		r.ID = pelton.NewID(time.UnixMilli(int64(i%200)), 0).At(uint64(i%200) + 1) // three for each of 200 tasks
		watching.Go(func() {
			for round := range uint64(5) {
				events, stop, err := b.Watch(t.Context(), r.ID)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				most = max(most, nc.NumSubscriptions()-before)
				mu.Unlock()
				told := *r
				told.Revision = round + 1
				b.announce(&told)
				if e := wait(t, events, "event"); e.ID != r.ID || e.State != pelton.Queued {
					t.Errorf("event of %s: %+v", r.ID, e)
				}
				stop()
			}
		})
	}
	watching.Wait()
	if most > 2*mostSingle+8 { // of the task and of its pages; and those to all events that are just being left
		t.Errorf("%d subscriptions at a time for 200 tasks, want about %d", most, 2*mostSingle+1)
	}
	if n := nc.NumSubscriptions() - before; n != 0 || b.Watching() != 0 || b.watching.single != 0 || b.watching.all != nil {
		t.Errorf("%d subscriptions and %d tasks are left: %+v", n, b.Watching(), &b.watching)
	}
}

// Nobody hears what is announced while the connection is away: all are told to look.
func TestWatchersLookAfterAReconnection(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	b := openOn(t, nc, Config{})
	events, stop, err := b.Watch(t.Context(), aRecord("q", pelton.Low).ID)
	must(t, err)
	defer stop()
	b.conn.changed(nats.CONNECTED)
	if e := wait(t, events, "event"); e.Revision != math.MaxUint64 {
		t.Errorf("%+v", e)
	}
}

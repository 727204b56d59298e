package worker_test

import (
	"context"
	"encoding/json"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
	"github.com/peltonq/pelton/internal/embed"
	"github.com/peltonq/pelton/producer"
	"github.com/peltonq/pelton/worker"
)

// An outage of the broker that outlasts the lease and all heartbeats makes nobody's
// worker a dead one: the task changes hands, and no crash is counted, although its
// owner comes back later than the worker that gets it.
func TestBrokerOutageIsNoCrash(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	srv := brokertest.StartServer(t, brokertest.In(dir), brokertest.Listening)
	addr := strings.TrimPrefix(srv.ClientURL(), "nats://")
	connect := func(reconnect time.Duration) *nats.Conn {
		nc, err := nats.Connect("nats://"+addr, nats.MaxReconnects(-1), nats.ReconnectWait(reconnect), nats.ReconnectJitter(0, 0))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		return nc
	}
	const lease = 5 * time.Second
	nc := connect(10 * time.Millisecond)
	r := rigOn(t, nc, producer.Config{Lease: lease})
	var release atomic.Bool
	started := make(chan struct{}, 100)
	r.on("long", func(ctx context.Context, _ *pelton.Task) (json.RawMessage, error) {
		started <- struct{}{}
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for !release.Load() {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		return nil, nil
	})
	cfg := worker.Config{Concurrency: 1, Lease: lease}
	owner := runOn(t, connect(350*time.Millisecond), r.Mux, cfg)
	task := r.enqueue(t, "long")
	receive(t, started, "start")
	runOn(t, connect(10*time.Millisecond), r.Mux, cfg)
	r.enqueue(t, "long") // runs there: that worker serves

	receive(t, started, "start of the other one")
	brokertest.Stop(t, srv)
	<-time.After(lease) // heartbeats in the broker live for half of it
	brokertest.StartServer(t, brokertest.In(dir), func(cfg *embed.Config) { cfg.Listen = addr })
	for range 2 {
		receive(t, started, "start after the outage")
	}
	release.Store(true)
	eventually(t, "the client is back", nc.IsConnected)
	r.succeeds(t, task.ID)
	if task = r.finished(t, task.ID); task.Crashes != 0 || task.Attempt != 1 {
		t.Errorf("%d crashes and attempt %d after an outage of the broker", task.Crashes, task.Attempt)
	}
	t.Logf("started by %s, ended by %s", owner.ID(), task.Worker)
}

package scheduler

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
	"github.com/peltonq/pelton/internal/embed"
)

// The broker is up and publishes the tick in time, and no server is there to take it:
// that is a missed tick all the same.
func TestServersDown(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	first := b.now().Truncate(time.Second).Add(2 * time.Second)
	for _, policy := range pelton.CatchUps() {
		b.put(pelton.Schedule{Name: string(policy), Every: time.Second, StartsAt: first, EndsAt: first.Add(2 * time.Second), CatchUp: policy})
	}
	<-time.After(time.Until(first.Add(2*time.Second + onTime + 100*time.Millisecond)))
	b.run(b.c)
	for policy, want := range map[pelton.CatchUp][]int{pelton.CatchUpNone: nil, pelton.CatchUpLast: {2}, pelton.CatchUpAll: {0, 1, 2}} {
		s := b.until(string(policy), "over", func(s *pelton.Schedule) bool { return len(s.Last) > 0 && len(s.Next) == 0 })
		var got []int
		for _, run := range runs(s) {
			got = append(got, int(run.Tick.Sub(first)/time.Second))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", policy, diff)
		}
	}
}

// The broker goes away and comes back under a server that runs: ticks go on.
func TestBrokerAwayAndBack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	srv := brokertest.StartServer(t, brokertest.In(dir), brokertest.Listening)
	addr := srv.ClientURL()[len("nats://"):]
	nc, err := nats.Connect(srv.ClientURL(), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	b := benchOn(t, nc)
	b.run(b.c)
	b.put(pelton.Schedule{Name: "s", Every: time.Second, CatchUp: pelton.CatchUpAll})
	before := b.until("s", "running", func(s *pelton.Schedule) bool { return len(runs(s)) >= 2 })
	brokertest.Stop(t, srv)
	<-time.After(1500 * time.Millisecond)
	brokertest.StartServer(t, brokertest.In(dir), func(cfg *embed.Config) { cfg.Listen = addr })
	for deadline := time.Now().Add(10 * time.Second); !nc.IsConnected(); <-time.After(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not connected again within 10 s")
		}
	}
	n := len(runs(before))
	after := b.until("s", "going on", func(s *pelton.Schedule) bool { return len(runs(s)) >= n+4 })
	list := runs(after)
	for i := 1; i < len(list); i++ {
		if d := list[i].Tick.Sub(list[i-1].Tick); d != time.Second {
			t.Errorf("%s between the ticks %s and %s", d, list[i-1].Tick, list[i].Tick)
		}
	}
}

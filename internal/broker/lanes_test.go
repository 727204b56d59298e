package broker

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
	"github.com/peltonq/pelton/internal/embed"
)

func TestQueueBound(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	if b.maxQueues != 1000 {
		t.Errorf("%d queues with one replica, want 1,000", b.maxQueues)
	}
	b.maxQueues = 2
	for _, queue := range []string{"a", "b", "a"} {
		must(t, b.EnsureLane(t.Context(), Lane{Queue: queue, Priority: pelton.Low}))
	}
	r := aRecord("c", pelton.Low)
	for name, err := range map[string]error{
		"lane":      b.EnsureLane(t.Context(), Lane{Queue: "c", Priority: pelton.Low}),
		"schedule":  b.EnsureScheduled(t.Context(), Lane{Queue: "c", Priority: pelton.Low}),
		"enqueue":   b.Enqueue(t.Context(), r),
		"many":      b.EnqueueMany(t.Context(), []*Record{aRecord("a", pelton.Low), r})[1],
		"many, one": b.EnqueueMany(t.Context(), []*Record{aRecord("c", pelton.Low)})[0],
	} {
		var invalid *pelton.ValidationError
		if !errors.As(err, &invalid) || !errors.Is(err, pelton.ErrInvalid) || invalid.Fields[0].Field != "queue" {
			t.Errorf("%s of a third queue = %v, want ErrInvalid for the field queue", name, err)
		}
	}
	if _, err := b.LoadRecord(t.Context(), r.ID); !errors.Is(err, pelton.ErrNotFound) {
		t.Errorf("record of the refused task: %v, want ErrNotFound", err)
	}
	// More lanes of a queue that exists are fine, also for another process.
	must(t, b.EnsureLane(t.Context(), Lane{Queue: "b", Priority: pelton.High}))
	other := openOn(t, b.conn.nc, Config{})
	other.maxQueues = 2
	must(t, other.EnsureLane(t.Context(), Lane{Queue: "a", Priority: pelton.Critical}))
	queues, err := b.queueConfigs(t.Context())
	if err != nil || len(queues) != 2 || queues[0].Name != "a" || queues[1].Name != "b" {
		t.Errorf("queues %v, %v", queues, err)
	}
}

// Many processes that open lanes of one queue at once lose none of them.
func TestLanesAtOnce(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	var opening sync.WaitGroup
	for _, p := range pelton.Priorities() {
		b := openOn(t, nc, Config{})
		for range 2 {
			opening.Go(func() {
				if err := b.EnsureScheduled(t.Context(), Lane{Queue: "q", Priority: p}); err != nil {
					t.Error(err)
				}
			})
		}
	}
	opening.Wait()
	changes, stop, err := openOn(t, nc, Config{}).WatchQueues(t.Context(), []string{"q"})
	must(t, err)
	defer stop()
	if cfg := wait(t, changes, "queue"); len(cfg.Lanes) != len(pelton.Priorities()) {
		t.Errorf("lanes %v", cfg.Lanes)
	}
}

// Whoever opens a lane while the broker stalls waits for its own deadline only.
func TestOpeningALaneHonoursItsContext(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	b.opening <- struct{}{} // somebody else is stuck in it
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if err := b.EnsureLane(ctx, Lane{Queue: "q", Priority: pelton.Low}); !errors.Is(err, pelton.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want ErrUnavailable", err)
	}
}

// watchClosed receives until the channel is closed.
func watchClosed(t *testing.T, changes <-chan *QueueConfig) {
	t.Helper()
	for range 100 {
		select {
		case _, ok := <-changes:
			if !ok {
				return
			}
		case <-time.After(10 * time.Second):
			t.Fatal("the watch neither goes on nor ends")
		}
	}
	t.Fatal("the watch does not end")
}

// After a restart of the server the watch ends, and another one sees all.
func TestWatchQueuesOverRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	srv := brokertest.StartServer(t, brokertest.In(dir), brokertest.Listening)
	addr := strings.TrimPrefix(srv.ClientURL(), "nats://")
	nc, err := nats.Connect(srv.ClientURL(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectJitter(0, 0))
	must(t, err)
	t.Cleanup(nc.Close)
	b := openOn(t, nc, Config{})
	must(t, b.EnsureLane(t.Context(), Lane{Queue: "old", Priority: pelton.Low}))
	changes, stop, err := b.WatchQueues(t.Context(), []string{"old", "new"})
	must(t, err)
	defer stop()
	wait(t, changes, "queue")

	brokertest.Stop(t, srv)
	select {
	case cfg, ok := <-changes:
		if ok && cfg != nil {
			t.Fatalf("queue %+v from a stopped server", cfg)
		}
	default:
	}
	brokertest.StartServer(t, brokertest.In(dir), func(cfg *embed.Config) { cfg.Listen = addr })
	watchClosed(t, changes)
	reaches(t, "the connection to be back", nc.IsConnected)
	must(t, b.EnsureLane(t.Context(), Lane{Queue: "new", Priority: pelton.High}))
	changes, stopAgain, err := b.WatchQueues(t.Context(), []string{"old", "new"})
	must(t, err)
	defer stopAgain()
	seen := map[string]bool{wait(t, changes, "queue").Name: true, wait(t, changes, "queue").Name: true}
	if !seen["old"] || !seen["new"] {
		t.Errorf("queues %v after the restart", seen)
	}
}

// The server goes on and only the connection was lost: the same.
func TestWatchQueuesOverReconnection(t *testing.T) {
	t.Parallel()
	b, p, _ := throughProxy(t)
	changes, stop, err := b.WatchQueues(t.Context(), []string{"q"})
	must(t, err)
	defer stop()
	p.cut()
	reaches(t, "the connection to be known as lost", func() bool { return !b.conn.nc.IsConnected() })
	p.heal()
	watchClosed(t, changes)
}

func TestWatchQueuesEnds(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(b *Broker, cancel, stop func()){
		"by stop":             func(_ *Broker, _, stop func()) { stop() },
		"by its context":      func(_ *Broker, cancel, _ func()) { cancel() },
		"with the connection": func(b *Broker, _, _ func()) { b.conn.nc.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := openNew(t)
			must(t, b.EnsureLane(t.Context(), Lane{Queue: "q", Priority: pelton.Low}))
			must(t, b.EnsureLane(t.Context(), Lane{Queue: "q", Priority: pelton.High}))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			changes, stop, err := b.WatchQueues(ctx, []string{"q"})
			must(t, err)
			wait(t, changes, "queue") // and leaves others lying
			end(b, cancel, stop)
			watchClosed(t, changes)
			stop()
			stop() // again is fine
		})
	}
}

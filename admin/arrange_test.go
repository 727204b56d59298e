package admin_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/admin"
	"github.com/peltonq/pelton/internal/brokertest"
)

// An installation with one copy gets three while tasks are accepted and run, goes back to one, and, with
// three again, goes on when the server dies that led the tasks.
func TestArrange(t *testing.T) {
	t.Parallel()
	servers, urls := brokertest.StartCluster(t, 3)
	nc := brokertest.ConnectTo(t, urls, nats.ReconnectWait(100*time.Millisecond), nats.MaxReconnects(-1))
	client, producing := open(t, nc)
	// What a leader had handed out when it died comes back with its lease.
	if _, err := client.PatchQueue(t.Context(), "default", []byte(`{"lease":"2s"}`)); err != nil {
		t.Fatal(err)
	}
	defer working(t, brokertest.ConnectTo(t, urls, nats.ReconnectWait(100*time.Millisecond), nats.MaxReconnects(-1)))()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]admin.Arrangement{"five": {Replicas: 5}, "nowhere": {Tags: []string{"moon"}}} {
		if _, err := client.Arrange(t.Context(), to); !errors.Is(err, pelton.ErrConflict) {
			t.Errorf("arrange %s: %v", name, err)
		}
	}
	if _, err := client.Arrange(t.Context(), admin.Arrangement{Replicas: 6}); !errors.Is(err, pelton.ErrInvalid) {
		t.Errorf("arrange six: %v", err)
	}
	load := func() (stop func() []pelton.ID) {
		ctx, cancel := context.WithCancel(t.Context())
		var accepted []pelton.ID
		var enqueuing sync.WaitGroup
		enqueuing.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				spec := pelton.Spec{Kind: "works", ConcurrencyKey: []string{"", "k"}[i%2]}
				if task, err := producing.Enqueue(ctx, spec); err == nil {
					accepted = append(accepted, task.ID)
				}
			}
		})
		return func() []pelton.ID { cancel(); enqueuing.Wait(); return accepted }
	}
	copies := func(want int) {
		t.Helper()
		for lister := js.ListStreams(t.Context()); ; {
			info, more := <-lister.Info()
			if !more {
				break
			}
			if info.Config.Replicas != want {
				t.Errorf("stream %s has %d copies, want %d", info.Config.Name, info.Config.Replicas, want)
			}
		}
	}
	end := func(ids []pelton.ID) {
		t.Helper()
		if len(ids) == 0 {
			t.Error("no task was accepted")
		}
		for _, id := range ids {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			task, err := producing.Wait(ctx, id)
			for errors.Is(err, pelton.ErrUnavailable) && ctx.Err() == nil { // the new copies have no leader yet
				task, err = producing.Wait(ctx, id)
			}
			cancel()
			if err != nil || task.State != pelton.Succeeded {
				t.Fatalf("task %s: %+v, %v", id, task, err)
			}
		}
	}

	stop := load()
	if changed, err := client.Arrange(t.Context(), admin.Arrangement{Replicas: 3}); err != nil || !changed {
		t.Fatalf("arrange three: %t, %v", changed, err)
	}
	end(stop())
	copies(3)
	if changed, err := client.Arrange(t.Context(), admin.Arrangement{Replicas: 3}); err != nil || changed {
		t.Errorf("arrange three again: %t, %v", changed, err)
	}
	if changed, err := client.Arrange(t.Context(), admin.Arrangement{Replicas: 1}); err != nil || !changed {
		t.Fatalf("arrange one: %t, %v", changed, err)
	}
	copies(1)
	end([]pelton.ID{enqueue(t, producing, pelton.Spec{Kind: "works"})})

	if changed, err := client.Arrange(t.Context(), admin.Arrangement{Replicas: 3}); err != nil || !changed {
		t.Fatalf("arrange three again: %t, %v", changed, err)
	}
	waiting, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := client.AwaitArranged(waiting); err != nil {
		t.Fatal(err)
	}
	stop = load()
	tasks, err := js.Stream(t.Context(), "pelton_TASKS_0")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range servers {
		if s.Name() == tasks.CachedInfo().Cluster.Leader {
			s.Shutdown()
		}
	}
	eventually(t, "tasks are accepted again", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := producing.Enqueue(ctx, pelton.Spec{Kind: "works"})
		return err == nil
	})
	end(stop())
	soon, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := client.AwaitArranged(soon); !errors.Is(err, pelton.ErrUnavailable) || !strings.Contains(err.Error(), "has 2 of 3 copies") {
		t.Errorf("copies beside a dead server: %v", err)
	}
}

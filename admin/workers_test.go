package admin_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/admin"
	"github.com/peltonq/pelton/internal/broker"
	"github.com/peltonq/pelton/internal/brokertest"
	"github.com/peltonq/pelton/worker"
)

// workersUntil lists workers until the list is as it should be.
func workersUntil(t *testing.T, client *admin.Client, holds func([]pelton.Worker) bool) []pelton.Worker {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(20 * time.Second); ; <-tick.C {
		page, err := client.Workers(t.Context(), pelton.WorkerQuery{})
		if err != nil {
			t.Fatal(err)
		}
		if holds(page.Items) {
			return page.Items
		}
		if time.Now().After(end) {
			t.Fatalf("workers after 20 s: %+v", page.Items)
		}
	}
}

// A worker is on the list while it lives, with what it runs, and off it as soon as
// it has ended.
func TestWorkersComeAndGo(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	client, producing := open(t, nc)
	if page, err := client.Workers(t.Context(), pelton.WorkerQuery{}); err != nil || len(page.Items) != 0 {
		t.Errorf("no workers: %+v, %v", page, err)
	}
	// Signs of life follow the lease: with this one there are three a second.
	if _, err := client.PatchQueue(t.Context(), pelton.DefaultQueue, []byte(`{"lease":"3s"}`)); err != nil {
		t.Fatal(err)
	}
	mux := worker.NewMux()
	goOn := make(chan struct{})
	kind := pelton.NewKind[int, int]("held")
	worker.Handle(mux, kind, func(ctx context.Context, n int) (int, error) {
		select {
		case <-goOn:
		case <-ctx.Done():
		}
		return n, nil
	})
	w, err := worker.New(nc, mux, worker.Config{Concurrency: 3, Version: "v7"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	task, err := producing.Enqueue(t.Context(), pelton.Spec{Kind: "held", Payload: []byte("1")})
	if err != nil {
		t.Fatal(err)
	}
	got := workersUntil(t, client, func(ws []pelton.Worker) bool { return len(ws) == 1 && len(ws[0].Running) == 1 })[0]
	want := pelton.Worker{
		ID: got.ID, Version: "v7", Kinds: []string{"held"}, Queues: []string{pelton.DefaultQueue}, Concurrency: 3, Running: []pelton.ID{task.ID},
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(pelton.Worker{}, "Host", "PID", "StartedAt", "SeenAt")); diff != "" {
		t.Errorf("the worker (-want +got):\n%s", diff)
	}
	if got.ID == "" || got.PID == 0 || got.StartedAt.IsZero() || got.SeenAt.Before(got.StartedAt) {
		t.Errorf("the worker: %+v", got)
	}
	seen := got.SeenAt
	workersUntil(t, client, func(ws []pelton.Worker) bool { return len(ws) == 1 && ws[0].SeenAt.After(seen) })
	close(goOn)
	workersUntil(t, client, func(ws []pelton.Worker) bool { return len(ws) == 1 && len(ws[0].Running) == 0 && ws[0].Running != nil })
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	workersUntil(t, client, func(ws []pelton.Worker) bool { return len(ws) == 0 })
}

func TestWorkersByPages(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	client, _ := open(t, nc)
	b, err := broker.Open(t.Context(), nc, broker.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	all := []string{"a-1", "a-2", "b-1", "c-1", "c-2"}
	for _, id := range slices.Backward(all) {
		if err := b.ShowPresence(t.Context(), broker.Presence{ID: id}, 10*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Probe(t.Context()); err != nil { // what it writes is no worker
		t.Fatal(err)
	}
	var listed []string
	var pages int
	for cursor := ""; pages == 0 || cursor != ""; pages++ {
		page, err := client.Workers(t.Context(), pelton.WorkerQuery{Limit: 2, Cursor: cursor})
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range page.Items {
			listed = append(listed, w.ID)
			if w.Kinds == nil || w.Queues == nil || w.Running == nil {
				t.Errorf("lists of %s would be null: %+v", w.ID, w)
			}
		}
		cursor = page.NextCursor
	}
	if diff := cmp.Diff(all, listed); diff != "" || pages != 3 {
		t.Errorf("in %d pages (-want +got):\n%s", pages, diff)
	}
	for _, q := range []pelton.WorkerQuery{{Limit: -1}, {Limit: 501}, {Cursor: "%"}} {
		var invalid *pelton.ValidationError
		if _, err := client.Workers(t.Context(), q); !errors.As(err, &invalid) {
			t.Errorf("%+v: %v", q, err)
		}
	}
}

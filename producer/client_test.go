package producer_test

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
	"github.com/peltonq/pelton/producer"
	"github.com/peltonq/pelton/worker"
)

func fields(t *testing.T, err error) []string {
	t.Helper()
	var invalid *pelton.ValidationError
	if !errors.As(err, &invalid) || !errors.Is(err, pelton.ErrInvalid) {
		t.Fatalf("error = %v, want a ValidationError", err)
	}
	names := make([]string, len(invalid.Fields))
	for i, f := range invalid.Fields {
		names[i] = f.Field
	}
	return names
}

func TestEnqueueAndGet(t *testing.T) {
	t.Parallel()
	client := open(t, brokertest.Start(t))
	spec := pelton.Spec{
		Kind: "email.send", Payload: json.RawMessage(`{"to":  "<a@b.c>"}`), Queue: "emails", Priority: pelton.High,
		Timeout: time.Second, MaxAttempts: 3, Retention: time.Hour, ExpiresAt: time.Now().Add(time.Hour), Labels: map[string]string{"tenant": "acme"},
	}
	task, err := client.Enqueue(t.Context(), spec, pelton.WithPriority(pelton.Low))
	if err != nil {
		t.Fatal(err)
	}
	want := &pelton.Task{
		ID: task.ID, Kind: spec.Kind, Queue: spec.Queue, Priority: pelton.Low, State: pelton.Queued, Payload: spec.Payload,
		MaxAttempts: 3, Timeout: time.Second, Retention: time.Hour, Revision: task.Revision, CreatedAt: task.CreatedAt,
		ExpiresAt: spec.ExpiresAt.UTC(), Labels: spec.Labels,
	}
	for name, got := range map[string]*pelton.Task{"Enqueue": task, "Get": get(t, client, task.ID)} {
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if task.Revision != 0 || task.ID.Sequence() == 0 || time.Since(task.CreatedAt) > time.Minute || task.ID.IsZero() {
		t.Errorf("task = %+v", task)
	}
	if _, err := client.Get(t.Context(), pelton.NewID(time.Now(), 0)); !errors.Is(err, pelton.ErrNotFound) {
		t.Errorf("Get of an unknown id = %v, want ErrNotFound", err)
	}
	if _, err := client.Get(t.Context(), pelton.NewID(time.Now(), 9)); !errors.Is(err, pelton.ErrNotFound) {
		t.Errorf("Get from an unknown shard = %v, want ErrNotFound", err)
	}
}

func TestInvalidSpecsNameTheirFields(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	client := open(t, nc)
	for want, spec := range map[string]pelton.Spec{
		"kind":           {},
		"queue":          {Kind: "k", Queue: "Not A Queue"},
		"priority":       {Kind: "k", Priority: "urgent"},
		"payload":        {Kind: "k", Payload: json.RawMessage(`{`)},
		"delay":          {Kind: "k", Delay: -1},
		"expires_at":     {Kind: "k", ExpiresAt: time.Now().Add(-time.Hour)},
		"timeout":        {Kind: "k", Timeout: -1},
		"max_attempts":   {Kind: "k", MaxAttempts: -1},
		"retention":      {Kind: "k", Retention: time.Millisecond},
		"kind queue":     {Kind: "no spaces", Queue: "*"},
		"payload labels": {Kind: "k", Payload: json.RawMessage(`"` + strings.Repeat("x", pelton.MaxPayload) + `"`), Labels: map[string]string{"a b": ""}},
	} {
		_, err := client.Enqueue(t.Context(), spec)
		if got := strings.Join(fields(t, err), " "); got != want {
			t.Errorf("Enqueue names %s, want %s: %v", got, want, err)
		}
	}
	_, err := producer.Enqueue(t.Context(), client, pelton.NewKind[float64, int]("k"), math.Inf(1))
	if got := fields(t, err); got[0] != "payload" {
		t.Errorf("a payload that does not encode names %s", got)
	}
	if idle, err := below(t, nc).Idle(t.Context()); err != nil || !idle {
		t.Errorf("something was enqueued: %v", err)
	}
	if _, err := producer.New(t.Context(), nc, producer.Config{Namespace: "a.b"}); !errors.Is(err, pelton.ErrInvalid) {
		t.Errorf("New with a bad namespace = %v, want ErrInvalid", err)
	}
}

func TestEnqueueManyAnswersInOrder(t *testing.T) {
	t.Parallel()
	client := open(t, brokertest.Start(t))
	specs := []pelton.Spec{
		{Kind: "a"}, {Kind: ""}, {Kind: "b", Delay: time.Hour}, {Kind: "c", Queue: "*"}, {Kind: "d", Queue: "other", Priority: pelton.Critical},
	}
	items, err := client.EnqueueMany(t.Context(), specs)
	if err != nil || len(items) != len(specs) {
		t.Fatalf("%d items, %v", len(items), err)
	}
	for i, want := range []pelton.State{pelton.Queued, "", pelton.Scheduled, "", pelton.Queued} {
		item := items[i]
		if want == "" {
			fields(t, item.Err)
			continue
		}
		if item.Err != nil || item.Task.Kind != specs[i].Kind || item.Task.State != want {
			t.Errorf("item %d = %+v, %v", i, item.Task, item.Err)
			continue
		}
		if diff := cmp.Diff(item.Task, get(t, client, item.Task.ID)); diff != "" {
			t.Errorf("item %d (-answer +record):\n%s", i, diff)
		}
	}
	if items, err := client.EnqueueMany(t.Context(), nil); err != nil || len(items) != 0 {
		t.Errorf("nothing enqueued = %v, %v", items, err)
	}
	_, err = client.EnqueueMany(t.Context(), make([]pelton.Spec, pelton.MaxBatch+1))
	if got := fields(t, err); got[0] != "tasks" {
		t.Errorf("too many name %s", got)
	}
}

func TestUnreachableBrokerIsSaidAtOnce(t *testing.T) {
	t.Parallel()
	srv := brokertest.StartServer(t, brokertest.Listening)
	nc, err := nats.Connect(srv.ClientURL(), nats.MaxReconnects(-1), nats.ReconnectWait(time.Minute), nats.Timeout(5*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	client := open(t, nc)
	known := enqueue(t, client, "k")
	brokertest.Stop(t, srv)
	eventually(t, "the connection is lost", func() bool { return !nc.IsConnected() })
	for name, call := range map[string]func() error{
		"Enqueue": func() error { _, err := client.Enqueue(t.Context(), pelton.Spec{Kind: "k"}); return err },
		"Enqueue into a new queue": func() error {
			_, err := client.Enqueue(t.Context(), pelton.Spec{Kind: "k", Queue: "new", Delay: time.Hour})
			return err
		},
		"EnqueueMany": func() error {
			items, err := client.EnqueueMany(t.Context(), []pelton.Spec{{Kind: "k"}, {Kind: "k", Priority: pelton.Low}})
			return errors.Join(err, items[0].Err, items[1].Err)
		},
		"Get":        func() error { _, err := client.Get(t.Context(), known.ID); return err },
		"Wait":       func() error { _, err := client.Wait(t.Context(), known.ID); return err },
		"Cancel":     func() error { _, err := client.Cancel(t.Context(), known.ID); return err },
		"Unfinished": func() error { _, err := client.Unfinished(t.Context(), "k"); return err },
		"New":        func() error { _, err := producer.New(t.Context(), nc, producer.Config{}); return err },
	} {
		if err := quick(t, name, call); !errors.Is(err, pelton.ErrUnavailable) || errors.Is(err, pelton.ErrUnknownOutcome) {
			t.Errorf("%s = %v, want ErrUnavailable", name, err)
		}
	}
}

// TestUnknownOutcome has the broker take a write and never say so.
func TestUnknownOutcome(t *testing.T) {
	t.Parallel()
	srv := brokertest.StartServer(t, brokertest.Listening)
	between := newTap(t, strings.TrimPrefix(srv.ClientURL(), "nats://"))
	nc, err := nats.Connect(between.url(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.Timeout(5*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	client := open(t, nc)
	enqueue(t, client, "before") // the lane is there

	between.mute(true)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, err := client.Enqueue(ctx, pelton.Spec{Kind: "k"}); !errors.Is(err, pelton.ErrUnknownOutcome) || errors.Is(err, pelton.ErrUnavailable) {
		t.Errorf("Enqueue = %v, want ErrUnknownOutcome", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	items, err := client.EnqueueMany(ctx, []pelton.Spec{{Kind: "k"}, {Kind: ""}})
	if err != nil || !errors.Is(items[0].Err, pelton.ErrUnknownOutcome) || !errors.Is(items[1].Err, pelton.ErrInvalid) {
		t.Errorf("EnqueueMany = %+v, %v", items, err)
	}
	between.mute(false)
	enqueue(t, client, "after")
}

func TestCallsAfterClose(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	client := open(t, nc)
	task := enqueue(t, client, "k")
	waiting := make(chan error, 1)
	go func() {
		_, err := client.Wait(t.Context(), task.ID)
		waiting <- err
	}()
	client.Close()
	client.Close()
	for name, call := range map[string]func() error{
		"Enqueue":     func() error { _, err := client.Enqueue(t.Context(), pelton.Spec{Kind: "k"}); return err },
		"EnqueueMany": func() error { _, err := client.EnqueueMany(t.Context(), []pelton.Spec{{Kind: "k"}}); return err },
		"Get":         func() error { _, err := client.Get(t.Context(), task.ID); return err },
		"Cancel":      func() error { _, err := client.Cancel(t.Context(), task.ID); return err },
		"Unfinished":  func() error { _, err := client.Unfinished(t.Context(), "k"); return err },
		"a Wait":      func() error { return <-waiting },
	} {
		if err := call(); !errors.Is(err, pelton.ErrClosed) {
			t.Errorf("%s after Close = %v, want ErrClosed", name, err)
		}
	}
	if !nc.IsConnected() {
		t.Error("Close closed the caller's connection")
	}
}

func TestDelayedTask(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	client := open(t, nc)
	b := below(t, nc)
	mux := worker.NewMux()
	mux.Handle("k", handler(func(context.Context, *pelton.Task) (json.RawMessage, error) { return nil, nil }))
	serve(t, nc, mux, worker.Config{})
	enqueue(t, client, "k", pelton.WithDelay(time.Hour))
	eventually(t, "one task is scheduled", func() bool { return scheduled(t, b) == 1 })
	before := time.Now()
	task := enqueue(t, client, "k", pelton.WithDelay(2*time.Second))
	if task.State != pelton.Scheduled || task.RunAt.Before(before.Add(2*time.Second)) {
		t.Errorf("task = %+v", task)
	}
	task = wait(t, client, task.ID)
	if late := task.StartedAt.Sub(task.RunAt); task.State != pelton.Succeeded || late < 0 {
		t.Errorf("%s, started %s after its time", task.State, late)
	}
	eventually(t, "one task is scheduled, as before", func() bool { return scheduled(t, b) == 1 })
	if task := enqueue(t, client, "k", pelton.WithRunAt(before)); task.State != pelton.Queued || !task.RunAt.IsZero() {
		t.Errorf("a task for the past = %+v", task)
	}
}

func TestUnfinished(t *testing.T) {
	t.Parallel()
	client := open(t, brokertest.Start(t))
	ready, later := enqueue(t, client, "k"), enqueue(t, client, "k", pelton.WithDelay(time.Hour))
	enqueue(t, client, "other")
	over := enqueue(t, client, "k")
	if _, err := client.Cancel(t.Context(), over.ID); err != nil {
		t.Fatal(err)
	}
	tasks, err := client.Unfinished(t.Context(), "k")
	if err != nil || len(tasks) != 2 || tasks[0].ID != ready.ID || tasks[1].ID != later.ID {
		t.Errorf("Unfinished = %+v, %v", tasks, err)
	}
}

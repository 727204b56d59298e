package admin_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/admin"
	"github.com/peltonq/pelton/internal/broker"
	"github.com/peltonq/pelton/internal/brokertest"
	"github.com/peltonq/pelton/producer"
	"github.com/peltonq/pelton/worker"
)

// asker asks why, on an installation of its own.
type asker struct {
	*admin.Client
	nc        *nats.Conn
	producing *producer.Client
	b         *broker.Broker
}

func newAsker(t *testing.T) *asker {
	t.Helper()
	nc := brokertest.Start(t)
	client, producing := open(t, nc)
	b, err := broker.Open(t.Context(), nc, broker.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return &asker{client, nc, producing, b}
}

func (a *asker) enqueue(t *testing.T, kind string, opts ...pelton.Option) pelton.ID {
	t.Helper()
	task, err := a.producing.Enqueue(t.Context(), pelton.Spec{Kind: kind}, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return task.ID
}

func (a *asker) enqueueMany(t *testing.T, n int, spec pelton.Spec) []pelton.ID {
	t.Helper()
	items, err := a.producing.EnqueueMany(t.Context(), slices.Repeat([]pelton.Spec{spec}, n))
	if err != nil {
		t.Fatal(err)
	}
	ids := make([]pelton.ID, n)
	for i, item := range items {
		if item.Err != nil {
			t.Fatal(item.Err)
		}
		ids[i] = item.Task.ID
	}
	return ids
}

// work runs a worker of the default queue. Tasks of kind "block" run until the test
// ends; the others are fn's.
func (a *asker) work(t *testing.T, kinds map[string]worker.HandlerFunc, concurrency int) {
	t.Helper()
	mux := worker.NewMux()
	over := make(chan struct{})
	mux.Handle("block", worker.HandlerFunc(func(ctx context.Context, _ *pelton.Task) (json.RawMessage, error) {
		select {
		case <-over:
		case <-ctx.Done():
		}
		return nil, nil
	}))
	for kind, fn := range kinds {
		mux.Handle(kind, fn)
	}
	w, err := worker.New(a.nc, mux, worker.Config{Concurrency: concurrency})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		close(over)
		if err := <-ended; err != nil {
			t.Errorf("worker: %v", err)
		}
	})
}

// pretend shows a worker that pulls nothing.
func (a *asker) pretend(t *testing.T, p broker.Presence) {
	t.Helper()
	if err := a.b.ShowPresence(t.Context(), p, broker.PresenceTTL); err != nil {
		t.Fatal(err)
	}
}

// idler could run everything of the kind k in the default queue.
func idler() broker.Presence {
	return broker.Presence{ID: "idler", Kinds: []string{"k"}, Queues: []string{pelton.DefaultQueue}, Concurrency: 2}
}

func (a *asker) change(t *testing.T, id pelton.ID, change func(*broker.Record)) {
	t.Helper()
	r, err := a.b.LoadRecord(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	change(r)
	if err := a.b.SaveRecord(t.Context(), r); err != nil {
		t.Fatal(err)
	}
}

func (a *asker) setQueue(t *testing.T, set func(*pelton.QueueSettings)) {
	t.Helper()
	if _, err := a.SetQueue(t.Context(), pelton.DefaultQueue, set); err != nil {
		t.Fatal(err)
	}
}

func (a *asker) setLimit(t *testing.T, l pelton.Limit) {
	t.Helper()
	if _, err := a.SetLimit(t.Context(), l); err != nil {
		t.Fatal(err)
	}
}

func (a *asker) ask(t *testing.T, id pelton.ID) *pelton.Why {
	t.Helper()
	why, err := a.Why(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if why.TaskID != id || len(why.Reasons) == 0 || why.Reasons[0].Code != why.Code || why.Reasons[0].Message != why.Message {
		t.Errorf("why = %+v", why)
	}
	return why
}

// answers waits until the task's codes are these, and gives the reasons. Messages
// are looked at for being there, and left out.
func (a *asker) answers(t *testing.T, id pelton.ID, want ...pelton.WhyCode) *pelton.Why {
	t.Helper()
	var why *pelton.Why
	defer func() {
		if t.Failed() {
			t.Logf("last answer: %+v", why)
		}
	}()
	eventually(t, "the reasons of "+id.String(), func() bool {
		why = a.ask(t, id)
		var got []pelton.WhyCode
		for i := range why.Reasons {
			got = append(got, why.Reasons[i].Code)
		}
		return slices.Equal(got, want)
	})
	for i := range why.Reasons {
		if why.Reasons[i].Message == "" {
			t.Errorf("%s has no message", why.Reasons[i].Code)
		}
		why.Reasons[i].Message = ""
	}
	return why
}

func wantReason(t *testing.T, got, want pelton.WhyReason) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", want.Code, diff)
	}
}

// pausing makes a handler pause what for an hour, and gives the task that did.
func (a *asker) pausing(t *testing.T, what pelton.Pauses) pelton.ID {
	t.Helper()
	a.work(t, map[string]worker.HandlerFunc{
		"k": func(context.Context, *pelton.Task) (json.RawMessage, error) {
			return nil, pelton.RetryAfter(time.Hour, errors.New("429"), what)
		},
		"other": func(context.Context, *pelton.Task) (json.RawMessage, error) { return nil, nil },
	}, 1)
	first := a.enqueue(t, "k", pelton.WithRateKey("acme"))
	eventually(t, "the first gave up", func() bool { return a.ask(t, first).State == pelton.Retrying })
	return first
}

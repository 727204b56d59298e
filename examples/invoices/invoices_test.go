package invoices_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/examples/invoices"
	"github.com/peltonq/pelton/peltontest"
	"github.com/peltonq/pelton/producer"
	"github.com/peltonq/pelton/worker"
)

// bank answers each charge with the next of its errors, nil for a receipt.
type bank struct {
	errs  []error
	keys  []string
	token uint64
}

func (b *bank) Charge(_ context.Context, key, _ string, _ int64, token uint64) (string, error) {
	b.keys, b.token = append(b.keys, key), token
	if len(b.errs) > 0 {
		err := b.errs[0]
		b.errs = b.errs[1:]
		return "", err
	}
	return "paid", nil
}

type store struct {
	customers []string
	fence     uint64
}

func (s *store) Put(_ context.Context, customer string, fence uint64) error {
	s.customers, s.fence = append(s.customers, customer), fence
	return nil
}

func TestRender(t *testing.T) {
	mux := invoices.NewMux(&bank{}, &store{}, slog.New(slog.DiscardHandler))
	invoice, err := peltontest.Run(t, mux, invoices.Render, invoices.Order{Customer: "acme", Cents: 500})
	if err != nil || invoice.PDF != invoice.Number+".pdf" {
		t.Errorf("%+v, %v", invoice, err)
	}

	_, err = peltontest.Run(t, mux, invoices.Render, invoices.Order{Customer: "acme"})
	var d *pelton.Directive
	if !errors.As(err, &d) || d.Verb != pelton.DirectiveDiscard {
		t.Errorf("an order of nothing: %v, want it discarded", err)
	}
}

func TestCollectSteersRetries(t *testing.T) {
	for _, test := range []struct {
		answer error
		verb   pelton.DirectiveVerb
		delay  time.Duration
	}{
		{invoices.ErrDeclined, pelton.DirectiveDiscard, 0},
		{invoices.ErrTooMany, pelton.DirectiveRetryAfter, time.Minute},
		{invoices.ErrClosed, pelton.DirectiveSnooze, time.Hour},
	} {
		mux := invoices.NewMux(&bank{errs: []error{test.answer}}, &store{}, slog.New(slog.DiscardHandler))
		_, err := peltontest.Run(t, mux, invoices.Collect, invoices.Charge{Customer: "acme", Cents: 500})
		var d *pelton.Directive
		if !errors.As(err, &d) || d.Verb != test.verb || d.Delay != test.delay {
			t.Errorf("%v leads to %v", test.answer, err)
		}
	}
}

// Against a real broker in the memory of the test.
func TestOrderIsRenderedAndCollected(t *testing.T) {
	nc := peltontest.Start(t)
	client, err := producer.New(t.Context(), nc, producer.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	if _, err := producer.Enqueue(t.Context(), client, invoices.Collect, invoices.Charge{Invoice: "7", Customer: "acme", Cents: 500}); err != nil {
		t.Fatal(err)
	}
	task := peltontest.RequireEnqueued(t, client, invoices.Collect)
	if task.Queue != "invoices" || task.MaxAttempts != 10 {
		t.Errorf("queue %s, %d attempts", task.Queue, task.MaxAttempts)
	}

	b := &bank{}
	peltontest.Drain(t, nc, invoices.NewMux(b, &store{}, slog.New(slog.DiscardHandler)))

	receipt, err := producer.Await(t.Context(), client, invoices.Collect, task.ID)
	if err != nil || receipt != "paid" || !slices.Equal(b.keys, []string{"invoice/7"}) || b.token == 0 {
		t.Errorf("%q, %v; keys %q, token %d", receipt, err, b.keys, b.token)
	}
}

// A worker as in production: retries, progress and fences.
func TestWorker(t *testing.T) {
	nc := peltontest.Start(t)
	b, s := &bank{errs: []error{errors.New("connection reset")}}, &store{}
	w, err := worker.New(nc, invoices.NewMux(b, s, slog.New(slog.DiscardHandler)), worker.Config{Queues: []string{"invoices", "imports"}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})

	client, err := producer.New(t.Context(), nc, producer.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	charge, err := producer.Enqueue(t.Context(), client, invoices.Collect, invoices.Charge{Invoice: "8", Customer: "acme", Cents: 500},
		pelton.WithBackoff(pelton.Backoff{Initial: 10 * time.Millisecond}))
	if err != nil {
		t.Fatal(err)
	}
	task, err := client.Wait(t.Context(), charge.ID)
	if err != nil || task.State != pelton.Succeeded || task.Attempt != 2 || string(task.Result) != `"paid"` {
		t.Errorf("%+v, %v; want a second attempt that succeeds", task, err)
	}

	imported, err := producer.Enqueue(t.Context(), client, invoices.ImportAll, invoices.Import{Customers: []string{"acme", "zenith"}})
	if err != nil {
		t.Fatal(err)
	}
	if task, err = client.Wait(t.Context(), imported.ID); err != nil || task.Progress == nil || task.Progress.Done != 2 {
		t.Errorf("%+v, %v; want the progress 2 of 2", task, err)
	}
	if !slices.Equal(s.customers, []string{"acme", "zenith"}) || s.fence == 0 {
		t.Errorf("stored %q with fence %d", s.customers, s.fence)
	}
}

// Middleware sees every task; a kind that no handler knows does not reach it.
func TestLogged(t *testing.T) {
	var lines []string
	log := slog.New(slog.NewJSONHandler(writer(func(p []byte) { lines = append(lines, string(p)) }), nil))
	mux := invoices.NewMux(&bank{}, &store{}, log)
	if _, err := peltontest.Run(t, mux, invoices.Render, invoices.Order{Cents: 1}); err != nil {
		t.Fatal(err)
	}
	var line map[string]any
	if len(lines) != 1 || json.Unmarshal([]byte(lines[0]), &line) != nil || line["kind"] != "invoice.render" {
		t.Errorf("logged %q", lines)
	}
	if _, err := mux.ServeTask(t.Context(), &pelton.Task{Kind: "unknown"}); !errors.Is(err, pelton.ErrNotFound) || len(lines) != 1 {
		t.Errorf("%v, %q", err, lines)
	}
}

type writer func([]byte)

func (w writer) Write(p []byte) (int, error) { w(p); return len(p), nil }

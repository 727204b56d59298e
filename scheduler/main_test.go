package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
	"github.com/peltonq/pelton/producer"
	"github.com/peltonq/pelton/worker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bench is an installation with a client of everything.
type bench struct {
	*testing.T
	nc    *nats.Conn
	c     *Client
	tasks *producer.Client
}

func newBench(t *testing.T) *bench {
	t.Helper()
	return benchOn(t, brokertest.Start(t))
}

func benchOn(t *testing.T, nc *nats.Conn) *bench {
	t.Helper()
	b := &bench{T: t, nc: nc, c: newClient(t, nc)}
	tasks, err := producer.New(t.Context(), nc, producer.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tasks.Close)
	b.tasks = tasks
	return b
}

func newClient(t *testing.T, nc *nats.Conn) *Client {
	t.Helper()
	c, err := New(t.Context(), nc, Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// run lets a client fire ticks until the test ends, or stop is called.
func (b *bench) run(c *Client) (stop func()) {
	b.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(b.Context()))
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	ended := false
	stop = func() {
		if ended {
			return
		}
		ended = true
		cancel()
		if err := <-done; err != nil {
			b.Errorf("run: %v", err)
		}
	}
	b.Cleanup(stop)
	return stop
}

// work runs a worker whose handler for all tasks is given.
func (b *bench) work(h func(context.Context, *pelton.Task) error) {
	b.Helper()
	mux := worker.NewMux()
	worker.HandleFunc(mux, pelton.NewKind[json.RawMessage, json.RawMessage]("k"), func(ctx context.Context, _ json.RawMessage) error {
		return h(ctx, worker.From(ctx))
	})
	w, err := worker.New(b.nc, mux, worker.Config{Queues: []string{"default"}, Concurrency: 4, Grace: 5 * time.Second})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(b.Context()))
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	b.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			b.Errorf("worker: %v", err)
		}
	})
}

func (b *bench) put(s pelton.Schedule) *pelton.Schedule {
	b.Helper()
	if s.Task.Kind == "" {
		s.Task.Kind = "k"
	}
	put, _, err := b.c.Put(b.Context(), s)
	if err != nil {
		b.Fatalf("put %s: %v", s.Name, err)
	}
	return put
}

func (b *bench) get(name string) *pelton.Schedule {
	b.Helper()
	s, err := b.c.Get(b.Context(), name)
	if err != nil {
		b.Fatal(err)
	}
	return s
}

// now is the broker's time.
func (b *bench) now() time.Time {
	b.Helper()
	now, err := b.c.b.Now(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	return now
}

// until waits for a schedule that is as it should be.
func (b *bench) until(name, what string, is func(*pelton.Schedule) bool) *pelton.Schedule {
	b.Helper()
	const patience = 20 * time.Second
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for {
		s := b.get(name)
		if is(s) {
			return s
		}
		select {
		case <-look.C:
		case <-deadline.C:
			b.Fatalf("schedule %s is not within %s %s: next %v, last %+v, failing %+v", name, patience, what, s.Next, s.Last, s.Failing)
		}
	}
}

// runs are those of a schedule that brought a task, oldest first.
func runs(s *pelton.Schedule) []pelton.ScheduleRun {
	var list []pelton.ScheduleRun
	for i := len(s.Last) - 1; i >= 0; i-- {
		if !s.Last[i].TaskID.IsZero() {
			list = append(list, s.Last[i])
		}
	}
	return list
}

// wants is the field of a *pelton.ValidationError and a part of its message.
func (b *bench) wants(err error, field, says string) {
	b.Helper()
	invalid, ok := errors.AsType[*pelton.ValidationError](err)
	if !ok || len(invalid.Fields) == 0 {
		b.Errorf("%v, want %s … %s", err, field, says)
		return
	}
	f := invalid.Fields[0]
	if f.Field != field || !strings.Contains(f.Message, says) {
		b.Errorf("%s %q, want %s … %s …", f.Field, f.Message, field, says)
	}
}

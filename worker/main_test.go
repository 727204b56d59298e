package worker_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
	"github.com/peltonq/pelton/internal/brokertest"
	"github.com/peltonq/pelton/producer"
	"github.com/peltonq/pelton/worker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds what a test waits for; nothing should come near it.
const patience = 20 * time.Second

// rig is an installation with a producer and a mux to register handlers on.
type rig struct {
	*worker.Mux
	nc     *nats.Conn
	client *producer.Client
}

func newRig(t *testing.T) *rig {
	t.Helper()
	return rigOn(t, brokertest.Start(t), producer.Config{})
}

func rigOn(t *testing.T, nc *nats.Conn, cfg producer.Config) *rig {
	t.Helper()
	client, err := producer.New(t.Context(), nc, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return &rig{Mux: worker.NewMux(), nc: nc, client: client}
}

// on registers a handler of raw tasks.
func (r *rig) on(kind string, fn func(ctx context.Context, task *pelton.Task) (json.RawMessage, error), opts ...worker.HandleOption) {
	r.Handle(kind, worker.HandlerFunc(fn), opts...)
}

// process is a running worker.
type process struct {
	*worker.Worker
	cancel context.CancelFunc
	ended  chan error
}

// run starts a worker with the rig's handlers on its connection. It must drain
// cleanly at the end, unless the test asks for its error before.
func (r *rig) run(t *testing.T, cfg worker.Config) *process {
	t.Helper()
	return runOn(t, r.nc, r.Mux, cfg)
}

func runOn(t *testing.T, nc *nats.Conn, mux *worker.Mux, cfg worker.Config, change ...func(*worker.Worker)) *process {
	t.Helper()
	w, err := worker.New(nc, mux, cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, fn := range change {
		fn(w)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	p := &process{Worker: w, cancel: cancel, ended: ended}
	go func() { ended <- w.Run(ctx) }()
	t.Cleanup(func() {
		if p.ended == nil {
			return
		}
		if err := p.stop(t); err != nil {
			t.Errorf("worker ended with %v", err)
		}
	})
	return p
}

// stop ends the worker and gives Run's error.
func (p *process) stop(t *testing.T) error {
	t.Helper()
	p.cancel()
	return p.wait(t)
}

func (p *process) wait(t *testing.T) error {
	t.Helper()
	ended := p.ended
	p.ended = nil
	return receive(t, ended, "end of the worker")
}

func (r *rig) enqueue(t *testing.T, kind string, opts ...pelton.Option) *pelton.Task {
	t.Helper()
	task, err := r.client.Enqueue(t.Context(), pelton.Spec{Kind: kind}, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return task
}

// enqueueMany enqueues n tasks in one go and gives their ids in order.
func (r *rig) enqueueMany(t *testing.T, n int, kind string, opts ...pelton.Option) []pelton.ID {
	t.Helper()
	var ids []pelton.ID
	for n > 0 {
		specs := make([]pelton.Spec, min(n, pelton.MaxBatch))
		for i := range specs {
			specs[i].Kind = kind
			specs[i].Apply(opts...)
		}
		items, err := r.client.EnqueueMany(t.Context(), specs)
		if err != nil {
			t.Fatal(err)
		}
		for _, item := range items {
			if item.Err != nil {
				t.Fatal(item.Err)
			}
			ids = append(ids, item.Task.ID)
		}
		n -= len(specs)
	}
	return ids
}

// finished waits for the task's end, and for the broker to hold nothing of it.
func (r *rig) finished(t *testing.T, id pelton.ID) *pelton.Task {
	t.Helper()
	return r.finishedWithin(t, patience, id)
}

// finishedWithin is finished for what takes long by itself.
func (r *rig) finishedWithin(t *testing.T, limit time.Duration, id pelton.ID) *pelton.Task {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	task, err := r.client.Wait(ctx, id)
	if err != nil {
		t.Fatalf("wait: %v; last seen %+v", err, task)
	}
	return task
}

func (r *rig) get(t *testing.T, id pelton.ID) *pelton.Task {
	t.Helper()
	task, err := r.client.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return task
}

// succeeds waits for the task and fails the test if it ended otherwise.
func (r *rig) succeeds(t *testing.T, ids ...pelton.ID) {
	t.Helper()
	r.succeedsWithin(t, patience, ids...)
}

// succeedsWithin is succeeds for what takes long by itself, each task up to limit.
func (r *rig) succeedsWithin(t *testing.T, limit time.Duration, ids ...pelton.ID) {
	t.Helper()
	for _, id := range ids {
		if task := r.finishedWithin(t, limit, id); task.State != pelton.Succeeded {
			t.Fatalf("task %s is %s: %+v", id, task.State, task.Error)
		}
	}
}

// broker looks at the installation from below.
func (r *rig) broker(t *testing.T) *broker.Broker {
	t.Helper()
	b, err := broker.Open(t.Context(), r.nc, broker.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

// idle waits until no message of a task is ready or in flight.
func (r *rig) idle(t *testing.T) {
	t.Helper()
	b := r.broker(t)
	eventually(t, "no message is left", func() bool {
		idle, err := b.Idle(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return idle
	})
}

func receive[T any](t *testing.T, ch <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatalf("no %s within %s", what, patience)
		panic("unreachable")
	}
}

// eventually polls for what somebody else does without telling.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	within(t, patience, what, cond)
}

// within is eventually for what takes long by itself.
func within(t *testing.T, limit time.Duration, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(limit)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within %s: %s", limit, what)
		}
	}
}

// gauge counts what runs, and the most that ever ran.
type gauge struct {
	mu        sync.Mutex
	now, most map[string]int
}

func newGauge() *gauge { return &gauge{now: map[string]int{}, most: map[string]int{}} }

func (g *gauge) enter(names ...string) (leave func()) {
	g.add(1, names)
	return func() { g.add(-1, names) }
}

func (g *gauge) add(n int, names []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, name := range names {
		g.now[name] += n
		g.most[name] = max(g.most[name], g.now[name])
	}
}

func (g *gauge) running(name string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.now[name]
}

func (g *gauge) peak(name string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.most[name]
}

// logWatch is a slog handler that tells of messages.
type logWatch struct {
	slog.Handler
	messages chan string
}

func watchLog() (*slog.Logger, <-chan string) {
	w := logWatch{slog.DiscardHandler, make(chan string, 1000)}
	return slog.New(w), w.messages
}

func (w logWatch) Enabled(context.Context, slog.Level) bool { return true }

func (w logWatch) Handle(_ context.Context, r slog.Record) error {
	select {
	case w.messages <- r.Message:
	default:
	}
	return nil
}

func (w logWatch) WithAttrs([]slog.Attr) slog.Handler { return w }
func (w logWatch) WithGroup(string) slog.Handler      { return w }

// logged waits for a message.
func logged(t *testing.T, messages <-chan string, want string) {
	t.Helper()
	for receive(t, messages, want) != want {
	}
}

// idleBut waits until the default queue's normal lane has exactly n tasks that
// are ready and nobody's.
func (r *rig) idleBut(t *testing.T, n uint64) {
	t.Helper()
	b := r.broker(t)
	eventually(t, "the lane holds what waits", func() bool {
		q, err := b.Queue(t.Context(), pelton.DefaultQueue)
		if err != nil {
			t.Fatal(err)
		}
		d := q.Priorities[pelton.Normal]
		return d.Ready == n && d.Running == 0
	})
}

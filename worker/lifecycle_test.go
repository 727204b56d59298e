package worker_test

import (
	"context"
	"encoding/json"
	"errors"
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

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	mux := worker.NewMux()
	mux.Handle("k", worker.HandlerFunc(func(context.Context, *pelton.Task) (json.RawMessage, error) { return nil, nil }))
	for want, cfg := range map[string]worker.Config{
		"Queues":      {Queues: []string{"Not A Queue"}},
		"Concurrency": {Concurrency: -1},
		"Limits":      {Limits: map[pelton.Priority]int{"urgent": 1}},
		"must not be": {MaxWait: -1},
		"reserves 3":  {Limits: map[pelton.Priority]int{pelton.High: 2}, Reserves: map[pelton.Priority]int{pelton.High: 3}},
		"no slot for": {Concurrency: 4, Reserves: map[pelton.Priority]int{pelton.High: 4}},
		"10000":       {Concurrency: 10_001},
	} {
		if _, err := worker.New(nil, mux, cfg); !errors.Is(err, pelton.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("New(%+v) = %v, want ErrInvalid that names %s", cfg, err, want)
		}
	}
	if _, err := worker.New(nil, worker.NewMux(), worker.Config{}); !errors.Is(err, pelton.ErrInvalid) {
		t.Errorf("New without handlers = %v, want ErrInvalid", err)
	}
}

func TestWorkerRunsOnceAndIsListed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.on("k", func(context.Context, *pelton.Task) (json.RawMessage, error) { return nil, nil })
	w := r.run(t, worker.Config{Version: "v1"})
	b := r.broker(t)
	present := func() bool {
		is, err := b.Present(t.Context(), w.ID())
		if err != nil {
			t.Fatal(err)
		}
		return is
	}
	eventually(t, "the worker is listed", present)
	if err := w.stop(t); err != nil {
		t.Errorf("Run = %v", err)
	}
	if present() {
		t.Error("a worker that ended is listed")
	}
	if err := w.Run(t.Context()); !errors.Is(err, pelton.ErrConflict) {
		t.Errorf("second Run = %v, want ErrConflict", err)
	}
}

func TestShutdownWaitsForHandlers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	started, release := make(chan struct{}), make(chan struct{})
	r.on("slow", func(ctx context.Context, _ *pelton.Task) (json.RawMessage, error) {
		close(started)
		<-release
		return nil, ctx.Err()
	})
	logger, messages := watchLog()
	w := r.run(t, worker.Config{Logger: logger, Concurrency: 1})
	id := r.enqueue(t, "slow").ID
	receive(t, started, "start")
	waiting := r.enqueue(t, "slow").ID
	w.cancel()
	logged(t, messages, "worker drains")
	close(release)
	if err := w.wait(t); err != nil {
		t.Errorf("Run = %v after a clean drain", err)
	}
	if task := r.get(t, id); task.State != pelton.Succeeded {
		t.Errorf("task is %s", task.State)
	}
	if task := r.get(t, waiting); task.State != pelton.Queued || task.Attempt != 0 {
		t.Errorf("a task was started while the worker drained: %+v", task)
	}
}

// TestShutdownGivesBackWhatHasNotStarted: a task that waits for the processor is
// not started any more, and another worker has it at once.
func TestShutdownGivesBackWhatHasNotStarted(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	started, release := make(chan string, 2), make(chan struct{})
	r.on("compute", func(_ context.Context, task *pelton.Task) (json.RawMessage, error) {
		started <- task.Worker
		<-release
		return nil, nil
	}, worker.CPUBound())
	first := r.run(t, worker.Config{Concurrency: 4, CPUSlots: 1})
	ids := r.enqueueMany(t, 2, "compute")
	receive(t, started, "start")
	b := r.broker(t)
	eventually(t, "both are handed out", func() bool {
		q, err := b.Queue(t.Context(), pelton.DefaultQueue)
		if err != nil {
			t.Fatal(err)
		}
		return q.Running == 2
	})
	first.cancel()
	cancelled := time.Now()
	second := r.run(t, worker.Config{})
	if owner := receive(t, started, "start of what was given back"); owner != second.ID() {
		t.Errorf("started by %s", owner)
	}
	if took := time.Since(cancelled); took > 15*time.Second { // half the lease
		t.Errorf("given back after %s, which is not at once", took)
	}
	close(release)
	if err := first.wait(t); err != nil {
		t.Errorf("Run = %v", err)
	}
	r.succeeds(t, ids...)
}

func TestGraceExceededReleasesTheTask(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	started := make(chan string, 2)
	causes := make(chan error, 1)
	r.on("long", func(ctx context.Context, task *pelton.Task) (json.RawMessage, error) {
		started <- task.Worker
		if len(causes) > 0 {
			return nil, nil // the second run
		}
		<-ctx.Done()
		causes <- context.Cause(ctx)
		return nil, ctx.Err()
	})
	first := r.run(t, worker.Config{Grace: 10 * time.Millisecond})
	id := r.enqueue(t, "long", pelton.WithMaxAttempts(1)).ID
	receive(t, started, "start")
	if err := first.stop(t); !errors.Is(err, pelton.ErrGraceExceeded) {
		t.Errorf("Run = %v, want ErrGraceExceeded", err)
	}
	if len(causes) != 1 || !errors.Is(<-causes, pelton.ErrShutdown) {
		t.Error("the handler's ctx did not end with ErrShutdown before Run returned")
	}
	causes <- nil
	if task := r.get(t, id); task.State != pelton.Queued || task.Attempt != 0 || len(task.Errors) != 0 {
		t.Errorf("released task = %+v", task)
	}
	released := time.Now()
	r.run(t, worker.Config{})
	task := r.finished(t, id)
	if took := time.Since(released); took > 15*time.Second { // half the lease
		t.Errorf("another worker took over after %s, which is not at once", took)
	}
	if task.State != pelton.Succeeded || task.Attempt != 1 || task.Crashes != 0 || task.Worker == first.ID() {
		t.Errorf("task = %+v", task)
	}
	r.idle(t)
}

// TestShutdownWithLeakedHandler ends soon after the grace although a handler
// ignores everything.
func TestShutdownWithLeakedHandler(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	started, release := make(chan struct{}), make(chan struct{})
	defer close(release)
	r.on("deaf", func(context.Context, *pelton.Task) (json.RawMessage, error) {
		close(started)
		<-release
		return nil, nil
	})
	w := runOn(t, r.nc, r.Mux, worker.Config{Grace: 10 * time.Millisecond}, func(w *worker.Worker) { w.SetLinger(10 * time.Millisecond) })
	id := r.enqueue(t, "deaf").ID
	receive(t, started, "start")
	began := time.Now()
	if err := w.stop(t); !errors.Is(err, pelton.ErrGraceExceeded) {
		t.Errorf("Run = %v, want ErrGraceExceeded", err)
	}
	if took := time.Since(began); took > 15*time.Second { // half the lease
		t.Errorf("shutdown took %s", took)
	}
	if task := r.get(t, id); task.State != pelton.Queued {
		t.Errorf("task is %s", task.State)
	}
}

// TestRedeliveryIsAdopted has the broker hand out a task again to the worker that
// runs it, as it does after a restart.
func TestRedeliveryIsAdopted(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var runs atomic.Int32
	started, release := make(chan struct{}, 2), make(chan struct{})
	r.on("once", func(ctx context.Context, _ *pelton.Task) (json.RawMessage, error) {
		runs.Add(1)
		started <- struct{}{}
		<-release
		return nil, ctx.Err()
	})
	logger, messages := watchLog()
	w := r.run(t, worker.Config{Logger: logger})
	id := r.enqueue(t, "once").ID
	receive(t, started, "start")
	if err := w.NakRunning(id); err != nil {
		t.Fatal(err)
	}
	logged(t, messages, "delivery of a task that runs here adopted")
	close(release)
	if task := r.finished(t, id); task.State != pelton.Succeeded || task.Attempt != 1 || task.Crashes != 0 {
		t.Errorf("task = %+v", task)
	}
	r.idle(t)
	if n := runs.Load(); n != 1 {
		t.Errorf("the task ran %d times", n)
	}
}

// TestRedeliveryElsewhere has the broker hand out a task to a second worker while
// the first runs it and holds its lease, as it does after a restart: the second
// leaves it alone, and the heartbeats of the first keep it for longer than the lease.
func TestRedeliveryElsewhere(t *testing.T) {
	t.Parallel()
	const lease = 4 * time.Second
	r := rigOn(t, brokertest.Start(t), producer.Config{Lease: lease})
	var runs atomic.Int32
	started, release := make(chan struct{}, 2), make(chan struct{})
	r.on("once", func(ctx context.Context, _ *pelton.Task) (json.RawMessage, error) {
		runs.Add(1)
		started <- struct{}{}
		<-release
		return nil, ctx.Err()
	})
	first := r.run(t, worker.Config{Concurrency: 1})
	id := r.enqueue(t, "once").ID
	receive(t, started, "start")
	eventually(t, "its record says that it runs", func() bool {
		task, err := r.client.Get(t.Context(), id)
		return err == nil && task.State == pelton.Running
	})
	logger, messages := watchLog()
	r.run(t, worker.Config{Logger: logger})
	if err := first.NakRunning(id); err != nil {
		t.Fatal(err)
	}
	logged(t, messages, "delivery of a task that its owner runs left alone")
	quiet := time.After(3 * lease)
	for waiting := true; waiting; {
		select {
		case message := <-messages:
			if strings.Contains(message, "taken over") || strings.Contains(message, "left alone") {
				t.Errorf("handed out again: %s", message)
			}
		case <-quiet:
			waiting = false
		}
	}
	close(release)
	if task := r.finished(t, id); task.State != pelton.Succeeded || task.Attempt != 1 || task.Crashes != 0 || task.Worker != first.ID() {
		t.Errorf("task = %+v", task)
	}
	r.idle(t)
	if n := runs.Load(); n != 1 {
		t.Errorf("the task ran %d times", n)
	}
}

// TestTakeover cuts a worker off. Another runs its task when the lease is over;
// the first notices by itself and writes nothing.
func TestTakeover(t *testing.T) {
	t.Parallel()
	const lease = 6 * time.Second
	srv := brokertest.StartServer(t)
	r := rigOn(t, brokertest.Connect(t, srv), producer.Config{Lease: lease})
	started := make(chan string, 2)
	fences := make(chan uint64, 2)
	causes := make(chan error, 1)
	r.on("long", func(ctx context.Context, task *pelton.Task) (json.RawMessage, error) {
		fences <- worker.Fence(ctx)
		started <- task.Worker
		if len(fences) == 2 {
			return json.RawMessage(`"second"`), nil
		}
		<-ctx.Done()
		causes <- context.Cause(ctx)
		return json.RawMessage(`"first"`), nil
	})
	cut := brokertest.Connect(t, srv)
	first := runOn(t, cut, r.Mux, worker.Config{})
	id := r.enqueue(t, "long").ID
	if owner := receive(t, started, "start"); owner != first.ID() {
		t.Errorf("owner %s", owner)
	}
	cut.Close()
	cutAt := time.Now()
	second := r.run(t, worker.Config{})
	task := r.finished(t, id)
	if took := time.Since(cutAt); took > lease+10*time.Second {
		t.Errorf("taken over after %s with a lease of %s", took, lease)
	}
	if task.State != pelton.Succeeded || string(task.Result) != `"second"` || task.Attempt != 1 || task.Worker != second.ID() {
		t.Errorf("task = %+v", task)
	}
	if cause := receive(t, causes, "end of the first handler's ctx"); !errors.Is(cause, pelton.ErrFenced) {
		t.Errorf("cause = %v, want ErrFenced", cause)
	}
	if err := first.wait(t); !errors.Is(err, pelton.ErrUnavailable) {
		t.Errorf("Run on a closed connection = %v, want ErrUnavailable", err)
	}
	if a, b := <-fences, <-fences; a >= b {
		t.Errorf("fence did not grow: %d, %d", a, b)
	}
	r.idle(t)
	if again := r.get(t, id); again.Revision != task.Revision {
		t.Errorf("the loser wrote: %+v", again)
	}
}

// TestBrokerRestart stops the broker under a busy worker and starts it again on
// the same folder and port: nothing is lost, nothing is run twice, and the worker
// finds lanes that are new.
func TestBrokerRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	srv := brokertest.StartServer(t, brokertest.In(dir), brokertest.Listening)
	addr := strings.TrimPrefix(srv.ClientURL(), "nats://")
	nc, err := nats.Connect(srv.ClientURL(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectJitter(0, 0), nats.Timeout(5*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	r := rigOn(t, nc, producer.Config{})
	started, release := make(chan struct{}, 100), make(chan struct{})
	var runs atomic.Int32
	r.on("held", func(ctx context.Context, _ *pelton.Task) (json.RawMessage, error) {
		runs.Add(1)
		started <- struct{}{}
		<-release
		return nil, ctx.Err()
	})
	w := r.run(t, worker.Config{Concurrency: 4})
	ids := r.enqueueMany(t, 20, "held")
	for range 4 {
		receive(t, started, "start")
	}

	brokertest.Stop(t, srv)
	eventually(t, "the connection is lost", func() bool { return !nc.IsConnected() })
	if _, err := r.client.Enqueue(t.Context(), pelton.Spec{Kind: "held"}); !errors.Is(err, pelton.ErrUnavailable) {
		t.Errorf("enqueue without a broker = %v, want ErrUnavailable", err)
	}
	brokertest.StartServer(t, brokertest.In(dir), func(cfg *embed.Config) { cfg.Listen = addr })
	eventually(t, "the connection is back", nc.IsConnected)
	close(release)
	ids = append(ids, r.enqueue(t, "held", pelton.WithPriority(pelton.High)).ID) // a lane that is new
	r.succeeds(t, ids...)
	if n := runs.Load(); int(n) != len(ids) {
		t.Errorf("%d tasks were run %d times", len(ids), n)
	}
	r.idle(t)
	if err := w.stop(t); err != nil {
		t.Errorf("Run = %v", err)
	}
}

package worker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
	"github.com/peltonq/pelton/producer"
	"github.com/peltonq/pelton/worker"
)

// lineLog notes, for each key, the order in which its tasks started and how many
// ran at a time.
type lineLog struct {
	*gauge
	mu    sync.Mutex
	order map[string][]pelton.ID
}

func newLineLog() *lineLog { return &lineLog{gauge: newGauge(), order: map[string][]pelton.ID{}} }

// enter notes a start. A task that is tried again is noted once.
func (l *lineLog) enter(task *pelton.Task) (leave func()) {
	l.mu.Lock()
	if !slices.Contains(l.order[task.ConcurrencyKey], task.ID) {
		l.order[task.ConcurrencyKey] = append(l.order[task.ConcurrencyKey], task.ID)
	}
	l.mu.Unlock()
	return l.gauge.enter(task.ConcurrencyKey)
}

func (l *lineLog) of(key string) []pelton.ID {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.order[key])
}

// A key without a limit runs one task at a time in the order in which they came,
// whatever their queues and priorities are, and however many workers serve it.
func TestKeyRunsItsTasksInOrder(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	log := newLineLog()
	r.on("a", func(ctx context.Context, task *pelton.Task) (json.RawMessage, error) {
		defer log.enter(task)()
		return task.Payload, nil
	})
	for range 3 {
		r.run(t, worker.Config{Queues: []string{"default", "other"}, Concurrency: 8})
	}
	const keys, each = 20, 20
	want := map[string][]pelton.ID{}
	specs := make([]pelton.Spec, 0, keys*each)
	for i := range keys * each {
		specs = append(specs, pelton.Spec{
			Kind: "a", Payload: json.RawMessage(fmt.Sprint(i)), ConcurrencyKey: fmt.Sprintf("key/%d", i%keys),
			Queue: []string{"default", "other"}[i%3%2], Priority: pelton.Priorities()[i*7%4],
		})
	}
	items, err := r.client.EnqueueMany(t.Context(), specs)
	if err != nil {
		t.Fatal(err)
	}
	for i, item := range items {
		if item.Err != nil {
			t.Fatal(item.Err)
		}
		want[specs[i].ConcurrencyKey] = append(want[specs[i].ConcurrencyKey], item.Task.ID)
	}
	for _, ids := range want {
		r.succeeds(t, ids...)
	}
	for key, ids := range want {
		if peak := log.peak(key); peak != 1 {
			t.Errorf("%d tasks of %s ran at a time", peak, key)
		}
		if diff := cmp.Diff(ids, log.of(key)); diff != "" {
			t.Errorf("order of %s (-want +got):\n%s", key, diff)
		}
	}
	r.idle(t)
	r.noTurns(t)
}

// noTurns waits until no line has anybody in it, waiting or having a turn.
func (r *rig) noTurns(t *testing.T) {
	t.Helper()
	js, err := jetstream.New(r.nc)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "all turns are given back", func() bool {
		keys, err := js.KeyValue(t.Context(), "pelton_KEYS_0")
		if err != nil {
			t.Fatal(err)
		}
		names, err := keys.Keys(t.Context())
		if err != nil && !errors.Is(err, jetstream.ErrNoKeysFound) {
			t.Fatal(err)
		}
		for _, name := range names {
			entry, err := keys.Get(t.Context(), name)
			if err == nil {
				t.Logf("%s: %s", name, entry.Value())
			}
		}
		return len(names) == 0
	})
}

// A limit lets that many tasks of each key that it selects run at a time, on all
// workers together: no fewer, no more.
func TestLimitOfAKey(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.limit(t, pelton.Limit{Name: "acme", ConcurrencyKey: "acme*", MaxRunning: 3})
	log, release := newLineLog(), make(chan struct{})
	r.on("a", func(_ context.Context, task *pelton.Task) (json.RawMessage, error) {
		defer log.enter(task)()
		<-release
		return nil, nil
	})
	r.run(t, worker.Config{Concurrency: 10})
	r.run(t, worker.Config{Concurrency: 10})
	ids := r.enqueueMany(t, 8, "a", pelton.WithConcurrencyKey("acme/1"))
	ids = append(ids, r.enqueueMany(t, 2, "a", pelton.WithConcurrencyKey("acme"))...)
	ids = append(ids, r.enqueueMany(t, 2, "a", pelton.WithConcurrencyKey("other"))...)
	eventually(t, "all turns are taken", func() bool {
		return log.running("acme/1") == 3 && log.running("acme") == 2 && log.running("other") == 1
	})
	eventually(t, "the rest is seen to wait", func() bool {
		q, err := r.broker(t).Queue(t.Context(), pelton.DefaultQueue)
		if err != nil {
			t.Fatal(err)
		}
		return q.Waiting == 6 && q.Running == 6 && q.Ready == 0
	})
	close(release)
	r.succeeds(t, ids...)
	for key, want := range map[string]int{"acme/1": 3, "acme": 2, "other": 1} {
		if got := log.peak(key); got != want {
			t.Errorf("%d tasks of %s ran at a time, want %d", got, key, want)
		}
	}
	r.noTurns(t)
}

// A key whose task takes long, with thousands behind it, holds no slot but its own
// and slows nobody down; what waits is not looked at again.
func TestBlockedKeyHoldsUpNobody(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	started, release := make(chan struct{}), make(chan struct{})
	r.on("slow", func(ctx context.Context, _ *pelton.Task) (json.RawMessage, error) {
		close(started)
		<-release
		return nil, ctx.Err()
	})
	r.on("quick", func(context.Context, *pelton.Task) (json.RawMessage, error) { return nil, nil })
	w := r.run(t, worker.Config{Concurrency: 2})
	r.enqueue(t, "slow", pelton.WithConcurrencyKey("blocked"))
	receive(t, started, "start of the slow task")
	const behind = 5000
	r.enqueueMany(t, behind, "quick", pelton.WithConcurrencyKey("blocked"))
	began := time.Now()
	var ids []pelton.ID
	for i := range 100 {
		ids = append(ids, r.enqueue(t, "quick", pelton.WithConcurrencyKey(fmt.Sprint("free-", i%10))).ID)
	}
	ids = append(ids, r.enqueueMany(t, 100, "quick")...)
	r.succeeds(t, ids...)
	t.Logf("200 tasks beside a blocked key took %s", time.Since(began))

	js, err := jetstream.New(r.nc)
	if err != nil {
		t.Fatal(err)
	}
	b := r.broker(t)
	eventually(t, "everything else is done", func() bool {
		q, err := b.Queue(t.Context(), pelton.DefaultQueue)
		arrivals, consumerErr := js.Consumer(t.Context(), "pelton_KEYED_0", "arrivals")
		if err != nil || consumerErr != nil {
			t.Fatal(err, consumerErr)
		}
		info := arrivals.CachedInfo()
		return q.Waiting == behind && q.Running == 1 && q.Ready == 0 && info.NumPending == 0 && info.NumAckPending == 0
	})
	w.cancel()
	close(release)
	if err := w.wait(t); err != nil {
		t.Errorf("Run = %v", err)
	}
}

// A limit of a kind holds for its tasks on all workers, with and without keys, and
// also for those that were enqueued before it. Other kinds are as before.
func TestLimitOfAKind(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	kinds, keys := newGauge(), newLineLog()
	r.on("limited", func(_ context.Context, task *pelton.Task) (json.RawMessage, error) {
		defer kinds.enter(task.Kind)()
		if task.ConcurrencyKey != "" {
			defer keys.enter(task)()
		}
		return nil, nil
	})
	r.on("free", func(context.Context, *pelton.Task) (json.RawMessage, error) { return nil, nil })
	key := pelton.WithConcurrencyKey("k")
	early := r.enqueueMany(t, 30, "limited")
	keyed := r.enqueueMany(t, 10, "limited", key)
	delayed := r.enqueue(t, "limited", key, pelton.WithDelay(100*time.Millisecond)).ID
	r.limit(t, pelton.Limit{Name: "l", Kind: "limited", MaxRunning: 2})
	for range 2 {
		r.run(t, worker.Config{Concurrency: 10})
	}
	free := r.enqueueMany(t, 20, "free")
	late := r.enqueueMany(t, 30, "limited")
	r.succeeds(t, slices.Concat(free, early, keyed, late, []pelton.ID{delayed})...)
	if peak := kinds.peak("limited"); peak > 2 {
		t.Errorf("%d tasks of the limited kind ran at a time", peak)
	}
	if peak := keys.peak("k"); peak != 1 {
		t.Errorf("%d tasks of the key ran at a time", peak)
	}
	if diff := cmp.Diff(keyed, keys.of("k")[:len(keyed)]); diff != "" {
		t.Errorf("order of the key (-want +got):\n%s", diff)
	}
	for _, id := range early {
		if task := r.get(t, id); task.Attempt != 1 || task.Crashes != 0 {
			t.Errorf("waiting cost an attempt: %+v", task)
		}
	}
	r.idle(t)
	r.noTurns(t)
}

// A task that a rate puts off keeps its turn, so a key keeps its order under a rate,
// under a limit of its kind, and under both.
func TestRateKeepsTheOrderOfKeys(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	kinds, keys := newGauge(), newLineLog()
	r.on("mail", func(_ context.Context, task *pelton.Task) (json.RawMessage, error) {
		defer kinds.enter(task.Kind)()
		defer keys.enter(task)()
		return nil, nil
	})
	r.limit(t, pelton.Limit{Name: "mail", Kind: "mail", MaxRunning: 3, Rate: pelton.RateLimit{Limit: 40, Burst: 2}})
	for range 2 {
		r.run(t, worker.Config{Concurrency: 4})
	}
	want := map[string][]pelton.ID{}
	for range 10 {
		for _, key := range []string{"a", "b", "c", "d"} {
			want[key] = append(want[key], r.enqueue(t, "mail", pelton.WithConcurrencyKey(key)).ID)
		}
	}
	for _, ids := range want {
		r.succeeds(t, ids...)
	}
	if peak := kinds.peak("mail"); peak > 3 {
		t.Errorf("%d tasks of the kind ran at a time", peak)
	}
	for key, ids := range want {
		if peak := keys.peak(key); peak != 1 {
			t.Errorf("%d tasks of %s ran at a time", peak, key)
		}
		if diff := cmp.Diff(ids, keys.of(key)); diff != "" {
			t.Errorf("order of %s (-want +got):\n%s", key, diff)
		}
	}
	r.idle(t)
	r.noTurns(t)
}

// Workers that die without a word, one after the other and at any point, lose
// nothing, run no key twice at a time and keep its order.
func TestLinesSurviveDyingWorkers(t *testing.T) {
	t.Parallel()
	srv := brokertest.StartServer(t)
	const lease = time.Second
	r := rigOn(t, brokertest.Connect(t, srv), producer.Config{Lease: lease})
	log := newLineLog()
	r.on("a", func(ctx context.Context, task *pelton.Task) (json.RawMessage, error) {
		defer log.enter(task)()
		n := len(task.ID) + int(task.ID[15])
		timer := time.NewTimer(time.Duration(10+n%40) * time.Millisecond)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if n%7 == 0 && task.Attempt == 1 {
			return nil, pelton.RetryAfter(10*time.Millisecond, errors.New("again"))
		}
		return nil, nil
	})
	const keys, each = 50, 8
	specs := make([]pelton.Spec, keys*each)
	for i := range specs {
		specs[i] = pelton.Spec{Kind: "a", ConcurrencyKey: fmt.Sprint("key-", i%keys)}
	}
	items, err := r.client.EnqueueMany(t.Context(), specs)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]pelton.ID{}
	for i, item := range items {
		if item.Err != nil {
			t.Fatal(item.Err)
		}
		want[specs[i].ConcurrencyKey] = append(want[specs[i].ConcurrencyKey], item.Task.ID)
	}
	ctx, stop := context.WithCancel(t.Context())
	var dying sync.WaitGroup
	for i := range 3 {
		dying.Go(func() {
			const deaths = 4
			for life := 0; ctx.Err() == nil; life++ {
				nc, err := srv.Connect()
				if err != nil {
					t.Error(err)
					return
				}
				w, err := worker.New(nc, r.Mux, worker.Config{Concurrency: 8, Lease: lease, Grace: 2 * lease})
				if err != nil {
					t.Error(err)
					return
				}
				// The connection ends in the middle of whatever it does.
				death := time.AfterFunc(time.Duration(300+(life*67+i*41)%200)*time.Millisecond, nc.Close)
				if life == deaths {
					death.Stop()
				}
				if err := w.Run(ctx); err != nil && !errors.Is(err, pelton.ErrUnavailable) {
					t.Errorf("Run = %v", err)
				}
				death.Stop()
				nc.Close()
			}
		})
	}
	defer dying.Wait()
	defer stop()
	ended, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	poisoned := map[string]bool{}
	for key, ids := range want {
		for _, id := range ids {
			task, err := r.client.Wait(ended, id)
			if err == nil && task.State == pelton.Failed && task.Error.Reason == pelton.ReasonPoison {
				poisoned[key] = true // three of the deaths were its worker's
				continue
			}
			if err != nil || task.State != pelton.Succeeded {
				t.Fatalf("task of %s: %+v, %v", key, task, err)
			}
		}
	}
	for key, ids := range want {
		diff := cmp.Diff(ids, log.of(key))
		if diff != "" && !poisoned[key] || log.peak(key) != 1 {
			t.Errorf("%d of %s at a time, order (-want +got):\n%s", log.peak(key), key, diff)
		}
	}
	if len(poisoned) > keys/4 {
		t.Errorf("%d keys with poison: the test shows too little", len(poisoned))
	}
	r.idle(t)
	r.noTurns(t)
}

package worker_test

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/limit"
	"github.com/peltonq/pelton/worker"
)

// overheard counts what is asked of the broker and written to it for tasks, by what
// it is of. Pulls, consumers and presence go by time, not by tasks, and are left out.
type overheard struct {
	nc    *nats.Conn
	heard chan struct{} // the mark that hear has set

	mu sync.Mutex
	n  map[string]int
}

// overhear counts on a connection of its own, which hears everything.
func (f *fleet) overhear(t *testing.T) *overheard {
	t.Helper()
	o := &overheard{nc: f.connect(), heard: make(chan struct{}, 1), n: make(map[string]int)}
	_, err := o.nc.Subscribe(">", func(msg *nats.Msg) {
		if msg.Subject == "heard" {
			o.heard <- struct{}{}
			return
		}
		of, counts := operation(msg)
		if !counts {
			return
		}
		o.mu.Lock()
		defer o.mu.Unlock()
		o.n[of]++
	})
	if err != nil {
		t.Fatal(err)
	}
	o.hear(t)
	return o
}

func operation(msg *nats.Msg) (of string, counts bool) {
	words := strings.Split(msg.Subject, ".")
	switch {
	case words[0] == "$KV" && words[1] != "pelton_WORKERS":
		return "write " + words[1], true
	case words[0] == "$JS" && words[1] == "ACK":
		return "ack " + words[2], true
	case strings.HasPrefix(msg.Subject, "$JS.API.DIRECT.GET."):
		return "read " + words[4], true
	case strings.HasPrefix(msg.Subject, "$JS.API.STREAM.MSG.GET."):
		return "read " + words[5], true
	case words[0] == "pelton":
		return "message " + words[1], true
	default:
		return "", false
	}
}

// acks counts the acknowledgements of messages of a stream.
func (o *overheard) acks(stream string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.n["ack "+stream]
}

// hear waits until all is counted that has been said.
func (o *overheard) hear(t *testing.T) {
	t.Helper()
	if err := o.nc.Publish("heard", nil); err != nil { // it comes last
		t.Fatal(err)
	}
	receive(t, o.heard, "mark")
}

// take gives the counts so far and begins anew.
func (o *overheard) take() map[string]int {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := o.n
	o.n = make(map[string]int)
	return n
}

// unasked is a Limiter that must not be asked.
type unasked struct{ asked atomic.Int64 }

func (u *unasked) Take(context.Context, limit.Bucket, int) limit.Decision {
	u.asked.Add(1)
	return limit.Decision{Allowed: 1}
}

func (u *unasked) Book(context.Context, limit.Bucket, int, time.Duration) limit.Booking {
	u.asked.Add(1)
	return limit.Booking{OK: true}
}

// A task without limits, keys and locks costs the same operations of the broker, each
// of them as often, whether others have them or not, and no question to the limiter.
// With any one of its own it costs more: so they are seen.
func TestUnusedLimitsCostNothing(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	ran := make(chan pelton.ID, 100)
	f.on("plain", func(_ context.Context, task *pelton.Task) (json.RawMessage, error) {
		ran <- task.ID
		return nil, nil
	})
	f.on("locks", func(ctx context.Context, task *pelton.Task) (json.RawMessage, error) {
		lock, err := worker.Lock(ctx, "l")
		if err != nil {
			return nil, err
		}
		err = lock.Unlock()
		ran <- task.ID
		return nil, err
	})
	f.on("limited", func(context.Context, *pelton.Task) (json.RawMessage, error) { return nil, nil })
	holding, release := make(chan struct{}), make(chan struct{})
	f.on("holds", func(ctx context.Context, _ *pelton.Task) (json.RawMessage, error) {
		lock, err := worker.Lock(ctx, "held", worker.Lease(time.Hour)) // no renewal meanwhile
		if err != nil {
			return nil, err
		}
		close(holding)
		<-release
		return nil, lock.Unlock()
	})
	limiter := &unasked{}
	// As a server does when it has started, or everybody goes on looking for the horizon for a while.
	if err := f.broker(t).SaveHorizon(t.Context(), false, false); err != nil {
		t.Fatal(err)
	}
	f.work(t, 1, worker.Config{Queues: []string{pelton.DefaultQueue, "other"}, Concurrency: 4, Limiter: limiter})
	o := f.overhear(t)
	cost := func(kind string, opts ...pelton.Option) map[string]int {
		t.Helper()
		o.hear(t)
		o.take()
		const n = 20
		for i := range n { // one after the other: what several share depends on time
			f.enqueue(t, kind, opts...)
			receive(t, ran, "run")
			eventually(t, "it is acknowledged", func() bool { return o.acks("pelton_TASKS_0") >= i+1 })
		}
		o.hear(t)
		return o.take()
	}
	cost("plain") // the lane is there
	bare := cost("plain")
	if bare["write pelton_STATE_0"] < 20 || bare["message t"] < 20 || bare["ack pelton_TASKS_0"] != 20 {
		t.Fatalf("20 tasks are %v: this overhears nothing", bare)
	}
	if again := cost("plain"); !cmp.Equal(bare, again) {
		t.Fatalf("the same tasks do not cost the same (-bare +again):\n%s", cmp.Diff(bare, again))
	}

	b := f.broker(t)
	for _, l := range []pelton.Limit{
		{Name: "rate-key", RateKey: "acme*", Rate: pelton.RateLimit{Limit: 1, Per: time.Hour}},
		{Name: "both", Kind: "plain", RateKey: "*", Rate: pelton.RateLimit{Limit: 1, Per: time.Hour}},
		{Name: "key", ConcurrencyKey: "acme*", MaxRunning: 2},
		{Name: "kinds", Kind: "narrow", MaxRunning: 1},
		{Name: "kind", Kind: "limited", Rate: pelton.RateLimit{Limit: 1, Per: time.Hour}},
	} {
		l, err := l.Normalized()
		if err == nil {
			err = b.SaveLimit(t.Context(), l)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.admin.PatchQueue(t.Context(), "other", []byte(`{"rate":{"limit":1,"per":"1h"},"max_running":{"low":1},"max_depth":5}`)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the worker knows of the limits", func() bool { // of the last one, so of all
		f.succeeds(t, f.enqueue(t, "limited").ID)
		return limiter.asked.Load() > 0
	})
	f.idle(t)
	waits := pelton.WithDelay(time.Hour)
	f.enqueue(t, "plain", waits, pelton.WithUnique(pelton.Unique{Key: "u"}))
	arrivals := o.acks("pelton_KEYED_0")
	f.enqueue(t, "plain", waits, pelton.WithConcurrencyKey("acme-1"))
	eventually(t, "its arrival is acknowledged", func() bool { return o.acks("pelton_KEYED_0") > arrivals })
	f.enqueue(t, "plain", waits, pelton.WithRateKey("acme-1"))
	f.enqueue(t, "holds", pelton.WithPriority(pelton.High))
	receive(t, holding, "lock")
	asked := limiter.asked.Load()
	if beside := cost("plain"); !cmp.Equal(bare, beside) {
		t.Errorf("tasks that use nothing of it cost more (-bare +beside limits, keys and locks):\n%s", cmp.Diff(bare, beside))
	}
	if n := limiter.asked.Load() - asked; n != 0 {
		t.Errorf("the limiter was asked %d times", n)
	}

	// The test can fail: each of them is overheard when it is used.
	for name, used := range map[string]map[string]int{
		"unique":          cost("plain", pelton.WithUnique(pelton.Unique{Key: "own"})),
		"concurrency key": cost("plain", pelton.WithConcurrencyKey("own")),
		"lock":            cost("locks"),
	} {
		if cmp.Equal(bare, used) {
			t.Errorf("a task with a %s costs no more than one without", name)
		}
	}
	asked = limiter.asked.Load()
	cost("plain", pelton.WithRateKey("own"))
	if limiter.asked.Load() == asked {
		t.Error("the limiter is not asked for a task with a rate key")
	}
	close(release)
}

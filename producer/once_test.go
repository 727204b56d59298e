package producer_test

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
	"github.com/peltonq/pelton/producer"
	"github.com/peltonq/pelton/worker"
)

func unique(key string, change ...func(*pelton.Unique)) pelton.Option {
	u := pelton.Unique{Key: key}
	for _, fn := range change {
		fn(&u)
	}
	return pelton.WithUnique(u)
}

func existing(u *pelton.Unique) { u.OnConflict = pelton.ConflictExisting }
func replace(u *pelton.Unique)  { u.OnConflict = pelton.ConflictReplace }

// held fails the test unless the key is held by the task.
func held(t *testing.T, client *producer.Client, kind, key string, by pelton.ID) {
	t.Helper()
	_, err := client.Enqueue(t.Context(), pelton.Spec{Kind: kind}, unique(key))
	var conflict *pelton.UniqueError
	if !errors.As(err, &conflict) || conflict.Holder != by || conflict.Key != key || conflict.Kind != kind {
		t.Fatalf("enqueue with the key of task %s: %v", by, err)
	}
}

// A key comes free with every way in which a task can end, and a task that goes
// back into its queue takes it again or is refused.
func TestUniqueFromEnqueueToEnd(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	client := open(t, nc)
	first := enqueue(t, client, "a", unique("k"))
	if want := (pelton.Unique{Key: "k", Until: pelton.UntilFinished, OnConflict: pelton.ConflictReject}); first.Unique == nil || *first.Unique != want {
		t.Errorf("task = %+v", first)
	}
	held(t, client, "a", "k", first.ID)
	if got, err := client.Enqueue(t.Context(), pelton.Spec{Kind: "a"}, unique("k", existing)); err != nil || got.ID != first.ID {
		t.Errorf("existing = %+v, %v", got, err)
	}
	out, err := client.Submit(t.Context(), pelton.Spec{Kind: "a"}, unique("k", existing))
	if err != nil || !out.Existing || out.Replayed || out.Task.ID != first.ID {
		t.Errorf("Submit = %+v, %v", out, err)
	}
	enqueue(t, client, "b", unique("k")) // of another kind

	second := enqueue(t, client, "a", unique("k", replace), pelton.WithDelay(time.Hour))
	if got := get(t, client, first.ID); got.State != pelton.Cancelled {
		t.Errorf("replaced task is %s", got.State)
	}
	held(t, client, "a", "k", second.ID)
	if _, err := client.Cancel(t.Context(), second.ID); err != nil {
		t.Fatal(err)
	}
	third := enqueue(t, client, "a", unique("k"))
	_, err = client.Retry(t.Context(), second.ID)
	var conflict *pelton.UniqueError
	if !errors.As(err, &conflict) || conflict.Holder != third.ID {
		t.Errorf("retry with the key of task %s: %v", third.ID, err)
	}

	// Now with a worker: success, failure with a retry before, expiry.
	fail := make(chan bool, 10)
	mux := worker.NewMux()
	mux.Handle("a", handler(func(context.Context, *pelton.Task) (json.RawMessage, error) {
		if <-fail {
			return nil, pelton.RetryAfter(0, errBoom)
		}
		return nil, nil
	}))
	serve(t, nc, mux, worker.Config{Concurrency: 1})
	fail <- false
	wait(t, client, third.ID)
	if _, err := client.Retry(t.Context(), second.ID); err != nil {
		t.Fatal(err)
	}
	held(t, client, "a", "k", second.ID)
	fail <- true
	fail <- false
	if got := wait(t, client, second.ID); got.State != pelton.Succeeded || got.Attempt != 2 {
		t.Errorf("retried task = %+v", got)
	}
	fourth := enqueue(t, client, "a", unique("k"), pelton.WithMaxAttempts(1))
	fail <- true
	if got := wait(t, client, fourth.ID); got.State != pelton.Failed {
		t.Errorf("task = %+v", got)
	}
	blocker := enqueue(t, client, "a") // takes the only slot until the next has expired
	expires := time.Now().Add(300 * time.Millisecond)
	fifth := enqueue(t, client, "a", unique("k"), pelton.WithExpiresAt(expires))
	held(t, client, "a", "k", fifth.ID)
	eventually(t, "its time to pass", func() bool { return time.Now().After(expires) })
	fail <- false
	wait(t, client, blocker.ID)
	if got := wait(t, client, fifth.ID); got.State != pelton.Expired {
		t.Errorf("task = %+v", got)
	}
	enqueue(t, client, "a", unique("k"), pelton.WithDelay(time.Hour))
}

// A key that is held until its task starts is free while it runs, and while it waits
// for its retry.
func TestUniqueUntilStarted(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	client := open(t, nc)
	started, ends := make(chan struct{}), make(chan struct{})
	mux := worker.NewMux()
	mux.Handle("a", handler(func(context.Context, *pelton.Task) (json.RawMessage, error) {
		started <- struct{}{}
		<-ends
		return nil, pelton.RetryAfter(time.Hour, errBoom)
	}))
	untilStarted := func(u *pelton.Unique) { u.Until = pelton.UntilStarted }
	first := enqueue(t, client, "a", unique("k", untilStarted))
	held(t, client, "a", "k", first.ID)
	serve(t, nc, mux, worker.Config{Concurrency: 1})
	<-started
	second := enqueue(t, client, "a", unique("k", untilStarted))
	held(t, client, "a", "k", second.ID)
	ends <- struct{}{}
	<-started
	if got := get(t, client, first.ID); got.State != pelton.Retrying {
		t.Errorf("first task is %s", got.State)
	}
	third := enqueue(t, client, "a", unique("k"), pelton.WithDelay(time.Hour))
	held(t, client, "a", "k", third.ID)
	ends <- struct{}{}
}

// The lock of a key is gone with its task, so that keys that never come back cost
// nothing. A worker writes as often for other tasks as before.
func TestKeysLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	client := open(t, nc)
	mux := worker.NewMux()
	mux.Handle("a", handler(func(context.Context, *pelton.Task) (json.RawMessage, error) { return nil, nil }))
	mux.Handle("b", handler(func(context.Context, *pelton.Task) (json.RawMessage, error) { return nil, errBoom }))
	serve(t, nc, mux, worker.Config{})
	wait(t, client, enqueue(t, client, "a").ID)
	if got := lastSeq(t, nc, "KV_pelton_LOCKS"); got != 0 {
		t.Errorf("%d writes to locks for a task without keys", got)
	}
	wait(t, client, enqueue(t, client, "a", unique("succeeds")).ID)
	wait(t, client, enqueue(t, client, "b", unique("fails"), pelton.WithMaxAttempts(1)).ID)
	cancelled := enqueue(t, client, "a", unique("cancelled"), pelton.WithDelay(time.Hour))
	if _, err := client.Cancel(t.Context(), cancelled.ID); err != nil {
		t.Fatal(err)
	}
	eventually(t, "each lock was taken and released", func() bool { return lastSeq(t, nc, "KV_pelton_LOCKS") == 6 })
}

// A batch answers in order, and each of its tasks finds what those before it did.
func TestKeysInABatch(t *testing.T) {
	t.Parallel()
	client := open(t, brokertest.Start(t))
	spec := func(kind string, opts ...pelton.Option) pelton.Spec {
		s := pelton.Spec{Kind: kind}
		s.Apply(opts...)
		return s
	}
	items, err := client.EnqueueMany(t.Context(), []pelton.Spec{
		spec("plain"),
		spec("a", unique("k")),
		spec("a", unique("k")),
		spec("plain"),
		spec("a", unique("k", existing)),
		spec("a", unique("k", replace)),
		spec("b", pelton.WithIdempotencyKey("i")),
		spec("b", pelton.WithIdempotencyKey("i")),
		spec("b", pelton.WithIdempotencyKey("i"), pelton.WithPriority(pelton.High)),
		spec("a", unique("")),
		spec("plain"),
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, fine := range []bool{true, true, false, true, true, true, true, true, false, false, true} {
		if (items[i].Err == nil) != fine || (items[i].Task != nil) != fine {
			t.Fatalf("item %d = %+v", i, items[i])
		}
	}
	var conflict *pelton.UniqueError
	var invalid *pelton.ValidationError
	switch {
	case !errors.As(items[2].Err, &conflict) || conflict.Holder != items[1].Task.ID:
		t.Errorf("second with the key = %+v", items[2])
	case items[4].Task.ID != items[1].Task.ID || !items[4].Existing:
		t.Errorf("existing = %+v", items[4])
	case items[5].Task.ID == items[1].Task.ID || items[5].Existing:
		t.Errorf("replacing = %+v", items[5])
	case items[7].Task.ID != items[6].Task.ID || !items[7].Replayed || items[6].Replayed:
		t.Errorf("replayed = %+v", items[7])
	case !errors.As(items[8].Err, &invalid) || invalid.Fields[0].Field != "idempotency_key":
		t.Errorf("another request with the key = %+v", items[8])
	case !errors.As(items[9].Err, &invalid) || invalid.Fields[0].Field != "unique.key":
		t.Errorf("invalid = %+v", items[9])
	}
	if got := get(t, client, items[1].Task.ID); got.State != pelton.Cancelled {
		t.Errorf("replaced task = %+v", got)
	}
	order := []pelton.ID{items[0].Task.ID, items[3].Task.ID, items[10].Task.ID}
	if unfinished, err := client.Unfinished(t.Context(), "plain"); err != nil || !slices.EqualFunc(unfinished, order, func(task *pelton.Task, id pelton.ID) bool { return task.ID == id }) {
		t.Errorf("plain tasks = %+v, %v", unfinished, err)
	}
}

func TestIdempotencyKey(t *testing.T) {
	t.Parallel()
	client := open(t, brokertest.Start(t))
	spec := pelton.Spec{
		Kind: "a", Payload: json.RawMessage(`{"n": 1}`), Labels: map[string]string{"x": "1", "y": "2"}, Delay: time.Hour,
		ExpiresAt: time.Now().Add(2 * time.Hour),
	}
	key := pelton.WithIdempotencyKey("k")
	first, err := client.Enqueue(t.Context(), spec, key)
	if err != nil {
		t.Fatal(err)
	}
	// What means the same is the same request: defaults, and times in other zones.
	same := spec
	same.Queue, same.Priority, same.ExpiresAt = pelton.DefaultQueue, pelton.Normal, spec.ExpiresAt.In(time.FixedZone("", 3600))
	out, err := client.Submit(t.Context(), same, key)
	if err != nil || out.Task.ID != first.ID || !out.Replayed {
		t.Errorf("same request = %+v, %v", out, err)
	}
	// The answer is the task as it now stands.
	if _, err := client.Cancel(t.Context(), first.ID); err != nil {
		t.Fatal(err)
	}
	if again, err := client.Enqueue(t.Context(), spec, key); err != nil || again.ID != first.ID || again.State != pelton.Cancelled {
		t.Errorf("repeat of a cancelled task = %+v, %v", again, err)
	}
	// Another scope, another key.
	other, err := client.Submit(t.Context(), spec, key, func(s *pelton.Spec) { s.IdempotencyScope = "other" })
	if err != nil || other.Replayed || other.Task.ID == first.ID {
		t.Errorf("other scope = %+v, %v", other, err)
	}

	// Each field counts; one that is missing here has to be in the fingerprint too.
	changes := map[string]pelton.Option{
		"Kind":        func(s *pelton.Spec) { s.Kind = "b" },
		"Payload":     func(s *pelton.Spec) { s.Payload = json.RawMessage(`{"n":1}`) },
		"Queue":       pelton.WithQueue("q"),
		"Priority":    pelton.WithPriority(pelton.Low),
		"Delay":       pelton.WithDelay(time.Minute),
		"RunAt":       pelton.WithRunAt(time.Now().Add(time.Hour)),
		"ExpiresAt":   pelton.WithExpiresAt(time.Time{}),
		"Timeout":     pelton.WithTimeout(time.Second),
		"MaxAttempts": pelton.WithMaxAttempts(1),
		"Backoff":     pelton.WithBackoff(pelton.Backoff{Initial: time.Minute}),
		"RateKey":     pelton.WithRateKey("acme"),
		"Retention":   pelton.WithRetention(time.Hour),
		"Labels":      pelton.WithLabels(map[string]string{"z": "3"}),
		"Unique":      unique("u"),

		"ConcurrencyKey": pelton.WithConcurrencyKey("c"),
	}
	for _, field := range reflect.VisibleFields(reflect.TypeFor[pelton.Spec]()) {
		if field.Name == "IdempotencyKey" || field.Name == "IdempotencyScope" {
			continue
		}
		change, known := changes[field.Name]
		if !known {
			t.Fatalf("no test for the field %s", field.Name)
		}
		_, err := client.Enqueue(t.Context(), spec, key, change)
		var invalid *pelton.ValidationError
		if !errors.As(err, &invalid) || invalid.Fields[0].Field != "idempotency_key" {
			t.Errorf("other %s: %v, want a ValidationError", field.Name, err)
		}
	}
}

// An invalid request does not take the key; one that has become invalid by the time
// that has passed is still a repeat.
func TestIdempotencyKeyOfAnInvalidRequest(t *testing.T) {
	t.Parallel()
	client := open(t, brokertest.Start(t))
	key := pelton.WithIdempotencyKey("k")
	for _, bad := range []pelton.Option{pelton.WithQueue("Bad"), pelton.WithExpiresAt(time.Now().Add(-time.Hour)), unique("\x00")} {
		if _, err := client.Enqueue(t.Context(), pelton.Spec{Kind: "a"}, key, bad); !errors.Is(err, pelton.ErrInvalid) {
			t.Fatalf("invalid request: %v", err)
		}
	}
	spec := pelton.Spec{Kind: "a", ExpiresAt: time.Now().Add(2 * time.Second)}
	first, err := client.Enqueue(t.Context(), spec, key)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the request to be out of date", func() bool { return time.Now().After(spec.ExpiresAt) })
	again, err := client.Submit(t.Context(), spec, key)
	if err != nil || again.Task.ID != first.ID || !again.Replayed {
		t.Errorf("repeat = %+v, %v", again, err)
	}
	if again, err := client.Enqueue(t.Context(), spec, key); err != nil || again.ID != first.ID {
		t.Errorf("repeat = %+v, %v", again, err)
	}
	if _, err := client.Enqueue(t.Context(), spec, pelton.WithIdempotencyKey("other")); !errors.Is(err, pelton.ErrInvalid) {
		t.Errorf("out of date under another key: %v", err)
	}
}

// With an idempotency key, Enqueue tries again after an unknown outcome, and makes
// one task.
func TestEnqueueTriesAgainUnderAKey(t *testing.T) {
	t.Parallel()
	srv := brokertest.StartServer(t, brokertest.Listening)
	tap := newTap(t, strings.TrimPrefix(srv.ClientURL(), "nats://"))
	nc, err := nats.Connect(tap.url(), nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	client, direct := open(t, nc), open(t, brokertest.Connect(t, srv))
	enqueue(t, direct, "warm") // the lane is there
	enqueue(t, client, "warm")
	for _, opts := range [][]pelton.Option{nil, {unique("u")}} {
		tap.mute(true)
		type answer struct {
			task *pelton.Task
			err  error
		}
		answers := make(chan answer, 1)
		key := pelton.WithIdempotencyKey("k" + string(rune('0'+len(opts))))
		before := lastSeq(t, brokertest.Connect(t, srv), "KV_pelton_LOCKS")
		go func() {
			task, err := client.Enqueue(t.Context(), pelton.Spec{Kind: "a"}, append(opts, key)...)
			answers <- answer{task, err}
		}()
		eventually(t, "the first write to land", func() bool { return lastSeq(t, brokertest.Connect(t, srv), "KV_pelton_LOCKS") > before })
		tap.mute(false)
		tap.cut() // open calls end as unknown
		got := <-answers
		if got.err != nil {
			t.Fatal(got.err)
		}
		out, err := direct.Submit(t.Context(), pelton.Spec{Kind: "a"}, append(opts, key)...)
		if err != nil || out.Task.ID != got.task.ID || !out.Replayed {
			t.Errorf("repeat = %+v, %v, want task %s", out, err, got.task.ID)
		}
	}
	tasks, err := direct.Unfinished(t.Context(), "a")
	if err != nil || len(tasks) != 2 {
		t.Errorf("%d tasks, %v, want 2", len(tasks), err)
	}

	// ctx bounds it.
	tap.mute(true)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, err = client.Enqueue(ctx, pelton.Spec{Kind: "a"}, pelton.WithIdempotencyKey("never"))
	if !errors.Is(err, pelton.ErrUnknownOutcome) {
		t.Errorf("enqueue without answers: %v, want ErrUnknownOutcome", err)
	}
}

// Two callers with one key at once both get the one task.
func TestEnqueueTogetherUnderAKey(t *testing.T) {
	t.Parallel()
	client := open(t, brokertest.Start(t))
	var asking sync.WaitGroup
	ids := make([]pelton.ID, 32)
	for i := range ids {
		asking.Go(func() {
			task, err := client.Enqueue(t.Context(), pelton.Spec{Kind: "a"}, pelton.WithIdempotencyKey("k"))
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = task.ID
		})
	}
	asking.Wait()
	if len(slices.Compact(ids)) != 1 {
		t.Errorf("ids = %v", ids)
	}
}

package broker_test

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
	"github.com/peltonq/pelton/internal/brokertest"
)

func open(t *testing.T, nc *nats.Conn, cfg broker.Config) *broker.Broker {
	t.Helper()
	b, err := broker.Open(t.Context(), nc, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

func newRecord(queue string, p pelton.Priority) *broker.Record {
	now := time.Now().UTC().Truncate(time.Millisecond)
	return &broker.Record{
		Meta: broker.Meta{
			ID: pelton.NewID(now, 0), Kind: "test.kind", Queue: queue, Priority: p, MaxAttempts: 3,
			Timeout: time.Minute, Retention: time.Hour, CreatedAt: now,
		},
		State: pelton.Queued, Payload: []byte(`{"a": 1}`),
	}
}

// lane collects what a puller brings.
type lane struct {
	*broker.Puller
	deliveries chan *broker.Delivery
	ends       chan broker.PullEnd
}

func openLane(t *testing.T, b *broker.Broker, queue string, p pelton.Priority) lane {
	t.Helper()
	l := lane{deliveries: make(chan *broker.Delivery, 1000), ends: make(chan broker.PullEnd, 1000)}
	var err error
	l.Puller, err = b.OpenPuller(broker.Lane{Queue: queue, Priority: p},
		func(d *broker.Delivery) { l.deliveries <- d }, func(e broker.PullEnd) { l.ends <- e })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func receive[T any](t *testing.T, ch <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(10 * time.Second):
		t.Fatalf("no %s within 10 s", what)
		panic("unreachable")
	}
}

func TestOpenByManyAtOnce(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	var opening sync.WaitGroup
	for range 8 {
		opening.Go(func() {
			b, err := broker.Open(t.Context(), nc, broker.Config{})
			if err != nil {
				t.Error(err)
				return
			}
			b.Close()
		})
	}
	opening.Wait()
}

func TestOpenRefusesForeignSettings(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: "pelton_TASKS_0", Subjects: []string{"pelton.t.0.>"}, MaxBytes: 1 << 20, AllowDirect: true,
	}); err != nil {
		t.Fatal(err)
	}
	_, err = broker.Open(t.Context(), nc, broker.Config{})
	if !errors.Is(err, pelton.ErrConflict) {
		t.Fatalf("open = %v, want ErrConflict", err)
	}
	for _, want := range []string{"pelton_TASKS_0", "max_bytes is 1048576", "retention is", "allow_msg_schedules is false"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not name %q", err, want)
		}
	}
	stream, err := js.Stream(t.Context(), "pelton_TASKS_0")
	if err != nil {
		t.Fatal(err)
	}
	if got := stream.CachedInfo().Config.MaxBytes; got != 1<<20 {
		t.Errorf("the foreign stream was changed: max_bytes %d", got)
	}
}

func TestNamespacesDoNotMeet(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	one, two := open(t, nc, broker.Config{Namespace: "one"}), open(t, nc, broker.Config{Namespace: "two"})
	r := newRecord("default", pelton.Normal)
	if err := one.Enqueue(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if _, err := two.LoadRecord(t.Context(), r.ID); !errors.Is(err, pelton.ErrNotFound) {
		t.Errorf("load from the other namespace = %v, want ErrNotFound", err)
	}
	if queues, err := two.Queues(t.Context()); err != nil || len(queues) != 0 {
		t.Errorf("queues of the other namespace = %v, %v", queues, err)
	}
}

func TestRecordCompareAndSwap(t *testing.T) {
	t.Parallel()
	b := open(t, brokertest.Start(t), broker.Config{})
	r := newRecord("default", pelton.High)
	if err := b.CreateRecord(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if err := b.CreateRecord(t.Context(), newRecordWith(r.ID)); !errors.Is(err, pelton.ErrConflict) {
		t.Errorf("second create = %v, want ErrConflict", err)
	}
	stale := *r
	r.State, r.Result = pelton.Succeeded, []byte("[1,  2]")
	if err := b.SaveRecord(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if err := b.SaveRecord(t.Context(), &stale); !errors.Is(err, broker.ErrStale) {
		t.Errorf("stale save = %v, want ErrStale", err)
	}
	got, err := b.LoadRecord(t.Context(), r.ID)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r, got); diff != "" {
		t.Errorf("loaded record (-want +got):\n%s", diff)
	}
}

func newRecordWith(id pelton.ID) *broker.Record {
	r := newRecord("default", pelton.High)
	r.ID = id
	return r
}

// A key that was deleted cannot be created with expected revision 0 while its
// marker is there: CreateRecord replaces the marker.
func TestCreateRecordOverDeleteMarker(t *testing.T) {
	t.Parallel()
	b := open(t, brokertest.Start(t), broker.Config{})
	r := newRecord("default", pelton.Normal)
	if err := b.CreateRecord(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if err := b.DropRecord(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if _, err := b.LoadRecord(t.Context(), r.ID); !errors.Is(err, pelton.ErrNotFound) {
		t.Fatalf("load of a dropped record = %v, want ErrNotFound", err)
	}
	if err := b.CreateRecord(t.Context(), r); err != nil {
		t.Fatalf("create over a delete marker: %v", err)
	}
}

func TestTerminalRecordExpiresAndCanBeCreatedAgain(t *testing.T) {
	t.Parallel()
	b := open(t, brokertest.Start(t), broker.Config{})
	r := newRecord("default", pelton.Normal)
	r.State, r.Retention = pelton.Succeeded, time.Second
	if err := b.CreateRecord(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	deadline := time.After(10 * time.Second)
	for {
		_, err := b.LoadRecord(t.Context(), r.ID)
		if errors.Is(err, pelton.ErrNotFound) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-deadline:
			t.Fatal("record outlives its retention of 1 s by 9 s")
		case <-time.After(100 * time.Millisecond):
		}
	}
	if err := b.CreateRecord(t.Context(), r); err != nil {
		t.Errorf("create over an expiry marker: %v", err)
	}
}

func TestEnqueuePullAck(t *testing.T) {
	t.Parallel()
	b := open(t, brokertest.Start(t), broker.Config{})
	r := newRecord("emails", pelton.High)
	if err := b.Enqueue(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	l := openLane(t, b, "emails", pelton.High)
	if err := l.Pull(5, 10*time.Second); err != nil { // the broker counts a moment after it acknowledges
		t.Fatal(err)
	}
	d := receive(t, l.deliveries, "delivery")
	if d.Err != nil {
		t.Fatal(d.Err)
	}
	want := r.Envelope()
	want.Version = 1
	if diff := cmp.Diff(want, d.Envelope); diff != "" {
		t.Errorf("envelope (-want +got):\n%s", diff)
	}
	if e := receive(t, l.ends, "end of the pull"); e.Err != nil {
		t.Errorf("end = %v", e.Err)
	}
	holds := func(ready, running uint64) func() bool {
		return func() bool {
			q, err := b.Queue(t.Context(), "emails")
			return err == nil && q.Ready == ready && q.Running == running
		}
	}
	eventually(t, "one task running", holds(0, 1))
	if err := d.Extend(t.Context()); err != nil {
		t.Errorf("extend = %v", err)
	}
	if err := d.Ack(); err != nil {
		t.Fatal(err)
	}
	if err := d.Extend(t.Context()); err != nil { // contact, not ownership
		t.Errorf("extend of a message that is gone = %v, want an answer all the same", err)
	}
	eventually(t, "an empty queue", holds(0, 0))
}

// eventually polls a condition that the broker reaches by itself.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

func TestWatchQueues(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	b := open(t, nc, broker.Config{})
	if err := b.EnsureLane(t.Context(), broker.Lane{Queue: "old", Priority: pelton.Low}); err != nil {
		t.Fatal(err)
	}
	changes, stop, err := b.WatchQueues(t.Context(), []string{"old", "new"})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	if got := receive(t, changes, "existing queue"); got.Name != "old" || !slices.Equal(got.Lanes, []pelton.Priority{pelton.Low}) {
		t.Errorf("got %+v", got)
	}
	if got := receive(t, changes, "end of what was there"); got != nil {
		t.Errorf("got %+v", got)
	}
	other := open(t, nc, broker.Config{}) // another process
	for _, queue := range []string{"elsewhere", "new"} {
		if err := other.EnsureLane(t.Context(), broker.Lane{Queue: queue, Priority: pelton.Critical}); err != nil {
			t.Fatal(err)
		}
	}
	if got := receive(t, changes, "new queue"); got.Name != "new" || !slices.Equal(got.Lanes, []pelton.Priority{pelton.Critical}) {
		t.Errorf("got %+v", got)
	}
	if _, err := other.SetQueue(t.Context(), "old", false, func(c *broker.QueueConfig) error { c.Settings.MaxDepth = 3; return nil }); err != nil {
		t.Fatal(err)
	}
	if got := receive(t, changes, "change"); got.Name != "old" || got.Settings.MaxDepth != 3 {
		t.Errorf("got %+v", got)
	}
}

func TestEnqueueManyIsPipelinedAndOrdered(t *testing.T) {
	t.Parallel()
	b := open(t, brokertest.Start(t), broker.Config{})
	records := make([]*broker.Record, 300)
	for i := range records {
		records[i] = newRecord("q", pelton.Normal)
	}
	records[7].State, records[7].RunAt = pelton.Scheduled, time.Now().Add(time.Hour).UTC()
	for i, err := range b.EnqueueMany(t.Context(), records) {
		if err != nil {
			t.Fatalf("item %d: %v", i, err)
		}
	}
	// The broker counts a moment after it acknowledges.
	var q *pelton.Queue
	eventually(t, "299 ready and 1 scheduled", func() bool {
		var err error
		if q, err = b.Queue(t.Context(), "q"); err != nil {
			t.Fatal(err)
		}
		return q.Ready == 299 && q.Scheduled == 1
	})
	if q.Priorities[pelton.Normal].OldestReady <= 0 {
		t.Error("the oldest ready task has no age")
	}
	l := openLane(t, b, "q", pelton.Normal)
	if err := l.Pull(299, 0); err != nil {
		t.Fatal(err)
	}
	for i, r := range records {
		if i == 7 {
			continue
		}
		if got := receive(t, l.deliveries, "delivery").Envelope.ID; got != r.ID {
			t.Fatalf("delivery %d is %s, want %s", i, got, r.ID)
		}
	}
}

func TestClosedBrokerEndsOpenCalls(t *testing.T) {
	t.Parallel()
	b := open(t, brokertest.Start(t), broker.Config{})
	b.Close()
	if err := b.CreateRecord(t.Context(), newRecord("q", pelton.Normal)); !errors.Is(err, pelton.ErrClosed) {
		t.Errorf("create after close = %v, want ErrClosed", err)
	}
}

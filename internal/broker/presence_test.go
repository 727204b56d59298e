package broker

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/peltonq/pelton"
)

func TestPresence(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	present := func(id string) bool {
		t.Helper()
		there, err := b.Present(t.Context(), id)
		must(t, err)
		return there
	}
	if present("w1") {
		t.Error("a worker that never was is present")
	}
	want := Presence{
		ID: "w1", Host: "h", PID: 7, Version: "v", Kinds: []string{"k"}, Queues: []string{"q"}, Concurrency: 3,
		Running: []pelton.ID{pelton.NewID(time.Now(), 0)}, StartedAt: time.Now().UTC(), SeenAt: time.Now().UTC(),
	}
	for range 2 { // shown, and shown again
		must(t, b.ShowPresence(t.Context(), want, PresenceTTL))
		if !present("w1") || present("w2") {
			t.Error("w1 alone should be present")
		}
		msg, err := b.get(t.Context(), bucketStream(b.workers()), getRequest{LastFor: b.presenceKey("w1")}, false)
		must(t, err)
		if ttl := msg.header.Get(headerTTL); ttl != "15" { // with every sign, or it would stay for ever
			t.Errorf("TTL is %q, want 15", ttl)
		}
		var got Presence
		must(t, json.Unmarshal(msg.data, &got))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	must(t, b.HidePresence(t.Context(), "w1"))
	if present("w1") {
		t.Error("a hidden worker is present")
	}
	must(t, b.ShowPresence(t.Context(), want, PresenceTTL))
	if !present("w1") {
		t.Error("a worker that came back is not present")
	}
}

func TestPresenceEnds(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	// As ShowPresence writes it, but for the TTL.
	_, err := b.do(t.Context(), write{subject: b.presenceKey("w1"), data: []byte("{}"), expect: anyRevision, ttl: 400 * time.Millisecond})
	must(t, err)
	there, err := b.Present(t.Context(), "w1")
	must(t, err)
	if !there {
		t.Error("not present at first")
	}
	reaches(t, "the worker to be taken for dead", func() bool {
		there, err := b.Present(t.Context(), "w1")
		must(t, err)
		return !there
	})
}

// The probe reaches every stream, leaves no lane, queue or dead letter behind,
// and names the streams that do not take it.
func TestProbe(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	before := map[string]uint64{}
	for _, s := range b.streams(1) {
		before[s.Name] = streamState(t, b, s.Name).State.LastSeq
	}
	must(t, b.Probe(t.Context()))
	for name, seq := range before {
		if got := streamState(t, b, name).State.LastSeq; got != seq+1 {
			t.Errorf("stream %s has last sequence %d, want %d", name, got, seq+1)
		}
	}
	if queues, err := b.Queues(t.Context()); err != nil || len(queues) != 0 {
		t.Errorf("queues after a probe: %v, %v", queues, err)
	}
	if idle, err := b.Idle(t.Context()); err != nil || !idle {
		t.Errorf("idle after a probe: %t, %v", idle, err)
	}
	must(t, b.js.DeleteStream(t.Context(), bucketStream(b.locks())))
	if err := b.Probe(t.Context()); err == nil || err.Error() != "probe $KV.pelton_LOCKS._probe: broker unavailable: no stream takes the write" {
		t.Errorf("probe without a stream = %v", err)
	}
}

func TestEvents(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	r := aRecord("q", pelton.Low)
	events, stop, err := b.Watch(t.Context(), r.ID)
	must(t, err)
	defer stop()
	must(t, b.CreateRecord(t.Context(), aRecord("q", pelton.Low))) // another task's
	must(t, b.CreateRecord(t.Context(), r))
	if diff := cmp.Diff(Event{r.ID, pelton.Queued, r.Revision}, wait(t, events, "event")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// A waiter that does not take its events loses some, and blocks nobody.
	for range 100 {
		must(t, b.SaveRecord(t.Context(), r))
	}
	must(t, b.conn.nc.Flush())
	stop()
	stop() // again is fine
}

func TestCancelSignals(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	held := pelton.NewID(time.Now(), 0)
	signal := func(id pelton.ID) (bool, time.Duration) {
		t.Helper()
		began := time.Now()
		dropped, err := b.SignalCancel(t.Context(), id)
		must(t, err)
		return dropped, time.Since(began)
	}
	b.cancelWait = time.Minute // nobody waits for it where there are no workers, or one that holds the task
	if dropped, took := signal(held); dropped || took > time.Minute/2 {
		t.Errorf("without workers: dropped %t after %s", dropped, took)
	}
	asked := make(chan pelton.ID, 10)
	stop, err := b.ServeCancels(func(id pelton.ID) bool { asked <- id; return id == held })
	must(t, err)
	must(t, b.conn.nc.Publish("pelton.c.hello", nil)) // no id: nobody is asked
	must(t, b.conn.nc.Publish(b.cancelSignal(held), nil))
	if id := wait(t, asked, "question"); id != held { // a signal without a reply subject is one
		t.Errorf("asked for %s", id)
	}
	if dropped, took := signal(held); !dropped || took > time.Minute/2 {
		t.Errorf("held: dropped %t after %s", dropped, took)
	}
	b.cancelWait = cancelWait
	other := pelton.NewID(time.Now(), 0)
	if dropped, took := signal(other); dropped || took < cancelWait {
		t.Errorf("not held: dropped %t after %s, want the whole wait", dropped, took)
	}
	if a, b := wait(t, asked, "question"), wait(t, asked, "question"); a != held || b != other {
		t.Errorf("asked for %s and %s", a, b)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.SignalCancel(ctx, held); err == nil {
		t.Error("a signal with an ended ctx went out")
	}
	stop()
	must(t, b.conn.nc.Flush())
	if dropped, _ := signal(held); dropped || len(asked) != 0 {
		t.Error("asked after stop")
	}
}

func TestDeadLetters(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	r := aRecord("q", pelton.Low)
	r.State, r.Epoch, r.Result = pelton.Failed, 2, nil
	r.Fail(pelton.Failure{Message: "first", Attempt: 1, At: r.CreatedAt})
	letter := func() *Record {
		t.Helper()
		got, err := b.LoadDead(t.Context(), "q", r.ID)
		must(t, err)
		return got
	}
	if _, err := b.LoadDead(t.Context(), "q", r.ID); err == nil {
		t.Error("a letter before there was one")
	}
	must(t, b.PublishDead(t.Context(), r))
	first := letter()
	if diff := cmp.Diff(r.Errors, first.Errors); diff != "" || first.Epoch != 2 || first.State != pelton.Failed {
		t.Errorf("letter %+v", first)
	}
	for _, epoch := range []uint32{2, 1, 0} { // the same and older ones change nothing
		again := *r
		again.Epoch, again.Payload = epoch, []byte("other")
		must(t, b.PublishDead(t.Context(), &again))
		if got := letter(); got.Revision != first.Revision {
			t.Errorf("epoch %d replaced the letter of epoch 2", epoch)
		}
	}
	r.Epoch = 3
	must(t, b.PublishDead(t.Context(), r))
	if got := letter(); got.Epoch != 3 {
		t.Errorf("epoch %d is kept, want the newer one's 3", got.Epoch)
	}
	if n := streamState(t, b, b.dead()).State.Msgs; n != 1 {
		t.Errorf("%d letters of one task", n)
	}
	q, err := b.Queue(t.Context(), "q") // a queue of which only a letter is known
	if err == nil {
		t.Errorf("queue %v without a lane", q)
	}
	shows(t, b, b.dead(), deadConsumer("q"), 1)
	queues, err := b.Queues(t.Context())
	must(t, err)
	if len(queues) != 1 || queues[0].Name != "q" || queues[0].Dead != 1 {
		t.Errorf("queues = %+v, want q with one dead letter", queues)
	}
}

func TestAskPresence(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	held, other := pelton.NewID(time.Now(), 0), pelton.NewID(time.Now(), 0)
	asks := func(task pelton.ID, want Sign) {
		t.Helper()
		if sign, err := b.AskPresence(t.Context(), "w-1", task); err != nil || sign != want {
			t.Errorf("ask = %q, %v, want %q", sign, err, want)
		}
	}
	asks(held, SignNone) // nobody there: at once
	stop, err := b.ServePresence("w-1", func(id pelton.ID) bool { return id == held })
	must(t, err)
	asks(held, SignRuns)
	asks(other, SignHere)
	stop()
	asks(held, SignNone)
}

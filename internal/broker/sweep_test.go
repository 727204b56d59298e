package broker

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/peltonq/pelton"
)

// aged is a sweeper to which everything looks older by a little more than what it
// waits for.
func aged(b *Broker) *Sweeper {
	s := b.NewSweeper()
	s.now = func() time.Time { return time.Now().Add(sweepAge + orphanSlack + time.Second) }
	return s
}

func sweep(t *testing.T, s *Sweeper) Swept {
	t.Helper()
	swept, err := s.Step(t.Context(), 1000)
	must(t, err)
	return swept
}

// gone reports that a stream has no message on the subject.
func gone(t *testing.T, b *Broker, stream, subject string) bool {
	t.Helper()
	_, err := b.get(t.Context(), stream, getRequest{LastFor: subject}, false)
	if err != nil && !errors.Is(err, pelton.ErrNotFound) {
		t.Fatal(err)
	}
	return err != nil
}

func TestSweepPublishesWhatWaitsWithoutAMessage(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	queued, scheduled, retrying := aRecord("q", pelton.Low), aRecord("q", pelton.Normal), aRecord("q", pelton.High)
	scheduled.State, scheduled.RunAt = pelton.Scheduled, time.Now().Add(time.Hour).UTC()
	retrying.State, retrying.RunAt, retrying.Epoch = pelton.Retrying, time.Now().Add(-time.Second).UTC(), 3
	for _, r := range []*Record{queued, scheduled, retrying} {
		must(t, b.CreateRecord(t.Context(), r)) // and no message: the process died
	}
	if swept := sweep(t, b.NewSweeper()); swept.Repaired() != 0 {
		t.Errorf("young damage was repaired, its writer may still live: %+v", swept)
	}
	s := aged(b)
	if swept := sweep(t, s); swept.Orphans != 3 {
		t.Errorf("swept %+v, want 3 orphans", swept)
	}
	for _, r := range []*Record{queued, retrying} {
		d := wait(t, deliveries(t, b, "q", r.Priority, 1), "repaired task")
		must(t, d.Err)
		if d.Envelope.ID != r.ID || d.Envelope.Epoch != r.Epoch {
			t.Errorf("delivered %s epoch %d, want %s epoch %d", d.Envelope.ID, d.Envelope.Epoch, r.ID, r.Epoch)
		}
	}
	if gone(t, b, b.tasks(0), b.scheduled(0, "q", pelton.Normal, scheduled.ID, 0)) {
		t.Error("the delayed task has no schedule")
	}
	if swept := sweep(t, s); swept.Repaired() != 0 {
		t.Errorf("repaired again: %+v", swept)
	}
}

func TestSweepKeepsMissingDeadLetters(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	missing, dropped := aRecord("q", pelton.Low), aRecord("q", pelton.Low)
	missing.State, dropped.State = pelton.Failed, pelton.Failed
	dropped.LetterDropped = true
	must(t, b.CreateRecord(t.Context(), missing))
	must(t, b.CreateRecord(t.Context(), dropped))
	if swept := sweep(t, aged(b)); swept.Letters != 1 {
		t.Errorf("swept %+v, want one letter", swept)
	}
	if _, err := b.LoadDead(t.Context(), "q", missing.ID); err != nil {
		t.Error(err)
	}
	if _, err := b.LoadDead(t.Context(), "q", dropped.ID); !errors.Is(err, pelton.ErrNotFound) {
		t.Errorf("a letter that was deleted on purpose is back: %v", err)
	}
}

func TestSweepPutsBackARunningTaskWithoutMessageOrWorker(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	lost, held := aRecord("q", pelton.Low), aRecord("q", pelton.High)
	for _, r := range []*Record{lost, held} {
		must(t, b.EnsureLane(t.Context(), Lane{Queue: "q", Priority: r.Priority}))
		r.State, r.Owner, r.Carrier, r.Attempt = pelton.Running, "gone", 4711, 1
	}
	held.Owner = "alive"
	must(t, b.CreateRecord(t.Context(), lost))
	must(t, b.CreateRecord(t.Context(), held))
	must(t, b.ShowPresence(t.Context(), Presence{ID: "alive"}, PresenceTTL))
	if swept := sweep(t, aged(b)); swept.Lost != 1 {
		t.Errorf("swept %+v, want one lost", swept)
	}
	d := wait(t, deliveries(t, b, "q", pelton.Low, 1), "repaired task")
	must(t, d.Err)
	now, err := b.LoadRecord(t.Context(), lost.ID)
	must(t, err)
	if d.Envelope.Epoch != 1 || now.Epoch != 1 || now.State != pelton.Queued || now.Crashes != 1 || now.Attempt != 0 {
		t.Errorf("envelope epoch %d, record %+v", d.Envelope.Epoch, now)
	}
	if now, err = b.LoadRecord(t.Context(), held.ID); err != nil || now.State != pelton.Running {
		t.Errorf("the task of a living worker is %s, %v", now.State, err)
	}
}

// Healthy tasks in every state are left alone, however old.
func TestSweepLeavesHealthyTasksAlone(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	queued, fired, waiting, running, released := aRecord("a", pelton.Low), aRecord("b", pelton.Low), aRecord("c", pelton.Low), aRecord("d", pelton.Low), aRecord("e", pelton.Low)
	fired.State, fired.RunAt = pelton.Scheduled, time.Now().Add(50*time.Millisecond).UTC()
	waiting.State, waiting.RunAt = pelton.Scheduled, time.Now().Add(time.Hour).UTC()
	for _, r := range []*Record{queued, fired, waiting, running, released} {
		must(t, b.Enqueue(t.Context(), r))
	}
	for _, r := range []*Record{running, released} {
		r.Carrier = wait(t, deliveries(t, b, r.Queue, pelton.Low, 1), "delivery").Seq
		r.State, r.Owner = pelton.Running, "gone" // the lease repairs that, not the sweep
	}
	released.State, released.Released = pelton.Queued, true
	must(t, b.SaveRecord(t.Context(), running))
	must(t, b.SaveRecord(t.Context(), released))
	shows(t, b, b.tasks(0), laneConsumer("b", pelton.Low), 1)
	for _, state := range []pelton.State{pelton.Succeeded, pelton.Cancelled, pelton.Expired, pelton.Failed} {
		r := aRecord("f", pelton.Low)
		r.State = state
		must(t, b.CreateRecord(t.Context(), r))
		if state == pelton.Failed {
			must(t, b.PublishDead(t.Context(), r))
		}
	}
	before := [2]uint64{streamState(t, b, b.tasks(0)).State.LastSeq, streamState(t, b, bucketStream(b.state(0))).State.LastSeq}
	s := aged(b)
	for range 3 {
		if swept := sweep(t, s); swept.Repaired() != 0 {
			t.Errorf("healthy tasks were repaired: %+v", swept)
		}
	}
	after := [2]uint64{streamState(t, b, b.tasks(0)).State.LastSeq, streamState(t, b, bucketStream(b.state(0))).State.LastSeq}
	if before != after {
		t.Errorf("the sweep wrote: last sequences %v, then %v", before, after)
	}
}

func TestSweepStaysWithinItsBudget(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	const records = 25
	for range records {
		must(t, b.CreateRecord(t.Context(), aRecord("q", pelton.Low)))
	}
	s := aged(b)
	found := 0
	for range 3 {
		swept, err := s.Step(t.Context(), 10)
		must(t, err)
		if swept.Looked > 20 {
			t.Errorf("a step with a budget of 10 looked at %d", swept.Looked)
		}
		found += swept.Orphans
	}
	if found == 0 {
		t.Error("three steps found nothing")
	}
}

// A schedule that falls due while the store is full sticks, also when there is
// room again: the fact of the server that the sweep is there for.
func TestSweepFiresSchedulesThatTheBrokerForgot(t *testing.T) {
	t.Parallel()
	srv, err := server.NewServer(&server.Options{
		DontListen: true, JetStream: true, StoreDir: t.TempDir(), JetStreamMaxStore: 1 << 20, NoSigs: true, NoLog: true,
	})
	must(t, err)
	srv.Start()
	t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	if !srv.ReadyForConnections(10 * time.Second) {
		t.Fatal("server is not ready")
	}
	nc, err := nats.Connect("", nats.InProcessServer(srv))
	must(t, err)
	t.Cleanup(nc.Close)
	b := openOn(t, nc, Config{})
	js, err := jetstream.New(nc)
	must(t, err)
	_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "junk", Subjects: []string{"junk"}})
	must(t, err)

	r := aRecord("q", pelton.Low)
	r.State, r.RunAt = pelton.Scheduled, time.Now().Add(500*time.Millisecond).UTC()
	must(t, b.Enqueue(t.Context(), r))
	for { // fill the store
		if _, err := js.Publish(t.Context(), "junk", []byte(strings.Repeat("x", 16<<10))); err != nil {
			break
		}
	}
	subject := b.scheduled(0, "q", pelton.Low, r.ID, 0)
	fill := time.After(time.Until(r.RunAt) + time.Second)
	<-fill // it falls due now, and cannot be written
	must(t, js.DeleteStream(context.WithoutCancel(t.Context()), "junk"))
	if gone(t, b, b.tasks(0), subject) {
		t.Skip("this server fired the schedule although the store was full: nothing to repair")
	}
	if swept := sweep(t, aged(b)); swept.Overdue != 1 {
		t.Errorf("swept %+v, want one overdue schedule", swept)
	}
	d := wait(t, deliveries(t, b, "q", pelton.Low, 1), "overdue task")
	must(t, d.Err)
	if d.Envelope.ID != r.ID {
		t.Errorf("delivered %s, want %s", d.Envelope.ID, r.ID)
	}
	if !gone(t, b, b.tasks(0), subject) {
		t.Error("the schedule is still there")
	}
}

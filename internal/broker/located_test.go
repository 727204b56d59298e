package broker_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
	"github.com/peltonq/pelton/internal/brokertest"
)

// pulled is the next delivery of a lane that there is.
func pulled(t *testing.T, l lane) *broker.Delivery {
	t.Helper()
	if err := l.Pull(1, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	d := receive(t, l.deliveries, "delivery")
	if d.Err != nil {
		t.Fatal(d.Err)
	}
	return d
}

func enqueued(t *testing.T, b *broker.Broker, change ...func(*broker.Record)) *broker.Record {
	t.Helper()
	r := newRecord("q", pelton.Normal)
	for _, c := range change {
		c(r)
	}
	if err := b.Enqueue(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	return r
}

// A plain task is one message. Its id is complete, it is found by it, and what is found is
// what was enqueued.
func TestLocated(t *testing.T) {
	t.Parallel()
	b := open(t, brokertest.Start(t), broker.Config{})
	first, r := enqueued(t, b), enqueued(t, b)
	if r.ID.Sequence() != first.ID.Sequence()+1 || r.ID.Minted() || r.Revision != 0 {
		t.Errorf("ids %s and %s, revision %d", first.ID, r.ID, r.Revision)
	}
	got, err := b.LoadRecord(t.Context(), r.ID)
	if err != nil {
		t.Fatal(err)
	}
	want := *r
	want.Version = got.Version
	if diff := cmp.Diff(&want, got); diff != "" {
		t.Errorf("record (-want +got):\n%s", diff)
	}
	d := pulled(t, openLane(t, b, "q", pelton.Normal))
	if d.Envelope.ID != first.ID {
		t.Errorf("delivered %s, enqueued %s", d.Envelope.ID, first.ID)
	}
}

// What holds something, is to be kept for a short time, or is delayed, has a record
// from the beginning.
func TestMintedWhereARecordIsNeeded(t *testing.T) {
	t.Parallel()
	b := open(t, brokertest.Start(t), broker.Config{})
	for name, change := range map[string]func(*broker.Record){
		"concurrency key": func(r *broker.Record) { r.ConcurrencyKey = "k"; r.EnterLine() },
		"delayed":         func(r *broker.Record) { r.State, r.RunAt = pelton.Scheduled, time.Now().Add(time.Hour).UTC() },
		"short retention": func(r *broker.Record) { r.Retention = time.Minute },
		"tick":            func(r *broker.Record) { r.Schedule = &pelton.TaskSchedule{Name: "s"} },
	} {
		if r := enqueued(t, b, change); !r.ID.Minted() || r.Revision == 0 {
			t.Errorf("%s: id %s, revision %d", name, r.ID, r.Revision)
		}
	}
}

// Ids that nobody was given find nothing: of a message that is another task's, of one
// that never was, of a place in another stream's order, of a task of another time.
func TestLocatedGuesses(t *testing.T) {
	t.Parallel()
	b := open(t, brokertest.Start(t), broker.Config{})
	r := enqueued(t, b)
	delayed := enqueued(t, b, func(r *broker.Record) { r.State, r.RunAt = pelton.Scheduled, time.Now().Add(time.Hour).UTC() })
	for name, id := range map[string]pelton.ID{
		"a seed":                r.ID.Seed(),
		"another sequence":      r.ID.At(r.ID.Sequence() + 1),
		"a sequence to come":    r.ID.At(1000),
		"another seed":          pelton.NewID(time.Now(), 0).At(r.ID.Sequence()),
		"a message of no lane":  delayed.ID.At(r.ID.Sequence() + 1),
		"another shard's":       pelton.NewID(time.Now(), 7).At(r.ID.Sequence()),
		"the largest there is":  r.ID.At(1<<53 - 1),
		"minted and not stored": pelton.NewID(time.Now(), 0),
	} {
		if got, err := b.LoadRecord(t.Context(), id); !errors.Is(err, pelton.ErrNotFound) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

// Who reads while a task ends finds it: in its message, or in its record.
func TestLocatedIsNeverMissing(t *testing.T) {
	t.Parallel()
	b := open(t, brokertest.Start(t), broker.Config{})
	l := openLane(t, b, "q", pelton.Normal)
	for range 200 {
		r := enqueued(t, b)
		d := pulled(t, l)
		read := make(chan error, 1)
		go func() {
			for {
				got, err := b.ReadRecord(t.Context(), r.ID)
				if err != nil || got.State.Terminal() {
					read <- err
					return
				}
			}
		}()
		done := d.Unrecorded()
		done.State, done.FinishedAt = pelton.Succeeded, time.Now().UTC()
		if err := b.SaveRecord(t.Context(), done); err != nil {
			t.Fatal(err)
		}
		if err := d.Ack(); err != nil {
			t.Fatal(err)
		}
		if err := receive(t, read, "end of the reading"); err != nil {
			t.Fatalf("a task that just ends: %v", err)
		}
	}
}

// One of two that change a task without a record wins.
func TestLocatedCancel(t *testing.T) {
	t.Parallel()
	b := open(t, brokertest.Start(t), broker.Config{})
	r := enqueued(t, b)
	d := pulled(t, openLane(t, b, "q", pelton.Normal))
	cancelled, err := b.Cancel(t.Context(), r.ID)
	if err != nil || cancelled.State != pelton.Cancelled || cancelled.Revision == 0 {
		t.Fatalf("Cancel = %+v, %v", cancelled, err)
	}
	done := d.Unrecorded()
	done.State = pelton.Succeeded
	if err := b.SaveRecord(t.Context(), done); !errors.Is(err, broker.ErrStale) {
		t.Errorf("a late success = %v", err)
	}
	if again, err := b.Cancel(t.Context(), r.ID); err != nil || again.Revision != cancelled.Revision {
		t.Errorf("second Cancel = %+v, %v", again, err)
	}
	if idle, err := b.Idle(t.Context()); err != nil || !idle {
		t.Errorf("the message is still there: %v", err)
	}
}

// In a batch, plain tasks are stored beside others, each with the id that it has.
func TestLocatedBatch(t *testing.T) {
	t.Parallel()
	b := open(t, brokertest.Start(t), broker.Config{})
	var records []*broker.Record
	for i := range 100 {
		r := newRecord("q", pelton.Priorities()[i%4])
		if i%5 == 0 {
			r.Retention = time.Minute
		}
		records = append(records, r)
	}
	for i, err := range b.EnqueueMany(t.Context(), records) {
		if err != nil {
			t.Fatal(err)
		}
		r := records[i]
		got, err := b.LoadRecord(t.Context(), r.ID)
		if err != nil || got.Priority != r.Priority || r.ID.Minted() != (i%5 == 0) {
			t.Errorf("task %d: %+v, %v", i, got, err)
		}
	}
}

// A first delivery is fresh; one that came before is not, and neither is what there
// was when the broker came up after an unclean stop, or as long as a worker does not
// know whether it did.
func TestFresh(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	srv := brokertest.StartServer(t, brokertest.In(dir), brokertest.Listening)
	nc := brokertest.Connect(t, srv, nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond))
	b := open(t, nc, broker.Config{})
	l := openLane(t, b, "q", pelton.Normal)
	eventually(t, "horizon is known", b.HorizonKnown)
	enqueued(t, b)
	d := pulled(t, l)
	if !d.Fresh {
		t.Error("a first delivery is not fresh")
	}
	if err := d.Nak(); err != nil {
		t.Fatal(err)
	}
	if again := pulled(t, l); again.Fresh || again.Envelope.ID != d.Envelope.ID {
		t.Errorf("second delivery = %+v", again)
	} else if err := again.Ack(); err != nil {
		t.Fatal(err)
	}
	enqueued(t, b, func(r *broker.Record) { r.Retention = time.Minute })
	if d := pulled(t, l); d.Fresh {
		t.Error("a task with a record is fresh")
	} else if err := d.Ack(); err != nil {
		t.Fatal(err)
	}

	if err := b.SaveHorizon(t.Context(), false, false); err != nil {
		t.Fatal(err)
	}
	old := enqueued(t, b)
	if err := b.SaveHorizon(t.Context(), true, false); err != nil {
		t.Fatal(err)
	}
	reader := open(t, brokertest.Connect(t, srv), broker.Config{})
	eventually(t, "horizon is known", reader.HorizonKnown)
	l = openLane(t, reader, "q", pelton.Normal)
	enqueued(t, b)
	if d := pulled(t, l); d.Fresh || d.Envelope.ID != old.ID {
		t.Errorf("%s from before the start is fresh: %v", d.Envelope.ID, d.Fresh)
	}
	if d := pulled(t, l); !d.Fresh {
		t.Error("what came after the start is not fresh")
	}
}

// A worker that is connected again before the new broker has said what there was when
// it came up believes nothing.
func TestHorizonIsOfOneBroker(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	srv := brokertest.StartServer(t, brokertest.In(dir))
	first := open(t, brokertest.Connect(t, srv), broker.Config{})
	if err := first.SaveHorizon(t.Context(), false, false); err != nil {
		t.Fatal(err)
	}
	enqueued(t, first)
	brokertest.Stop(t, srv)
	srv = brokertest.StartServer(t, brokertest.In(dir))
	b := open(t, brokertest.Connect(t, srv), broker.Config{})
	l := openLane(t, b, "q", pelton.Normal)
	if d := pulled(t, l); d.Fresh {
		t.Error("fresh by the horizon of another broker")
	}
	if b.HorizonKnown() {
		t.Error("the horizon of another broker is taken for this one's")
	}
	if err := b.SaveHorizon(t.Context(), true, false); err != nil {
		t.Fatal(err)
	}
	eventually(t, "horizon is known", b.HorizonKnown)
	enqueued(t, b)
	if d := pulled(t, l); !d.Fresh {
		t.Error("a first delivery is not fresh")
	}
}

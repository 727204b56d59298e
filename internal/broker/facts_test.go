package broker

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
)

func enqueue(t *testing.T, b *Broker, queue string, p pelton.Priority) *Record {
	t.Helper()
	r := aRecord(queue, p)
	must(t, b.Enqueue(t.Context(), r))
	return r
}

// answered sends an acknowledgement as a request, and wants its answer.
func answered(t *testing.T, d *Delivery, verb string) {
	t.Helper()
	if _, err := d.conn.call(t.Context(), &nats.Msg{Subject: d.ack, Data: []byte(verb)}); err != nil {
		t.Errorf("%s: %v, want an answer", verb, err)
	}
}

// The lane is made with these settings, and opening it again reverts nothing.
func TestFactLaneSettings(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	must(t, openOn(t, nc, Config{Lease: 7 * time.Second}).EnsureLane(t.Context(), Lane{Queue: "q_1-x", Priority: pelton.High}))
	other := openOn(t, nc, Config{Lease: 9 * time.Second})
	must(t, other.EnsureLane(t.Context(), Lane{Queue: "q_1-x", Priority: pelton.High}))
	info, err := other.consumer(t.Context(), "pelton_TASKS_0", "r_q_1-x_high")
	must(t, err)
	cfg := info.Config
	if cfg.FilterSubject != "pelton.t.0.r.q_1-x.high" || cfg.AckPolicy != jetstream.AckExplicitPolicy || cfg.MaxDeliver != -1 ||
		cfg.MaxAckPending != -1 || cfg.MaxWaiting != 4096 || cfg.AckWait != 7*time.Second || cfg.InactiveThreshold != 0 {
		t.Errorf("lane is %+v", cfg)
	}
	if lane, err := other.SettleLane(t.Context(), Lane{Queue: "q_1-x", Priority: pelton.High}, true); err != nil || lane.Lease != 7*time.Second || lane.Shorten {
		t.Errorf("settled = %+v, %v; want the 7 s it was made with", lane, err)
	}
	if _, err := other.SettleLane(t.Context(), Lane{Queue: "q_1-x", Priority: pelton.Low}, true); !errors.Is(err, pelton.ErrNotFound) {
		t.Errorf("a lane that is not there = %v, want ErrNotFound", err)
	}
}

// The lease: a delivery without a sign of life goes to another, under the same
// sequence. The acks of the stale delivery are not refused, and its ack takes the
// message out: this is why the record decides, and no ack.
func TestFactStaleAcksCount(t *testing.T) {
	t.Parallel()
	b := openOn(t, brokertest.Start(t), Config{Lease: time.Second})
	enqueue(t, b, "q", pelton.Low)
	got := deliveries(t, b, "q", pelton.Low, 2)
	stale := wait(t, got, "delivery")
	rightful := wait(t, got, "redelivery after the lease")
	if since := rightful.Arrived.Sub(stale.Arrived); since < 900*time.Millisecond {
		t.Errorf("handed on after %s, before the lease was over", since)
	}
	if stale.Seq != rightful.Seq || stale.Envelope.ID != rightful.Envelope.ID {
		t.Errorf("redelivered as %d, want %d", rightful.Seq, stale.Seq)
	}
	answered(t, stale, "+WPI")
	answered(t, stale, "+ACK")
	reaches(t, "the message to be gone", func() bool { return streamState(t, b, b.tasks(0)).State.Msgs == 0 })
	answered(t, rightful, "+WPI")
	answered(t, rightful, "+ACK")
	must(t, rightful.Extend(t.Context()))
}

func TestFactNakComesBackFirstAndForever(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	want := enqueue(t, b, "q", pelton.Low)
	enqueue(t, b, "q", pelton.Low)
	got := make(chan *Delivery, 1)
	p, err := b.OpenPuller(Lane{Queue: "q", Priority: pelton.Low}, func(d *Delivery) { got <- d }, func(PullEnd) {})
	must(t, err)
	for range 30 {
		must(t, p.Pull(1, time.Minute))
		d := wait(t, got, "delivery")
		if d.Envelope.ID != want.ID {
			t.Fatal("a nak put the task behind another")
		}
		answered(t, d, "-NAK")
	}
}

// A message can be deleted by its sequence, in whatever state; lanes count that.
func TestFactDeleteBySequence(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	enqueue(t, b, "q", pelton.Low)
	must(t, b.EnsureLane(t.Context(), Lane{Queue: "q", Priority: pelton.Low}))
	second, err := b.PublishReady(t.Context(), aRecord("q", pelton.Low).Envelope())
	must(t, err)
	shows(t, b, b.tasks(0), "r_q_low", 2)
	for range 2 { // what is gone already is no error
		must(t, b.DeleteMessage(t.Context(), 0, second))
		shows(t, b, b.tasks(0), "r_q_low", 1)
	}
	must(t, b.DeleteMessage(t.Context(), 0, 1<<40))
	d := wait(t, deliveries(t, b, "q", pelton.Low, 1), "delivery")
	must(t, b.DeleteMessage(t.Context(), 0, d.Seq))
	answered(t, d, "+ACK")
	if idle, err := b.Idle(t.Context()); !idle || err != nil {
		t.Errorf("idle = %t, %v", idle, err)
	}
}

// A key's TTL leaves a marker, and expected sequence 0 is refused while the
// marker is there. A write without a TTL drops the TTL: a requeued record stays.
func TestFactTTLOfRecords(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	done := func() *Record {
		r := aRecord("q", pelton.Low)
		r.State, r.Retention = pelton.Succeeded, time.Second
		must(t, b.CreateRecord(t.Context(), r))
		return r
	}
	requeued := done()
	requeued.State = pelton.Queued
	must(t, b.SaveRecord(t.Context(), requeued))
	expired := done()

	var marker *stored
	reaches(t, "a marker of the expired record", func() bool {
		var err error
		marker, err = b.get(t.Context(), bucketStream(b.state(0)), getRequest{LastFor: b.record(expired.ID)}, false)
		must(t, err)
		return marker.deleted()
	})
	if reason := marker.header.Get("Nats-Marker-Reason"); reason != "MaxAge" || marker.header.Get(headerTTL) == "" {
		t.Errorf("marker is %v, want reason MaxAge and a TTL", marker.header)
	}
	if _, err := b.LoadRecord(t.Context(), requeued.ID); err != nil {
		t.Errorf("the requeued record went with the TTL of the terminal one: %v", err)
	}
	w, err := b.recordWrite(expired)
	must(t, err)
	w.expect = 0
	if _, err := b.do(t.Context(), w); !errors.Is(err, ErrStale) {
		t.Errorf("write with expected sequence 0 over a marker = %v, want ErrStale", err)
	}
	must(t, b.CreateRecord(t.Context(), expired))
}

// GET /queues shows dead letters from a consumer that is never pulled.
func TestFactDeadCounterFollows(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	srv := brokertest.StartServer(t, brokertest.In(dir))
	nc := brokertest.Connect(t, srv)
	b := openOn(t, nc, Config{})
	records := make([]*Record, 5)
	for i := range records {
		records[i] = aRecord("q", pelton.Low)
		records[i].State = pelton.Failed
		must(t, b.PublishDead(t.Context(), records[i]))
	}
	shows(t, b, b.dead(), "d_q", 5)
	for epoch := range uint32(3) { // replaced by later epochs
		records[1].Epoch = epoch + 1
		must(t, b.PublishDead(t.Context(), records[1]))
	}
	shows(t, b, b.dead(), "d_q", 5)
	letter, err := b.LoadDead(t.Context(), "q", records[0].ID)
	must(t, err)
	stream, err := b.js.Stream(t.Context(), b.dead())
	must(t, err)
	must(t, stream.DeleteMsg(t.Context(), letter.Revision))
	shows(t, b, b.dead(), "d_q", 4)
	must(t, b.purge(t.Context(), b.dead(), b.deadLetter("q", records[1].ID)))
	shows(t, b, b.dead(), "d_q", 3)
	must(t, b.PublishDead(t.Context(), records[0])) // and comes again
	shows(t, b, b.dead(), "d_q", 4)

	b.Close()
	nc.Close()
	brokertest.Stop(t, srv)
	b = openOn(t, brokertest.Connect(t, brokertest.StartServer(t, brokertest.In(dir))), Config{})
	shows(t, b, b.dead(), "d_q", 4)
	must(t, b.purge(t.Context(), b.dead(), b.deadIn("q")))
	shows(t, b, b.dead(), "d_q", 0)
}

func TestFactNobodyTakesTheWrite(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	if _, err := b.do(t.Context(), write{subject: "nowhere", expect: anyRevision}); !errors.Is(err, pelton.ErrUnavailable) {
		t.Errorf("write without a stream = %v, want ErrUnavailable", err)
	}
	if _, err := b.get(t.Context(), "NO_STREAM", getRequest{Seq: 1}, false); !errors.Is(err, pelton.ErrUnavailable) {
		t.Errorf("get without a stream = %v, want ErrUnavailable", err)
	}
	if _, err := b.do(t.Context(), write{subject: b.record(pelton.NewID(time.Now(), 0)), data: make([]byte, 2<<20), expect: 0}); !errors.Is(err, pelton.ErrInvalid) {
		t.Errorf("write over max_payload = %v, want ErrInvalid", err)
	}
	p, err := b.OpenPuller(Lane{Queue: "never", Priority: pelton.Low}, func(*Delivery) {}, func(PullEnd) {})
	must(t, err)
	p.Close(t.Context())
	ends := make(chan PullEnd, 1)
	p, err = b.OpenPuller(Lane{Queue: "never", Priority: pelton.Low}, func(*Delivery) {}, func(e PullEnd) { ends <- e })
	must(t, err)
	must(t, p.Pull(1, time.Minute))
	if e := wait(t, ends, "end"); !errors.Is(e.Err, pelton.ErrUnavailable) {
		t.Errorf("pull from a lane that is not there ends with %v, want ErrUnavailable", e.Err)
	}
}

// Direct gets and gets from the leader tell the same.
func TestFactGets(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	r := aRecord("q", pelton.Low)
	must(t, b.CreateRecord(t.Context(), r))
	stream := bucketStream(b.state(0))
	for name, get := range map[string]func([]byte) (*stored, error){
		"direct": func(body []byte) (*stored, error) { return b.getDirect(t.Context(), stream, body) },
		"leader": func(body []byte) (*stored, error) { return b.getLeader(t.Context(), stream, body) },
	} {
		msg, err := get([]byte(`{"last_by_subj":"` + b.record(r.ID) + `"}`))
		must(t, err)
		if msg.seq != r.Revision || msg.subject != b.record(r.ID) || msg.time.IsZero() || msg.deleted() || msg.header.Get(headerExpectSubjectSeq) != "0" {
			t.Errorf("%s: %+v", name, msg)
		}
		if _, err := decodeRecord(msg.data, msg.seq); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, absent := range []string{`{"last_by_subj":"` + b.record(pelton.NewID(time.Now(), 0)) + `"}`, `{"seq":999}`} {
			if _, err := get([]byte(absent)); !errors.Is(err, pelton.ErrNotFound) {
				t.Errorf("%s: get %s = %v, want ErrNotFound", name, absent, err)
			}
		}
	}
	must(t, b.DropRecord(t.Context(), r))
	msg, err := b.getLeader(t.Context(), stream, []byte(`{"last_by_subj":"`+b.record(r.ID)+`"}`))
	must(t, err)
	if !msg.deleted() {
		t.Error("the leader's headers do not show a delete marker")
	}
}

// The state bucket takes atomic batches and is a normal bucket to nats.go.
func TestFactBucketsAreBuckets(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	if !streamState(t, b, bucketStream(b.state(0))).Config.AllowAtomicPublish {
		t.Error("the state bucket takes no atomic batches")
	}
	for _, name := range []string{b.state(0), b.names.config(), b.locks(), b.workers()} {
		kv, err := b.js.KeyValue(t.Context(), name)
		must(t, err)
		revision, err := kv.Create(t.Context(), "k", []byte("1"), jetstream.KeyTTL(time.Hour))
		must(t, err)
		if _, err := kv.Update(t.Context(), "k", []byte("2"), revision); err != nil {
			t.Errorf("%s: update: %v", name, err)
		}
		if entry, err := kv.Get(t.Context(), "k"); err != nil || string(entry.Value()) != "2" {
			t.Errorf("%s: get: %v, %v", name, entry, err)
		}
		must(t, kv.Delete(t.Context(), "k"))
		status, err := kv.Status(t.Context())
		must(t, err)
		if status.History() != 1 || status.TTL() != 0 || status.LimitMarkerTTL() != markerTTL {
			t.Errorf("%s: history %d, TTL %s, marker TTL %s", name, status.History(), status.TTL(), status.LimitMarkerTTL())
		}
	}
}

// Open leaves what an operator changed, and refuses a stream that is in the way.
func TestOpenMeetsWhatIsThere(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	js, err := jetstream.New(nc)
	must(t, err)
	dead := names{"pelton"}.streams(1)[1]
	dead.MaxAge, dead.Description = 90*24*time.Hour, "ours"
	_, err = js.CreateStream(t.Context(), dead)
	must(t, err)
	b := openOn(t, nc, Config{})
	if got := streamState(t, b, b.dead()).Config; got.MaxAge != dead.MaxAge || got.Description != "ours" {
		t.Errorf("the operator's settings were reverted: %s, %q", got.MaxAge, got.Description)
	}
	_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "MINE", Subjects: []string{"other.>"}})
	must(t, err)
	if _, err = Open(t.Context(), nc, Config{Namespace: "other"}); !errors.Is(err, pelton.ErrConflict) || !strings.Contains(err.Error(), "other_TASKS_0") {
		t.Errorf("open over another stream's subjects = %v, want ErrConflict that names the stream", err)
	}
}

// The marker of a deleted key goes without another one, which nats-server would store over whatever is written at that moment.
func TestMarkersLeaveNoMarkers(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	seq, err := b.do(t.Context(), write{subject: b.line(Line{Key: "k"}), expect: anyRevision, ttl: time.Second, header: deleteMarker()})
	must(t, err)
	stream := bucketStream(b.keys())
	reaches(t, "the marker to go", func() bool { return streamState(t, b, stream).State.Msgs == 0 })
	if last := streamState(t, b, stream).State.LastSeq; last != seq {
		t.Errorf("last sequence is %d after the marker %d: another one was stored", last, seq)
	}
}

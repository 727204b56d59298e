package broker

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
)

// These tests pin what the package leans on in JetStream's message schedules, so
// that an upgrade of the server that changes it fails here and not in a queue.

// deliveries opens the lane and keeps a request for up to n tasks open.
func deliveries(t *testing.T, b *Broker, queue string, p pelton.Priority, n int) <-chan *Delivery {
	t.Helper()
	got := make(chan *Delivery, n)
	puller, err := b.OpenPuller(Lane{Queue: queue, Priority: p}, func(d *Delivery) { got <- d }, func(PullEnd) {})
	must(t, err)
	t.Cleanup(func() { puller.Close(context.WithoutCancel(t.Context())) })
	body := []byte(`{"batch":` + formatSeq(uint64(n)) + `,"expires":30000000000}`)
	must(t, b.conn.nc.PublishRequest(puller.next, puller.inbox, body))
	return got
}

func TestFactSchedulesAreNeverEarly(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	must(t, b.EnsureScheduled(t.Context(), Lane{Queue: "q", Priority: pelton.High}))
	due := map[pelton.ID]time.Time{}
	start := time.Now()
	for i := range 8 {
		r := aRecord("q", pelton.High)
		r.Payload = []byte("{\"i\": \"\n<&>\"}")
		runAt := start.Add(200*time.Millisecond + time.Duration(i)*77_777_777) // not on whole milliseconds
		due[r.ID] = runAt
		must(t, b.PublishSchedule(t.Context(), r.Envelope(), runAt))
	}
	got := deliveries(t, b, "q", pelton.High, len(due))
	best := time.Hour
	for range due {
		d := wait(t, got, "fired task")
		must(t, d.Err)
		equalBytes(t, "fired payload", d.Envelope.Payload, []byte("{\"i\": \"\n<&>\"}"))
		fired, err := b.get(t.Context(), b.tasks(0), getRequest{Seq: d.Seq}, false)
		must(t, err)
		late := fired.time.Sub(due[d.Envelope.ID])
		if late < 0 {
			t.Errorf("fired %s early", -late)
		}
		best = min(best, late)
		if want := b.scheduled(0, "q", pelton.High, d.Envelope.ID, 0); fired.header.Get("Nats-Scheduler") != want || fired.subject != b.ready(0, "q", pelton.High) {
			t.Errorf("fired to %s from %s, want from %s", fired.subject, fired.header.Get("Nats-Scheduler"), want)
		}
	}
	// The best of eight, so that a busy machine does not fail it; times cut to
	// seconds would be early.
	if best > 500*time.Millisecond {
		t.Errorf("even the best of %d was %s late", len(due), best)
	}
}

func TestFactScheduleInThePastFiresAtOnce(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	must(t, b.EnsureScheduled(t.Context(), Lane{Queue: "q", Priority: pelton.Low}))
	got := deliveries(t, b, "q", pelton.Low, 1)
	r := aRecord("q", pelton.Low)
	must(t, b.PublishSchedule(t.Context(), r.Envelope(), time.Now().Add(-time.Hour)))
	if d := wait(t, got, "fired task"); d.Err != nil || d.Envelope.ID != r.ID {
		t.Errorf("got %v, %v", d.Envelope, d.Err)
	}
}

// One schedule waits per subject, a second with expected sequence 0 is refused,
// and a purge by wildcard takes all epochs of the task, and no other task's.
func TestFactScheduleIsWrittenOnceAndPurged(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	must(t, b.EnsureScheduled(t.Context(), Lane{Queue: "q", Priority: pelton.Low}))
	r, other := aRecord("q", pelton.Low), aRecord("q", pelton.Low)
	later := time.Now().Add(time.Hour)
	for _, r := range []*Record{r, other} {
		w, err := b.scheduleWrite(r.Envelope(), later)
		must(t, err)
		first, err := b.do(t.Context(), w)
		must(t, err)
		w, err = b.scheduleWrite(r.Envelope(), later.Add(time.Hour))
		must(t, err)
		if _, err := b.do(t.Context(), w); !errors.Is(err, ErrStale) {
			t.Fatalf("second schedule = %v, want ErrStale", err)
		}
		kept, err := b.get(t.Context(), b.tasks(0), getRequest{LastFor: w.subject}, false)
		must(t, err)
		if kept.seq != first {
			t.Errorf("sequence %d is kept, want the first one's %d", kept.seq, first)
		}
		must(t, b.PublishSchedule(t.Context(), r.Envelope(), later)) // which is no error above
		r.Epoch = 1
		must(t, b.PublishSchedule(t.Context(), r.Envelope(), later))
	}
	shows(t, b, b.tasks(0), "s_q", 4)
	must(t, b.CancelSchedules(t.Context(), r))
	shows(t, b, b.tasks(0), "s_q", 2)
	must(t, b.CancelSchedules(t.Context(), r)) // nothing there is no error
	if got := streamState(t, b, b.tasks(0)).State.Msgs; got != 2 {
		t.Errorf("%d messages are left, want the other task's 2", got)
	}
}

// A purged schedule does not fire, also when it was about to.
func TestFactPurgedScheduleDoesNotFire(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	must(t, b.EnsureScheduled(t.Context(), Lane{Queue: "q", Priority: pelton.Low}))
	gone, control := aRecord("q", pelton.Low), aRecord("q", pelton.Low)
	due := time.Now().Add(500 * time.Millisecond)
	must(t, b.PublishSchedule(t.Context(), gone.Envelope(), due))
	must(t, b.PublishSchedule(t.Context(), control.Envelope(), due.Add(300*time.Millisecond)))
	must(t, b.CancelSchedules(t.Context(), gone))
	if d := wait(t, deliveries(t, b, "q", pelton.Low, 2), "fired task"); d.Err != nil || d.Envelope.ID != control.ID {
		t.Errorf("got %v, %v; want the control alone", d.Envelope, d.Err)
	}
}

// A consumer that is never pulled counts what waits in the schedule.
func TestFactCounterFollowsFiring(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	must(t, b.EnsureScheduled(t.Context(), Lane{Queue: "q", Priority: pelton.Low}))
	for i := range 5 {
		at := time.Now().Add(time.Hour)
		if i < 2 {
			at = time.Now().Add(600 * time.Millisecond)
		}
		must(t, b.PublishSchedule(t.Context(), aRecord("q", pelton.Low).Envelope(), at))
	}
	shows(t, b, b.tasks(0), "s_q", 5)
	shows(t, b, b.tasks(0), "s_q", 3)
	shows(t, b, b.tasks(0), "r_q_low", 2)
	// The counter began before there was anything; one that comes later counts too.
	must(t, b.createConsumer(t.Context(), b.tasks(0), counter("s_again", "pelton.t.0.s.other.>")))
	shows(t, b, b.tasks(0), "s_again", 0)
}

// Schedules survive a restart; one that fell due meanwhile fires after it.
func TestFactSchedulesSurviveRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	missed, later := aRecord("q", pelton.Low), aRecord("q", pelton.Low)
	var due time.Time
	func() {
		srv := brokertest.StartServer(t, brokertest.In(dir))
		nc := brokertest.Connect(t, srv)
		b := openOn(t, nc, Config{})
		must(t, b.EnsureScheduled(t.Context(), Lane{Queue: "q", Priority: pelton.Low}))
		due = time.Now().Add(400 * time.Millisecond)
		must(t, b.PublishSchedule(t.Context(), missed.Envelope(), due))
		must(t, b.PublishSchedule(t.Context(), later.Envelope(), due.Add(1500*time.Millisecond)))
		b.Close()
		nc.Close()
		brokertest.Stop(t, srv)
	}()
	<-time.After(time.Until(due))
	b := openOn(t, brokertest.Connect(t, brokertest.StartServer(t, brokertest.In(dir))), Config{})
	got := deliveries(t, b, "q", pelton.Low, 2)
	for _, want := range []*Record{missed, later} {
		if d := wait(t, got, "fired task"); d.Err != nil || d.Envelope.ID != want.ID {
			t.Errorf("got %v, %v; want %s", d.Envelope, d.Err, want.ID)
		}
	}
	shows(t, b, b.tasks(0), "s_q", 0)
}

// Headers of the schedule itself must not pass for those of a task.
func TestFactBadSchedulesAreRefused(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	for name, header := range map[string]nats.Header{
		"pattern": {headerSchedule: {"@at yesterday"}, headerScheduleTarget: {"pelton.t.0.r.q.low"}},
		"target":  {headerSchedule: {"@at 2030-01-01T00:00:00.5Z"}, headerScheduleTarget: {"elsewhere.r"}},
	} {
		_, err := b.do(t.Context(), write{subject: "pelton.t.0.s.q.low.x.0", expect: 0, header: header})
		if err == nil || errors.Is(err, pelton.ErrUnavailable) || errors.Is(err, pelton.ErrUnknownOutcome) || errors.Is(err, ErrStale) {
			t.Errorf("bad %s: %v, want a refusal that no retry will change", name, err)
		}
	}
}

package broker

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
)

// callLines runs what every worker does with arrivals, until the test or stop ends
// it.
func callLines(t *testing.T, b *Broker) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var calling sync.WaitGroup
	calling.Go(func() { b.CallLines(ctx) })
	stop = func() { cancel(); calling.Wait() }
	t.Cleanup(stop)
	return stop
}

// What is in lines when the first worker comes is called, delayed tasks when their
// time comes, and arrivals are taken off.
func TestArrivalsAreServed(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	early := inLineOf(t, b, "k", 2)
	delayed := keyed("d")
	delayed.State, delayed.RunAt = pelton.Scheduled, time.Now().Add(300*time.Millisecond).UTC()
	must(t, b.Enqueue(t.Context(), delayed))
	shows(t, b, b.keyed(0), laterConsumer("q"), 1)
	callLines(t, b)
	lane := deliveries(t, b, "q", pelton.Low, 10)
	if d := wait(t, lane, "first of the line"); d.Err != nil || d.Envelope.ID != early[0].ID {
		t.Errorf("called %+v, %v", d.Envelope, d.Err)
	}
	d := wait(t, lane, "delayed task")
	if d.Err != nil || d.Envelope.ID != delayed.ID || time.Now().Before(delayed.RunAt) {
		t.Errorf("called %+v, %v, due at %s", d.Envelope, d.Err, delayed.RunAt)
	}
	later := inLineOf(t, b, "l", 1)
	if d := wait(t, lane, "later task"); d.Err != nil || d.Envelope.ID != later[0].ID {
		t.Errorf("called %+v, %v", d.Envelope, d.Err)
	}
	shows(t, b, b.keyed(0), laterConsumer("q"), 0)
	shows(t, b, b.keyed(0), waitingConsumer("q"), 1)
	reaches(t, "arrivals are acknowledged", func() bool {
		info, err := b.consumer(t.Context(), b.keyed(0), arrivalsConsumer)
		must(t, err)
		return info.NumPending == 0 && info.NumAckPending == 0
	})
}

// An arrival whose worker died before it settled the line comes to another.
func TestArrivalOfADeadWorker(t *testing.T) {
	t.Parallel()
	b := openOn(t, brokertest.Start(t), Config{Lease: time.Second})
	must(t, b.createConsumer(t.Context(), b.keyed(0), b.arrivals(b.cfg.Lease)))
	records := inLineOf(t, b, "k", 1)
	taken := make(chan *Delivery, 1)
	p, err := b.openPuller(Lane{}, b.keyed(0), arrivalsConsumer, func(d *Delivery) { taken <- d }, func(PullEnd) {})
	must(t, err)
	must(t, p.Pull(1, 5*time.Second))
	wait(t, taken, "arrival") // and the worker dies
	p.Close(t.Context())
	callLines(t, b)
	if d := wait(t, deliveries(t, b, "q", pelton.Low, 1), "called task"); d.Err != nil || d.Envelope.ID != records[0].ID {
		t.Errorf("called %+v, %v", d.Envelope, d.Err)
	}
}

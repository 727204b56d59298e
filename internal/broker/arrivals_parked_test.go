package broker

import (
	"context"
	"testing"
	"time"

	"github.com/peltonq/pelton/internal/brokertest"
)

// arrivalsOf takes n arrivals, as a worker does, and deals with none.
func arrivalsOf(t *testing.T, b *Broker, n int) []*Delivery {
	t.Helper()
	must(t, b.createConsumer(t.Context(), b.keyed(0), b.arrivals(b.cfg.Lease)))
	taken := make(chan *Delivery, n)
	p, err := b.openPuller(Lane{}, b.keyed(0), arrivalsConsumer, func(d *Delivery) { taken <- d }, func(PullEnd) {})
	must(t, err)
	t.Cleanup(func() { p.Close(context.WithoutCancel(t.Context())) })
	must(t, p.Pull(n, 5*time.Second))
	arrivals := make([]*Delivery, n)
	for i := range arrivals {
		arrivals[i] = wait(t, taken, "arrival")
	}
	return arrivals
}

// openArrivals is how many arrivals are with workers.
func openArrivals(t *testing.T, b *Broker) int {
	t.Helper()
	info, err := b.consumer(t.Context(), b.keyed(0), arrivalsConsumer)
	must(t, err)
	return info.NumAckPending
}

// An arrival in a line that is full waits for whoever settles the line next, in a process
// that takes all arrivals, and only there.
func TestParkedArrivals(t *testing.T) {
	t.Parallel()
	b := openOn(t, brokertest.Start(t), Config{})
	line := Line{Key: "k"}
	c := &caller{b: b}
	records := inLineOf(t, b, "k", 4)
	arrivals := arrivalsOf(t, b, 4)
	if c.park(line, arrivals[1]) {
		t.Fatal("parked in a line of which nothing is known")
	}
	settled(t, b, "k")
	if c.park(line, arrivals[1]) {
		t.Fatal("parked where arrivals may go elsewhere")
	}
	for _, d := range arrivals {
		b.known.arrived(b.connections(), d, line, d.data)
	}
	for seq := uint64(5); seq <= aloneAfter; seq++ {
		b.known.arrived(b.connections(), &Delivery{Seq: seq}, Line{}, nil)
	}
	for _, d := range arrivals[1:3] {
		if !c.park(line, d) {
			t.Fatal("not parked in a full line")
		}
	}
	if n := openArrivals(t, b); n < 3 {
		t.Fatalf("%d arrivals are open, want those of the 3 who wait", n)
	}
	start(t, b, records[0], 1)
	records[0].State = "succeeded"
	must(t, b.SaveRecord(t.Context(), records[0]))
	must(t, b.LeaveLines(t.Context(), records[0], 1))
	haveTurns(t, b, "k", records[1])
	// The places of the first two are deleted, and their arrivals with them.
	reaches(t, "those parked are acknowledged", func() bool { return openArrivals(t, b) == 1 })

	if !c.park(line, arrivals[3]) {
		t.Fatal("not parked in a full line")
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.settleLine(ended, line, lineSettling{}); err == nil {
		t.Fatal("settled without a ctx")
	}
	if got := b.parked.take(line); len(got) > 0 && got[0] != arrivals[3] {
		t.Errorf("parked are %+v", got)
	}
	if n := openArrivals(t, b); n != 1 {
		t.Errorf("%d arrivals are open after a settling that failed, want 1", n)
	}
}

// A line that nothing happens in is settled all the same.
func TestParkedArrivalsAreSettledInTime(t *testing.T) {
	t.Parallel()
	b := openOn(t, brokertest.Start(t), Config{})
	records := inLineOf(t, b, "k", 3)
	settled(t, b, "k")
	for seq := uint64(1); seq <= aloneAfter; seq++ {
		b.known.arrived(b.connections(), &Delivery{Seq: seq}, Line{}, nil)
	}
	callLines(t, b)
	reaches(t, "all arrivals are acknowledged", func() bool {
		info, err := b.consumer(t.Context(), b.keyed(0), arrivalsConsumer)
		must(t, err)
		return info != nil && info.NumPending == 0 && info.NumAckPending == 0
	})
	haveTurns(t, b, "k", records[0])
}

// What there is no room for is not parked.
func TestParkedArrivalsAreBounded(t *testing.T) {
	t.Parallel()
	var p parkedArrivals
	for range mostParked {
		if !p.add(Line{Key: "k"}, &Delivery{}) {
			t.Fatal("no room")
		}
	}
	if p.add(Line{Key: "l"}, &Delivery{}) {
		t.Error("more than there is room for")
	}
	if n := len(p.take(Line{Key: "k"})); n != mostParked || !p.add(Line{Key: "l"}, &Delivery{}) {
		t.Errorf("%d taken, and no room after that", n)
	}
	if lines := p.since(time.Now().Add(-time.Hour)); len(lines) > 0 {
		t.Errorf("%v have waited for an hour", lines)
	}
}

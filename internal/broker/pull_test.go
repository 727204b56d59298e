package broker_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
	"github.com/peltonq/pelton/internal/brokertest"
)

// The dispatcher leans on these four answers of the server.
func TestPullSemantics(t *testing.T) {
	t.Parallel()
	b := open(t, brokertest.Start(t), broker.Config{})
	if err := b.EnsureLane(t.Context(), broker.Lane{Queue: "q", Priority: pelton.Low}); err != nil {
		t.Fatal(err)
	}
	l := openLane(t, b, "q", pelton.Low)

	// An empty lane answers a request without waiting at once.
	if err := l.Pull(3, 0); err != nil {
		t.Fatal(err)
	}
	if e := receive(t, l.ends, "end"); e.Err != nil {
		t.Errorf("end of an empty pull = %v", e.Err)
	}
	// A waiting request of one gets the next task, and no end after it.
	if err := l.Pull(1, 30*time.Second); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := b.Enqueue(t.Context(), newRecord("q", pelton.Low)); err != nil {
			t.Fatal(err)
		}
	}
	receive(t, l.deliveries, "delivery of a waiting pull")
	// A request for more than is there brings what is there, and ends. What is there
	// the broker counts a moment after it acknowledged.
	eventually(t, "two ready tasks", func() bool {
		q, err := b.Queue(t.Context(), "q")
		return err == nil && q.Ready == 2
	})
	if err := l.Pull(5, 0); err != nil {
		t.Fatal(err)
	}
	receive(t, l.deliveries, "delivery")
	receive(t, l.deliveries, "delivery")
	if e := receive(t, l.ends, "end of a part-filled pull"); e.Err != nil {
		t.Errorf("end = %v", e.Err)
	}
	// A waiting request ends when its time is up.
	if err := l.Pull(1, 200*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if e := receive(t, l.ends, "end of a waiting pull"); e.Err != nil {
		t.Errorf("end = %v", e.Err)
	}
	if n := len(l.deliveries) + len(l.ends); n != 0 {
		t.Errorf("%d answers too many", n)
	}
}

// A standing request brings tasks as they come, one after the other, and no end when it is
// complete.
func TestStandingPull(t *testing.T) {
	t.Parallel()
	b := open(t, brokertest.Start(t), broker.Config{})
	if err := b.EnsureLane(t.Context(), broker.Lane{Queue: "q", Priority: pelton.Low}); err != nil {
		t.Fatal(err)
	}
	l := openLane(t, b, "q", pelton.Low)
	for range 2 { // the second while nothing is open
		if err := l.Stand(2, 30*time.Second); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := b.Enqueue(t.Context(), newRecord("q", pelton.Low)); err != nil {
				t.Fatal(err)
			}
			receive(t, l.deliveries, "delivery of a standing pull")
		}
	}
	if err := l.Stand(2, 200*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if e := receive(t, l.ends, "end of a standing pull"); e.Err != nil {
		t.Errorf("end = %v", e.Err)
	}
	if n := len(l.deliveries) + len(l.ends); n != 0 {
		t.Errorf("%d answers too many", n)
	}
}

// Standing requests may follow each other before the first is complete. Each end says how many
// deliveries it was still for: what all were for is what came and what was left.
func TestStandingPullsOverlap(t *testing.T) {
	t.Parallel()
	b := open(t, brokertest.Start(t), broker.Config{})
	if err := b.EnsureLane(t.Context(), broker.Lane{Queue: "q", Priority: pelton.Low}); err != nil {
		t.Fatal(err)
	}
	l := openLane(t, b, "q", pelton.Low)
	left := 0
	for _, batch := range []int{4, 5, 1} {
		if err := l.Stand(batch, time.Second); err != nil {
			t.Fatal(err)
		}
		left += batch
		for range 2 {
			if err := b.Enqueue(t.Context(), newRecord("q", pelton.Low)); err != nil {
				t.Fatal(err)
			}
			receive(t, l.deliveries, "delivery of a standing pull")
			left--
		}
	}
	for left > 0 {
		e := receive(t, l.ends, "end of a standing pull")
		if e.Err != nil || e.Left == 0 {
			t.Fatalf("end = %+v, %d are left", e, left)
		}
		left -= e.Left
	}
	if n := len(l.deliveries) + len(l.ends); n != 0 || left != 0 {
		t.Errorf("%d answers too many, %d left", n, left)
	}
}

func TestNakComesBackAtOnce(t *testing.T) {
	t.Parallel()
	b := open(t, brokertest.Start(t), broker.Config{})
	r := newRecord("q", pelton.Low)
	if err := b.Enqueue(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	l := openLane(t, b, "q", pelton.Low)
	for range 3 {
		if err := l.Pull(1, time.Minute); err != nil {
			t.Fatal(err)
		}
		if err := receive(t, l.deliveries, "delivery").Nak(); err != nil {
			t.Fatal(err)
		}
	}
}

// Closing a puller strands nothing: what its open request still brings reaches
// deliver, or stays in the lane.
func TestPullerCloseStrandsNothing(t *testing.T) {
	t.Parallel()
	b := open(t, brokertest.Start(t), broker.Config{Lease: time.Hour})
	const tasks = 200
	if err := b.EnsureLane(t.Context(), broker.Lane{Queue: "q", Priority: pelton.Low}); err != nil {
		t.Fatal(err)
	}
	seen := 0
	var enqueuing sync.WaitGroup
	enqueuing.Go(func() {
		for range tasks {
			if err := b.Enqueue(context.WithoutCancel(t.Context()), newRecord("q", pelton.Low)); err != nil {
				t.Error(err)
			}
		}
	})
	take := func(l lane) {
		for len(l.deliveries) > 0 {
			if err := (<-l.deliveries).Ack(); err != nil {
				t.Error(err)
			}
			seen++
		}
	}
	for i := range 50 {
		l := openLane(t, b, "q", pelton.Low)
		if err := l.Pull(3, time.Minute); err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 { // close in the middle of what comes, every other time
			d := receive(t, l.deliveries, "delivery")
			l.deliveries <- d
		}
		l.Close(t.Context())
		take(l)
	}
	enqueuing.Wait()
	l := openLane(t, b, "q", pelton.Low)
	for seen < tasks {
		if err := l.Pull(tasks+1, 2*time.Second); err != nil { // one more than can come: it ends
			t.Fatal(err)
		}
		receive(t, l.ends, "end")
		before := seen
		take(l)
		if seen == before {
			t.Fatalf("only %d of %d tasks came: the rest is stranded until the lease is over", seen, tasks)
		}
	}
}

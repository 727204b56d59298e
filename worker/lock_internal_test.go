package worker

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
	"github.com/peltonq/pelton/internal/brokertest"
)

func TestNextRenewal(t *testing.T) {
	t.Parallel()
	const lease = 30 * time.Second
	for since, want := range map[time.Duration]time.Duration{
		0:                         10 * time.Second,
		4 * time.Second:           6 * time.Second,
		9 * time.Second:           1500 * time.Millisecond,
		10 * time.Second:          1500 * time.Millisecond,
		15 * time.Second:          1500 * time.Millisecond,
		19 * time.Second:          time.Second, // not a moment after two thirds
		20*time.Second - 1:        1,
		20 * time.Second:          0,
		time.Hour:                 0,
		-500 * time.Millisecond:   10500 * time.Millisecond,
		8500 * time.Millisecond:   1500 * time.Millisecond,
		8500*time.Millisecond - 1: 1500*time.Millisecond + 1,
	} {
		if got := nextRenewal(lease, since); got != want {
			t.Errorf("%s after the last contact: in %s, want %s", since, got, want)
		}
	}
}

func TestNextLook(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, test := range []struct {
		left []time.Duration // of the leases of those who hold it
		want time.Duration
	}{
		{nil, time.Second},
		{[]time.Duration{time.Minute}, time.Second},
		{[]time.Duration{990 * time.Millisecond}, time.Second},
		{[]time.Duration{300 * time.Millisecond}, 320 * time.Millisecond},
		{[]time.Duration{time.Minute, 300 * time.Millisecond, time.Hour}, 320 * time.Millisecond},
		{[]time.Duration{0}, 200 * time.Millisecond}, // the broker is late
		{[]time.Duration{-1900 * time.Millisecond}, 200 * time.Millisecond},
		{[]time.Duration{-2 * time.Second}, time.Second}, // clocks differ
		{[]time.Duration{-time.Hour}, time.Second},
	} {
		var held []*broker.Permit
		for _, left := range test.left {
			held = append(held, &broker.Permit{Expires: now.Add(left)})
		}
		if got := nextLook(held, now); got != test.want {
			t.Errorf("%s left: look after %s, want %s", test.left, got, test.want)
		}
	}
}

// lockRig is a worker that is open and serves nothing, with the session of a run.
func lockRig(t *testing.T) (*Worker, *lockSession) {
	t.Helper()
	mux := NewMux()
	mux.Handle("k", HandlerFunc(func(context.Context, *pelton.Task) (json.RawMessage, error) { return nil, nil }))
	nc := brokertest.Start(t)
	w, err := New(nc, mux, Config{})
	if err != nil {
		t.Fatal(err)
	}
	if w.b, err = broker.Open(t.Context(), nc, broker.Config{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.b.Close)
	w.hard = context.WithoutCancel(t.Context())
	holder := pelton.LockHolder{TaskID: pelton.NewID(time.Now(), 0), Kind: "k", Worker: w.id, Fence: 1}
	return w, newLockSession(t.Context(), w, holder, time.Minute)
}

// landed makes a write as one whose acknowledgement is lost: the copy that the
// worker has does not learn of it.
func landed(t *testing.T, p *broker.Permit, write func(*broker.Permit) error) {
	t.Helper()
	unseen := *p
	if err := write(&unseen); err != nil {
		t.Fatal(err)
	}
}

// A take whose acknowledgement was lost is found by its grant at the next look, and
// renewed, because nobody knows since when its lease runs.
func TestTakeWithoutAnAnswerIsFound(t *testing.T) {
	t.Parallel()
	w, s := lockRig(t)
	req := lockRequest{name: "x", slots: 1, lease: time.Minute}
	taking := &taking{w: w, req: req, permit: broker.NewPermit("x", 1, req.lease, "grant-1", s.holder)}
	state, err := w.b.LockState(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	landed(t, taking.permit, func(p *broker.Permit) error { return w.b.TakeLock(t.Context(), state, p) })
	if err := taking.try(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p := taking.permit; p.Token == 0 || p.Revision <= p.Token || taking.sent.IsZero() {
		t.Errorf("found %+v, sent %s", p, taking.sent)
	}
	taking.permit = broker.NewPermit("x", 1, req.lease, "grant-2", s.holder)
	if err := taking.try(t.Context()); !errors.Is(err, errHeld) {
		t.Errorf("another acquisition of the same task = %v, want errHeld", err)
	}
}

// Renewals and releases whose acknowledgement was lost do not cost the lock, and
// what somebody else wrote does.
func TestRenewalsWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	w, s := lockRig(t)
	hold := func(name string) *permit {
		held, err := s.take(t.Context(), lockRequest{name: name, slots: 1, lease: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = held.Unlock() })
		w.permits.mu.Lock()
		defer w.permits.mu.Unlock()
		for p := range w.permits.held {
			if p.at.Name == name {
				p.stop() // the test renews
				p.keeping.Wait()
				return p
			}
		}
		t.Fatal("not among the worker's permits")
		return nil
	}
	renewed := func(p *broker.Permit) error { return w.b.RenewLock(t.Context(), p) }

	p := hold("renewed")
	p.contact = time.Now().Add(-30 * time.Second)
	landed(t, p.at, renewed)
	if err := p.renew(t.Context()); err != nil || time.Since(p.contact) > 5*time.Second {
		t.Errorf("renewal after one without an answer: %v, contact %s", err, p.contact)
	}
	landed(t, p.at, renewed)
	if err := p.release(); err != nil {
		t.Errorf("release after a renewal without an answer: %v", err)
	}

	p = hold("late")
	p.contact = time.Now().Add(-40 * time.Second)
	if err := p.renew(t.Context()); !errors.Is(err, pelton.ErrLockLost) {
		t.Errorf("renewal after two thirds of the lease = %v, want ErrLockLost", err)
	}
	p.contact = time.Now().Add(-40 * time.Second).Round(0) // the machine slept
	if err := p.renew(t.Context()); !errors.Is(err, pelton.ErrLockLost) {
		t.Errorf("renewal after two thirds of the lease by the wall clock = %v, want ErrLockLost", err)
	}

	p = hold("taken")
	landed(t, p.at, func(p *broker.Permit) error { return w.b.ReleaseLock(t.Context(), p) })
	next, err := w.b.LockState(t.Context(), "taken")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.b.TakeLock(t.Context(), next, broker.NewPermit("taken", 1, time.Minute, "other", s.holder)); err != nil {
		t.Fatal(err)
	}
	if err := p.renew(t.Context()); !errors.Is(err, pelton.ErrLockLost) {
		t.Errorf("renewal of what somebody else holds = %v, want ErrLockLost", err)
	}
	if err := p.release(); !errors.Is(err, pelton.ErrLockLost) {
		t.Errorf("release of what somebody else holds = %v, want ErrLockLost", err)
	}
	if locks, err := w.b.Locks(t.Context()); err != nil || len(locks) != 2 {
		t.Errorf("locks = %+v, %v; want those of the others untouched", locks, err)
	}
}

// Those who wait in one process take turns in their order, and a turn that was
// given up is no obstacle.
func TestTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var ts turns
		leave, err := ts.enter(t.Context(), t.Context(), "x")
		if err != nil {
			t.Fatal(err)
		}
		order := make(chan int, 3)
		for i := range 3 {
			ctx, cancel := context.WithCancelCause(t.Context())
			go func() {
				leave, err := ts.enter(ctx, t.Context(), "x")
				if err != nil {
					if i != 1 || !errors.Is(err, pelton.ErrTimeout) {
						t.Errorf("%d: %v", i, err)
					}
					return
				}
				order <- i
				leave()
			}()
			synctest.Wait()
			if i == 1 {
				cancel(pelton.ErrTimeout)
			}
			defer cancel(nil)
		}
		other, err := ts.enter(t.Context(), t.Context(), "y") // of another name
		if err != nil {
			t.Fatal(err)
		}
		other()
		leave()
		if first, second := <-order, <-order; first != 0 || second != 2 {
			t.Errorf("order %d, %d", first, second)
		}
		synctest.Wait()
		if len(ts.byName) != 0 {
			t.Errorf("left: %v", ts.byName)
		}
	})
}

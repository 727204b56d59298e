package redislimit_test

import (
	"testing"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/redistest"
	"github.com/peltonq/pelton/redislimit"
)

// A Redis that has forgotten what was booked is told again, by whoever asks first that
// knows: the next start is behind those that are on their way, for everybody.
func TestForgottenBookingsAreRestored(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	one, other := openPatient(t, server.URL, redislimit.Config{}), openPatient(t, server.URL, redislimit.Config{})
	b := bucket(pelton.RateLimit{Limit: 1, Per: time.Minute, Burst: 2})
	for range 12 {
		if got := one.Book(t.Context(), b, 1, time.Hour); !got.OK {
			t.Fatalf("booking with Redis: %+v", got)
		}
	}
	server.Kill()
	server.Run()
	// Behind them, and behind a burst of others, which may have booked since its last answer.
	if got := one.Book(t.Context(), b, 1, time.Hour); !got.OK || got.Wait < 12*time.Minute-patience || got.Wait > 13*time.Minute {
		t.Errorf("booking after ten minutes of bookings that Redis forgot: %+v", got)
	}
	if got := other.Book(t.Context(), b, 1, time.Hour); !got.OK || got.Wait < 13*time.Minute-patience || got.Wait > 15*time.Minute {
		t.Errorf("booking of a process that knew of none: %+v", got)
	}
	if d := other.Take(t.Context(), b, 1); d.Allowed != 0 {
		t.Errorf("taken behind them: %+v", d)
	}
}

// What a process has booked alone is added to what the fleet has, once, when Redis is
// back.
func TestBookedAloneIsTold(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	alone := openPatient(t, server.URL, redislimit.Config{Share: 0.5})
	b := bucket(pelton.RateLimit{Limit: 1, Per: time.Minute, Burst: 4})
	server.Kill()
	for i, want := range []time.Duration{0, 0, 2 * time.Minute, 4 * time.Minute} { // its share: burst 2, one in two minutes
		if got := alone.Book(t.Context(), b, 1, time.Hour); !got.OK || got.Wait > want || got.Wait < want-time.Second {
			t.Errorf("booking %d alone: %+v, want %s", i, got, want)
		}
	}
	server.Run()
	pause(t, redislimit.TripFor) // nothing is asked until then
	// It is at four minutes by its share, and the fleet must not pass it with a burst.
	if got := alone.Book(t.Context(), b, 1, time.Hour); !got.OK || got.Wait < 5*time.Minute-patience {
		t.Errorf("booking with Redis again: %+v", got)
	}
	fresh := openPatient(t, server.URL, redislimit.Config{})
	first := fresh.Book(t.Context(), b, 1, time.Hour)
	if !first.OK || first.Wait < 5*time.Minute-patience || first.Wait > 9*time.Minute {
		t.Errorf("booking of another process: %+v", first)
	}
	if next := alone.Book(t.Context(), b, 1, time.Hour); !next.OK || next.Wait < first.Wait {
		t.Errorf("what was told was not told once: %+v after %+v", next, first)
	}
}

// After Redis is back a process keeps to its share until all others can have noticed.
func TestShareHoldsUntilAllAreBack(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	l := openPatient(t, server.URL, redislimit.Config{Share: 0.25})
	rested := func(key string) (at func() int) {
		b := bucket(pelton.RateLimit{Limit: 1, Per: time.Hour, Burst: 8})
		b.Key += key
		return func() int { return l.Take(t.Context(), b, 8).Allowed }
	}
	if got := rested("before")(); got != 8 {
		t.Errorf("%d taken with Redis", got)
	}
	server.Kill()
	for range 4 {
		rested("away")()
	}
	server.Run()
	pause(t, redislimit.TripFor)
	if got := rested("back")(); got != 2 {
		t.Errorf("%d taken when Redis was just back, want the share", got)
	}
	pause(t, redislimit.SettleFor)
	if got := rested("settled")(); got != 8 {
		t.Errorf("%d taken long after", got)
	}
}

// A restart that no question met is noticed all the same: the share bounds a process that has
// gone on counting in Redis, while others may count alone.
func TestRestartThatNobodyMet(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	l := openPatient(t, server.URL, redislimit.Config{Share: 0.25})
	rested := func(key string) int {
		b := bucket(pelton.RateLimit{Limit: 1, Per: time.Hour, Burst: 8})
		b.Key += key
		return l.Take(t.Context(), b, 8).Allowed
	}
	if got := rested("before"); got != 8 {
		t.Errorf("%d taken with Redis", got)
	}
	server.Kill()
	server.Run()
	rested("first") // the question that finds the connection gone, or makes a new one
	if got := rested("after"); got != 2 {
		t.Errorf("%d taken from a Redis that was started anew, want the share", got)
	}
	pause(t, redislimit.SettleFor)
	if got := rested("settled"); got != 8 {
		t.Errorf("%d taken long after", got)
	}
}

package limit

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/peltonq/pelton"
)

func local(t testing.TB, share float64) *Local {
	t.Helper()
	l, err := NewLocal(share)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func bucket(limit int, per time.Duration, burst int) Bucket {
	return Bucket{Limit: "mail", Key: "mail", Rate: pelton.RateLimit{Limit: limit, Per: per, Burst: burst}}
}

func TestLocalTakes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l, b := local(t, 1), bucket(10, time.Second, 3)
		for i, step := range []struct {
			pause time.Duration
			n     int
			want  Decision
		}{
			{0, 1, Decision{Allowed: 1, Remaining: 2, ResetAfter: 100 * time.Millisecond}},
			{0, 5, Decision{Allowed: 2, RetryAfter: 100 * time.Millisecond, ResetAfter: 300 * time.Millisecond}},
			{0, 5, Decision{RetryAfter: 100 * time.Millisecond, ResetAfter: 300 * time.Millisecond}},
			{50 * time.Millisecond, 1, Decision{RetryAfter: 50 * time.Millisecond, ResetAfter: 250 * time.Millisecond}},
			{50 * time.Millisecond, 1, Decision{Allowed: 1, RetryAfter: 100 * time.Millisecond, ResetAfter: 300 * time.Millisecond}},
			{250 * time.Millisecond, 9, Decision{Allowed: 2, RetryAfter: 50 * time.Millisecond, ResetAfter: 250 * time.Millisecond}},
			{time.Hour, 9, Decision{Allowed: 3, RetryAfter: 100 * time.Millisecond, ResetAfter: 300 * time.Millisecond}},
		} {
			time.Sleep(step.pause)
			got := l.Take(t.Context(), b, step.n)
			if got.Allowed != step.want.Allowed || got.Remaining != step.want.Remaining ||
				!close(got.RetryAfter, step.want.RetryAfter) || !close(got.ResetAfter, step.want.ResetAfter) {
				t.Errorf("step %d: %+v, want %+v", i, got, step.want)
			}
		}
	})
}

// close forgives the rounding of floating point.
func close(a, b time.Duration) bool { return (a - b).Abs() < time.Microsecond }

func TestLocalBooks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l, b := local(t, 1), bucket(10, time.Second, 2)
		for i, want := range []Booking{
			{OK: true, Wait: 0},
			{OK: true, Wait: 0},
			{OK: true, Wait: 100 * time.Millisecond},
			{OK: true, Wait: 200 * time.Millisecond},
			{OK: false, Wait: 300 * time.Millisecond}, // further than it would wait
			{OK: false, Wait: 300 * time.Millisecond}, // and what was refused is not booked
		} {
			got := l.Book(t.Context(), b, 1, 250*time.Millisecond)
			if got.OK != want.OK || !close(got.Wait, want.Wait) {
				t.Errorf("booking %d: %+v, want %+v", i, got, want)
			}
		}
		if got := l.Book(t.Context(), b, 2, time.Second); !got.OK || !close(got.Wait, 400*time.Millisecond) {
			t.Errorf("two at once: %+v", got)
		}
		time.Sleep(400 * time.Millisecond)
		if got := l.Take(t.Context(), b, 1); got.Allowed != 0 || !close(got.RetryAfter, 100*time.Millisecond) {
			t.Errorf("taken behind the bookings: %+v", got)
		}
	})
}

// Whatever is asked at whatever times, no window sees more than its share.
func TestLocalBoundHoldsInEveryWindow(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		b := bucket(rapid.IntRange(1, 1000).Draw(rt, "limit"), time.Second, rapid.IntRange(1, 20).Draw(rt, "burst"))
		share := rapid.SampledFrom([]float64{1, 0.5, 0.3}).Draw(rt, "share")
		steps := rapid.SliceOfN(rapid.IntRange(0, 60), 1, 80).Draw(rt, "milliseconds")
		books := rapid.Bool().Draw(rt, "books")
		synctest.Test(t, func(t *testing.T) {
			l := local(t, share)
			start := time.Now()
			var starts []time.Duration
			for _, step := range steps {
				time.Sleep(time.Duration(step) * time.Millisecond)
				at := time.Since(start)
				if books {
					if got := l.Book(t.Context(), b, 1, time.Second); got.OK {
						starts = append(starts, at+got.Wait)
					}
					continue
				}
				for range l.Take(t.Context(), b, step).Allowed {
					starts = append(starts, at)
				}
			}
			burst := max(1, float64(int(float64(b.Rate.Burst)*share)))
			for i := range starts {
				for j := i; j < len(starts); j++ {
					most := (starts[j]-starts[i]).Seconds()*float64(b.Rate.Limit)*share + burst
					if float64(j-i+1) > most+1e-3 {
						rt.Fatalf("%d starts within %s, at most %.3f", j-i+1, starts[j]-starts[i], most)
					}
				}
			}
		})
	})
}

// Who always asks again at RetryAfter gets the whole rate.
func TestLocalReachesItsRate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l, b := local(t, 0.5), bucket(300, time.Second, 1)
		taken, asked := 0, 0
		for start := time.Now(); time.Since(start) < 10*time.Second; asked++ {
			d := l.Take(t.Context(), b, 4)
			taken += d.Allowed
			time.Sleep(d.RetryAfter)
		}
		if taken < 1499 || taken > 1502 || asked > 1502 {
			t.Errorf("%d taken in %d questions, want 1500 in as many", taken, asked)
		}
	})
}

func TestLocalCostAboveItsShareOfTheBurst(t *testing.T) {
	t.Parallel()
	l, b := local(t, 0.1), bucket(10, time.Second, 5)
	if got := l.Book(t.Context(), b, 5, 0); !got.OK || got.Wait != 0 {
		t.Errorf("a task that costs the whole burst: %+v", got)
	}
	if got := l.Book(t.Context(), b, 5, time.Minute); !got.OK || got.Wait < 4*time.Second {
		t.Errorf("the next one: %+v, want 5 tokens later at 1/s", got)
	}
}

// A bucket that is held goes on where its share of the fleet's bookings ends, whoever
// holds it how often, and is full no earlier than the fleet's.
func TestLocalHolds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l, b := local(t, 0.5), bucket(10, time.Second, 4) // its share: burst 2, 5 a second
		book := func(want time.Duration) {
			t.Helper()
			if got := l.Book(t.Context(), b, 1, time.Minute); !got.OK || !close(got.Wait, want) {
				t.Errorf("%+v, want %s", got, want)
			}
		}
		l.Hold(b, 0)
		l.Hold(b, -time.Hour)
		book(0)
		l.Hold(b, 10*time.Second) // 100 starts of the fleet, 50 of its own
		book(9800 * time.Millisecond)
		l.Hold(b, 10*time.Second) // it has one more by now
		book(10 * time.Second)
		time.Sleep(5 * time.Second)
		l.Hold(b, 5*time.Second)
		book(5200 * time.Millisecond)
		time.Sleep(time.Minute)
		if got := l.Take(t.Context(), b, 9); got.Allowed != 2 {
			t.Errorf("%d taken of a bucket that is full again", got.Allowed)
		}
	})
}

func TestLocalForgetsTheOldest(t *testing.T) {
	t.Parallel()
	l, err := newLocal(1, 3)
	if err != nil {
		t.Fatal(err)
	}
	at := func(i int) Bucket {
		b := bucket(1, time.Hour, 1)
		b.Key = fmt.Sprint(i)
		return b
	}
	for i := range 4 {
		if l.Take(t.Context(), at(i), 1).Allowed != 1 {
			t.Errorf("bucket %d is not full at first", i)
		}
	}
	if l.buckets.Len() != 3 {
		t.Errorf("%d buckets, want 3", l.buckets.Len())
	}
	if l.Take(t.Context(), at(3), 1).Allowed != 0 || l.Take(t.Context(), at(0), 1).Allowed != 1 {
		t.Error("the newest was forgotten, or the oldest was not")
	}
}

func TestLocalConcurrently(t *testing.T) {
	t.Parallel()
	l, b := local(t, 1), bucket(1, 24*time.Hour, 50)
	var taken atomic.Int64
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 50 {
				taken.Add(int64(l.Take(t.Context(), b, 3).Allowed))
				l.Book(t.Context(), b, 50, 0) // refused or taken whole
			}
		})
	}
	all.Wait()
	if got := taken.Load(); got > 50 {
		t.Errorf("%d taken of 50", got)
	}
}

func TestShare(t *testing.T) {
	t.Parallel()
	nan := 0.0
	nan /= nan
	for _, share := range []float64{0, -1, 1.01, nan} {
		if _, err := NewLocal(share); !errors.Is(err, pelton.ErrInvalid) {
			t.Errorf("share %v: %v", share, err)
		}
	}
}

package pelton_test

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/peltonq/pelton"
)

// middle draws no jitter.
const middle = 0.5

func TestBackoff(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]time.Duration{
		math.MinInt: time.Second,
		-1:          time.Second,
		0:           time.Second,
		1:           time.Second,
		2:           2 * time.Second,
		3:           4 * time.Second,
		11:          1024 * time.Second,
		12:          2048 * time.Second,
		13:          time.Hour,
		20:          time.Hour,
		64:          time.Hour,
		math.MaxInt: time.Hour,
	} {
		if got := pelton.Backoff(n, middle); got != want {
			t.Errorf("Backoff(%d) = %s, want %s", n, got, want)
		}
	}
	for random, want := range map[float64]time.Duration{0: 3 * time.Second, middle: 4 * time.Second, 1: 5 * time.Second} {
		if got := pelton.Backoff(3, random); got != want {
			t.Errorf("Backoff(3, %v) = %s, want %s", random, got, want)
		}
	}
}

func TestBackoffStaysInBounds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int().Draw(t, "n")
		base := pelton.Backoff(n, middle)
		got := pelton.Backoff(n, rapid.Float64Range(0, math.Nextafter(1, 0)).Draw(t, "random"))
		if got < base*3/4 || got > base*5/4 {
			t.Errorf("Backoff(%d) = %s is not within a quarter of %s", n, got, base)
		}
		if base < time.Second || base > time.Hour {
			t.Errorf("Backoff(%d) = %s", n, base)
		}
		if n < math.MaxInt && pelton.Backoff(n+1, middle) < base {
			t.Errorf("Backoff(%d) is shorter than Backoff(%d)", n+1, n)
		}
	})
}

func TestBackoffOfAllAttempts(t *testing.T) {
	t.Parallel()
	var sum time.Duration
	for n := 1; n <= pelton.DefaultMaxAttempts; n++ {
		sum += pelton.Backoff(n, middle)
	}
	if sum < 8*time.Hour+30*time.Minute || sum > 9*time.Hour+30*time.Minute {
		t.Errorf("the delays after %d attempts take %s, not about nine hours", pelton.DefaultMaxAttempts, sum)
	}
}

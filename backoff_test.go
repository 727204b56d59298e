package pelton_test

import (
	"encoding/json"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/peltonq/pelton"
)

// middle draws no jitter.
const middle = 0.5

// standard is what a task gets that does not say otherwise.
var standard pelton.Backoff

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
		if got := standard.Delay(n, middle); got != want {
			t.Errorf("Backoff(%d) = %s, want %s", n, got, want)
		}
	}
	for random, want := range map[float64]time.Duration{0: 3 * time.Second, middle: 4 * time.Second, 1: 5 * time.Second} {
		if got := standard.Delay(3, random); got != want {
			t.Errorf("Backoff(3, %v) = %s, want %s", random, got, want)
		}
	}
}

func TestBackoffStaysInBounds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int().Draw(t, "n")
		base := standard.Delay(n, middle)
		got := standard.Delay(n, rapid.Float64Range(0, math.Nextafter(1, 0)).Draw(t, "random"))
		if got < base*3/4 || got > base*5/4 {
			t.Errorf("Backoff(%d) = %s is not within a quarter of %s", n, got, base)
		}
		if base < time.Second || base > time.Hour {
			t.Errorf("Backoff(%d) = %s", n, base)
		}
		if n < math.MaxInt && standard.Delay(n+1, middle) < base {
			t.Errorf("Backoff(%d) is shorter than Backoff(%d)", n+1, n)
		}
	})
}

func TestBackoffOfATask(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		backoff pelton.Backoff
		want    [4]time.Duration // after attempts 1, 2, 3 and 1000
	}{
		{pelton.Backoff{Initial: 10 * time.Second}, [4]time.Duration{10 * time.Second, 20 * time.Second, 40 * time.Second, time.Hour}},
		{pelton.Backoff{Initial: 2 * time.Hour}, [4]time.Duration{2 * time.Hour, 2 * time.Hour, 2 * time.Hour, 2 * time.Hour}},
		{pelton.Backoff{Max: 3 * time.Second}, [4]time.Duration{time.Second, 2 * time.Second, 3 * time.Second, 3 * time.Second}},
		{pelton.Backoff{Factor: 1}, [4]time.Duration{time.Second, time.Second, time.Second, time.Second}},
		{pelton.Backoff{Initial: time.Minute, Max: 10 * time.Minute, Factor: 1.5}, [4]time.Duration{time.Minute, 90 * time.Second, 135 * time.Second, 10 * time.Minute}},
	} {
		for i, n := range []int{1, 2, 3, 1000} {
			if got := tc.backoff.Delay(n, middle); got != tc.want[i] {
				t.Errorf("%+v.Delay(%d) = %s, want %s", tc.backoff, n, got, tc.want[i])
			}
		}
	}
}

// What a task's JSON says of its backoff is read back as it was.
func TestBackoffJSON(t *testing.T) {
	t.Parallel()
	for want, b := range map[string]pelton.Backoff{
		`{}`:                            {},
		`{"initial":"5s"}`:              {Initial: 5 * time.Second},
		`{"initial":"5s","max":"5s"}`:   {Initial: 5 * time.Second, Max: 5 * time.Second},
		`{"max":"1h30m","factor":1.25}`: {Max: 90 * time.Minute, Factor: 1.25},
	} {
		text, err := json.Marshal(b)
		if err != nil || string(text) != want {
			t.Errorf("%+v is %s, %v, want %s", b, text, err, want)
		}
		var back pelton.Backoff
		if err := json.Unmarshal(text, &back); err != nil || back != b {
			t.Errorf("%s is read as %+v, %v", text, back, err)
		}
	}
	for _, text := range []string{`{"initial":"x"}`, `{"max":5}`, `{"max":"y"}`} {
		if err := json.Unmarshal([]byte(text), new(pelton.Backoff)); err == nil {
			t.Errorf("%s was read", text)
		}
	}
}

func TestBackoffOfAllAttempts(t *testing.T) {
	t.Parallel()
	var sum time.Duration
	for n := 1; n <= pelton.DefaultMaxAttempts; n++ {
		sum += standard.Delay(n, middle)
	}
	if sum < 8*time.Hour+30*time.Minute || sum > 9*time.Hour+30*time.Minute {
		t.Errorf("the delays after %d attempts take %s, not about nine hours", pelton.DefaultMaxAttempts, sum)
	}
}

package pelton

import (
	"encoding/json"
	"fmt"
	"math"
	"time"
)

const (
	backoffInitial = time.Second
	backoffMax     = time.Hour
	backoffFactor  = 2
	backoffJitter  = 0.25

	maxBackoff       = 30 * 24 * time.Hour
	maxBackoffFactor = 10
)

// Backoff is how the delay between a task's attempts grows. Every field's zero value
// is its default; those of the zero Backoff span about nine hours in the default 20
// attempts.
type Backoff struct {
	// Initial is the delay after the first attempt. Zero means 1 s.
	Initial time.Duration
	// Max bounds the delay. Zero means 1 h, or Initial if that is more.
	Max time.Duration
	// Factor is by how much each delay is longer than the one before, 1 to 10. Zero
	// means 2; 1 keeps the delay as it is.
	Factor float64
}

// Delay is how long to wait after the n-th attempt (n counts from 1) failed:
// min(Max, Initial · Factor^(n−1)), spread by ±25 % so that tasks that failed
// together do not come back together. random is a number in [0,1), drawn by the
// caller, which keeps the function pure.
func (b Backoff) Delay(n int, random float64) time.Duration {
	b = b.withDefaults()
	// Powers beyond the largest float are +Inf, which the bound takes care of.
	grown := float64(b.Initial) * math.Pow(b.Factor, float64(max(n, 1)-1))
	return time.Duration(min(grown, float64(b.Max)) * (1 - backoffJitter + 2*backoffJitter*random))
}

func (b Backoff) withDefaults() Backoff {
	if b.Initial == 0 {
		b.Initial = backoffInitial
	}
	if b.Max == 0 {
		b.Max = max(backoffMax, b.Initial)
	}
	if b.Factor == 0 {
		b.Factor = backoffFactor
	}
	return b
}

// check calls fail for every field that no Backoff can have.
func (b Backoff) check(fail func(field, format string, args ...any)) {
	if b == (Backoff{}) {
		return
	}
	longest := FormatDuration(maxBackoff)
	if b.Initial != 0 && (b.Initial < time.Millisecond || b.Initial > maxBackoff) {
		fail("backoff.initial", "%s is not between 1ms and %s", FormatDuration(b.Initial), longest)
	}
	if b.Max != 0 && (b.Max < b.withDefaults().Initial || b.Max > maxBackoff) {
		fail("backoff.max", "%s is not between the initial delay and %s", FormatDuration(b.Max), longest)
	}
	if b.Factor != 0 && !(b.Factor >= 1 && b.Factor <= maxBackoffFactor) { // NaN is neither
		fail("backoff.factor", "%v is not between 1 and %d", b.Factor, maxBackoffFactor)
	}
}

type backoffJSON struct {
	Initial string  `json:"initial,omitempty"`
	Max     string  `json:"max,omitempty"`
	Factor  float64 `json:"factor,omitempty"`
}

// MarshalJSON writes durations as strings and leaves defaults out.
func (b Backoff) MarshalJSON() ([]byte, error) {
	form := backoffJSON{Factor: b.Factor}
	if b.Initial != 0 {
		form.Initial = FormatDuration(b.Initial)
	}
	if b.Max != 0 {
		form.Max = FormatDuration(b.Max)
	}
	return json.Marshal(form)
}

// UnmarshalJSON reads what MarshalJSON writes.
func (b *Backoff) UnmarshalJSON(data []byte) error {
	var form backoffJSON
	if err := json.Unmarshal(data, &form); err != nil {
		return err
	}
	*b = Backoff{Factor: form.Factor}
	var err error
	if form.Initial != "" {
		if b.Initial, err = ParseDuration(form.Initial); err != nil {
			return fmt.Errorf("initial: %w", err)
		}
	}
	if form.Max != "" {
		if b.Max, err = ParseDuration(form.Max); err != nil {
			return fmt.Errorf("max: %w", err)
		}
	}
	return nil
}

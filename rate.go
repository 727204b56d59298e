package pelton

import (
	"encoding/json"
	"time"
)

// What a rate limit does while the Redis that the fleet counts in is out of reach.
const (
	OnErrorLocal  = "local"  // every process holds its share of the limit by itself
	OnErrorOpen   = "open"   // everything may start
	OnErrorClosed = "closed" // nothing may start
)

// RateLimit is how much may start in a time: Limit in every Per, evenly spaced,
// and at most Burst at once after a pause. In any window of time w no more than
// Limit·w/Per + Burst start. That is the generic cell rate algorithm of ITU-T
// I.371 (virtual scheduling) with T = Per/Limit and τ = (Burst-1)·T.
type RateLimit struct {
	Limit   int           // tasks
	Per     time.Duration // in that time; zero means a second
	Burst   int           // tasks that may start at once; zero means Limit, 1 is strictly one after the other
	OnError string        // OnErrorLocal (the default), OnErrorOpen or OnErrorClosed
}

type rateLimitJSON struct {
	Limit   int    `json:"limit"`
	Per     string `json:"per,omitempty"`
	Burst   int    `json:"burst,omitempty"`
	OnError string `json:"on_error,omitempty"`
}

// MarshalJSON writes Per as a duration string.
func (r RateLimit) MarshalJSON() ([]byte, error) {
	form := rateLimitJSON{Limit: r.Limit, Burst: r.Burst, OnError: r.OnError}
	if r.Per > 0 {
		form.Per = FormatDuration(r.Per)
	}
	return json.Marshal(form)
}

// UnmarshalJSON reads what MarshalJSON writes. Absent fields stay zero.
func (r *RateLimit) UnmarshalJSON(data []byte) error {
	var form rateLimitJSON
	if err := json.Unmarshal(data, &form); err != nil {
		return err
	}
	*r = RateLimit{Limit: form.Limit, Burst: form.Burst, OnError: form.OnError}
	if form.Per == "" {
		return nil
	}
	var err error
	r.Per, err = ParseDuration(form.Per)
	return err
}

// Filled is the rate with its defaults filled in.
func (r RateLimit) Filled() RateLimit {
	if r.Per == 0 {
		r.Per = time.Second
	}
	if r.Burst == 0 {
		r.Burst = r.Limit
	}
	if r.OnError == "" {
		r.OnError = OnErrorLocal
	}
	return r
}

func (r RateLimit) check(fail func(field, format string, args ...any)) {
	switch {
	case r.Limit == 0:
		fail("rate.limit", "is required")
	case r.Limit < 0 || r.Limit > maxCount:
		fail("rate.limit", "%d is not between 1 and %d", r.Limit, maxCount)
	}
	if r.Per < 0 || r.Per > 0 && r.Per < time.Millisecond || r.Per > maxTimeout {
		fail("rate.per", "%s is not between 1ms and %s", FormatDuration(r.Per), FormatDuration(maxTimeout))
	}
	if r.Burst < 0 || r.Burst > maxCount {
		fail("rate.burst", "%d is not between 1 and %d", r.Burst, maxCount)
	}
	switch r.OnError {
	case "", OnErrorLocal, OnErrorOpen, OnErrorClosed:
	default:
		fail("rate.on_error", "%q is none of local, open, closed", clip(r.OnError, 64))
	}
}

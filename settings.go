package pelton

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"
)

// QueueSettings are what was set for a queue. The zero value of a field means its
// default.
type QueueSettings struct {
	// MaxRunning is how many tasks of a priority run at a time, over all workers.
	// A priority that is absent may run any number.
	MaxRunning map[Priority]int
	// Rate bounds how many tasks start in a time. Nil is no bound.
	Rate *RateLimit
	// MaxDepth is how many ready tasks the queue may hold before it takes no more:
	// enqueuing is then ErrOverloaded. Zero is no bound.
	MaxDepth int
	// Lease is how long the broker waits for a sign of life from the worker that
	// holds a task. Zero means the lease that the queue was created with.
	Lease time.Duration
	// MaxAttempts, Timeout and Retention are those of tasks that do not say.
	MaxAttempts int
	Timeout     time.Duration
	Retention   time.Duration
	// MaxCrashes is how many deliveries may die with their worker before a task is
	// poison. Zero means DefaultMaxCrashes.
	MaxCrashes int
}

// Bounds of settings.
const (
	minLease      = time.Second
	maxLease      = time.Hour
	maxMaxCrashes = 1000
	maxCount      = math.MaxInt32 // of max_running, max_depth and rates
)

// Fill sets what a task does not say to what the queue's settings do. What they do
// not say either stays zero: its default.
func (s QueueSettings) Fill(spec *Spec) {
	if spec.MaxAttempts == 0 {
		spec.MaxAttempts = s.MaxAttempts
	}
	if spec.Timeout == 0 {
		spec.Timeout = s.Timeout
	}
	if spec.Retention == 0 {
		spec.Retention = s.Retention
	}
}

// Clone is a copy that shares nothing with s.
func (s QueueSettings) Clone() QueueSettings {
	s.MaxRunning = maps.Clone(s.MaxRunning)
	if s.Rate != nil {
		rate := *s.Rate
		s.Rate = &rate
	}
	return s
}

// Check reports settings that cannot be, as a *ValidationError that names every
// field at fault.
func (s QueueSettings) Check() error {
	var bad []FieldError
	fail := func(field, format string, args ...any) {
		bad = append(bad, FieldError{Field: field, Message: fmt.Sprintf(format, args...)})
	}
	count := func(field string, n, most int) {
		if n < 0 || n > most {
			fail(field, "%d is not between 1 and %d", n, most)
		}
	}
	span := func(field string, d, least, most time.Duration) {
		if d != 0 && (d < least || d > most) {
			fail(field, "%s is not between %s and %s", FormatDuration(d), FormatDuration(least), FormatDuration(most))
		}
	}
	for _, p := range slices.Sorted(maps.Keys(s.MaxRunning)) {
		n, field := s.MaxRunning[p], "max_running."+clip(string(p), 64)
		switch {
		case p == "" || p.Rank() < 0:
			fail(field, "is none of critical, high, normal, low")
		case n == 0:
			fail(field, "0 would stop the priority: pause it instead")
		default:
			count(field, n, maxCount)
		}
	}
	if s.Rate != nil {
		s.Rate.check(fail)
	}
	count("max_depth", s.MaxDepth, maxCount)
	span("lease", s.Lease, minLease, maxLease)
	count("max_attempts", s.MaxAttempts, maxMaxAttempt)
	count("max_crashes", s.MaxCrashes, maxMaxCrashes)
	span("timeout", s.Timeout, time.Millisecond, maxTimeout)
	span("retention", s.Retention, minRetention, maxRetention)
	if len(bad) > 0 {
		return &ValidationError{Fields: bad}
	}
	return nil
}

// settingsJSON is the JSON form of QueueSettings: durations are strings, absent is
// the default.
type settingsJSON struct {
	MaxRunning  map[Priority]int `json:"max_running,omitempty"`
	Rate        *rateJSON        `json:"rate,omitempty"`
	MaxDepth    int              `json:"max_depth,omitempty"`
	Lease       textDuration     `json:"lease,omitempty"`
	MaxAttempts int              `json:"max_attempts,omitempty"`
	MaxCrashes  int              `json:"max_crashes,omitempty"`
	Timeout     textDuration     `json:"timeout,omitempty"`
	Retention   textDuration     `json:"retention,omitempty"`
}

type rateJSON struct {
	Limit   int          `json:"limit"`
	Per     textDuration `json:"per,omitempty"`
	Burst   int          `json:"burst,omitempty"`
	OnError string       `json:"on_error,omitempty"`
}

// textDuration is a duration that JSON has as a string.
type textDuration time.Duration

func (d textDuration) MarshalText() ([]byte, error) {
	return []byte(FormatDuration(time.Duration(d))), nil
}

func (d *textDuration) UnmarshalText(text []byte) error {
	parsed, err := ParseDuration(string(text))
	*d = textDuration(parsed)
	return err
}

// MarshalJSON writes what was set.
func (s QueueSettings) MarshalJSON() ([]byte, error) {
	form := settingsJSON{
		MaxRunning: s.MaxRunning, MaxDepth: s.MaxDepth, Lease: textDuration(s.Lease), MaxAttempts: s.MaxAttempts,
		MaxCrashes: s.MaxCrashes, Timeout: textDuration(s.Timeout), Retention: textDuration(s.Retention),
	}
	if s.Rate != nil {
		form.Rate = &rateJSON{s.Rate.Limit, textDuration(s.Rate.Per), s.Rate.Burst, s.Rate.OnError}
	}
	return json.Marshal(form)
}

// UnmarshalJSON reads what MarshalJSON writes. Unknown fields are ignored: within
// version 1 fields are only added.
func (s *QueueSettings) UnmarshalJSON(data []byte) error {
	var form settingsJSON
	if err := json.Unmarshal(data, &form); err != nil {
		return err
	}
	*s = QueueSettings{
		MaxRunning: form.MaxRunning, MaxDepth: form.MaxDepth, Lease: time.Duration(form.Lease), MaxAttempts: form.MaxAttempts,
		MaxCrashes: form.MaxCrashes, Timeout: time.Duration(form.Timeout), Retention: time.Duration(form.Retention),
	}
	if form.Rate != nil {
		s.Rate = &RateLimit{form.Rate.Limit, time.Duration(form.Rate.Per), form.Rate.Burst, form.Rate.OnError}
	}
	return nil
}

package pelton

import (
	"encoding/json"
	"fmt"
	"time"
)

// specJSON is the JSON form of a Spec: the request for a task. The payload stands
// last so that AppendJSON can splice its bytes.
type specJSON struct {
	Kind           string            `json:"kind"`
	Queue          string            `json:"queue,omitempty"`
	Priority       Priority          `json:"priority,omitempty"`
	Delay          string            `json:"delay,omitempty"`
	RunAt          time.Time         `json:"run_at,omitzero"`
	ExpiresAt      time.Time         `json:"expires_at,omitzero"`
	Timeout        string            `json:"timeout,omitempty"`
	MaxAttempts    int               `json:"max_attempts,omitempty"`
	Backoff        Backoff           `json:"backoff,omitzero"`
	Retention      string            `json:"retention,omitempty"`
	RateKey        string            `json:"rate_key,omitempty"`
	Labels         map[string]string `json:"labels,omitempty"`
	Unique         *Unique           `json:"unique,omitempty"`
	IdempotencyKey string            `json:"idempotency_key,omitempty"`
	ConcurrencyKey string            `json:"concurrency_key,omitempty"`
	Payload        json.RawMessage   `json:"payload,omitempty"`
}

// AppendJSON appends the spec's JSON form to dst: that of a request for a task, with
// the payload byte for byte.
func (s *Spec) AppendJSON(dst []byte) ([]byte, error) {
	meta, err := json.Marshal(specJSON{
		Kind: s.Kind, Queue: s.Queue, Priority: s.Priority, Delay: formatNonZero(s.Delay), RunAt: s.RunAt, ExpiresAt: s.ExpiresAt,
		Timeout: formatNonZero(s.Timeout), MaxAttempts: s.MaxAttempts, Backoff: s.Backoff, Retention: formatNonZero(s.Retention),
		RateKey: s.RateKey, Labels: s.Labels, Unique: s.Unique, IdempotencyKey: s.IdempotencyKey, ConcurrencyKey: s.ConcurrencyKey,
	})
	if err != nil {
		return dst, err
	}
	dst = append(dst, meta[:len(meta)-1]...) // without the closing brace
	if len(s.Payload) > 0 {
		dst = append(append(dst, `,"payload":`...), s.Payload...)
	}
	return append(dst, '}'), nil
}

// MarshalJSON is AppendJSON. Beware that json.Marshal compacts what it returns.
func (s Spec) MarshalJSON() ([]byte, error) { return s.AppendJSON(nil) }

// UnmarshalJSON reads what AppendJSON writes. Unknown fields are ignored.
func (s *Spec) UnmarshalJSON(data []byte) error {
	var form specJSON
	if err := json.Unmarshal(data, &form); err != nil {
		return err
	}
	*s = Spec{
		Kind: form.Kind, Queue: form.Queue, Priority: form.Priority, RunAt: form.RunAt, ExpiresAt: form.ExpiresAt,
		MaxAttempts: form.MaxAttempts, Backoff: form.Backoff, RateKey: form.RateKey, Labels: form.Labels, Unique: form.Unique,
		IdempotencyKey: form.IdempotencyKey, ConcurrencyKey: form.ConcurrencyKey, Payload: form.Payload,
	}
	return parseDurations(
		durationField{"delay", form.Delay, &s.Delay},
		durationField{"timeout", form.Timeout, &s.Timeout},
		durationField{"retention", form.Retention, &s.Retention},
	)
}

// durationField is a duration that JSON has as a string, which may be absent.
type durationField struct {
	name string
	text string
	to   *time.Duration
}

func parseDurations(fields ...durationField) (err error) {
	for _, f := range fields {
		if f.text == "" {
			continue
		}
		if *f.to, err = ParseDuration(f.text); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
	}
	return nil
}

// formatNonZero is empty for zero, so that the field is left out.
func formatNonZero(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return FormatDuration(d)
}

// scheduleJSON is the JSON form of a Schedule. The task stands last so that
// AppendJSON can splice its payload's bytes.
type scheduleJSON struct {
	Name          string           `json:"name"`
	Cron          string           `json:"cron,omitempty"`
	Every         string           `json:"every,omitempty"`
	At            time.Time        `json:"at,omitzero"`
	Zone          string           `json:"zone,omitempty"`
	Overlap       Overlap          `json:"overlap,omitempty"`
	CatchUp       CatchUp          `json:"catch_up,omitempty"`
	CatchUpWindow string           `json:"catch_up_window,omitempty"`
	Jitter        string           `json:"jitter"`
	Paused        bool             `json:"paused"`
	StartsAt      time.Time        `json:"starts_at,omitzero"`
	EndsAt        time.Time        `json:"ends_at,omitzero"`
	Owner         string           `json:"owner,omitempty"`
	Revision      uint64           `json:"revision,omitempty"`
	CreatedAt     time.Time        `json:"created_at,omitzero"`
	UpdatedAt     time.Time        `json:"updated_at,omitzero"`
	Next          []time.Time      `json:"next,omitempty"`
	Last          []ScheduleRun    `json:"last,omitempty"`
	Failing       *ScheduleFailing `json:"failing,omitempty"`
	Task          json.RawMessage  `json:"task,omitempty"`
}

// AppendJSON appends the schedule's JSON form to dst, with the payload of its task
// byte for byte. encoding/json would compact and escape it, which is why servers
// call this and not json.Marshal.
func (s *Schedule) AppendJSON(dst []byte) ([]byte, error) {
	meta, err := json.Marshal(scheduleJSON{
		Name: s.Name, Cron: s.Cron, Every: formatNonZero(s.Every), At: s.At, Zone: s.Zone, Overlap: s.Overlap,
		CatchUp: s.CatchUp, CatchUpWindow: formatNonZero(s.CatchUpWindow), Jitter: FormatDuration(s.Jitter), Paused: s.Paused,
		StartsAt: s.StartsAt, EndsAt: s.EndsAt, Owner: s.Owner, Revision: s.Revision, CreatedAt: s.CreatedAt,
		UpdatedAt: s.UpdatedAt, Next: s.Next, Last: s.Last, Failing: s.Failing,
	})
	if err != nil {
		return dst, err
	}
	dst = append(append(dst, meta[:len(meta)-1]...), `,"task":`...)
	if dst, err = s.Task.AppendJSON(dst); err != nil {
		return dst, err
	}
	return append(dst, '}'), nil
}

// MarshalJSON is AppendJSON. Beware that json.Marshal compacts what it returns.
// The receiver is a value, or json.Marshal would pass over it for a Schedule that is
// not a pointer.
func (s Schedule) MarshalJSON() ([]byte, error) { return s.AppendJSON(nil) }

// UnmarshalJSON reads what AppendJSON writes. Unknown fields are ignored: within
// version 1 fields are only added.
func (s *Schedule) UnmarshalJSON(data []byte) error {
	var form scheduleJSON
	if err := json.Unmarshal(data, &form); err != nil {
		return err
	}
	*s = Schedule{
		Name: form.Name, Cron: form.Cron, At: form.At, Zone: form.Zone, Overlap: form.Overlap, CatchUp: form.CatchUp,
		Paused: form.Paused, StartsAt: form.StartsAt, EndsAt: form.EndsAt, Owner: form.Owner, Revision: form.Revision,
		CreatedAt: form.CreatedAt, UpdatedAt: form.UpdatedAt, Next: form.Next, Last: form.Last, Failing: form.Failing,
	}
	if len(form.Task) > 0 {
		if err := json.Unmarshal(form.Task, &s.Task); err != nil {
			return fmt.Errorf("task: %w", err)
		}
	}
	return parseDurations(
		durationField{"every", form.Every, &s.Every},
		durationField{"catch_up_window", form.CatchUpWindow, &s.CatchUpWindow},
		durationField{"jitter", form.Jitter, &s.Jitter},
	)
}

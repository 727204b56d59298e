package pelton

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// Unique asks that there be at most one task of its kind with Key that is not
// over, whatever their queues and priorities. How long a task holds its key is
// what that task asked for; what happens to another that finds the key held is
// what the other asked for.
type Unique struct {
	// Key is at most 256 bytes of UTF-8 without control characters. Tasks of
	// different kinds never meet, even if their keys are the same.
	Key string
	// Until says when the task gives its key back. Empty means UntilFinished.
	Until UniqueUntil
	// Window keeps the key that long after the task was accepted, even if it is over
	// before: at most one task per window. Zero means none, else at least a second.
	Window time.Duration
	// OnConflict says what becomes of this task if another holds the key. Empty
	// means ConflictReject.
	OnConflict OnConflict
}

// UniqueUntil is when a task gives its unique key back.
type UniqueUntil string

const (
	// UntilFinished holds the key until the task has succeeded, failed, expired or
	// was cancelled. Retries hold it.
	UntilFinished UniqueUntil = "finished"
	// UntilStarted holds the key until a worker has started the task for the first
	// time: at most one task waits while others run. Its retries do not hold it.
	UntilStarted UniqueUntil = "started"
)

// UniqueUntils lists the values of UniqueUntil, the default first.
func UniqueUntils() []UniqueUntil { return []UniqueUntil{UntilFinished, UntilStarted} }

// OnConflict is what becomes of a task whose unique key another task holds.
type OnConflict string

const (
	// ConflictReject refuses it: a *UniqueError names the task that holds the key.
	ConflictReject OnConflict = "reject"
	// ConflictExisting answers with the task that holds the key instead.
	ConflictExisting OnConflict = "existing"
	// ConflictReplace cancels the task that holds the key, if no worker has started
	// it yet, and enqueues this one. Otherwise it is ConflictReject.
	ConflictReplace OnConflict = "replace"
)

// OnConflicts lists the values of OnConflict, the default first.
func OnConflicts() []OnConflict {
	return []OnConflict{ConflictReject, ConflictExisting, ConflictReplace}
}

// uniqueJSON is the JSON form of a Unique: the window is a string.
type uniqueJSON struct {
	Key        string      `json:"key"`
	Until      UniqueUntil `json:"until,omitempty"`
	Window     string      `json:"window,omitempty"`
	OnConflict OnConflict  `json:"on_conflict,omitempty"`
}

// MarshalJSON writes the form of a task request.
func (u Unique) MarshalJSON() ([]byte, error) {
	form := uniqueJSON{Key: u.Key, Until: u.Until, OnConflict: u.OnConflict}
	if u.Window > 0 {
		form.Window = FormatDuration(u.Window)
	}
	return json.Marshal(form)
}

// UnmarshalJSON reads what MarshalJSON writes. Unknown fields are ignored.
func (u *Unique) UnmarshalJSON(data []byte) error {
	var form uniqueJSON
	if err := json.Unmarshal(data, &form); err != nil {
		return err
	}
	*u = Unique{Key: form.Key, Until: form.Until, OnConflict: form.OnConflict}
	if form.Window == "" {
		return nil
	}
	var err error
	u.Window, err = ParseDuration(form.Window)
	return err
}

// normalizeKeys checks the unique and the idempotency key. It never writes to the
// caller's Unique.
func (s *Spec) normalizeKeys(fail func(field, format string, args ...any)) {
	if problem := keyProblem(s.IdempotencyKey); problem != "" {
		fail("idempotency_key", "%s", problem)
	}
	if s.Unique == nil {
		return
	}
	u := *s.Unique
	s.Unique = &u
	if u.Key == "" {
		fail("unique.key", "is required")
	} else if problem := keyProblem(u.Key); problem != "" {
		fail("unique.key", "%s", problem)
	}
	if u.Until == "" {
		u.Until = UntilFinished
	} else if !slices.Contains(UniqueUntils(), u.Until) {
		fail("unique.until", "%q is none of finished, started", clip(string(u.Until), 64))
	}
	if u.OnConflict == "" {
		u.OnConflict = ConflictReject
	} else if !slices.Contains(OnConflicts(), u.OnConflict) {
		fail("unique.on_conflict", "%q is none of reject, existing, replace", clip(string(u.OnConflict), 64))
	}
	if u.Window != 0 && (u.Window < minWindow || u.Window > maxWindow) {
		fail("unique.window", "%s is not between %s and %s", FormatDuration(u.Window), FormatDuration(minWindow), FormatDuration(maxWindow))
	}
}

const (
	minWindow = time.Second // the broker's finest per-key TTL
	maxWindow = maxRetention
)

// UniqueError is a task that was not enqueued, or not retried, because another one
// holds its unique key. It wraps ErrConflict.
type UniqueError struct {
	Kind   string
	Key    string
	Holder ID
	State  State // of the holder; empty if only its window is left of it
}

func (e *UniqueError) Error() string {
	is := string(e.State)
	if is == "" {
		is = "over"
	}
	if e.State.Terminal() || e.State == "" {
		is += ", within the key's window"
	}
	return fmt.Sprintf("%s: task %s holds the unique key %q of kind %s: it is %s", ErrConflict, e.Holder, clip(e.Key, 100), e.Kind, is)
}

// Unwrap is ErrConflict.
func (e *UniqueError) Unwrap() error { return ErrConflict }

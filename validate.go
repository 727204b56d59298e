package pelton

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// namePattern is a regular expression of the form ^[first][later]{0,n}$. It is matched
// without regexp, which takes longer over a task's two names than all else that is
// done to read a delivery.
type namePattern string

const (
	queueName namePattern = `^[a-z0-9][a-z0-9_-]{0,63}$`
	kindName  namePattern = `^[A-Za-z0-9][A-Za-z0-9_.:/-]{0,127}$`
)

// MatchString reports whether the whole name matches.
func (p namePattern) MatchString(name string) bool {
	longest, capitals, signs := 64, false, "_-"
	if p == kindName {
		longest, capitals, signs = 128, true, "_.:/-"
	}
	if name == "" || len(name) > longest {
		return false
	}
	for i := range len(name) {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		case 'A' <= c && c <= 'Z' && capitals:
		case i > 0 && strings.IndexByte(signs, c) >= 0:
		default:
			return false
		}
	}
	return true
}

const (
	maxLabels     = 32
	maxKeyBytes   = 256
	maxTimeout    = 30 * 24 * time.Hour
	maxRetention  = 366 * 24 * time.Hour
	minRetention  = time.Second // the broker's finest per-key TTL
	maxMaxAttempt = 1000
)

// maxYear is the last year RFC 3339 can write.
const maxYear = 9999

// MaxRunYear is the last year for which a task can be scheduled: the broker counts
// nanoseconds since 1970 in 64 bits, and would fire at once what is due after that.
const MaxRunYear = 2261

// ValidateQueue checks a queue's name: ^[a-z0-9][a-z0-9_-]{0,63}$. Names become
// subjects, so nothing else may pass.
func ValidateQueue(name string) error {
	if !queueName.MatchString(name) {
		return fmt.Errorf("%w: queue %q must match %s", ErrInvalid, clip(name, 80), queueName)
	}
	return nil
}

// ValidateKind checks a kind's name: ^[A-Za-z0-9][A-Za-z0-9_.:/-]{0,127}$.
func ValidateKind(name string) error {
	if !kindName.MatchString(name) {
		return fmt.Errorf("%w: kind %q must match %s", ErrInvalid, clip(name, 150), kindName)
	}
	return nil
}

// ValidateKey checks a key or a label's value: at most 256 bytes of UTF-8
// without control characters.
func ValidateKey(key string) error {
	if problem := keyProblem(key); problem != "" {
		return fmt.Errorf("%w: key %s", ErrInvalid, problem)
	}
	return nil
}

// keyProblem says what is wrong with a key, if anything.
func keyProblem(key string) string {
	if len(key) > maxKeyBytes {
		return fmt.Sprintf("is %d bytes, more than %d", len(key), maxKeyBytes)
	}
	if !utf8.ValidString(key) {
		return "is not UTF-8"
	}
	for _, r := range key {
		if unicode.IsControl(r) {
			return fmt.Sprintf("contains the control character %U", r)
		}
	}
	return ""
}

// Normalized is the spec with its defaults filled in and Delay turned into
// RunAt, as of now; a RunAt that is not after now becomes zero: ready at once.
// The error is a *ValidationError that names every field at fault.
func (s Spec) Normalized(now time.Time) (Spec, error) {
	var bad []FieldError
	fail := func(field, format string, args ...any) {
		bad = append(bad, FieldError{Field: field, Message: fmt.Sprintf(format, args...)})
	}

	if s.Kind == "" {
		fail("kind", "is required")
	} else if !kindName.MatchString(s.Kind) {
		fail("kind", "%q must match %s", clip(s.Kind, 150), kindName)
	}
	if s.Queue == "" {
		s.Queue = DefaultQueue
	} else if !queueName.MatchString(s.Queue) {
		fail("queue", "%q must match %s", clip(s.Queue, 80), queueName)
	}
	if s.Priority == "" {
		s.Priority = Normal
	} else if s.Priority.Rank() < 0 {
		fail("priority", "%q is none of critical, high, normal, low", clip(string(s.Priority), 64))
	}
	switch {
	case len(s.Payload) > MaxPayload:
		fail("payload", "is %d bytes, more than %d", len(s.Payload), MaxPayload)
	case len(s.Payload) > 0 && !json.Valid(s.Payload):
		fail("payload", "is not JSON")
	case !utf8.Valid(s.Payload): // encoding/json lets other bytes pass in strings
		fail("payload", "is not UTF-8")
	}
	s.normalizeTimes(now, fail)
	s.normalizeBounds(fail)
	s.normalizeKeys(fail)
	if len(bad) > 0 {
		return Spec{}, &ValidationError{Fields: bad}
	}
	return s, nil
}

func (s *Spec) normalizeTimes(now time.Time, fail func(field, format string, args ...any)) {
	switch {
	case s.Delay < 0:
		fail("delay", "is negative")
	case s.Delay > 0 && !s.RunAt.IsZero():
		fail("delay", "excludes run_at")
	case s.Delay > 0:
		s.RunAt = now.Add(s.Delay)
		if s.RunAt.UTC().Year() > MaxRunYear {
			fail("delay", "ends after the year %d", MaxRunYear)
		}
	case s.RunAt.UTC().Year() > MaxRunYear:
		fail("run_at", "is after the year %d", MaxRunYear)
	}
	if s.ExpiresAt.UTC().Year() > maxYear {
		fail("expires_at", "is after the year 9999")
	}
	if !s.RunAt.After(now) {
		s.RunAt = time.Time{}
	}
	s.RunAt = s.RunAt.UTC()
	s.Delay = 0
	if !s.ExpiresAt.IsZero() {
		s.ExpiresAt = s.ExpiresAt.UTC()
		if !s.ExpiresAt.After(now) {
			fail("expires_at", "has passed")
		} else if !s.ExpiresAt.After(s.RunAt) {
			fail("expires_at", "is not after the time at which the task is to run")
		}
	}
}

func (s *Spec) normalizeBounds(fail func(field, format string, args ...any)) {
	switch {
	case s.Timeout == 0:
		s.Timeout = DefaultTimeout
	case s.Timeout < time.Millisecond || s.Timeout > maxTimeout:
		fail("timeout", "%s is not between 1ms and %s", FormatDuration(s.Timeout), FormatDuration(maxTimeout))
	}
	switch {
	case s.MaxAttempts == 0:
		s.MaxAttempts = DefaultMaxAttempts
	case s.MaxAttempts < 1 || s.MaxAttempts > maxMaxAttempt:
		fail("max_attempts", "%d is not between 1 and %d", s.MaxAttempts, maxMaxAttempt)
	}
	s.Backoff.check(fail)
	switch {
	case s.Retention == 0:
		s.Retention = DefaultRetention
	case s.Retention < minRetention || s.Retention > maxRetention:
		fail("retention", "%s is not between %s and %s", FormatDuration(s.Retention), FormatDuration(minRetention), FormatDuration(maxRetention))
	}
	if problem := keyProblem(s.ConcurrencyKey); problem != "" {
		fail("concurrency_key", "%s", problem)
	}
	if problem := keyProblem(s.RateKey); problem != "" {
		fail("rate_key", "%s", problem)
	}
	if len(s.Labels) > maxLabels {
		fail("labels", "has %d entries, more than %d", len(s.Labels), maxLabels)
		return
	}
	if len(s.Labels) == 0 { // sorting none takes memory, too
		return
	}
	for _, name := range slices.Sorted(maps.Keys(s.Labels)) {
		if !kindName.MatchString(name) {
			fail("labels", "name %q must match %s", clip(name, 150), kindName)
		} else if problem := keyProblem(s.Labels[name]); problem != "" {
			fail("labels."+name, "%s", problem)
		}
	}
}

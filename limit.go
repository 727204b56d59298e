package pelton

import (
	"fmt"
	"path"
	"strings"
)

// Limit bounds how often tasks of a kind, or with a rate key, start in the whole
// fleet. One that names both is for tasks of the kind whose key matches.
type Limit struct {
	Name string `json:"name"`
	// Kind is the whole name of a kind. Empty means every kind.
	Kind string `json:"kind,omitempty"`
	// RateKey is a pattern for rate keys, as of path.Match: "acme", "acme*", "*".
	// Each key that matches has a bucket of its own, and a task without a key is
	// not limited. Empty means that keys do not matter.
	RateKey string `json:"rate_key,omitempty"`
	// Cost is how many starts of the rate one task counts for. Zero means 1.
	Cost int       `json:"cost"`
	Rate RateLimit `json:"rate"`
}

// ValidateLimitName checks a limit's name, which has the form of a queue's.
func ValidateLimitName(name string) error {
	if !queueName.MatchString(name) {
		return fmt.Errorf("%w: limit %q must match %s", ErrInvalid, clip(name, 80), queueName)
	}
	return nil
}

// Normalized is the limit with its defaults filled in. The error is a
// *ValidationError.
func (l Limit) Normalized() (Limit, error) {
	var bad []FieldError
	fail := func(field, format string, args ...any) {
		bad = append(bad, FieldError{Field: field, Message: fmt.Sprintf(format, args...)})
	}
	if !queueName.MatchString(l.Name) {
		fail("name", "%q must match %s", clip(l.Name, 80), queueName)
	}
	if l.Kind == "" && l.RateKey == "" {
		fail("kind", "is required where there is no rate_key: a limit is for a kind, for rate keys, or for both")
	}
	if l.Kind != "" && !kindName.MatchString(l.Kind) {
		fail("kind", "%q must match %s", clip(l.Kind, 150), kindName)
	}
	if problem := keyProblem(l.RateKey); problem != "" {
		fail("rate_key", "%s", problem)
	} else if _, err := path.Match(l.RateKey, ""); err != nil {
		fail("rate_key", "%q is not a pattern such as acme*", clip(l.RateKey, 80))
	}
	if l.Cost == 0 {
		l.Cost = 1
	}
	if l.Cost < 1 || l.Cost > maxCount {
		fail("cost", "%d is not between 1 and %d", l.Cost, maxCount)
	}
	before := len(bad)
	if l.Rate.check(fail); before == len(bad) {
		l.Rate = l.Rate.Filled()
		if l.Cost > l.Rate.Burst {
			fail("cost", "%d is more than the burst of %d: no task could ever start", l.Cost, l.Rate.Burst)
		}
	}
	if len(bad) > 0 {
		return Limit{}, &ValidationError{Fields: bad}
	}
	return l, nil
}

// Applies reports whether the limit is one of tasks of the kind with the rate key.
// An asterisk of the pattern stands for any text, a slash included.
func (l Limit) Applies(kind, key string) bool {
	if l.Kind != "" && l.Kind != kind {
		return false
	}
	return l.RateKey == "" || key != "" && matches(l.RateKey, key)
}

// matches is path.Match on a key that is no path: slashes are letters.
func matches(pattern, key string) bool {
	const letter = "\x00" // no key has one
	ok, err := path.Match(strings.ReplaceAll(pattern, "/", letter), strings.ReplaceAll(key, "/", letter))
	return err == nil && ok
}

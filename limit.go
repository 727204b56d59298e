package pelton

import (
	"fmt"
	"path"
	"strings"
)

// MaxLimitRunning is the most that a limit may let run at a time.
const MaxLimitRunning = 1000

// Limit bounds tasks in the whole fleet: how often those of a kind, or with a rate
// key, start (Rate), how many of a concurrency key, or of a kind, run at a time
// (MaxRunning), or both of a kind.
type Limit struct {
	Name string `json:"name"`
	// Kind is the whole name of a kind. Empty means every kind.
	Kind string `json:"kind,omitempty"`
	// RateKey is a pattern for rate keys, as of path.Match: "acme", "acme*", "*".
	// Each key that matches has a bucket of its own, and a task without a key is
	// not limited. Empty means that keys do not matter. It is of Rate.
	RateKey string `json:"rate_key,omitempty"`
	// Cost is how many starts of the rate one task counts for. Zero means 1.
	Cost int       `json:"cost,omitempty"`
	Rate RateLimit `json:"rate,omitzero"`
	// ConcurrencyKey is a pattern for concurrency keys. Each key that matches has
	// MaxRunning for itself. A key that no limit matches runs one task at a time; of
	// several limits the lowest counts.
	ConcurrencyKey string `json:"concurrency_key,omitempty"`
	// MaxRunning is the most that run at a time: of each concurrency key, or of the
	// kind, with keys or without. Zero means no bound.
	MaxRunning int `json:"max_running,omitempty"`
}

// Rated reports whether the limit bounds how often tasks start.
func (l Limit) Rated() bool { return l.Rate != RateLimit{} }

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
	if l.Kind != "" && !kindName.MatchString(l.Kind) {
		fail("kind", "%q must match %s", clip(l.Kind, 150), kindName)
	}
	checkPattern("rate_key", l.RateKey, fail)
	checkPattern("concurrency_key", l.ConcurrencyKey, fail)
	if !l.Rated() && l.MaxRunning == 0 {
		fail("rate", "is required where there is no max_running")
	}
	before := len(bad)
	l.checkRunning(fail)
	if l.Rated() {
		l = l.checkRate(fail)
	} else if before == len(bad) {
		if l.RateKey != "" {
			fail("rate_key", "is for a rate: the keys of max_running are concurrency_key")
		}
		if l.Cost != 0 {
			fail("cost", "is for a rate")
		}
	}
	if len(bad) > 0 {
		return Limit{}, &ValidationError{Fields: bad}
	}
	return l, nil
}

func checkPattern(field, pattern string, fail func(field, format string, args ...any)) {
	if problem := keyProblem(pattern); problem != "" {
		fail(field, "%s", problem)
	} else if _, err := path.Match(pattern, ""); err != nil {
		fail(field, "%q is not a pattern such as acme*", clip(pattern, 80))
	}
}

// checkRate checks what belongs to a rate, and fills its defaults in.
func (l Limit) checkRate(fail func(field, format string, args ...any)) Limit {
	if l.Kind == "" && l.RateKey == "" {
		fail("kind", "is required where there is no rate_key: a rate is for a kind, for rate keys, or for both")
	}
	if l.Cost == 0 {
		l.Cost = 1
	}
	if l.Cost < 1 || l.Cost > maxCount {
		fail("cost", "%d is not between 1 and %d", l.Cost, maxCount)
	}
	sound := true
	l.Rate.check(func(field, format string, args ...any) {
		sound = false
		fail(field, format, args...)
	})
	if sound {
		l.Rate = l.Rate.Filled()
		if l.Cost > l.Rate.Burst {
			fail("cost", "%d is more than the burst of %d: no task could ever start", l.Cost, l.Rate.Burst)
		}
	}
	return l
}

// checkRunning checks what belongs to MaxRunning.
func (l Limit) checkRunning(fail func(field, format string, args ...any)) {
	switch {
	case l.MaxRunning == 0 && l.ConcurrencyKey != "":
		fail("concurrency_key", "is for max_running, which is missing")
	case l.MaxRunning == 0:
	case l.MaxRunning < 0 || l.MaxRunning > MaxLimitRunning:
		fail("max_running", "%d is not between 1 and %d", l.MaxRunning, MaxLimitRunning)
	case l.Kind == "" && l.ConcurrencyKey == "":
		fail("max_running", "is for the keys of a concurrency_key, or for a kind: one of them is required")
	case l.Kind != "" && l.ConcurrencyKey != "":
		fail("concurrency_key", "excludes kind: a limit of max_running is for one of them")
	case l.RateKey != "":
		fail("rate_key", "excludes max_running: make two limits")
	case l.Rated() && l.ConcurrencyKey != "":
		fail("concurrency_key", "excludes rate: make two limits")
	}
}

// AppliesToKey reports whether the limit's MaxRunning is one of a concurrency key.
func (l Limit) AppliesToKey(key string) bool {
	return l.MaxRunning > 0 && l.ConcurrencyKey != "" && matches(l.ConcurrencyKey, key)
}

// Applies reports whether the limit's Rate is one of tasks of the kind with the rate key.
// An asterisk of the pattern stands for any text, a slash included.
func (l Limit) Applies(kind, key string) bool {
	if !l.Rated() || l.Kind != "" && l.Kind != kind {
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

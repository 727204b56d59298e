package pelton

import (
	"fmt"
	"slices"
	"time"
)

// Scope is something that a token is good for.
type Scope string

// The scopes. None but ScopeAdmin includes another.
const (
	ScopeEnqueue Scope = "enqueue" // enqueue tasks
	ScopeRead    Scope = "read"    // look at everything but tokens and the audit log
	ScopeOperate Scope = "operate" // cancel, retry, pause, purge; schedules and locks
	ScopeAdmin   Scope = "admin"   // everything, settings, limits and tokens included
)

// Scopes lists all scopes, the least first.
func Scopes() []Scope { return []Scope{ScopeEnqueue, ScopeRead, ScopeOperate, ScopeAdmin} }

// Valid reports whether s is one of Scopes.
func (s Scope) Valid() bool { return slices.Contains(Scopes(), s) }

const (
	// MaxTokens is how many tokens an installation may have: every server knows all.
	MaxTokens = 1000
	// MaxTokenQueues is how many queues a token may be bound to.
	MaxTokenQueues = 100

	maxTokenLife = 10 * 366 * 24 * time.Hour
)

// Token is a right to call the HTTP API. Its secret is shown to whoever creates it
// and never again: nobody else has it, the broker holds a hash.
type Token struct {
	ID   string `json:"id"`   // no secret: logs and lists name the token by it
	Name string `json:"name"` // for people, ^[A-Za-z0-9][A-Za-z0-9_.:/-]{0,127}$; need not be unique
	// Scopes are what it is good for, at least one, sorted as Scopes.
	Scopes []Scope `json:"scopes"`
	// Queues are the only ones whose tasks it may touch, sorted. Empty means all; calls
	// that are not about a queue are refused to a token that is bound to some.
	Queues    []string  `json:"queues,omitempty"`
	CreatedAt time.Time `json:"created_at"`
	CreatedBy string    `json:"created_by,omitempty"` // who made it: a token's id, or "bootstrap"
	ExpiresAt time.Time `json:"expires_at,omitzero"`  // zero means never
}

// Allows reports whether the token has a scope, itself or through ScopeAdmin.
func (t *Token) Allows(s Scope) bool {
	return slices.Contains(t.Scopes, s) || slices.Contains(t.Scopes, ScopeAdmin)
}

// Bound reports whether the token is for some queues only.
func (t *Token) Bound() bool { return len(t.Queues) > 0 }

// AllowsQueue reports whether the token may touch tasks of a queue.
func (t *Token) AllowsQueue(name string) bool {
	return !t.Bound() || slices.Contains(t.Queues, name)
}

// Governs reports whether the token may do everything at that time, the making of
// other tokens included.
func (t *Token) Governs(now time.Time) bool {
	return t.Allows(ScopeAdmin) && !t.Bound() && !t.Expired(now)
}

// Expired reports whether the token's time is over.
func (t *Token) Expired(now time.Time) bool { return !t.ExpiresAt.IsZero() && !now.Before(t.ExpiresAt) }

// Normalized is what is asked for, sorted and without repetitions. The error is a
// *ValidationError.
func (t Token) Normalized(now time.Time) (Token, error) {
	var bad []FieldError
	fail := func(field, format string, args ...any) {
		bad = append(bad, FieldError{Field: field, Message: fmt.Sprintf(format, args...)})
	}
	if !kindName.MatchString(t.Name) {
		fail("name", "%q must match %s", clip(t.Name, 150), kindName)
	}
	if len(t.Scopes) == 0 {
		fail("scopes", "must have at least one of enqueue, read, operate, admin")
	}
	for i, s := range t.Scopes {
		if !s.Valid() {
			fail(fmt.Sprintf("scopes[%d]", i), "%q is none of enqueue, read, operate, admin", clip(string(s), 64))
		}
	}
	if len(t.Queues) > MaxTokenQueues {
		fail("queues", "has %d queues, more than %d", len(t.Queues), MaxTokenQueues)
		t.Queues = nil
	}
	for i, q := range t.Queues {
		if !queueName.MatchString(q) {
			fail(fmt.Sprintf("queues[%d]", i), "%q must match %s", clip(q, 80), queueName)
		}
	}
	switch {
	case t.ExpiresAt.IsZero():
	case t.Expired(now):
		fail("expires_at", "has passed")
	case t.ExpiresAt.Sub(now) > maxTokenLife:
		fail("expires_at", "is more than ten years away: leave it out instead")
	}
	if len(bad) > 0 {
		return Token{}, &ValidationError{Fields: bad[:min(len(bad), 20)]}
	}
	t.ExpiresAt = t.ExpiresAt.UTC()
	asked := t.Scopes
	t.Scopes = nil
	for _, s := range Scopes() {
		if slices.Contains(asked, s) {
			t.Scopes = append(t.Scopes, s)
		}
	}
	t.Queues = slices.Compact(slices.Sorted(slices.Values(t.Queues)))
	return t, nil
}

package pelton

import (
	"fmt"
	"time"
)

// AuditEntry is one line of the audit log: a call that was to change something, who made
// it, and what became of it. It has no payloads, bodies or secrets.
type AuditEntry struct {
	At time.Time `json:"at"` // when the call came, by the server's clock
	// Actor is the id of the caller's token, "bootstrap" for that of --token, or
	// "anonymous" where the API is open.
	Actor     string `json:"actor"`
	ActorName string `json:"actor_name,omitempty"` // of the token
	From      string `json:"from"`                 // the address that the call came from
	// Operation is the call's name in the OpenAPI document, such as pauseQueue.
	Operation string `json:"operation"`
	Method    string `json:"method"`
	Path      string `json:"path"` // without the query
	Status    int    `json:"status"`
	// Location is where what the call made is, if it says so: /tasks/{id}.
	Location string `json:"location,omitempty"`
	Server   string `json:"server,omitempty"` // the host that answered
	// Lost is how many entries before this one could not be kept, of this server.
	Lost int `json:"lost,omitempty"`
}

// Outcome is how a call ended: ok, refused (4xx) or failed (5xx).
type Outcome string

// The outcomes.
const (
	OutcomeOK      Outcome = "ok"
	OutcomeRefused Outcome = "refused"
	OutcomeFailed  Outcome = "failed"
)

// Outcomes lists all outcomes.
func Outcomes() []Outcome { return []Outcome{OutcomeOK, OutcomeRefused, OutcomeFailed} }

// Outcome is what the entry's status means.
func (e *AuditEntry) Outcome() Outcome {
	switch {
	case e.Status < 400:
		return OutcomeOK
	case e.Status < 500:
		return OutcomeRefused
	default:
		return OutcomeFailed
	}
}

// AuditQuery asks for entries of the audit log, newest first. Zero values select all.
type AuditQuery struct {
	Actor     string // a token's id, "bootstrap" or "anonymous"
	Operation string
	Outcome   Outcome
	Since     time.Time // inclusive
	Until     time.Time // exclusive

	// Cursor goes on where an earlier answer ended. Empty starts with the newest.
	Cursor string
	// Limit is the most entries of a page, at most 500. Zero means 50.
	Limit int
}

// Check reports what cannot match anything, as a *ValidationError.
func (q AuditQuery) Check() error {
	var bad []FieldError
	name := func(field, value string) {
		if value != "" && !kindName.MatchString(value) {
			bad = append(bad, FieldError{Field: field, Message: fmt.Sprintf("%q must match %s", clip(value, 150), kindName)})
		}
	}
	name("actor", q.Actor)
	name("operation", q.Operation)
	switch q.Outcome {
	case "", OutcomeOK, OutcomeRefused, OutcomeFailed:
	default:
		bad = append(bad, FieldError{Field: "outcome", Message: fmt.Sprintf("%q is none of ok, refused, failed", clip(string(q.Outcome), 64))})
	}
	if q.Limit < 0 || q.Limit > 500 {
		bad = append(bad, FieldError{Field: "limit", Message: fmt.Sprintf("%d is not between 1 and 500", q.Limit)})
	}
	if len(bad) > 0 {
		return &ValidationError{Fields: bad}
	}
	return nil
}

// Matches reports whether the query selects an entry.
func (q AuditQuery) Matches(e *AuditEntry) bool {
	return (q.Actor == "" || q.Actor == e.Actor) && (q.Operation == "" || q.Operation == e.Operation) &&
		(q.Outcome == "" || q.Outcome == e.Outcome()) && !e.At.Before(q.Since) && (q.Until.IsZero() || e.At.Before(q.Until))
}

// AuditPage is one page of the audit log.
type AuditPage struct {
	Items []AuditEntry `json:"items"`
	// NextCursor leads to the next page and is empty after the last one. A page may be
	// short, or empty, while there is one: a call looks at a bounded number of entries.
	NextCursor string `json:"next_cursor,omitempty"`
}

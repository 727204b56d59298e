package pelton

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Sentinels: test with errors.Is. Every package of the module wraps these, with
// the verb and the id in front.
var (
	// ErrInvalid is input that no retry will make acceptable. A *ValidationError
	// says which fields and why.
	ErrInvalid = errors.New("invalid")
	// ErrNotFound is an id, queue or name that is not there, or no longer.
	ErrNotFound = errors.New("not found")
	// ErrConflict is a call that the task's present state forbids.
	ErrConflict = errors.New("conflict")
	// ErrInFlight is a call whose idempotency key an earlier one holds that is still
	// being carried out. It comes with ErrConflict; trying again gives its task.
	ErrInFlight = errors.New("an earlier request with this idempotency key is still being carried out")
	// ErrUnavailable is a broker that cannot be reached or cannot accept writes.
	// Nothing was written; trying again is safe.
	ErrUnavailable = errors.New("broker unavailable")
	// ErrUnknownOutcome is a write that was sent and never answered: the task may
	// or may not have been enqueued. Trying again may enqueue it twice, unless it
	// has an idempotency key.
	ErrUnknownOutcome = errors.New("outcome unknown")
	// ErrOverloaded is a queue that holds as many ready tasks as its max_depth
	// allows. Nothing was written; try again later.
	ErrOverloaded = errors.New("queue is full")
	// ErrNotSupported is something of the public surface that this version does
	// not have.
	ErrNotSupported = errors.New("not supported")
	// ErrClosed is a call on a client that was closed.
	ErrClosed = errors.New("closed")

	// ErrFailed, ErrCancelled and ErrExpired are how a task that was waited for
	// can end other than well. They come wrapped in a *TaskError.
	ErrFailed    = errors.New("task failed")
	ErrCancelled = errors.New("task cancelled")
	ErrExpired   = errors.New("task expired")

	// ErrShutdown is the cause of a handler's ctx when its worker's grace is
	// over. The attempt does not count.
	ErrShutdown = errors.New("worker is shutting down")
	// ErrGraceExceeded is what Worker.Run returns when handlers outlived the grace.
	ErrGraceExceeded = errors.New("handlers outlived the shutdown grace")
	// ErrLeaked is what Worker.Run returns when too many handlers ignored the end of
	// their ctx: only a new process gets their slots back.
	ErrLeaked = errors.New("too many handlers ignore the end of their ctx")
	// ErrFenced is the cause of a handler's ctx when its worker lost the task: the
	// broker was out of reach for too long, or another worker owns the task now.
	// Nothing the handler returns counts.
	ErrFenced = errors.New("lease lost")
	// ErrTimeout is the cause of a handler's ctx when the task's timeout is over.
	ErrTimeout = errors.New("timeout")
	// ErrLockLost is the cause of a lock's ctx when the lock was lost while its handler
	// held it: the broker was out of reach for too long, or somebody released it by force.
	// Somebody else may hold it now.
	ErrLockLost = errors.New("lock lost")
)

// Reason says in one word why an attempt or a task failed.
type Reason string

// The reasons of a failure.
const (
	ReasonError       Reason = "error"        // the handler returned an error
	ReasonPanic       Reason = "panic"        // the handler panicked
	ReasonTimeout     Reason = "timeout"      // the handler ran longer than the task's timeout
	ReasonGoexit      Reason = "goexit"       // the handler ended its goroutine
	ReasonResult      Reason = "result"       // the result could not be encoded or is too large
	ReasonPayload     Reason = "payload"      // the handler could not decode the payload
	ReasonPoison      Reason = "poison"       // the task's workers died too often
	ReasonUnknownKind Reason = "unknown_kind" // no worker knew the kind for too long
	ReasonDiscarded   Reason = "discarded"    // the handler said that trying again is useless
	ReasonExpired     Reason = "expired"      // expires_at passed
)

// TaskError is how a task that was waited for ended, other than well. It wraps
// ErrFailed, ErrCancelled or ErrExpired.
type TaskError struct {
	ID      ID
	State   State
	Failure *Failure // nil for a cancelled task
}

func (e *TaskError) Error() string {
	if e.Failure == nil {
		return fmt.Sprintf("task %s %s", e.ID, e.State)
	}
	return fmt.Sprintf("task %s %s after attempt %d: %s: %s", e.ID, e.State, e.Failure.Attempt, e.Failure.Reason, e.Failure.Message)
}

// Unwrap gives the sentinel of the task's state.
func (e *TaskError) Unwrap() error {
	switch e.State {
	case Cancelled:
		return ErrCancelled
	case Expired:
		return ErrExpired
	case Failed, Scheduled, Queued, Running, Retrying, Succeeded:
		return ErrFailed
	default:
		return ErrFailed
	}
}

// FieldError is one thing wrong with an input: Field is the JSON name, with dots
// for nesting ("unique.key").
type FieldError struct {
	Field   string
	Message string
}

// ValidationError lists everything wrong with an input. It wraps ErrInvalid.
type ValidationError struct {
	Fields []FieldError
}

func (e *ValidationError) Error() string {
	parts := make([]string, len(e.Fields))
	for i, f := range e.Fields {
		parts[i] = f.Field + ": " + f.Message
	}
	return "invalid " + strings.Join(parts, "; ")
}

// Unwrap is ErrInvalid.
func (e *ValidationError) Unwrap() error { return ErrInvalid }

// Discard wraps a handler's error: trying again is useless, fail the task now.
// A nil err is kept as a plain "discarded".
func Discard(err error) error { return &Directive{Verb: DirectiveDiscard, Err: err} }

// RetryAfter wraps a handler's error: the attempt counts, and the next one comes
// after d instead of the default backoff. Negative durations count as zero.
//
// PauseKind and PauseKey let nothing else of the task's kind, or with its rate key,
// start in the whole fleet until then, for MaxPause at most: a service that answers
// 429 to one task would answer so to the others too. What runs goes on; what waits
// counts no attempt.
func RetryAfter(d time.Duration, err error, pauses ...Pauses) error {
	return &Directive{Verb: DirectiveRetryAfter, Delay: max(d, 0), Err: err, Pauses: pauses}
}

// Pauses is what a RetryAfter pauses.
type Pauses int

// The scopes of a pause.
const (
	PauseKind Pauses = iota + 1 // tasks of the same kind
	PauseKey                    // tasks with the same rate key, of any kind; none if the task has no key
)

// MaxPause is the longest pause that a RetryAfter makes.
const MaxPause = 24 * time.Hour

// Snooze ends a run without an attempt: the task runs again after d. Negative
// durations count as zero.
func Snooze(d time.Duration) error { return &Directive{Verb: DirectiveSnooze, Delay: max(d, 0)} }

// DirectiveVerb is what a Directive asks of the worker.
type DirectiveVerb int

// The directives that Discard, RetryAfter and Snooze make.
const (
	DirectiveDiscard DirectiveVerb = iota + 1
	DirectiveRetryAfter
	DirectiveSnooze
)

// Directive is an error by which a handler tells its worker what to do with the
// task. Handlers make them with Discard, RetryAfter and Snooze; middleware may
// look for them with errors.As.
type Directive struct {
	Verb  DirectiveVerb
	Delay time.Duration
	Err   error
	// Pauses is what stops for the Delay, of a RetryAfter.
	Pauses []Pauses
}

func (e *Directive) Error() string {
	if e.Err != nil {
		return e.Err.Error()
	}
	switch e.Verb {
	case DirectiveSnooze:
		return "snoozed for " + FormatDuration(e.Delay)
	case DirectiveRetryAfter:
		return "retry after " + FormatDuration(e.Delay)
	case DirectiveDiscard:
		return "discarded"
	default:
		return "directive"
	}
}

// Unwrap is the handler's own error, if any.
func (e *Directive) Unwrap() error { return e.Err }

// clip shortens hostile input for an error message, on a rune boundary.
func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

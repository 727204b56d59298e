package worker

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/peltonq/pelton"
)

// result is how a handler ended.
type result struct {
	value  json.RawMessage
	err    error
	reason pelton.Reason // of err, when it is not the handler's own word
	stack  string        // of a panic
}

// step is what follows from a result.
type step int

const (
	stepSucceed step = iota + 1
	stepRetry        // put back, an attempt is counted
	stepFail         // over, kept as a dead letter
	stepSnooze       // put back, no attempt is counted
	stepRelease      // give the delivery back: the worker shuts down
	stepDiscard      // the task is cancelled: see what the record says
	stepNothing      // fenced: send nothing
)

// outcome is what an Observer is told of a step that went through.
func (s step) outcome() Outcome {
	switch s {
	case stepSucceed:
		return OutcomeSucceeded
	case stepRetry:
		return OutcomeRetried
	case stepFail:
		return OutcomeFailed
	case stepSnooze:
		return OutcomeSnoozed
	case stepRelease, stepDiscard: // a discard that went through found no cancelled task
		return OutcomeReleased
	case stepNothing:
		return OutcomeLost
	default:
		return OutcomeLost
	}
}

// verdict is a step with what it needs.
type verdict struct {
	step    step
	delay   time.Duration
	failure pelton.Failure
	pauses  []pelton.Pauses // what stops for the delay that the handler asked for
	pause   time.Duration
	value   json.RawMessage
}

// outcome decides what a handler's end means for the task.
//
//	attempt      number of the attempt that ended
//	maxAttempts  after which an error is final
//	cause        why ctx ended, nil if it had not when the handler returned
//	backoff      of the task
//	random       in [0,1), for the backoff
func outcome(res result, attempt, maxAttempts int, cause error, now time.Time, backoff pelton.Backoff, random float64) verdict {
	switch {
	case errors.Is(cause, pelton.ErrFenced):
		return verdict{step: stepNothing}
	case errors.Is(cause, pelton.ErrCancelled):
		return verdict{step: stepDiscard}
	case res.err == nil:
		if reason, message := checkResult(res.value); reason != "" {
			return verdict{step: stepFail, failure: failure(message, reason, attempt, now, "")}
		}
		return verdict{step: stepSucceed, value: res.value}
	case errors.Is(cause, pelton.ErrShutdown):
		return verdict{step: stepRelease}
	}

	reason := reasonFor(res, cause)
	f := failure(res.err.Error(), reason, attempt, now, res.stack)
	next := verdict{step: stepRetry, delay: backoff.Delay(attempt, random), failure: f}
	var d *pelton.Directive
	if errors.As(res.err, &d) {
		switch d.Verb {
		case pelton.DirectiveSnooze:
			return verdict{step: stepSnooze, delay: d.Delay}
		case pelton.DirectiveDiscard:
			f.Reason = pelton.ReasonDiscarded
			return verdict{step: stepFail, failure: f}
		case pelton.DirectiveRetryAfter:
			next.delay = d.Delay
			if len(d.Pauses) > 0 {
				next.pauses, next.pause = d.Pauses, d.Delay
			}
		}
	}
	if reason == pelton.ReasonResult || attempt >= maxAttempts {
		next.step, next.delay = stepFail, 0
	}
	return next
}

func reasonFor(res result, cause error) pelton.Reason {
	if res.reason != "" {
		return res.reason
	}
	if reason, ok := reasonOf(res.err); ok {
		return reason
	}
	if errors.Is(cause, pelton.ErrTimeout) {
		return pelton.ReasonTimeout
	}
	return pelton.ReasonError
}

// checkResult refuses what a record cannot hold. Trying again would give the
// same, so it fails the task.
func checkResult(value json.RawMessage) (pelton.Reason, string) {
	if len(value) > pelton.MaxPayload {
		return pelton.ReasonResult, fmt.Sprintf("result of %d bytes is larger than %d", len(value), pelton.MaxPayload)
	}
	if len(value) > 0 && !json.Valid(value) {
		return pelton.ReasonResult, "result is not JSON"
	}
	if !utf8.Valid(value) {
		return pelton.ReasonResult, "result is not UTF-8"
	}
	return "", ""
}

func failure(message string, reason pelton.Reason, attempt int, now time.Time, stack string) pelton.Failure {
	return pelton.Failure{Message: message, Reason: reason, Attempt: attempt, At: now.UTC().Truncate(time.Microsecond), Stack: stack}
}

package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/peltonq/pelton"
)

func TestOutcome(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 6_789_000, time.FixedZone("", 3600))
	const attempt, maxAttempts, half = 3, 5, 0.5 // half: no jitter, so attempt 3 waits 4 s
	boom := errors.New("boom")
	failed := func(reason pelton.Reason, message string) pelton.Failure {
		return pelton.Failure{Message: message, Reason: reason, Attempt: attempt, At: now.UTC().Truncate(time.Microsecond)}
	}
	retry := func(delay time.Duration, reason pelton.Reason, message string) verdict {
		return verdict{step: stepRetry, delay: delay, failure: failed(reason, message)}
	}
	fail := func(reason pelton.Reason, message string) verdict {
		return verdict{step: stepFail, failure: failed(reason, message)}
	}
	pausing := func(v verdict) verdict {
		v.pauses, v.pause = []pelton.Pauses{pelton.PauseKind}, time.Hour
		return v
	}
	large := json.RawMessage(`"` + strings.Repeat("x", pelton.MaxPayload) + `"`)
	largest := json.RawMessage(`"` + strings.Repeat("x", pelton.MaxPayload-2) + `"`)
	stacked := failed(pelton.ReasonPanic, "panic: oh")
	stacked.Stack = "goroutine 1"

	for name, tc := range map[string]struct {
		res   result
		cause error
		last  bool // the attempt is the last one
		want  verdict
	}{
		"nil":                    {result{}, nil, false, verdict{step: stepSucceed}},
		"result":                 {result{value: json.RawMessage(`{"a": 1}`)}, nil, false, verdict{step: stepSucceed, value: json.RawMessage(`{"a": 1}`)}},
		"largest result":         {result{value: largest}, nil, false, verdict{step: stepSucceed, value: largest}},
		"result too large":       {result{value: large}, nil, false, fail(pelton.ReasonResult, "result of 262146 bytes is larger than 262144")},
		"result not JSON":        {result{value: json.RawMessage(`{`)}, nil, false, fail(pelton.ReasonResult, "result is not JSON")},
		"result not UTF-8":       {result{value: json.RawMessage("\"\xff\"")}, nil, false, fail(pelton.ReasonResult, "result is not UTF-8")},
		"result at the last try": {result{value: json.RawMessage(`1`)}, nil, true, verdict{step: stepSucceed, value: json.RawMessage(`1`)}},
		"result not encodable":   {result{err: WithReason(pelton.ReasonResult, boom)}, nil, false, fail(pelton.ReasonResult, "boom")},

		"error":                  {result{err: boom}, nil, false, retry(4*time.Second, pelton.ReasonError, "boom")},
		"error with a result":    {result{err: boom, value: large}, nil, false, retry(4*time.Second, pelton.ReasonError, "boom")},
		"error at the last try":  {result{err: boom}, nil, true, fail(pelton.ReasonError, "boom")},
		"payload":                {result{err: WithReason(pelton.ReasonPayload, boom)}, nil, false, retry(4*time.Second, pelton.ReasonPayload, "boom")},
		"payload, wrapped":       {result{err: fmt.Errorf("mw: %w", WithReason(pelton.ReasonPayload, boom))}, nil, false, retry(4*time.Second, pelton.ReasonPayload, "mw: boom")},
		"panic":                  {result{err: errors.New("panic: oh"), reason: pelton.ReasonPanic, stack: "goroutine 1"}, nil, false, verdict{step: stepRetry, delay: 4 * time.Second, failure: stacked}},
		"panic at the last try":  {result{err: errors.New("panic: oh"), reason: pelton.ReasonPanic, stack: "goroutine 1"}, nil, true, verdict{step: stepFail, failure: stacked}},
		"goexit":                 {result{err: errors.New("gone"), reason: pelton.ReasonGoexit}, nil, false, retry(4*time.Second, pelton.ReasonGoexit, "gone")},
		"timeout":                {result{err: context.DeadlineExceeded}, pelton.ErrTimeout, false, retry(4*time.Second, pelton.ReasonTimeout, "context deadline exceeded")},
		"timeout, last try":      {result{err: boom}, pelton.ErrTimeout, true, fail(pelton.ReasonTimeout, "boom")},
		"panic after a timeout":  {result{err: boom, reason: pelton.ReasonPanic}, pelton.ErrTimeout, false, retry(4*time.Second, pelton.ReasonPanic, "boom")},
		"result after a timeout": {result{value: json.RawMessage(`1`)}, pelton.ErrTimeout, false, verdict{step: stepSucceed, value: json.RawMessage(`1`)}},

		"discard":                 {result{err: pelton.Discard(boom)}, nil, false, fail(pelton.ReasonDiscarded, "boom")},
		"discard of nil":          {result{err: pelton.Discard(nil)}, nil, false, fail(pelton.ReasonDiscarded, "discarded")},
		"discard, wrapped":        {result{err: fmt.Errorf("mw: %w", pelton.Discard(boom))}, nil, false, fail(pelton.ReasonDiscarded, "mw: boom")},
		"retry after":             {result{err: pelton.RetryAfter(time.Hour, boom)}, nil, false, retry(time.Hour, pelton.ReasonError, "boom")},
		"retry after nothing":     {result{err: pelton.RetryAfter(-1, nil)}, nil, false, retry(0, pelton.ReasonError, "retry after 0s")},
		"retry after, wrapped":    {result{err: fmt.Errorf("mw: %w", pelton.RetryAfter(time.Hour, boom))}, nil, false, retry(time.Hour, pelton.ReasonError, "mw: boom")},
		"retry after, last try":   {result{err: pelton.RetryAfter(time.Hour, boom)}, nil, true, fail(pelton.ReasonError, "boom")},
		"pause":                   {result{err: pelton.RetryAfter(time.Hour, boom, pelton.PauseKind)}, nil, false, pausing(retry(time.Hour, pelton.ReasonError, "boom"))},
		"pause at the last try":   {result{err: pelton.RetryAfter(time.Hour, boom, pelton.PauseKind)}, nil, true, pausing(fail(pelton.ReasonError, "boom"))},
		"pause after a timeout":   {result{err: pelton.RetryAfter(time.Hour, boom, pelton.PauseKind)}, pelton.ErrTimeout, false, pausing(retry(time.Hour, pelton.ReasonTimeout, "boom"))},
		"pause at shutdown":       {result{err: pelton.RetryAfter(time.Hour, boom, pelton.PauseKind)}, pelton.ErrShutdown, false, verdict{step: stepRelease}},
		"snooze":                  {result{err: pelton.Snooze(time.Minute)}, nil, false, verdict{step: stepSnooze, delay: time.Minute}},
		"snooze, wrapped":         {result{err: fmt.Errorf("mw: %w", pelton.Snooze(time.Minute))}, nil, false, verdict{step: stepSnooze, delay: time.Minute}},
		"snooze at the last try":  {result{err: pelton.Snooze(time.Minute)}, nil, true, verdict{step: stepSnooze, delay: time.Minute}},
		"directive after timeout": {result{err: pelton.Discard(boom)}, pelton.ErrTimeout, false, fail(pelton.ReasonDiscarded, "boom")},

		"shutdown":             {result{err: context.Canceled}, pelton.ErrShutdown, false, verdict{step: stepRelease}},
		"shutdown, last try":   {result{err: boom}, pelton.ErrShutdown, true, verdict{step: stepRelease}},
		"shutdown with result": {result{value: json.RawMessage(`1`)}, pelton.ErrShutdown, false, verdict{step: stepSucceed, value: json.RawMessage(`1`)}},
		"cancelled":            {result{err: context.Canceled}, pelton.ErrCancelled, false, verdict{step: stepDiscard}},
		"cancelled, result":    {result{value: json.RawMessage(`1`)}, pelton.ErrCancelled, false, verdict{step: stepDiscard}},
		"fenced":               {result{err: boom}, pelton.ErrFenced, true, verdict{step: stepNothing}},
		"fenced, result":       {result{value: json.RawMessage(`1`)}, pelton.ErrFenced, false, verdict{step: stepNothing}},
		"fenced, wrapped":      {result{}, fmt.Errorf("why: %w", pelton.ErrFenced), false, verdict{step: stepNothing}},
	} {
		n := attempt
		most := maxAttempts
		if tc.last {
			most = attempt
		}
		got := outcome(tc.res, n, most, tc.cause, now, pelton.Backoff{}, half)
		if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(verdict{})); diff != "" {
			t.Errorf("%s: outcome (-want +got):\n%s", name, diff)
		}
	}
}

func TestCallSendsOneResult(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		handler HandlerFunc
		reason  pelton.Reason
		message string
	}{
		"nil":       {func(context.Context, *pelton.Task) (json.RawMessage, error) { return nil, nil }, "", ""},
		"panic":     {func(context.Context, *pelton.Task) (json.RawMessage, error) { panic("oh") }, pelton.ReasonPanic, "panic: oh"},
		"panic nil": {func(context.Context, *pelton.Task) (json.RawMessage, error) { panic(nil) }, pelton.ReasonPanic, "panic: panic called with nil argument"},
		"goexit": {func(context.Context, *pelton.Task) (json.RawMessage, error) {
			runtime.Goexit()
			return nil, nil
		}, pelton.ReasonGoexit, "handler ended its goroutine with runtime.Goexit"},
	} {
		results := make(chan result, 2)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			call(t.Context(), tc.handler, &pelton.Task{}, func(r result) { results <- r })
		}()
		<-ended
		if len(results) != 1 {
			t.Fatalf("%s: %d results", name, len(results))
		}
		got := <-results
		if message := fmt.Sprint(got.err); got.reason != tc.reason || tc.message != "" && message != tc.message {
			t.Errorf("%s: %q, %s", name, got.reason, message)
		}
		if wantStack := tc.reason == pelton.ReasonPanic; wantStack != strings.Contains(got.stack, "outcome_test.go") {
			t.Errorf("%s: stack %q", name, got.stack)
		}
	}
}

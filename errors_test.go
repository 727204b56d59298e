package pelton_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/peltonq/pelton"
)

func TestTaskErrorIs(t *testing.T) {
	t.Parallel()
	sentinels := []error{pelton.ErrFailed, pelton.ErrCancelled, pelton.ErrExpired, pelton.ErrInvalid, pelton.ErrNotFound}
	for state, want := range map[pelton.State]error{
		pelton.Failed:    pelton.ErrFailed,
		pelton.Cancelled: pelton.ErrCancelled,
		pelton.Expired:   pelton.ErrExpired,
	} {
		task := pelton.Task{ID: pelton.NewID(now, 0), State: state}
		err := fmt.Errorf("await: %w", task.Err())
		for _, sentinel := range sentinels {
			if got := errors.Is(err, sentinel); got != (sentinel == want) { //nolint:errorlint // identity is meant
				t.Errorf("%s: errors.Is(%v) = %v", state, sentinel, got)
			}
		}
		if te, ok := errors.AsType[*pelton.TaskError](err); !ok || te.ID != task.ID || te.State != state {
			t.Errorf("%s: %#v", state, te)
		}
	}
	for _, state := range []pelton.State{pelton.Scheduled, pelton.Queued, pelton.Running, pelton.Retrying, pelton.Succeeded} {
		task := pelton.Task{State: state, Error: &pelton.Failure{Message: "an attempt before"}}
		if err := task.Err(); err != nil {
			t.Errorf("%s: %v", state, err)
		}
	}
}

func TestTaskErrorSays(t *testing.T) {
	t.Parallel()
	id := pelton.NewID(now, 0)
	failed := &pelton.TaskError{ID: id, State: pelton.Failed, Failure: &pelton.Failure{Message: "no such user", Reason: pelton.ReasonDiscarded, Attempt: 3}}
	if want := "task " + id.String() + " failed after attempt 3: discarded: no such user"; failed.Error() != want {
		t.Errorf("%q, want %q", failed, want)
	}
	cancelled := &pelton.TaskError{ID: id, State: pelton.Cancelled}
	if want := "task " + id.String() + " cancelled"; cancelled.Error() != want {
		t.Errorf("%q, want %q", cancelled, want)
	}
}

func TestValidationError(t *testing.T) {
	t.Parallel()
	err := error(&pelton.ValidationError{Fields: []pelton.FieldError{{Field: "kind", Message: "is required"}, {Field: "unique.key", Message: "is long"}}})
	if !errors.Is(err, pelton.ErrInvalid) || errors.Is(err, pelton.ErrConflict) {
		t.Error("a ValidationError is not, or not only, ErrInvalid")
	}
	if want := "invalid kind: is required; unique.key: is long"; err.Error() != want {
		t.Errorf("%q, want %q", err, want)
	}
}

func TestDirectives(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		err  error
		want pelton.Directive
		says string
	}{
		"discard":              {pelton.Discard(io.EOF), pelton.Directive{Verb: pelton.DirectiveDiscard, Err: io.EOF}, "EOF"},
		"discard nothing":      {pelton.Discard(nil), pelton.Directive{Verb: pelton.DirectiveDiscard}, "discarded"},
		"retry":                {pelton.RetryAfter(time.Minute, io.EOF), pelton.Directive{Verb: pelton.DirectiveRetryAfter, Delay: time.Minute, Err: io.EOF}, "EOF"},
		"retry and pause":      {pelton.RetryAfter(time.Minute, io.EOF, pelton.PauseKind, pelton.PauseKey), pelton.Directive{Verb: pelton.DirectiveRetryAfter, Delay: time.Minute, Err: io.EOF, Pauses: []pelton.Pauses{pelton.PauseKind, pelton.PauseKey}}, "EOF"},
		"retry without error":  {pelton.RetryAfter(time.Minute, nil), pelton.Directive{Verb: pelton.DirectiveRetryAfter, Delay: time.Minute}, "retry after 1m"},
		"retry in the past":    {pelton.RetryAfter(-time.Minute, io.EOF), pelton.Directive{Verb: pelton.DirectiveRetryAfter, Err: io.EOF}, "EOF"},
		"snooze":               {pelton.Snooze(90 * time.Second), pelton.Directive{Verb: pelton.DirectiveSnooze, Delay: 90 * time.Second}, "snoozed for 1m30s"},
		"snooze into the past": {pelton.Snooze(-1), pelton.Directive{Verb: pelton.DirectiveSnooze}, "snoozed for 0s"},
	} {
		got, ok := errors.AsType[*pelton.Directive](fmt.Errorf("handler: %w", tt.err))
		if !ok {
			t.Errorf("%s: no directive in %v", name, tt.err)
			continue
		}
		if diff := cmp.Diff(tt.want, *got, cmp.Comparer(errors.Is)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if tt.err.Error() != tt.says {
			t.Errorf("%s: %q, want %q", name, tt.err, tt.says)
		}
		if errors.Is(tt.err, io.EOF) != (tt.want.Err != nil) {
			t.Errorf("%s: errors.Is(EOF) = %v", name, errors.Is(tt.err, io.EOF))
		}
	}
	if got := (&pelton.Directive{}).Error(); got != "directive" {
		t.Errorf("the zero directive says %q", got)
	}
}

func TestErrorsClipHostileInput(t *testing.T) {
	t.Parallel()
	// The cut falls into a rune: what is left is still UTF-8.
	err := pelton.ValidateQueue(strings.Repeat("ü", 1<<12))
	if err == nil || len(err.Error()) > 300 || strings.Contains(err.Error(), `\x`) || !strings.Contains(err.Error(), "…") {
		t.Errorf("%v", err)
	}
}

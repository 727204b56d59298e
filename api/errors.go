package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/peltonq/pelton"
)

// rule says how one error of the vocabulary is answered.
type rule struct {
	err    error
	kind   kind
	detail string // empty: the error's own text
	retry  bool   // trying again may help: Retry-After
}

// rules is the table of errors. The first match wins, so what may have been
// written stands above what was not.
func rules() []rule {
	return []rule{
		{err: pelton.ErrUnknownOutcome, kind: kindUnknownOutcome, retry: true, detail: "the broker did not confirm the write in time: it may or may not have been made"},
		{err: pelton.ErrUnavailable, kind: kindUnavailable, retry: true, detail: "the broker cannot be reached or cannot accept writes; nothing was written"},
		{err: pelton.ErrClosed, kind: kindUnavailable, retry: true, detail: "the server is shutting down; nothing was written"},
		{err: pelton.ErrOverloaded, kind: kindOverloaded, retry: true},
		{err: pelton.ErrNotSupported, kind: kindNotSupported},
		{err: pelton.ErrInvalid, kind: kindInvalid},
		{err: pelton.ErrNotFound, kind: kindNotFound},
		{err: pelton.ErrInFlight, kind: kindInFlight, retry: true, detail: "an earlier request with this Idempotency-Key is still being carried out"},
		{err: pelton.ErrConflict, kind: kindConflict},
		{err: context.DeadlineExceeded, kind: kindUnavailable, retry: true, detail: "the broker did not answer in time"},
		{err: context.Canceled, kind: kindUnavailable, retry: true, detail: "the request was given up"},
	}
}

// retryAfter is the Retry-After, in seconds, of problems that may pass.
const retryAfter = "1"

// problem turns an error into what the caller gets to see. Errors that are
// nobody's business outside are logged here, once. at is where the fields of a
// *pelton.ValidationError are: "body", "body.tasks[3]".
func (s *server) problem(ctx context.Context, operation, at string, err error) *problem {
	var p *problem
	if errors.As(err, &p) {
		return p
	}
	var invalid *pelton.ValidationError
	if errors.As(err, &invalid) && len(invalid.Fields) > 0 {
		return fieldProblem(kindInvalid, fieldErrors(at, invalid)...)
	}
	for _, r := range rules() {
		if !errors.Is(err, r.err) {
			continue
		}
		detail := r.detail
		if detail == "" {
			detail = err.Error()
		}
		p := newProblem(r.kind, "%s", detail)
		if r.retry {
			p = p.withHeader("Retry-After", retryAfter)
		}
		var held *pelton.UniqueError
		if errors.As(err, &held) {
			p.TaskID = held.Holder.String()
		}
		return p
	}
	s.Logger.ErrorContext(ctx, "request failed", slog.String("operation", operation), slog.Any("error", err))
	return newInternal()
}

// newInternal tells nothing: what went wrong is in the log.
func newInternal() *problem {
	return newProblem(kindInternal, "the server could not answer this; its log says why")
}

func fieldErrors(at string, invalid *pelton.ValidationError) []fieldError {
	errs := make([]fieldError, len(invalid.Fields))
	for i, f := range invalid.Fields {
		errs[i] = fieldError{Location: at + "." + f.Field, Message: plain(f.Message)}
	}
	return errs
}

// plain drops what the status says already.
func plain(message string) string {
	return strings.TrimPrefix(message, pelton.ErrInvalid.Error()+": ")
}

// unlessKnown makes a write that was cut off an unknown outcome, unless its error
// says that nothing was written.
func unlessKnown(err error) error {
	cutOff := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
	if !cutOff || errors.Is(err, pelton.ErrUnavailable) || errors.Is(err, pelton.ErrUnknownOutcome) {
		return err
	}
	return fmt.Errorf("%w: %w", pelton.ErrUnknownOutcome, err)
}

// humaErrors is a transformer: huma's own errors take the form of all others.
// With bodies read by readBody that leaves its checks of parameters.
func humaErrors(_ huma.Context, _ string, v any) (any, error) {
	model, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	p := newProblem(kindInternal, "%s", model.Detail)
	if model.Status == http.StatusUnprocessableEntity {
		p = newProblem(kindInvalid, "%s", model.Detail)
	}
	errs := make([]fieldError, 0, len(model.Errors))
	for _, detail := range model.Errors {
		errs = append(errs, fieldError{Location: clip(detail.Location, 100), Message: detail.Message})
		if len(errs) == maxFieldErrors {
			break
		}
	}
	if len(errs) > 0 {
		p = fieldProblem(p.Type, errs...)
	}
	p.Status = model.Status // what huma is about to send
	return p, nil
}

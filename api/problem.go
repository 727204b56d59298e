package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// kind is the type of a problem: a stable name that clients may switch on.
type kind string

const (
	kindInvalid        kind = "invalid"
	kindMalformed      kind = "malformed-json"
	kindMediaType      kind = "unsupported-media-type"
	kindTooLarge       kind = "too-large"
	kindUnauthorized   kind = "unauthorized"
	kindForbidden      kind = "forbidden"
	kindNotFound       kind = "not-found"
	kindNotAllowed     kind = "method-not-allowed"
	kindTimeout        kind = "request-timeout"
	kindConflict       kind = "conflict"
	kindPrecondition   kind = "precondition-failed"
	kindInFlight       kind = "in-flight"
	kindMisdirected    kind = "misdirected"
	kindRateLimited    kind = "rate-limited"
	kindOverloaded     kind = "overloaded"
	kindNotSupported   kind = "not-supported"
	kindUnavailable    kind = "unavailable"
	kindUnknownOutcome kind = "unknown-outcome"
	kindInternal       kind = "internal"
)

// kinds lists all kinds.
func kinds() []kind {
	return []kind{
		kindInvalid, kindMalformed, kindMediaType, kindTooLarge, kindUnauthorized, kindForbidden, kindNotFound, kindNotAllowed, kindTimeout,
		kindConflict, kindPrecondition, kindInFlight, kindMisdirected, kindRateLimited, kindOverloaded, kindNotSupported,
		kindUnavailable, kindUnknownOutcome, kindInternal,
	}
}

// describe gives a kind's usual status and its title. A call that is not built
// is not-supported with 404, a field that is not built with 422.
func (k kind) describe() (status int, title string) {
	switch k {
	case kindInvalid:
		return http.StatusUnprocessableEntity, "Invalid value"
	case kindMalformed:
		return http.StatusBadRequest, "Malformed JSON"
	case kindMediaType:
		return http.StatusUnsupportedMediaType, "Unsupported media type"
	case kindTooLarge:
		return http.StatusRequestEntityTooLarge, "Too large"
	case kindUnauthorized:
		return http.StatusUnauthorized, "Unauthorized"
	case kindForbidden:
		return http.StatusForbidden, "Forbidden"
	case kindNotFound:
		return http.StatusNotFound, "Not found"
	case kindNotAllowed:
		return http.StatusMethodNotAllowed, "Method not allowed"
	case kindTimeout:
		return http.StatusRequestTimeout, "Request timeout"
	case kindConflict:
		return http.StatusConflict, "Conflict"
	case kindPrecondition:
		return http.StatusPreconditionFailed, "Precondition failed"
	case kindInFlight:
		return http.StatusConflict, "Still in flight"
	case kindMisdirected:
		return http.StatusMisdirectedRequest, "Misdirected request"
	case kindRateLimited:
		return http.StatusTooManyRequests, "Rate limited"
	case kindOverloaded:
		return http.StatusTooManyRequests, "Queue full"
	case kindNotSupported:
		return http.StatusUnprocessableEntity, "Not supported"
	case kindUnavailable:
		return http.StatusServiceUnavailable, "Unavailable"
	case kindUnknownOutcome:
		return http.StatusServiceUnavailable, "Unknown outcome"
	case kindInternal:
		return http.StatusInternalServerError, "Internal error"
	default:
		return http.StatusInternalServerError, "Internal error"
	}
}

// fieldError is one thing wrong with an input: "body.queue", "query.wait".
type fieldError struct {
	Location string `json:"location"`
	Message  string `json:"message"`
}

// problem is an error as RFC 9457 writes it, and as huma takes it: it brings its
// own status, headers and content type.
type problem struct {
	Type   kind         `json:"type"`
	Title  string       `json:"title"`
	Status int          `json:"status"`
	Detail string       `json:"detail,omitempty"`
	Errors []fieldError `json:"errors,omitempty"`
	TaskID string       `json:"task_id,omitempty"` // of the task that holds the unique key

	header http.Header
}

const problemMediaType = "application/problem+json"

func newProblem(k kind, format string, args ...any) *problem {
	status, title := k.describe()
	return &problem{Type: k, Title: title, Status: status, Detail: fmt.Sprintf(format, args...)}
}

// fieldProblem is a problem whose detail is the first of errs.
func fieldProblem(k kind, errs ...fieldError) *problem {
	detail := errs[0].Location + ": " + errs[0].Message
	if more := len(errs) - 1; more > 0 {
		detail = fmt.Sprintf("%s (and %d more)", detail, more)
	}
	p := newProblem(k, "%s", detail)
	p.Errors = errs
	return p
}

// withHeader adds a response header.
func (p *problem) withHeader(name, value string) *problem {
	if p.header == nil {
		p.header = make(http.Header)
	}
	p.header.Add(name, value)
	return p
}

func (p *problem) Error() string { return fmt.Sprintf("%s: %s", p.Type, p.Detail) }

// GetStatus, GetHeaders and ContentType are how huma asks.
func (p *problem) GetStatus() int            { return p.Status }
func (p *problem) GetHeaders() http.Header   { return p.header }
func (p *problem) ContentType(string) string { return problemMediaType }

// ServeHTTP answers with the problem, outside of huma.
func (p *problem) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	header := w.Header()
	for name, values := range p.header {
		header[name] = values
	}
	header.Set("Content-Type", problemMediaType)
	w.WriteHeader(p.Status)
	body, _ := encode(p) // a problem is strings and numbers: it always encodes
	_, _ = w.Write(body) //nolint:gosec // JSON with nosniff is no page; and nobody is left to tell when the caller has gone
}

// encode writes v as one line of JSON without HTML escapes.
func encode(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// clip shortens hostile input for a message.
func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

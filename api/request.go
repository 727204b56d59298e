package api

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/peltonq/pelton"
)

// maxFieldErrors bounds the errors of one problem.
const maxFieldErrors = 20

const delayExcludesRunAt = "excludes run_at: give one of the two"

// taskParser reads one task of a request that checkJSON has passed. It collects
// everything that is wrong before it gives up.
type taskParser struct {
	fieldReader // at is where the task is: "body", "body.tasks[3]"

	inBatch     bool
	spec        pelton.Spec
	payloadSize int
	hasDelay    bool
	hasRunAt    bool
}

// parseTask turns a JSON value into a Spec. Names and bounds are left to whoever
// accepts the spec, except where the zero value of a Spec would turn an explicit
// wrong value into a default. The error is a problem.
func parseTask(raw jsontext.Value, at string, inBatch bool) (pelton.Spec, error) {
	p := taskParser{fieldReader: fieldReader{at: at}, inBatch: inBatch}
	if err := eachField(raw, at, "task", p.member); err != nil {
		return pelton.Spec{}, err
	}
	if p.hasDelay && p.hasRunAt {
		p.fail("delay", delayExcludesRunAt)
	}
	return p.finish()
}

func (p *taskParser) finish() (pelton.Spec, error) {
	if p.payloadSize > pelton.MaxPayload {
		message := fmt.Sprintf("is %d bytes, more than %d", p.payloadSize, pelton.MaxPayload)
		return pelton.Spec{}, fieldProblem(kindTooLarge, fieldError{p.at + ".payload", message})
	}
	if len(p.errs) > 0 {
		p.addRest()
		return pelton.Spec{}, fieldProblem(kindInvalid, p.errs...)
	}
	return p.spec, nil
}

// addRest adds what else would be wrong, so that a caller mends all at once.
func (p *taskParser) addRest() {
	spec := p.spec
	spec.Payload = nil
	_, err := spec.Normalized(time.Now())
	invalid, ok := err.(*pelton.ValidationError) //nolint:errorlint // Normalized documents this very type.
	if !ok {
		return
	}
	for _, e := range fieldErrors(p.at, invalid) {
		known := slices.ContainsFunc(p.errs, func(have fieldError) bool { return have.Location == e.Location })
		if !known && len(p.errs) < maxFieldErrors {
			p.errs = append(p.errs, e)
		}
	}
}

func (p *taskParser) member(name string, value jsontext.Value) {
	switch name {
	case "kind":
		p.spec.Kind = p.text(name, value)
	case "payload":
		if p.payloadSize = len(value); p.payloadSize <= pelton.MaxPayload {
			p.spec.Payload = []byte(value.Clone()) // the body may be much larger
		}
	case "queue":
		p.spec.Queue = p.text(name, value)
	case "priority":
		p.spec.Priority = pelton.Priority(p.text(name, value))
	case "delay":
		p.hasDelay = true
		p.spec.Delay = p.duration(name, value)
	case "run_at":
		p.hasRunAt = true
		p.spec.RunAt = p.time(name, value)
	case "expires_at":
		p.spec.ExpiresAt = p.expiry(name, value)
	case "timeout":
		p.spec.Timeout = p.positiveDuration(name, value)
	case "max_attempts":
		p.spec.MaxAttempts = p.count(name, value)
	case "retention":
		p.spec.Retention = p.positiveDuration(name, value)
	case "backoff":
		p.spec.Backoff = p.backoff(name, value)
	case "rate_key":
		p.spec.RateKey = p.text(name, value)
	case "labels":
		p.spec.Labels = p.labels(name, value)
	case "unique":
		p.spec.Unique = p.unique(name, value)
	case "concurrency_key":
		p.spec.ConcurrencyKey = p.text(name, value)
	default:
		if name == "idempotency_key" && p.inBatch {
			p.spec.IdempotencyKey = p.text(name, value)
			return
		}
		p.fail(name, "is not a known field")
	}
}

// expiry refuses the zero time, which a Spec would take for never.
func (p *taskParser) expiry(field string, value jsontext.Value) time.Time {
	before := len(p.errs)
	t := p.time(field, value)
	if t.IsZero() && len(p.errs) == before {
		p.fail(field, "has passed")
	}
	return t
}

func (p *taskParser) backoff(field string, value jsontext.Value) pelton.Backoff {
	var b pelton.Backoff
	p.object(field, value, func(name string, value jsontext.Value) {
		switch at := field + "." + name; name {
		case "initial":
			b.Initial = p.positiveDuration(at, value)
		case "max":
			b.Max = p.positiveDuration(at, value)
		case "factor":
			var err error
			if b.Factor, err = strconv.ParseFloat(string(value), 64); err != nil || value.Kind() != jsontext.KindNumber || b.Factor == 0 {
				p.fail(at, "%s is not a number from 1 to 10", clip(string(value), 32))
				b.Factor = 0
			}
		default:
			p.fail(at, "is not a known field")
		}
	})
	return b
}

func (p *taskParser) unique(field string, value jsontext.Value) *pelton.Unique {
	u := new(pelton.Unique)
	given := len(p.errs)
	p.object(field, value, func(name string, value jsontext.Value) {
		at := field + "." + name
		switch name {
		case "key":
			u.Key = p.text(at, value)
		case "until":
			u.Until = pelton.UniqueUntil(p.text(at, value))
		case "window":
			u.Window = p.positiveDuration(at, value)
		case "on_conflict":
			u.OnConflict = pelton.OnConflict(p.text(at, value))
		default:
			p.fail(at, "is not a known field")
		}
	})
	if u.Key == "" && len(p.errs) == given {
		p.fail(field+".key", "is required")
	}
	return u
}

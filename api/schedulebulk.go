package api

import (
	"context"
	"fmt"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/peltonq/pelton"
)

// maxApply is how many schedules one request may want.
const maxApply = 1000

// backfillInput is the request of POST /schedules/{name}/backfill.
type backfillInput struct {
	Name string `path:"name" doc:"The schedule's name." example:"nightly"`

	body []byte
	err  error
}

// Resolve reads the body.
func (in *backfillInput) Resolve(ctx huma.Context) []error {
	in.body, in.err = readBody(ctx, maxTaskBody)
	return nil
}

// backfillSchedule is not detached: when the caller has gone, nobody learns how far it
// came, so it stops. Each tick is dealt with as a whole, and has the same task when it
// is asked for again. If it stops early, for want of time or of the broker, the answer
// says from where to go on; an error is for when it did not begin.
func (s *server) backfillSchedule(ctx context.Context, in *backfillInput) (*answer, error) {
	if err := checkScheduleName(in.Name); err != nil {
		return nil, err
	}
	if in.err != nil {
		return nil, in.err
	}
	ask, err := parseBackfill(in.body)
	if err != nil {
		return nil, err
	}
	if err := claimOf(ctx).ticks(ask.Limit); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, bulkTimeout)
	defer cancel()
	if _, err := s.maySchedule(ctx, in.Name); err != nil {
		return nil, err
	}
	result, err := s.Schedules.Backfill(ctx, in.Name, ask)
	if err != nil && (result == nil || len(result.Ticks) == 0) {
		return nil, unlessKnown(err)
	}
	if result.Ticks == nil {
		result.Ticks = []pelton.BackfillTick{} // [] and not null
	}
	return encodeAnswer(result)
}

// parseBackfill reads {"from","to","limit","dry_run"}. Bounds are left to whoever
// carries it out.
func parseBackfill(body []byte) (ask pelton.Backfill, err error) {
	p := fieldReader{at: "body"}
	err = eachField(body, p.at, "backfill", func(name string, value jsontext.Value) {
		switch name {
		case "from":
			ask.From = p.moment(name, value)
		case "to":
			ask.To = p.moment(name, value)
		case "limit":
			ask.Limit = p.count(name, value)
		case "dry_run":
			ask.DryRun = p.boolean(name, value)
		default:
			p.fail(name, "is not a known field")
		}
	})
	if err != nil {
		return ask, err
	}
	return ask, p.problem()
}

// applyInput is the request of POST /schedules/apply.
type applyInput struct {
	body []byte
	err  error
}

// Resolve reads the body.
func (in *applyInput) Resolve(ctx huma.Context) []error {
	in.body, in.err = readBody(ctx, maxBatchBody)
	return nil
}

// applySchedules is detached, as every change is.
func (s *server) applySchedules(ctx context.Context, in *applyInput) (*answer, error) {
	if in.err != nil {
		return nil, in.err
	}
	ask, err := parseApply(in.body)
	if err != nil {
		return nil, err
	}
	if err := claimOf(ctx).batch(len(ask.want)); err != nil {
		return nil, err
	}
	ctx, cancel := detached(ctx, bulkTimeout)
	defer cancel()
	done, err := s.Schedules.ApplyWith(ctx, ask.owner, ask.want, ask.how)
	if err != nil {
		if done != nil && !ask.how.DryRun && len(done.Created)+len(done.Changed)+len(done.Deleted) > 0 {
			return nil, unlessKnown(partly(err)) // "nothing was written" would not be true
		}
		return nil, unlessKnown(err)
	}
	return encodeAnswer(done)
}

// partly is the error of a call that had changed something before it.
func partly(err error) error {
	return fmt.Errorf("%w: %w", pelton.ErrUnknownOutcome, err)
}

// applyRequest is the body of POST /schedules/apply.
type applyRequest struct {
	owner string
	want  []pelton.Schedule
	how   pelton.ApplyOptions
}

// parseApply reads {"owner","schedules":[…],"prune","dry_run"}. The list must be
// there, if only as []: without it, everything of the owner would go.
func parseApply(body []byte) (ask applyRequest, err error) {
	p := applyParser{fieldReader: fieldReader{at: "body"}}
	if err := eachField(body, p.at, "schedules", p.member); err != nil {
		return ask, err
	}
	if p.tooLarge != nil {
		return ask, p.tooLarge
	}
	if p.ask.owner == "" && len(p.errs) == 0 {
		p.fail("owner", "is required")
	}
	if !p.listed {
		p.fail("schedules", "is required")
	}
	return p.ask, p.problem()
}

type applyParser struct {
	fieldReader

	ask      applyRequest
	listed   bool
	tooLarge error // the problem of a payload that is
}

func (p *applyParser) member(name string, value jsontext.Value) {
	switch name {
	case "owner":
		p.ask.owner = p.text(name, value)
	case "prune":
		p.ask.how.Keep = !p.boolean(name, value)
	case "dry_run":
		p.ask.how.DryRun = p.boolean(name, value)
	case "schedules":
		p.listed = true
		if value.Kind() != jsontext.KindBeginArray {
			p.fail(name, "must be an array, not %s", describe(value))
			return
		}
		if err := eachElement(value, p.element); err != nil {
			p.fail(name, "%s", err)
		}
	default:
		p.fail(name, "is not a known field")
	}
}

func (p *applyParser) element(i int, value jsontext.Value) bool {
	if i == maxApply {
		p.fail("schedules", "has more than %d", maxApply)
		return false
	}
	at := fmt.Sprintf("%s.schedules[%d]", p.at, i)
	s, err := parseSchedule(value, at, "")
	switch bad, ok := err.(*problem); { //nolint:errorlint // parseSchedule documents this very type
	case ok && bad.Type == kindTooLarge:
		p.tooLarge = bad
	case ok:
		p.errs = append(p.errs, bad.Errors[:min(len(bad.Errors), max(0, maxFieldErrors-len(p.errs)))]...)
	case err != nil:
		p.fail("schedules", "%s", err)
	case s.Name == "":
		p.fail(fmt.Sprintf("schedules[%d].name", i), "is required")
	}
	p.ask.want = append(p.ask.want, s)
	return len(p.errs) < maxFieldErrors
}

package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/peltonq/pelton"
)

// Limits is what the API needs to serve limits.
type Limits interface {
	// Limits lists all limits, sorted by name.
	Limits(ctx context.Context) ([]pelton.Limit, error)
	// SetLimit creates or replaces a limit and returns it with its defaults. A limit
	// that cannot be is a *pelton.ValidationError.
	SetLimit(ctx context.Context, l pelton.Limit) (*pelton.Limit, error)
	// DeleteLimit deletes a limit, or is ErrNotFound.
	DeleteLimit(ctx context.Context, name string) error
}

func (s *server) listLimits(ctx context.Context, in *namesInput) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	limits, err := s.Limits.Limits(ctx)
	if err != nil {
		return nil, err
	}
	page, err := cutPage(limits, in, func(l pelton.Limit) string { return l.Name })
	if err != nil {
		return nil, err
	}
	return encodeAnswer(page)
}

// limitInput is the request of DELETE /limits/{name}.
type limitInput struct {
	Name string `path:"name" doc:"The limit's name." example:"mail"`
}

// setLimitInput is the request of PUT /limits/{name}.
type setLimitInput struct {
	Name string `path:"name" doc:"The limit's name." example:"mail"`
	body []byte
	err  error
}

// Resolve reads the body.
func (in *setLimitInput) Resolve(ctx huma.Context) []error {
	in.body, in.err = readBody(ctx, maxTaskBody)
	return nil
}

func checkLimitName(name string) error {
	if err := pelton.ValidateLimitName(name); err != nil {
		return fieldProblem(kindInvalid, fieldError{"path.name", plain(err.Error())})
	}
	return nil
}

func (s *server) setLimit(ctx context.Context, in *setLimitInput) (*answer, error) {
	if err := checkLimitName(in.Name); err != nil {
		return nil, err
	}
	if in.err != nil {
		return nil, in.err
	}
	l, err := parseLimit(in.body, in.Name)
	if err != nil {
		return nil, err
	}
	ctx, cancel := detached(ctx, callTimeout)
	defer cancel()
	set, err := s.Limits.SetLimit(ctx, l)
	if err != nil {
		return nil, unlessKnown(err)
	}
	return encodeAnswer(set)
}

func (s *server) deleteLimit(ctx context.Context, in *limitInput) (*answer, error) {
	if err := checkLimitName(in.Name); err != nil {
		return nil, err
	}
	ctx, cancel := detached(ctx, callTimeout)
	defer cancel()
	if err := s.Limits.DeleteLimit(ctx, in.Name); err != nil {
		return nil, unlessKnown(err)
	}
	return &answer{Status: http.StatusNoContent}, nil
}

// limitParser reads the body of PUT /limits/{name}, which checkJSON has passed.
type limitParser struct {
	fieldReader

	limit pelton.Limit
}

// parseLimit reads {"name","kind","rate_key","cost","rate":{…},"concurrency_key","max_running"}. Bounds are left to
// whoever carries it out, except where an explicit value would be taken for none.
// The error is a problem.
func parseLimit(body []byte, name string) (pelton.Limit, error) {
	p := limitParser{fieldReader{at: "body"}, pelton.Limit{Name: name}}
	if err := eachField(body, p.at, "limit", p.member); err != nil {
		return pelton.Limit{}, err
	}
	return p.limit, p.problem()
}

func (p *limitParser) member(name string, value jsontext.Value) {
	switch name {
	case "name":
		if given := p.text(name, value); given != p.limit.Name && given != "" {
			p.fail(name, "is %q, but the path says %q", clip(given, 80), p.limit.Name)
		}
	case "kind":
		p.limit.Kind = p.text(name, value)
	case "rate_key":
		p.limit.RateKey = p.text(name, value)
	case "cost":
		p.limit.Cost = p.count(name, value)
	case "rate":
		before := len(p.errs)
		p.object(name, value, p.rate)
		if p.limit.Rate.Limit == 0 && len(p.errs) == before { // an empty one would be taken for none
			p.fail("rate.limit", "is required")
		}
	case "concurrency_key":
		p.limit.ConcurrencyKey = p.text(name, value)
	case "max_running":
		p.limit.MaxRunning = p.count(name, value)
	default:
		p.fail(name, "is not a known field")
	}
}

func (p *limitParser) rate(name string, value jsontext.Value) {
	at := "rate." + name
	switch name {
	case "limit":
		p.limit.Rate.Limit = p.count(at, value)
	case "per":
		p.limit.Rate.Per = p.positiveDuration(at, value)
	case "burst":
		p.limit.Rate.Burst = p.count(at, value)
	case "on_error":
		p.limit.Rate.OnError = p.text(at, value)
	default:
		p.fail(at, "is not a known field")
	}
}

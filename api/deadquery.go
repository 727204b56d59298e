package api

import (
	"fmt"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/peltonq/pelton"
)

// queryParser reads the body of a call by filter, which checkJSON has passed.
type queryParser struct {
	q      pelton.DeadQuery
	dryRun bool
	errs   []fieldError
}

// parseDeadQuery reads {"queue","kind","error","dry_run","limit","cursor"}. Names
// and bounds are left to whoever carries it out, except where an explicit value
// would be taken for none: an empty "queue", of a script whose variable was not
// set, must not mean all queues. The error is a problem.
func parseDeadQuery(body []byte) (q pelton.DeadQuery, dryRun bool, err error) {
	root := jsontext.Value(body)
	if root.Kind() != jsontext.KindBeginObject {
		return q, false, fieldProblem(kindInvalid, fieldError{"body", "must be an object, not " + describe(root)})
	}
	var p queryParser
	if err := eachMember(root, p.member); err != nil {
		return q, false, fmt.Errorf("parse filter: %w", err)
	}
	if len(p.errs) > 0 {
		return q, false, fieldProblem(kindInvalid, p.errs[:min(len(p.errs), maxFieldErrors)]...)
	}
	return p.q, p.dryRun, nil
}

func (p *queryParser) member(name string, value jsontext.Value) {
	switch name {
	case "queue":
		p.q.Queue = p.text(name, value)
	case "kind":
		p.q.Kind = p.text(name, value)
	case "error":
		p.q.Error = p.text(name, value)
	case "cursor":
		p.q.Cursor = p.text(name, value)
	case "limit":
		n, err := strconv.Atoi(string(value))
		if err != nil || n < 1 {
			p.fail(name, "must be a whole number from 1 on")
		}
		p.q.Limit = n
	case "dry_run":
		switch kind := value.Kind(); kind { //nolint:exhaustive // the others are wrong
		case jsontext.KindTrue, jsontext.KindFalse:
			p.dryRun = kind == jsontext.KindTrue
		default:
			p.fail(name, "must be a boolean, not "+describe(value))
		}
	default:
		p.fail(clip(name, 100), "is not a known field")
	}
}

func (p *queryParser) text(name string, value jsontext.Value) string {
	if value.Kind() != jsontext.KindString {
		p.fail(name, "must be a string, not "+describe(value))
		return ""
	}
	text, err := jsontext.AppendUnquote(nil, value)
	switch {
	case err != nil:
		p.fail(name, "has half a surrogate pair, which is no character")
	case len(text) == 0:
		p.fail(name, "must not be empty: leave it out instead")
	}
	return string(text)
}

func (p *queryParser) fail(name, message string) {
	p.errs = append(p.errs, fieldError{Location: "body." + name, Message: message})
}

package api

import (
	"fmt"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/peltonq/pelton"
)

// queryParser reads the body of a call by filter, which checkJSON has passed.
type queryParser struct {
	fieldReader

	q      pelton.DeadQuery
	dryRun bool
}

// parseDeadQuery reads {"queue","kind","error","dry_run","limit","cursor"}. Names
// and bounds are left to whoever carries it out. The error is a problem.
func parseDeadQuery(body []byte) (q pelton.DeadQuery, dryRun bool, err error) {
	root := jsontext.Value(body)
	if root.Kind() != jsontext.KindBeginObject {
		return q, false, fieldProblem(kindInvalid, fieldError{"body", "must be an object, not " + describe(root)})
	}
	p := queryParser{fieldReader: fieldReader{at: "body"}}
	if err := eachMember(root, p.member); err != nil {
		return q, false, fmt.Errorf("parse filter: %w", err)
	}
	return p.q, p.dryRun, p.problem()
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
		p.q.Limit = p.count(name, value)
	case "dry_run":
		p.dryRun = p.boolean(name, value)
	default:
		p.fail(name, "is not a known field")
	}
}

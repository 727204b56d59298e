package api

import (
	"github.com/go-json-experiment/json/jsontext"

	"github.com/peltonq/pelton"
)

// bulkParser reads the body of a call by filter, which checkJSON has passed.
type bulkParser struct {
	fieldReader

	cursor string
	limit  int
	dryRun bool
}

// parse calls member with each field that is not one of every call by filter; member
// reports whether it knows it. Names and bounds are left to whoever carries the call out.
// The error is a problem.
func (p *bulkParser) parse(body []byte, member func(name string, value jsontext.Value) bool) error {
	p.at = "body"
	err := eachField(body, p.at, "filter", func(name string, value jsontext.Value) {
		switch name {
		case "cursor":
			p.cursor = p.text(name, value)
		case "limit":
			p.limit = p.count(name, value)
		case "dry_run":
			p.dryRun = p.boolean(name, value)
		default:
			if !member(name, value) {
				p.fail(name, "is not a known field")
			}
		}
	})
	if err != nil {
		return err
	}
	return p.problem()
}

// parseDeadQuery reads {"queue","kind","error","dry_run","limit","cursor"}.
func parseDeadQuery(body []byte) (q pelton.DeadQuery, dryRun bool, err error) {
	var p bulkParser
	err = p.parse(body, func(name string, value jsontext.Value) bool {
		switch name {
		case "queue":
			q.Queue = p.text(name, value)
		case "kind":
			q.Kind = p.text(name, value)
		case "error":
			q.Error = p.text(name, value)
		default:
			return false
		}
		return true
	})
	q.Cursor, q.Limit = p.cursor, p.limit
	return q, p.dryRun, err
}

// parseTaskQuery reads {"state","queue","kind","priority","labels","error","since",
// "until","dry_run","limit","cursor"}.
func parseTaskQuery(body []byte) (q pelton.TaskQuery, dryRun bool, err error) {
	var p bulkParser
	err = p.parse(body, func(name string, value jsontext.Value) bool {
		switch name {
		case "state":
			q.State = pelton.State(p.text(name, value))
		case "queue":
			q.Queue = p.text(name, value)
		case "kind":
			q.Kind = p.text(name, value)
		case "priority":
			q.Priority = pelton.Priority(p.text(name, value))
		case "labels":
			q.Labels = p.labels(name, value)
		case "error":
			q.Error = p.text(name, value)
		case "since":
			q.Since = p.time(name, value)
		case "until":
			q.Until = p.time(name, value)
		default:
			return false
		}
		return true
	})
	q.Cursor, q.Limit = p.cursor, p.limit
	return q, p.dryRun, err
}

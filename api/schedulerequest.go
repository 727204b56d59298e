package api

import (
	"errors"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/peltonq/pelton"
)

// scheduleParser reads one schedule of a request that checkJSON has passed.
type scheduleParser struct {
	fieldReader // at is where the schedule is: "body", "body.schedules[3]"

	schedule pelton.Schedule
	tooLarge error // the problem of a payload that is
}

// parseSchedule turns a JSON value into a Schedule. name is that of the path; empty
// means that the value has it. What an answer tells besides the definition may be
// there and is ignored, so that a schedule can be read, edited and put back. Bounds
// are left to whoever carries it out, except where an explicit value would be taken
// for none. The error is a problem.
func parseSchedule(raw jsontext.Value, at, name string) (pelton.Schedule, error) {
	p := scheduleParser{fieldReader: fieldReader{at: at}, schedule: pelton.Schedule{Name: name}}
	given := false
	err := eachField(raw, at, "schedule", func(name string, value jsontext.Value) {
		given = given || name == "task"
		p.member(name, value)
	})
	switch {
	case err != nil:
		return p.schedule, err
	case p.tooLarge != nil:
		return p.schedule, p.tooLarge
	case !given:
		p.fail("task", "is required")
	}
	return p.schedule, p.problem()
}

func (p *scheduleParser) member(name string, value jsontext.Value) {
	s := &p.schedule
	switch name {
	case "name":
		given := p.text(name, value)
		if s.Name == "" {
			s.Name = given
		} else if given != s.Name && given != "" {
			p.fail(name, "is %q, but the path says %q", clip(given, 80), s.Name)
		}
	case "cron":
		s.Cron = p.text(name, value)
	case "every":
		s.Every = p.positiveDuration(name, value)
	case "at":
		s.At = p.moment(name, value)
	case "zone":
		s.Zone = p.text(name, value)
	case "task":
		s.Task = p.task(name, value)
	case "overlap":
		s.Overlap = pelton.Overlap(p.text(name, value))
	case "catch_up":
		s.CatchUp = pelton.CatchUp(p.text(name, value))
	case "catch_up_window":
		s.CatchUpWindow = p.positiveDuration(name, value)
	case "jitter":
		s.Jitter = p.duration(name, value)
	case "paused":
		s.Paused = p.boolean(name, value)
	case "starts_at":
		s.StartsAt = p.moment(name, value)
	case "ends_at":
		s.EndsAt = p.moment(name, value)
	case "owner":
		s.Owner = p.text(name, value)
	case "revision":
		s.Revision = p.revision(name, value)
	case "created_at", "updated_at", "next", "last", "failing": // told, not asked for
	default:
		p.fail(name, "is not a known field")
	}
}

func (p *scheduleParser) task(field string, value jsontext.Value) pelton.Spec {
	spec, err := parseTask(value, p.at+"."+field, false)
	var bad *problem
	switch {
	case errors.As(err, &bad) && bad.Type == kindTooLarge:
		p.tooLarge = bad
	case errors.As(err, &bad):
		p.errs = append(p.errs, bad.Errors[:min(len(bad.Errors), max(0, maxFieldErrors-len(p.errs)))]...)
	case err != nil:
		p.fail(field, "%s", err)
	}
	return spec
}

// moment refuses the zero time, which would be taken for none.
func (p *fieldReader) moment(field string, value jsontext.Value) time.Time {
	before := len(p.errs)
	t := p.time(field, value)
	if t.IsZero() && len(p.errs) == before {
		p.fail(field, "is before the year 1970")
	}
	return t
}

// revision refuses zero, which would be taken for any, and NoRevision.
func (p *scheduleParser) revision(field string, value jsontext.Value) uint64 {
	n, err := strconv.ParseUint(string(value), 10, 63)
	if err != nil || n == 0 {
		p.fail(field, "must be the revision of an answer")
	}
	return n
}

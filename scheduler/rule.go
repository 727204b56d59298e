package scheduler

import (
	"fmt"
	"hash/fnv"
	"time"

	"github.com/peltonq/pelton"
)

// rule says when a schedule's ticks are.
type rule struct {
	cron   *cronRule     // nil for the others
	every  time.Duration // 0 for the others
	anchor time.Time     // of every
	at     time.Time     // zero for the others

	name       string
	jitter     time.Duration
	start, end time.Time
}

// maxTime is the last moment that RFC 3339 can write, to the second.
var maxTime = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC) //nolint:gochecknoglobals // a constant

// newRule reads the rule of a schedule, which must be normalized. The error is a
// *pelton.ValidationError.
func newRule(s *pelton.Schedule) (*rule, error) {
	r := &rule{every: s.Every, at: s.At, name: s.Name, jitter: s.Jitter, start: s.StartsAt, end: s.EndsAt, anchor: time.Unix(0, 0).UTC()}
	if !s.StartsAt.IsZero() {
		r.anchor = s.StartsAt
	}
	if s.Cron == "" {
		return r, nil
	}
	zone, err := time.LoadLocation(s.Zone)
	if err != nil {
		return nil, invalid("zone", "%q is not the name of a time zone", s.Zone)
	}
	r.cron, r.every, err = parseCron(s.Cron, zone)
	if err != nil {
		return nil, invalid("cron", "%s", err.Error())
	}
	return r, nil
}

func invalid(field, format string, args ...any) error {
	return &pelton.ValidationError{Fields: []pelton.FieldError{{Field: field, Message: fmt.Sprintf(format, args...)}}}
}

// next is the first tick after a moment; zero if there is none.
func (r *rule) next(after time.Time) time.Time {
	if !r.start.IsZero() && after.Before(r.start) {
		after = r.start.Add(-1)
	}
	var tick time.Time
	switch {
	case r.cron != nil:
		tick = r.cron.next(after)
	case r.every > 0:
		tick = r.nextMultiple(after)
	case r.at.After(after):
		tick = r.at
	}
	if tick.After(maxTime) || !r.end.IsZero() && tick.After(r.end) {
		return time.Time{}
	}
	return tick
}

// nextMultiple counts in milliseconds, whose number a time.Duration could not hold in
// nanoseconds.
func (r *rule) nextMultiple(after time.Time) time.Time {
	step, anchor := r.every.Milliseconds(), r.anchor.UnixMilli()
	n := after.UnixMilli() - anchor // rounded down, so that the next multiple is after it
	if n < 0 {
		return r.anchor
	}
	return time.UnixMilli(anchor + (n/step+1)*step).UTC()
}

// due is when the task of a tick is to be enqueued: after the tick by less than the
// jitter, by an amount that schedule and tick determine.
func (r *rule) due(tick time.Time) time.Time {
	if r.jitter <= 0 {
		return tick
	}
	hash := fnv.New64a()
	_, _ = fmt.Fprintf(hash, "%s\n%d", r.name, tick.UnixMilli()) // never fails
	mixed := hash.Sum64()
	mixed ^= mixed >> 33 // FNV alone leaves neighbours close together
	mixed *= 0xff51afd7ed558ccd
	mixed ^= mixed >> 33
	return tick.Add(time.Duration(mixed % uint64(r.jitter)).Truncate(time.Millisecond))
}

// preview lists the next n ticks after a moment.
func (r *rule) preview(after time.Time, n int) []time.Time {
	var ticks []time.Time
	for tick := r.next(after); len(ticks) < n && !tick.IsZero(); tick = r.next(tick) {
		ticks = append(ticks, tick)
	}
	return ticks
}

// latest is the last tick that is due by now, of those after a moment; zero if there
// is none. It looks back in growing steps, so that years of downtime cost little.
func (r *rule) latest(after, now time.Time) time.Time {
	for back := time.Minute; ; back *= 6 {
		from := now.Add(-back)
		whole := !from.After(after) || back > time.Duration(1)<<60
		if whole {
			from = after
		}
		var found time.Time
		for tick := r.next(from); !tick.IsZero() && !r.due(tick).After(now); tick = r.next(tick) {
			found = tick
		}
		if whole || !found.IsZero() {
			return found
		}
	}
}

// check finds what is wrong with a rule as of now: that it never fires, or that its
// jitter reaches the next tick. The error is a *pelton.ValidationError.
func (r *rule) check(now time.Time) error {
	const looked = 50
	ticks := r.preview(now, looked)
	field := "cron"
	switch {
	case !r.at.IsZero():
		field = "at"
	case r.cron == nil:
		field = "every"
	}
	if len(ticks) == 0 {
		switch {
		case !r.at.IsZero():
			return invalid(field, "has passed: it would never fire")
		case !r.end.IsZero() && !r.end.After(now):
			return invalid("ends_at", "has passed: it would never fire")
		case !r.end.IsZero():
			return invalid(field, "has no tick until ends_at: it would never fire")
		default:
			return invalid(field, "never fires")
		}
	}
	for i := 1; i < len(ticks); i++ {
		if gap := ticks[i].Sub(ticks[i-1]); r.jitter >= gap {
			return invalid("jitter", "%s is not less than the time between two ticks, which is %s at %s",
				pelton.FormatDuration(r.jitter), pelton.FormatDuration(gap), ticks[i-1].Format(time.RFC3339))
		}
	}
	return nil
}

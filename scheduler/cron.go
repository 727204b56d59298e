package scheduler

import (
	"fmt"
	"math/bits"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // zones mean the same in every build, and in images without them

	"github.com/netresearch/go-cron"

	"github.com/peltonq/pelton"
)

// cronRule is an expression that was read. The library reads it and finds the next
// match on a calendar without zones; what a zone makes of that is here. The library's
// own ways with zones are not used: it skips times that do not exist or moves them,
// depending on how long the gap is, and fires twice what exists twice
// (docs/adr/0007-ticks.md).
//
// Hours decide how clock changes are met. An expression for every hour follows the
// clock: each moment at which the clock shows a match is a tick. Any other names
// times of the day, and each of them is one tick: one that does not exist is at the
// moment at which the clock jumped over it, one that exists twice is at the first.
type cronRule struct {
	calendar *cron.SpecSchedule
	zone     *time.Location
	daily    bool // names times of the day
}

// cronFields are the fields of an expression with seconds.
var cronFields = [...]struct { //nolint:gochecknoglobals // a table
	name   string
	option cron.ParseOption
}{
	{"second", cron.Second},
	{"minute", cron.Minute},
	{"hour", cron.Hour},
	{"day of month", cron.Dom},
	{"month", cron.Month},
	{"day of week", cron.Dow},
}

// searchYears is how far the next match is looked for. A 29th of February is eight
// years after the last one at most.
const searchYears = 9

// parseCron reads an expression; every is its interval if it is an @every. The error
// is for people and names the field at fault.
func parseCron(expression string, zone *time.Location) (rule *cronRule, every time.Duration, err error) {
	fields := strings.Fields(expression)
	switch {
	case len(fields) == 0:
		return nil, 0, fmt.Errorf("is empty")
	case strings.HasPrefix(fields[0], "TZ=") || strings.HasPrefix(fields[0], "CRON_TZ="):
		return nil, 0, fmt.Errorf("has a time zone: give it as zone")
	case fields[0] == "@every":
		if len(fields) != 2 {
			return nil, 0, fmt.Errorf("@every wants one duration, as in @every 90s")
		}
		every, err := pelton.ParseDuration(fields[1])
		if err != nil {
			return nil, 0, fmt.Errorf("@every: %q is not a duration such as 90s, 1h30m or 7d", fields[1])
		}
		if problem := intervalProblem(every); problem != "" {
			return nil, 0, fmt.Errorf("@every: %s", problem)
		}
		return nil, every, nil
	case strings.HasPrefix(fields[0], "@"):
		options := cron.Second | cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor
		if len(fields) != 1 {
			return nil, 0, fmt.Errorf("%s stands alone", fields[0])
		}
		rule, err := newCronRule(options, fields[0], zone)
		if err != nil {
			return nil, 0, fmt.Errorf("%q is none of @yearly, @monthly, @weekly, @daily, @hourly, @every DURATION", fields[0])
		}
		return rule, 0, nil
	case len(fields) == 5:
		fields = append([]string{"0"}, fields...)
	case len(fields) != 6:
		return nil, 0, fmt.Errorf("has %d fields: it must have 5 (minute, hour, day of month, month, day of week) or 6 (second first)", len(fields))
	}
	// Each field alone first: the library does not say which one is wrong.
	var options cron.ParseOption
	for i, field := range cronFields {
		if slices.Contains(strings.Split(fields[i], ","), "") { // which the library lets pass
			return nil, 0, fmt.Errorf("%s: %q: an empty item of a list", field.name, fields[i])
		}
		if _, err := cron.MustNewParser(field.option).Parse(fields[i]); err != nil {
			return nil, 0, fmt.Errorf("%s: %q: %w", field.name, fields[i], err)
		}
		options |= field.option
	}
	rule, err = newCronRule(options, strings.Join(fields, " "), zone)
	return rule, 0, err
}

func newCronRule(options cron.ParseOption, expression string, zone *time.Location) (*cronRule, error) {
	// If both days are restricted, either is enough, as in every cron since the first.
	schedule, err := cron.MustNewParser(options | cron.DowOrDom).WithMaxSearchYears(searchYears).Parse(expression)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", expression, err)
	}
	calendar, ok := schedule.(*cron.SpecSchedule)
	if !ok {
		return nil, fmt.Errorf("%q is not a calendar", expression)
	}
	calendar.Location = time.UTC
	const everyHour = 1<<24 - 1
	return &cronRule{calendar, zone, bits.OnesCount64(calendar.Hour&everyHour) < 24}, nil
}

// intervalProblem says what is wrong with an interval, if anything.
func intervalProblem(every time.Duration) string {
	switch {
	case every < pelton.MinEvery || every > pelton.MaxEvery:
		return fmt.Sprintf("%s is not between %s and %s", pelton.FormatDuration(every), pelton.FormatDuration(pelton.MinEvery), pelton.FormatDuration(pelton.MaxEvery))
	case every%time.Millisecond != 0:
		return fmt.Sprintf("%s is not in whole milliseconds", every)
	default:
		return ""
	}
}

// next is the first tick after a moment; zero if there is none for years.
//
// Between two changes of the zone's offset the clock is that of a calendar without
// zones, moved by the offset. So each such period is looked at by itself, from the one
// of the moment on.
func (c *cronRule) next(after time.Time) time.Time {
	at := after.In(c.zone)
	for last := at.Year() + searchYears + 1; at.Year() <= last; {
		start, end := at.ZoneBounds()
		offset := offsetOf(at)
		from := wall(at, offset)
		if at.After(after) { // it is the start of a period, which is in it
			from = from.Add(-1)
		}
		if c.daily && !start.IsZero() {
			before := offsetOf(start.Add(-1))
			if start.After(after) && c.matchesWithin(wall(start, before), wall(start, offset)) {
				return start.UTC()
			}
			if again := wall(start, before).Add(-1); from.Before(again) { // the clock was set back: those times have been
				from = again
			}
		}
		match := c.calendar.Next(from)
		if match.IsZero() {
			return time.Time{}
		}
		if tick := match.Add(-offset); end.IsZero() || tick.Before(end) {
			return tick.UTC()
		}
		at = end
	}
	return time.Time{}
}

// matchesWithin reports whether a time of [from, to) matches, of a clock that jumped
// over them.
func (c *cronRule) matchesWithin(from, to time.Time) bool {
	if !from.Before(to) {
		return false
	}
	match := c.calendar.Next(from.Add(-1))
	return !match.IsZero() && match.Before(to)
}

func offsetOf(t time.Time) time.Duration {
	_, seconds := t.Zone()
	return time.Duration(seconds) * time.Second
}

// wall is what a clock with that offset shows, as a time of a calendar without zones.
func wall(t time.Time, offset time.Duration) time.Time { return t.UTC().Add(offset) }

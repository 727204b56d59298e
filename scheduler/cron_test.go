package scheduler

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func zone(t interface {
	Helper()
	Fatal(args ...any)
}, name string,
) *time.Location {
	t.Helper()
	loc, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

func mustParse(t interface {
	Helper()
	Fatal(args ...any)
}, expression string, loc *time.Location,
) *cronRule {
	t.Helper()
	rule, every, err := parseCron(expression, loc)
	if err != nil || every != 0 {
		t.Fatal(expression, every, err)
	}
	return rule
}

// The edges of docs/schedules.md, as the clock on the wall shows them with its offset.
func TestTicksWhenClocksChange(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		zone, cron, after string
		want              []string
	}{
		// A time that does not exist: once, at the end of the gap.
		{"Europe/Berlin", "30 2 * * *", "2026-03-28T00:00:00+01:00", []string{"2026-03-28T02:30:00+01:00", "2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"}},
		{"America/New_York", "30 2 * * *", "2026-03-07T12:00:00-05:00", []string{"2026-03-08T03:00:00-04:00", "2026-03-09T02:30:00-04:00"}},
		{"Australia/Lord_Howe", "15 2 * * *", "2026-10-03T12:00:00+10:30", []string{"2026-10-04T02:30:00+11:00", "2026-10-05T02:15:00+11:00"}},
		{"America/St_Johns", "30 2 * * *", "2026-03-07T12:00:00-03:30", []string{"2026-03-08T03:00:00-02:30", "2026-03-09T02:30:00-02:30"}},
		{"America/St_Johns", "30 0 * * *", "2010-03-13T12:00:00-03:30", []string{"2010-03-14T01:01:00-02:30", "2010-03-15T00:30:00-02:30"}},
		{"America/Sao_Paulo", "0 0 * * *", "2018-11-03T12:00:00-03:00", []string{"2018-11-04T01:00:00-02:00", "2018-11-05T00:00:00-02:00"}},
		// Several such times of one gap, and one at its end: still once.
		{"Europe/Berlin", "*/15 2,3 * * *", "2026-03-29T01:00:00+01:00", []string{"2026-03-29T03:00:00+02:00", "2026-03-29T03:15:00+02:00"}},
		{"Europe/Berlin", "0 */2 * * *", "2026-03-28T23:00:00+01:00", []string{"2026-03-29T00:00:00+01:00", "2026-03-29T03:00:00+02:00", "2026-03-29T04:00:00+02:00"}},
		// A day that does not exist.
		{"Pacific/Apia", "0 9 * * *", "2011-12-29T08:00:00-10:00", []string{"2011-12-29T09:00:00-10:00", "2011-12-31T00:00:00+14:00", "2011-12-31T09:00:00+14:00"}},

		// A time that exists twice: once, the first time.
		{"Europe/Berlin", "30 2 * * *", "2026-10-24T12:00:00+02:00", []string{"2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"}},
		{"America/New_York", "30 1 * * *", "2026-10-31T12:00:00-04:00", []string{"2026-11-01T01:30:00-04:00", "2026-11-02T01:30:00-05:00"}},
		{"Australia/Lord_Howe", "45 1 * * *", "2026-04-04T12:00:00+11:00", []string{"2026-04-05T01:45:00+11:00", "2026-04-06T01:45:00+10:30"}},
		{"America/St_Johns", "30 1 * * *", "2026-10-31T12:00:00-02:30", []string{"2026-11-01T01:30:00-02:30", "2026-11-02T01:30:00-03:30"}},
		{"America/St_Johns", "0 0 * * *", "2010-11-06T12:00:00-02:30", []string{"2010-11-07T00:00:00-02:30", "2010-11-08T00:00:00-03:30"}},
		{"America/St_Johns", "30 23 * * *", "2010-11-06T12:00:00-02:30", []string{"2010-11-06T23:30:00-02:30", "2010-11-07T23:30:00-03:30"}},
		// The end of the doubled time is not in it.
		{"Europe/Berlin", "0 3 * * *", "2026-10-24T12:00:00+02:00", []string{"2026-10-25T03:00:00+01:00", "2026-10-26T03:00:00+01:00"}},
		{"Europe/Berlin", "59 59 2 * * *", "2026-10-25T02:59:59+02:00", []string{"2026-10-26T02:59:59+01:00"}},

		// Every hour: what the clock shows, when it shows it.
		{"Europe/Berlin", "0 * * * *", "2026-03-29T00:30:00+01:00", []string{"2026-03-29T01:00:00+01:00", "2026-03-29T03:00:00+02:00", "2026-03-29T04:00:00+02:00"}},
		{"Europe/Berlin", "0 * * * *", "2026-10-25T01:30:00+02:00", []string{"2026-10-25T02:00:00+02:00", "2026-10-25T02:00:00+01:00", "2026-10-25T03:00:00+01:00"}},
		{"America/New_York", "0 * * * *", "2026-03-08T00:30:00-05:00", []string{"2026-03-08T01:00:00-05:00", "2026-03-08T03:00:00-04:00"}},
		{"America/New_York", "0 * * * *", "2026-11-01T00:30:00-04:00", []string{"2026-11-01T01:00:00-04:00", "2026-11-01T01:00:00-05:00", "2026-11-01T02:00:00-05:00"}},
		{"Australia/Lord_Howe", "0 * * * *", "2026-10-04T00:30:00+10:30", []string{"2026-10-04T01:00:00+10:30", "2026-10-04T03:00:00+11:00", "2026-10-04T04:00:00+11:00"}},
		{"Australia/Lord_Howe", "0 * * * *", "2026-04-05T00:30:00+11:00", []string{"2026-04-05T01:00:00+11:00", "2026-04-05T02:00:00+10:30", "2026-04-05T03:00:00+10:30"}},
		{"Australia/Lord_Howe", "*/30 * * * *", "2026-04-05T01:00:00+11:00", []string{"2026-04-05T01:30:00+11:00", "2026-04-05T01:30:00+10:30", "2026-04-05T02:00:00+10:30"}},
		{"America/St_Johns", "0 * * * *", "2026-03-08T00:30:00-03:30", []string{"2026-03-08T01:00:00-03:30", "2026-03-08T03:00:00-02:30"}},
		{"America/St_Johns", "0 * * * *", "2026-11-01T00:30:00-02:30", []string{"2026-11-01T01:00:00-02:30", "2026-11-01T01:00:00-03:30", "2026-11-01T02:00:00-03:30"}},
		{"America/St_Johns", "0 * * * *", "2010-11-06T22:30:00-02:30", []string{"2010-11-06T23:00:00-02:30", "2010-11-07T00:00:00-02:30", "2010-11-07T00:00:00-03:30", "2010-11-07T01:00:00-03:30"}},
		{"Europe/Berlin", "@hourly", "2026-10-25T01:30:00+02:00", []string{"2026-10-25T02:00:00+02:00", "2026-10-25T02:00:00+01:00"}},
		{"Europe/Berlin", "30 * * * * *", "2026-03-29T01:58:45+01:00", []string{"2026-03-29T01:59:30+01:00", "2026-03-29T03:00:30+02:00"}},

		// Leap days and ends of months.
		{"Europe/Berlin", "0 0 29 2 *", "2026-01-01T00:00:00+01:00", []string{"2028-02-29T00:00:00+01:00", "2032-02-29T00:00:00+01:00"}},
		{"UTC", "0 0 29 2 *", "2096-01-01T00:00:00Z", []string{"2096-02-29T00:00:00Z", "2104-02-29T00:00:00Z"}},
		{"UTC", "0 12 31 * *", "2026-01-31T12:00:00Z", []string{"2026-03-31T12:00:00Z", "2026-05-31T12:00:00Z", "2026-07-31T12:00:00Z", "2026-08-31T12:00:00Z"}},
		{"America/New_York", "59 23 30 * *", "2026-01-30T23:59:00-05:00", []string{"2026-03-30T23:59:00-04:00", "2026-04-30T23:59:00-04:00"}},
		{"UTC", "@monthly", "2026-12-01T00:00:00Z", []string{"2027-01-01T00:00:00Z", "2027-02-01T00:00:00Z"}},
		// Either of the days is enough.
		{"UTC", "0 0 13 * 5", "2026-02-06T00:00:00Z", []string{"2026-02-13T00:00:00Z", "2026-02-20T00:00:00Z", "2026-02-27T00:00:00Z", "2026-03-06T00:00:00Z", "2026-03-13T00:00:00Z", "2026-03-20T00:00:00Z"}},
		{"UTC", "0 0 * * 7", "2026-02-06T00:00:00Z", []string{"2026-02-08T00:00:00Z", "2026-02-15T00:00:00Z"}},
		{"UTC", "0 0 30 2 *", "2026-02-06T00:00:00Z", nil},
	} {
		name := tt.zone + " " + tt.cron + " after " + tt.after
		loc := zone(t, tt.zone)
		r := &rule{cron: mustParse(t, tt.cron, loc)}
		after, err := time.Parse(time.RFC3339, tt.after)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, tick := range r.preview(after, max(len(tt.want), 1)) {
			if tick.Location() != time.UTC {
				t.Errorf("%s: %s is not in UTC", name, tick)
			}
			got = append(got, tick.In(loc).Format(time.RFC3339))
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// Any rule, in any zone, against what a second-by-second reading of the clock gives.
func TestTicksAreThoseOfTheClock(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.SampledFrom([]string{"Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/St_Johns", "Africa/Casablanca", "UTC"}).Draw(t, "zone")
		loc := zone(t, name)
		field := func(label string, n int) string {
			return rapid.OneOf(
				rapid.Just("*"),
				rapid.Map(rapid.IntRange(0, n-1), func(i int) string { return fmt.Sprint(i) }),
				rapid.Map(rapid.IntRange(2, 20), func(i int) string { return fmt.Sprintf("*/%d", i) }),
			).Draw(t, label)
		}
		expression := field("minute", 60) + " " + field("hour", 24) + " * * *"
		c := mustParse(t, expression, loc)
		// Around a change of the clock, or anywhere.
		start := time.Date(2026, 1, 1, 0, 0, 0, 0, loc).Add(time.Duration(rapid.IntRange(0, 365*24).Draw(t, "hour of the year")) * time.Hour)
		if rapid.Bool().Draw(t, "at a change") {
			if _, end := start.ZoneBounds(); !end.IsZero() {
				start = end.Add(-3 * time.Hour)
			}
		}
		start = start.UTC().Truncate(time.Minute)
		stop := start.Add(8 * time.Hour)

		matches := func(w time.Time) bool { return c.calendar.Next(w.Add(-1)).Equal(w) }
		shown := func(at time.Time) time.Time { return wall(at, offsetOf(at.In(loc))) }
		var want []time.Time
		for at := start.Add(time.Minute); at.Before(stop); at = at.Add(time.Minute) {
			now, before := shown(at), shown(at.Add(-time.Minute))
			tick := matches(now)
			if c.daily {
				// What the clock jumped over just now.
				for over := before.Add(time.Minute); over.Before(now); over = over.Add(time.Minute) {
					tick = tick || matches(over)
				}
				// What it has shown before.
				for back := time.Minute; back <= 3*time.Hour; back += time.Minute {
					if shown(at.Add(-back)).Equal(now) {
						tick = false
					}
				}
			}
			if tick {
				want = append(want, at)
			}
		}
		var got []time.Time
		for tick := c.next(start); !tick.IsZero() && tick.Before(stop); tick = c.next(tick) {
			got = append(got, tick)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("%q in %s after %s: %s", expression, name, start.In(loc), diff)
		}
	})
}

func TestBadCron(t *testing.T) {
	t.Parallel()
	for expression, says := range map[string]string{
		"":                           "is empty",
		"* * * *":                    "has 4 fields: it must have 5",
		"* * * * * * *":              "has 7 fields",
		"60 * * * *":                 `minute: "60"`,
		"* 24 * * *":                 `hour: "24"`,
		"* * 0 * *":                  `day of month: "0"`,
		"* * 32 * *":                 `day of month: "32"`,
		"* * * 13 *":                 `month: "13"`,
		"* * * foo *":                `month: "foo"`,
		"* * * * 8":                  `day of week: "8"`,
		"* * * * mondays":            `day of week: "mondays"`,
		"60 * * * * *":               `second: "60"`,
		"*/0 * * * *":                `minute: "*/0"`,
		"1- * * * *":                 `minute: "1-"`,
		"a b c d e":                  `minute: "a"`,
		"-1 * * * *":                 `minute: "-1"`,
		"1,,2 * * * *":               `minute: "1,,2"`,
		"* * * * 5L":                 `day of week: "5L"`,
		"H * * * *":                  `minute: "H"`,
		"@daily @daily":              "@daily stands alone",
		"@reboot":                    `"@reboot" is none of @yearly`,
		"@every":                     "wants one duration",
		"@every soon":                `"soon" is not a duration`,
		"@every 500ms":               "@every: 500ms is not between 1s",
		"@every 400d":                "is not between",
		"@every 1s1us":               "whole milliseconds",
		"@every -5s":                 `"-5s" is not a duration`,
		"TZ=Europe/Berlin 0 * * * *": "give it as zone",
		"CRON_TZ=UTC @daily":         "give it as zone",
	} {
		if rule, every, err := parseCron(expression, time.UTC); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, %v, %v; want %s", expression, rule, every, err, says)
		}
	}
}

func TestGoodCron(t *testing.T) {
	t.Parallel()
	for _, expression := range []string{
		"0 3 * * *", "*/5 * * * *", "0 9-17 * * mon-fri", "0 0 1,15 * *", "0 0 1 jan *", "30 4 * * SUN", "5/10 * * * *", "0 22-2 * * *", "*/30 * * * * *",
		"@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly",
	} {
		if next := mustParse(t, expression, time.UTC).next(time.Unix(0, 0)); next.IsZero() {
			t.Errorf("%s never fires", expression)
		}
	}
	if rule, every, err := parseCron("@every 1h30m", time.UTC); err != nil || rule != nil || every != 90*time.Minute {
		t.Errorf("@every: %v, %v, %v", rule, every, err)
	}
}

// Nothing that is typed may panic, loop, or go backwards.
func FuzzCron(f *testing.F) {
	for _, seed := range []string{"0 3 * * *", "*/5 * * * * *", "@daily", "@every 90s", "0 0 29 2 *", "1-5/2,7 * L * 5#3", "99999999999999999999 * * * *"} {
		f.Add(seed, int64(1774746000))
	}
	zones := []*time.Location{time.UTC, zone(f, "Australia/Lord_Howe"), zone(f, "America/St_Johns")}
	f.Fuzz(func(t *testing.T, expression string, unix int64) {
		after := time.Unix(unix%4_000_000_000, 0)
		for _, loc := range zones {
			rule, _, err := parseCron(expression, loc)
			if err != nil || rule == nil {
				return
			}
			ticks := []time.Time{after}
			for range 3 {
				tick := rule.next(ticks[len(ticks)-1])
				if tick.IsZero() {
					break
				}
				ticks = append(ticks, tick)
			}
			if !slices.IsSortedFunc(ticks, time.Time.Compare) || len(ticks) > 1 && !ticks[1].After(after) {
				t.Errorf("%q: %v", expression, ticks)
			}
		}
	})
}

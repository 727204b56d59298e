package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/peltonq/pelton"
)

// scheduleFlags are the flags of "schedule set".
type scheduleFlags struct {
	taskFlags

	where clientFlags
	out   outputFlag

	cron          string
	every         durationValue
	at            timeValue
	zone          string
	kind          string
	payload       string
	overlap       enumValue
	catchUp       enumValue
	catchUpWindow durationValue
	jitter        durationValue
	startsAt      timeValue
	endsAt        timeValue
	paused        bool
	revision      uint64
	dryRun        bool
}

func (a *app) scheduleSetCmd() *cobra.Command {
	f := &scheduleFlags{}
	cmd := &cobra.Command{
		Use:   "set NAME {--cron EXPRESSION | --every DURATION | --at TIME} --kind KIND",
		Short: "Make a schedule, or replace one",
		Long: `Make a schedule, or replace one as a whole: what no flag says has its default.
Only a pause stays as it is, unless --paused says otherwise.

--cron takes 5 fields (minute, hour, day of month, month, day of week) or 6 (second
first), @yearly, @monthly, @weekly, @daily, @hourly, or "@every 90s". It means the
clocks of --zone.

With --dry-run nothing is changed: it shows the next times, or what is wrong.
With --revision the schedule is replaced only if it was not changed since.

Exit codes: 0 done, 2 refused, 5 changed since --revision.`,
		Example: `  pelton schedule set nightly --cron '0 8 * * *' --zone Europe/Berlin --kind report.build --overlap skip
  pelton schedule set poll --every 90s --kind demo.fetch --payload '{"url":"https://example.com"}' --jitter 10s
  pelton schedule set once --at 2026-12-24T18:00:00Z --kind email.send --payload @mail.json --dry-run`,
		Args:                  needArgs(1, 1, "the name of a schedule"),
		DisableFlagsInUseLine: true,
		RunE: a.withClient(&f.where, func(cmd *cobra.Command, c *client, args []string) error {
			path, err := schedulePath(args[0], "")
			if err != nil {
				return err
			}
			given := cmd.Flags().Changed
			if given("revision") && f.revision == 0 {
				return usagef("--revision must be that of an answer")
			}
			list, task, err := a.scheduleBody(f, given)
			if err != nil {
				return err
			}
			s, err := c.setSchedule(cmd.Context(), path, f, given("paused"), func(paused bool) ([]byte, error) {
				body, err := appendFields([]byte{'{'}, append(slices.Clone(list), field{"paused", paused}))
				return append(append(append(body, `,"task":`...), task...), '}'), err
			})
			if err != nil {
				return err
			}
			return a.printSchedule(&f.out, s)
		}),
	}
	f.overlap = enumOf(pelton.OverlapAllow, pelton.Overlaps()...)
	f.catchUp = enumOf(pelton.CatchUpLast, pelton.CatchUps()...)
	f.catchUpWindow = durationValue(pelton.DefaultCatchUpWindow)
	f.register(cmd)
	flags := cmd.Flags()
	flags.StringVar(&f.cron, "cron", "", "when, as a cron `EXPRESSION`")
	flags.Var(&f.every, "every", "when, as an interval such as 90s or 1d")
	flags.Var(&f.at, "at", "when, once (RFC 3339)")
	flags.StringVar(&f.zone, "zone", "UTC", "the time zone that --cron means, such as Europe/Berlin")
	flags.StringVar(&f.kind, "kind", "", "the `KIND` of the task")
	flags.StringVar(&f.payload, "payload", "", "the payload of the task: `JSON`, @FILE, or - for stdin")
	flags.Var(&f.overlap, "overlap", "what becomes of a tick while an earlier task is not over: "+f.overlap.choices())
	flags.Var(&f.catchUp, "catch-up", "what becomes of ticks that were missed: "+f.catchUp.choices())
	flags.Var(&f.catchUpWindow, "catch-up-window", "how far back --catch-up all goes, such as 6h")
	flags.Var(&f.jitter, "jitter", "delay each task by up to that much")
	flags.Var(&f.startsAt, "starts-at", "no tick before that time (RFC 3339)")
	flags.Var(&f.endsAt, "ends-at", "no tick after that time (RFC 3339)")
	flags.BoolVar(&f.paused, "paused", false, "make it without ticks, until 'schedule resume'; --paused=false ends a pause")
	flags.Uint64Var(&f.revision, "revision", 0, "only if the schedule still has this revision")
	flags.BoolVar(&f.dryRun, "dry-run", false, "change nothing, only show its next times or what is wrong")
	completeEnum(cmd, "overlap", &f.overlap)
	completeEnum(cmd, "catch-up", &f.catchUp)
	f.where.register(flags)
	f.out.register(cmd)
	return cmd
}

// scheduleBody is what the flags say: the fields of the schedule, and its task.
func (a *app) scheduleBody(f *scheduleFlags, given func(flag string) bool) (list []field, task []byte, err error) {
	rules := 0
	for _, flag := range []string{"cron", "every", "at"} {
		if given(flag) {
			rules++
		}
	}
	switch {
	case rules != 1:
		return nil, nil, usagef("give one of --cron, --every and --at")
	case given("cron") && f.cron == "":
		return nil, nil, usagef("--cron is empty")
	case !given("kind"):
		return nil, nil, usagef("--kind is missing: the kind of the task")
	}
	if err := pelton.ValidateKind(f.kind); err != nil {
		return nil, nil, usagef("--kind: %s", plain(err))
	}
	for _, of := range []struct {
		flag, name string
		value      any
	}{
		{"cron", "cron", f.cron},
		{"every", "every", f.every.String()},
		{"at", "at", f.at.String()},
		{"zone", "zone", f.zone},
		{"overlap", "overlap", f.overlap.value},
		{"catch-up", "catch_up", f.catchUp.value},
		{"catch-up-window", "catch_up_window", f.catchUpWindow.String()},
		{"jitter", "jitter", f.jitter.String()},
		{"starts-at", "starts_at", f.startsAt.String()},
		{"ends-at", "ends_at", f.endsAt.String()},
	} {
		if given(of.flag) {
			list = append(list, field{of.name, of.value})
		}
	}
	ofTask, err := f.fields(given)
	if err != nil {
		return nil, nil, err
	}
	var payload []byte
	if given("payload") {
		if payload, err = a.readPayload(f.payload); err != nil {
			return nil, nil, err
		}
	}
	task, err = newTaskBody(slices.Insert(ofTask, 0, field{"kind", f.kind}), payload)
	return list, task, err
}

// setSchedule puts what body gives. Unless paused is given it asks how the schedule
// stands, and puts only over that: somebody may pause it meanwhile.
func (c *client) setSchedule(ctx context.Context, path []string, f *scheduleFlags, given bool, body func(paused bool) ([]byte, error)) (*scheduleAnswer, error) {
	const tries = 5
	for try := 1; ; try++ {
		r := request{method: http.MethodPut, path: path, header: http.Header{}}
		paused := f.paused
		if f.dryRun {
			r.query = url.Values{"dry_run": {"true"}}
		} else if !given {
			now, err := c.schedule(ctx, request{method: http.MethodGet, path: path})
			switch {
			case err == nil:
				paused = now.Paused
				r.header.Set("If-Match", strconv.Quote(strconv.FormatUint(now.Revision, 10)))
			case exitCode(err) == exitNotFound:
				r.header.Set("If-None-Match", "*")
			default:
				return nil, err
			}
		}
		if f.revision != 0 {
			r.header = http.Header{"If-Match": {strconv.Quote(strconv.FormatUint(f.revision, 10))}}
		}
		var err error
		if r.body, err = body(paused); err != nil {
			return nil, fmt.Errorf("write schedule: %w", err)
		}
		s, err := c.schedule(ctx, r)
		var problem *problemError
		changed := errors.As(err, &problem) && problem.Status == http.StatusPreconditionFailed
		if !changed || given || f.dryRun || f.revision != 0 || try == tries {
			return s, err
		}
	}
}

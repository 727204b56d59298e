package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/peltonq/pelton"
)

func (a *app) scheduleCmd() *cobra.Command {
	return group("schedule", "Set schedules, which enqueue tasks by cron, at intervals or once, and tend them",
		a.scheduleListCmd(), a.scheduleGetCmd(), a.scheduleSetCmd(), a.scheduleApplyCmd(), a.schedulePauseCmd(), a.scheduleResumeCmd(),
		a.scheduleRunCmd(), a.scheduleBackfillCmd(), a.scheduleDeleteCmd())
}

// scheduleAnswer is a schedule as the server sent it.
type scheduleAnswer struct {
	pelton.Schedule
	raw []byte
}

func parseSchedule(body []byte) (*scheduleAnswer, error) {
	s := &scheduleAnswer{raw: body}
	if err := json.Unmarshal(body, &s.Schedule); err != nil {
		return nil, fmt.Errorf("the server's answer is not a schedule: %w", err)
	}
	return s, nil
}

// schedule makes a call that answers with a schedule.
func (c *client) schedule(ctx context.Context, r request) (*scheduleAnswer, error) {
	body, err := c.do(ctx, r)
	if err != nil {
		return nil, err
	}
	return parseSchedule(body)
}

// schedulePath checks a name before it is sent; verb may be empty.
func schedulePath(name, verb string) ([]string, error) {
	if err := pelton.ValidateScheduleName(name); err != nil {
		return nil, usagef("%s", plain(err))
	}
	if verb == "" {
		return []string{"schedules", name}, nil
	}
	return []string{"schedules", name, verb}, nil
}

func (a *app) scheduleListCmd() *cobra.Command {
	var (
		where clientFlags
		out   outputFlag
		owner string
	)
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the schedules",
		Args:  needArgs(0, 0, ""),
		RunE: a.withClient(&where, func(cmd *cobra.Command, c *client, _ []string) error {
			query := url.Values{"limit": {"500"}}
			if cmd.Flags().Changed("owner") {
				if owner == "" {
					return usagef("--owner is empty: leave it out instead")
				}
				query.Set("owner", owner)
			}
			return a.listSchedules(cmd.Context(), c, &out, query)
		}),
	}
	cmd.Flags().StringVar(&owner, "owner", "", "only schedules that were applied for this `OWNER`")
	where.register(cmd.Flags())
	out.register(cmd)
	return cmd
}

// listSchedules follows the pages, which may be short or empty, to the end.
func (a *app) listSchedules(ctx context.Context, c *client, out *outputFlag, query url.Values) error {
	list := newPrinter(a.stdout, out.value,
		func(s *scheduleAnswer) []byte { return s.raw },
		[]string{"SCHEDULE", "RULE", "ZONE", "KIND", "NEXT", "LAST", "STATUS"},
		func(s *scheduleAnswer) []string {
			row := []string{s.Name, ruleText(&s.Schedule), s.Zone, s.Task.Kind, "", "", scheduleStatus(&s.Schedule)}
			if len(s.Next) > 0 {
				row[4] = instant(s.Next[0])
			}
			if len(s.Last) > 0 {
				row[5] = instant(s.Last[0].Tick) + " " + runText(s.Last[0])
			}
			return row
		})
	for {
		body, err := c.do(ctx, request{method: http.MethodGet, path: []string{"schedules"}, query: query})
		if err != nil {
			return err
		}
		var page taskPage
		if err := json.Unmarshal(body, &page); err != nil {
			return fmt.Errorf("the server's answer is not a list of schedules: %w", err)
		}
		for _, raw := range page.Items {
			s, err := parseSchedule(raw)
			if err != nil {
				return err
			}
			if err := list.add(s); err != nil {
				return err
			}
		}
		if page.NextCursor == "" || page.NextCursor == query.Get("cursor") {
			break
		}
		query.Set("cursor", page.NextCursor)
	}
	if list.count == 0 && out.value == formatTable {
		a.warnf("no schedules: 'pelton schedule set' makes one")
	}
	return list.close()
}

func (a *app) scheduleGetCmd() *cobra.Command {
	return a.scheduleVerbCmd(http.MethodGet, "", &cobra.Command{
		Use: "get NAME", Short: "Show a schedule, its next times and its last runs",
		Long: "Show a schedule, its next times and its last runs.\n\nExit codes: 0 shown, 3 no such schedule.",
	})
}

// printSchedule prints one schedule; for people, with everything it has.
func (a *app) printSchedule(out *outputFlag, s *scheduleAnswer) error {
	if out.value != formatTable {
		return printJSON(a.stdout, out.value, s.raw)
	}
	catchUp := string(s.CatchUp)
	if s.CatchUp == pelton.CatchUpAll {
		catchUp += ", of the last " + pelton.FormatDuration(s.CatchUpWindow)
	}
	pairs := [][2]string{
		{"Schedule", s.Name},
		{"Rule", ruleText(&s.Schedule)},
		{"Zone", s.Zone},
		{"Status", scheduleStatus(&s.Schedule)},
		{"Overlap", string(s.Overlap)},
		{"Catch up", catchUp},
		{"Jitter", age(s.Jitter)},
		{"Starts", instant(s.StartsAt)},
		{"Ends", instant(s.EndsAt)},
		{"Owner", s.Owner},
		{"Created", instant(s.CreatedAt)},
		{"Changed", instant(s.UpdatedAt)},
	}
	if s.Revision > 0 {
		pairs = append(pairs, [2]string{"Revision", strconv.FormatUint(s.Revision, 10)})
	}
	if f := s.Failing; f != nil {
		pairs = append(pairs, [2]string{"Failing", clip(fmt.Sprintf("%s: %s", instant(f.At), f.Reason), mostCell)})
	}
	task := s.Task
	task.Payload = nil
	settings, err := task.AppendJSON(nil)
	if err != nil {
		return fmt.Errorf("show the task: %w", err)
	}
	pairs = append(pairs, [2]string{"Task", string(settings)}, [2]string{"Payload", value(s.Task.Payload)})
	for _, next := range s.Next {
		pairs = append(pairs, [2]string{"Next", inZone(next, s.Zone)})
	}
	if err := fields(a.stdout, pairs); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	if len(s.Last) == 0 {
		return nil
	}
	rows := newTable(a.stdout, []string{"TICK", "TASK", "STATE"})
	for _, run := range s.Last {
		id := ""
		if !run.TaskID.IsZero() {
			id = run.TaskID.String()
		}
		rows.add([]string{instant(run.Tick), id, runText(run)})
	}
	_, err = fmt.Fprintln(a.stdout)
	if err == nil {
		err = rows.flush()
	}
	if err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

// inZone is a time in UTC and, where that differs, on the clocks of a zone.
func inZone(t time.Time, zone string) string {
	location, err := time.LoadLocation(zone)
	if err != nil || zone == "" || zone == "UTC" {
		return instant(t)
	}
	return fmt.Sprintf("%s (%s)", instant(t), t.In(location).Format("Mon 2006-01-02 15:04:05 MST"))
}

func ruleText(s *pelton.Schedule) string {
	switch {
	case s.Cron != "":
		return s.Cron
	case s.Every > 0:
		return "every " + pelton.FormatDuration(s.Every)
	default:
		return "at " + instant(s.At)
	}
}

// scheduleStatus is how a schedule stands, in one word.
func scheduleStatus(s *pelton.Schedule) string {
	switch {
	case s.Paused:
		return "paused"
	case s.Failing != nil:
		return "failing"
	case len(s.Next) == 0:
		return "over"
	default:
		return "active"
	}
}

// runText is what came of a run.
func runText(run pelton.ScheduleRun) string {
	text := string(run.State)
	switch {
	case run.Skipped != "":
		text = "skipped: " + string(run.Skipped)
	case text == "":
		text = "expired" // its record
	}
	if run.Manual {
		text += " (manual)"
	}
	return text
}

package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/peltonq/pelton"
)

func (a *app) taskRunCmd() *cobra.Command {
	return a.taskVerbCmd("run", "Run delayed or retrying tasks now", `Bring the time of tasks that wait for one forward to now. Workers start them when
they come to them; turns of concurrency keys, rate limits and pauses hold. Doing so
again before a task has started is no error.

Exit codes: 0 all are to run, 3 not found, 5 runs already or is over, 9 only some.`)
}

// taskFilter are the flags that select tasks.
type taskFilter struct {
	filter pelton.TaskFilter
	limit  int

	state, priority, since, until string
	labels                        []string
}

func (f *taskFilter) register(cmd *cobra.Command, limit int, what string) {
	flags := cmd.Flags()
	flags.StringVar(&f.state, "state", "", "only tasks of this `STATE`")
	flags.StringVar(&f.filter.Queue, "queue", "", "only tasks of this `QUEUE`")
	flags.StringVar(&f.filter.Kind, "kind", "", "only tasks of this `KIND`")
	flags.StringVar(&f.priority, "priority", "", "only tasks of this `PRIORITY`")
	flags.StringArrayVar(&f.labels, "label", nil, "only tasks with the label `NAME=VALUE`; may be repeated")
	flags.StringVar(&f.filter.Error, "error", "", "only tasks whose last failure, \"reason: message\", has this `TEXT` in it")
	flags.StringVar(&f.since, "since", "", "only tasks from this `TIME` on: RFC 3339, or a duration back from now")
	flags.StringVar(&f.until, "until", "", "only tasks before this `TIME`")
	flags.IntVar(&f.limit, "limit", limit, what+"; 0 is no limit")
	states := enumOf("", pelton.States()...)
	completeEnum(cmd, "state", &states)
	priorities := enumOf("", pelton.Priorities()...)
	completeEnum(cmd, "priority", &priorities)
}

// given reports whether a flag selects something.
func (f *taskFilter) given(cmd *cobra.Command) bool {
	for _, name := range []string{"state", "queue", "kind", "priority", "label", "error", "since", "until"} {
		if cmd.Flags().Changed(name) {
			return true
		}
	}
	return false
}

// check reads the flags, and refuses a filter that is empty because a script's variable
// was.
func (f *taskFilter) check(cmd *cobra.Command, now time.Time) error {
	for _, name := range []string{"state", "queue", "kind", "priority", "error", "since", "until"} {
		if flag := cmd.Flags().Lookup(name); flag.Changed && flag.Value.String() == "" {
			return usagef("--%s is empty: leave it out instead", name)
		}
	}
	if f.limit < 0 {
		return usagef("--limit %d is negative", f.limit)
	}
	f.filter.State, f.filter.Priority = pelton.State(f.state), pelton.Priority(f.priority)
	labels, err := parseLabels(f.labels)
	if err != nil {
		return err
	}
	f.filter.Labels = labels
	if f.filter.Since, err = f.moment("since", f.since, now); err != nil {
		return err
	}
	if f.filter.Until, err = f.moment("until", f.until, now); err != nil {
		return err
	}
	if err := f.filter.Check(); err != nil {
		return usagef("%s", plain(err))
	}
	return nil
}

// moment reads a time, or a duration: back from now, or forward for tasks that wait for a
// time.
func (f *taskFilter) moment(flag, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := pelton.ParseDuration(text); err == nil {
		if f.filter.State == pelton.Scheduled || f.filter.State == pelton.Retrying {
			return now.Add(d), nil
		}
		return now.Add(-d), nil
	}
	var t timeValue
	if err := t.Set(text); err != nil {
		return time.Time{}, usagef("--%s %q is neither a time such as 2026-12-01T08:00:00Z nor a duration such as 2h", flag, clip(text, 64))
	}
	return time.Time(t), nil
}

// parseLabels reads labels of flags, NAME=VALUE; nil for none.
func parseLabels(flags []string) (map[string]string, error) {
	var labels map[string]string
	for _, label := range flags {
		name, value, found := strings.Cut(label, "=")
		if !found || name == "" {
			return nil, usagef("--label %q is not name=value", clip(label, 100))
		}
		if _, twice := labels[name]; twice {
			return nil, usagef("--label %s is given twice", clip(name, 100))
		}
		if labels == nil {
			labels = make(map[string]string)
		}
		labels[name] = value
	}
	return labels, nil
}

func (a *app) taskListCmd() *cobra.Command {
	var (
		where  clientFlags
		out    outputFlag
		filter taskFilter
	)
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List tasks, newest first",
		Long: `List tasks. The state says in what order, and what --since and --until are of:

  scheduled, retrying                     by the time that they wait for, soonest first
  queued                                  by when they became ready, newest first
  running                                 by when they were made, newest first;
                                          --since and --until: by their start
  succeeded, failed, cancelled, expired   by when they ended, newest first
  no state                                all, by their last change, newest first

A duration for --since or --until counts back from now, and forward with --state
scheduled or retrying. Running tasks are those that workers said last that they run,
every few seconds. A filter that selects little takes time: what is passed over is
read, page by page.`,
		Args: needArgs(0, 0, ""),
		RunE: a.withClient(&where, func(cmd *cobra.Command, c *client, _ []string) error {
			if err := filter.check(cmd, time.Now()); err != nil {
				return err
			}
			return a.listTasks(cmd.Context(), c, &out, filter)
		}),
	}
	filter.register(cmd, 50, "the most tasks to list")
	where.register(cmd.Flags())
	out.register(cmd)
	return cmd
}

func (a *app) listTasks(ctx context.Context, c *client, out *outputFlag, f taskFilter) error {
	title, at := "CREATED", func(t *taskAnswer) time.Time { return t.CreatedAt }
	switch state := f.filter.State; {
	case state == pelton.Scheduled, state == pelton.Retrying:
		title, at = "RUN AT", func(t *taskAnswer) time.Time { return t.RunAt }
	case state == pelton.Running:
		title, at = "STARTED", func(t *taskAnswer) time.Time { return t.StartedAt }
	case state.Terminal():
		title, at = "FINISHED", func(t *taskAnswer) time.Time { return t.FinishedAt }
	}
	list := newPrinter(a.stdout, out.value,
		func(t *taskAnswer) []byte { return t.raw },
		[]string{"ID", "KIND", "QUEUE", "PRIORITY", "STATE", "ATTEMPT", title},
		func(t *taskAnswer) []string {
			return []string{t.ID.String(), t.Kind, t.Queue, string(t.Priority), string(t.State), attempts(t), instant(at(t))}
		})
	more, err := eachPage(list, f.limit, func(limit int, cursor string) (*taskPage, error) {
		return c.taskPage(ctx, f.filter, limit, cursor)
	})
	if err != nil {
		return err
	}
	if list.count == 0 && out.value == formatTable {
		a.warnf("%s", strings.TrimSpace("no "+string(f.filter.State))+" tasks")
	} else if more && out.value == formatTable {
		a.warnf("there may be more: --limit 0 lists all")
	}
	return list.close()
}

// fields are the filter as the API names it; labels stand apart.
func (f *taskFilter) fields() map[string]string {
	all := map[string]string{
		"state": string(f.filter.State), "queue": f.filter.Queue, "kind": f.filter.Kind, "priority": string(f.filter.Priority),
		"error": f.filter.Error,
	}
	for name, t := range map[string]time.Time{"since": f.filter.Since, "until": f.filter.Until} {
		if !t.IsZero() {
			all[name] = t.UTC().Format(time.RFC3339Nano)
		}
	}
	for name, value := range all {
		if value == "" {
			delete(all, name)
		}
	}
	return all
}

func (c *client) taskPage(ctx context.Context, f pelton.TaskFilter, limit int, cursor string) (*taskPage, error) {
	query := url.Values{"limit": {strconv.Itoa(limit)}}
	for name, value := range (&taskFilter{filter: f}).fields() {
		query.Set(name, value)
	}
	for name, value := range f.Labels {
		query.Set("label."+name, value)
	}
	if cursor != "" {
		query.Set("cursor", cursor)
	}
	body, err := c.do(ctx, request{method: http.MethodGet, path: []string{"tasks"}, query: query})
	if err != nil {
		return nil, err
	}
	var page taskPage
	if err := json.Unmarshal(body, &page); err != nil {
		return nil, fmt.Errorf("the server's answer is not a list of tasks: %w", err)
	}
	return &page, nil
}

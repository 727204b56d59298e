package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

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
	query pelton.TaskQuery
	limit int
}

func (a *app) taskListCmd() *cobra.Command {
	var (
		where           clientFlags
		out             outputFlag
		filter          taskFilter
		state, priority string
	)
	cmd := &cobra.Command{
		Use:   "list --state scheduled|retrying",
		Short: "List tasks that wait for a time, soonest first",
		Long: `List tasks that wait for a time, the soonest first: with --state scheduled those
that are delayed or were put off, with --state retrying those that wait for their
next attempt. Tasks whose time has come read queued and are not among them.`,
		Args: needArgs(0, 0, ""),
		RunE: a.withClient(&where, func(cmd *cobra.Command, c *client, _ []string) error {
			for _, name := range []string{"state", "queue", "kind", "priority"} {
				if flag := cmd.Flags().Lookup(name); flag.Changed && flag.Value.String() == "" {
					return usagef("--%s is empty: leave it out instead", name)
				}
			}
			if filter.limit < 0 {
				return usagef("--limit %d is negative", filter.limit)
			}
			filter.query.State, filter.query.Priority = pelton.State(state), pelton.Priority(priority)
			if err := filter.query.Check(); err != nil {
				return usagef("%s", plain(err))
			}
			return a.listTasks(cmd.Context(), c, &out, filter)
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&state, "state", "", "tasks of this `STATE`: scheduled or retrying")
	flags.StringVar(&filter.query.Queue, "queue", "", "only tasks of this `QUEUE`")
	flags.StringVar(&filter.query.Kind, "kind", "", "only tasks of this `KIND`")
	flags.StringVar(&priority, "priority", "", "only tasks of this `PRIORITY`")
	flags.IntVar(&filter.limit, "limit", 50, "the most tasks to list; 0 is no limit")
	where.register(flags)
	out.register(cmd)
	return cmd
}

func (a *app) listTasks(ctx context.Context, c *client, out *outputFlag, f taskFilter) error {
	list := newPrinter(a.stdout, out.value,
		func(t *taskAnswer) []byte { return t.raw },
		[]string{"ID", "KIND", "QUEUE", "PRIORITY", "STATE", "ATTEMPT", "RUN AT"},
		func(t *taskAnswer) []string {
			return []string{t.ID.String(), t.Kind, t.Queue, string(t.Priority), string(t.State), attempts(t), instant(t.RunAt)}
		})
	more, err := eachPage(list, f.limit, func(limit int, cursor string) (*taskPage, error) {
		return c.taskPage(ctx, f.query, limit, cursor)
	})
	if err != nil {
		return err
	}
	if list.count == 0 && out.value == formatTable {
		a.warnf("no %s tasks", f.query.State)
	} else if more && out.value == formatTable {
		a.warnf("there may be more: --limit 0 lists all")
	}
	return list.close()
}

func (c *client) taskPage(ctx context.Context, q pelton.TaskQuery, limit int, cursor string) (*taskPage, error) {
	query := url.Values{"limit": {strconv.Itoa(limit)}}
	for name, value := range map[string]string{
		"state": string(q.State), "queue": q.Queue, "kind": q.Kind, "priority": string(q.Priority), "cursor": cursor,
	} {
		if value != "" {
			query.Set(name, value)
		}
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

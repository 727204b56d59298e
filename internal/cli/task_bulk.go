package cli

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/peltonq/pelton"
)

// taskBulkFlags are what cancel and retry have in common.
type taskBulkFlags struct {
	where  clientFlags
	out    outputFlag
	filter taskFilter
	all    bool
	dryRun bool
}

func (f *taskBulkFlags) register(cmd *cobra.Command, verb, all string) {
	f.filter.register(cmd, 0, "the most tasks to "+verb)
	cmd.Flags().BoolVar(&f.all, "all", false, all)
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "only count the tasks that the filter selects")
	f.where.register(cmd.Flags())
	f.out.register(cmd)
}

// check makes sure that ids or a filter are given, and says which.
func (f *taskBulkFlags) check(cmd *cobra.Command, args []string) (byFilter bool, err error) {
	if err := f.filter.check(cmd, time.Now()); err != nil {
		return false, err
	}
	filtered := f.filter.given(cmd)
	switch {
	case len(args) > 0 && (filtered || f.all || f.dryRun || f.filter.limit > 0):
		return false, usagef("give ids or a filter, not both")
	case filtered && f.all:
		return false, usagef("--all and a filter exclude each other")
	case len(args) == 0 && !filtered && !f.all:
		return false, usagef("give the ids of tasks, a filter (--state, --queue, --kind, …), or --all")
	}
	return len(args) == 0, nil
}

func (a *app) taskCancelCmd() *cobra.Command {
	return a.taskBulkCmd("cancel", "cancelled", "Cancel tasks", "all tasks that are not over, of every queue",
		`Cancel tasks: some by their ids, or those that a filter selects, 500 a second. One
that waits never starts; one that runs is told to stop, and what it still returns does
not count. Cancelling a cancelled task is no error. By filter it asks before it
cancels; --yes answers. Without --state it cancels what is scheduled, retrying, queued
or running.

Exit codes: 0 all cancelled, 1 not confirmed, 2 no terminal to ask and no --yes,
3 not found, 5 ended otherwise before, 9 only some.`)
}

func (a *app) taskRetryCmd() *cobra.Command {
	return a.taskBulkCmd("retry", "retried", "Run tasks again that are over", "all failed tasks, of every queue",
		`Put tasks that are over back into their queue: some by their ids, however they
ended, or those that a filter selects, 500 a second. They keep their id, payload and
error history, and their attempts start anew. Doing so again before a task has started
is no error. By filter it takes failed tasks, unless --state says succeeded, cancelled
or expired.

Exit codes: 0 all queued, 3 not found, 5 not over yet, 9 only some.`)
}

// taskBulkCmd posts to /tasks/{id}/<verb> for each id, or to /tasks/<verb>. Who cancels
// by filter is asked.
func (a *app) taskBulkCmd(verb, done, short, all, long string) *cobra.Command {
	var f taskBulkFlags
	asks := &confirmation{app: a, verb: verb}
	cmd := &cobra.Command{
		Use:                   verb + " {ID... | --state STATE | --queue QUEUE | --kind KIND | --label NAME=VALUE | --error TEXT | --all}",
		Short:                 short,
		Long:                  long,
		DisableFlagsInUseLine: true,
		RunE: a.withClient(&f.where, func(cmd *cobra.Command, c *client, args []string) error {
			byFilter, err := f.check(cmd, args)
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			if !byFilter {
				return a.eachTask(ctx, &f.out, args, func(ctx context.Context, id pelton.ID) (*taskAnswer, error) {
					return c.task(ctx, request{method: http.MethodPost, path: []string{"tasks", id.String(), verb}})
				})
			}
			filter := f.filter.body()
			if verb == "cancel" && !f.dryRun {
				err = asks.confirm(ctx, func() (string, error) {
					count, err := a.bulk(ctx, c, []string{"tasks", verb}, filter, f.filter.limit, true)
					return fmt.Sprintf("Cancel %d tasks?", count.Matched), err
				})
				if err != nil {
					return err
				}
			}
			return a.reportBulk(&f.out, done, f.dryRun)(a.bulk(ctx, c, []string{"tasks", verb}, filter, f.filter.limit, f.dryRun))
		}),
	}
	f.register(cmd, verb, all)
	if verb == "cancel" {
		asks.register(cmd)
	}
	return cmd
}

// body is the filter as calls by filter take it.
func (f *taskFilter) body() map[string]any {
	body := make(map[string]any)
	for name, value := range f.fields() {
		body[name] = value
	}
	if len(f.filter.Labels) > 0 {
		body["labels"] = f.filter.Labels
	}
	return body
}

package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/peltonq/pelton"
)

// bulkFlags are what retry and purge have in common.
type bulkFlags struct {
	where  clientFlags
	out    outputFlag
	filter deadFilter
	all    bool
	dryRun bool
}

func (f *bulkFlags) register(cmd *cobra.Command, what string) {
	f.filter.register(cmd, 0, "the most letters to "+what)
	cmd.Flags().BoolVar(&f.all, "all", false, "all letters, of every queue")
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "only count the letters that the filter selects")
	f.where.register(cmd.Flags())
	f.out.register(cmd)
}

// check makes sure that ids or a filter are given, and says which.
func (f *bulkFlags) check(cmd *cobra.Command, args []string) (byFilter bool, err error) {
	if err := f.filter.check(cmd); err != nil {
		return false, err
	}
	filtered := f.filter.filter != pelton.DeadFilter{}
	switch {
	case len(args) > 0 && (filtered || f.all || f.dryRun || f.filter.limit > 0):
		return false, usagef("give ids or a filter, not both")
	case filtered && f.all:
		return false, usagef("--all and a filter exclude each other")
	case len(args) == 0 && !filtered && !f.all:
		return false, usagef("give the ids of tasks, a filter (--queue, --kind, --error), or --all")
	}
	return len(args) == 0, nil
}

func (a *app) deadRetryCmd() *cobra.Command {
	var f bulkFlags
	cmd := &cobra.Command{
		Use:   "retry {ID... | --queue QUEUE | --kind KIND | --error TEXT | --all}",
		Short: "Run dead tasks again",
		Long: `Put dead tasks back into their queue: some by their ids, or those that a filter
selects, newest first and 500 a second. They keep their id, payload and error
history, and their attempts start anew.

Exit codes: 0 all queued, 3 not found, 5 the letter was out of date, 9 only some.`,
		DisableFlagsInUseLine: true,
		RunE: a.withClient(&f.where, func(cmd *cobra.Command, c *client, args []string) error {
			byFilter, err := f.check(cmd, args)
			if err != nil {
				return err
			}
			if byFilter {
				return a.reportBulk(&f.out, "retried", f.dryRun)(a.bulk(cmd.Context(), c, []string{"dead", "retry"}, f.filter.body(), f.filter.limit, f.dryRun))
			}
			return a.eachTask(cmd.Context(), &f.out, args, func(ctx context.Context, id pelton.ID) (*taskAnswer, error) {
				return c.task(ctx, request{method: http.MethodPost, path: []string{"dead", id.String(), "retry"}})
			})
		}),
	}
	f.register(cmd, "retry")
	return cmd
}

func (a *app) deadPurgeCmd() *cobra.Command {
	var f bulkFlags
	asks := &confirmation{app: a}
	cmd := &cobra.Command{
		Use:   "purge {ID... | --queue QUEUE | --kind KIND | --error TEXT | --all}",
		Short: "Delete dead letters",
		Long: `Delete dead letters: some by their ids, or those that a filter selects, newest
first and 500 a second. The failed tasks stay readable for 30 days after their
end. It asks before it deletes; --yes answers.

Exit codes: 0 all deleted, 1 not confirmed, 2 no terminal to ask and no --yes,
3 not found, 9 only some.`,
		DisableFlagsInUseLine: true,
		RunE: a.withClient(&f.where, func(cmd *cobra.Command, c *client, args []string) error {
			byFilter, err := f.check(cmd, args)
			if err != nil {
				return err
			}
			ids, err := parseIDs(args)
			if err != nil {
				return err
			}
			asks.yes = asks.yes || f.dryRun
			err = asks.confirm(cmd.Context(), func() (string, error) {
				count := pelton.BulkResult{Matched: len(ids)}
				if byFilter {
					count, err = a.bulk(cmd.Context(), c, []string{"dead", "purge"}, f.filter.body(), f.filter.limit, true)
				}
				return fmt.Sprintf("Delete %d dead letters?", count.Matched), err
			})
			if err != nil {
				return err
			}
			if !byFilter {
				return a.reportBulk(&f.out, "deleted", false)(a.deleteDead(cmd.Context(), c, ids))
			}
			return a.reportBulk(&f.out, "deleted", f.dryRun)(a.bulk(cmd.Context(), c, []string{"dead", "purge"}, f.filter.body(), f.filter.limit, f.dryRun))
		}),
	}
	f.register(cmd, "delete")
	asks.register(cmd)
	return cmd
}

// body is the filter as calls by filter take it.
func (f *deadFilter) body() map[string]any {
	body := make(map[string]any)
	for name, value := range map[string]string{"queue": f.filter.Queue, "kind": f.filter.Kind, "error": f.filter.Error} {
		if value != "" {
			body[name] = value
		}
	}
	return body
}

// bulk makes a call by filter, again and again until nothing is left; a limit of 0 is
// none. An error comes with how far it came.
func (a *app) bulk(ctx context.Context, c *client, path []string, filter map[string]any, limit int, dryRun bool) (pelton.BulkResult, error) {
	const most = 1000 // of a call
	var total pelton.BulkResult
	progress := a.newProgress(map[bool]string{true: "letters", false: "tasks"}[path[0] == "dead"], int64(limit))
	defer progress.hide()
	request := request{method: http.MethodPost, path: path}
	for {
		body := maps.Clone(filter)
		body["limit"], body["dry_run"] = most, dryRun
		if limit > 0 {
			body["limit"] = min(most, limit-total.Matched)
		}
		if total.NextCursor != "" {
			body["cursor"] = total.NextCursor
		}
		var err error
		if request.body, err = json.Marshal(body); err != nil {
			return total, fmt.Errorf("write the request: %w", err)
		}
		answer, err := c.do(ctx, request)
		if err != nil {
			return total, err
		}
		var part pelton.BulkResult
		if err := json.Unmarshal(answer, &part); err != nil {
			return total, fmt.Errorf("the server's answer is not a count: %w", err)
		}
		total.Matched += part.Matched
		total.Done += part.Done
		total.Failed += part.Failed
		stuck := part.NextCursor == total.NextCursor
		if total.NextCursor = part.NextCursor; part.NextCursor == "" || stuck || limit > 0 && total.Matched >= limit {
			return total, nil
		}
		progress.at(total.Matched, int64(total.Matched))
	}
}

// deleteDead deletes letters by their ids.
func (a *app) deleteDead(ctx context.Context, c *client, ids []pelton.ID) (pelton.BulkResult, error) {
	var total pelton.BulkResult
	for _, id := range ids {
		_, err := c.do(ctx, request{method: http.MethodDelete, path: []string{"dead", id.String()}})
		if err != nil && (len(ids) == 1 || ctx.Err() != nil || errors.Is(err, errUnreachable)) {
			return total, err
		}
		total.Matched++
		if err != nil {
			total.Failed++
			a.warnf("%s: %s", id, err)
			continue
		}
		total.Done++
	}
	return total, nil
}

// reportBulk prints how far a call came, and gives its exit code.
func (a *app) reportBulk(out *outputFlag, done string, dryRun bool) func(pelton.BulkResult, error) error {
	return func(total pelton.BulkResult, failed error) error {
		if failed != nil && total.Matched == 0 {
			return failed
		}
		var err error
		switch {
		case out.value != formatTable:
			var line []byte
			if line, err = json.Marshal(total); err == nil {
				err = printJSON(a.stdout, out.value, line)
			}
		case dryRun:
			err = fields(a.stdout, [][2]string{{"Matched", strconv.Itoa(total.Matched)}})
		default:
			pairs := [][2]string{{"Matched", strconv.Itoa(total.Matched)}, {done, strconv.Itoa(total.Done)}}
			if total.Failed > 0 {
				pairs = append(pairs, [2]string{"failed", strconv.Itoa(total.Failed)})
			}
			err = fields(a.stdout, pairs)
		}
		if err != nil {
			return fmt.Errorf("write output: %w", err)
		}
		if failed != nil {
			a.warnf("stopped: %s", failed)
			return told(exitPartly)
		}
		var codes tally
		if total.Done > 0 {
			codes.add(exitOK, total.Done)
		}
		if total.Failed > 0 {
			codes.add(exitFailure, total.Failed)
		}
		return told(codes.code())
	}
}

package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/peltonq/pelton"
)

func (a *app) deadCmd() *cobra.Command {
	return group("dead", "Look at dead letters, retry them, delete them",
		a.deadListCmd(), a.deadGetCmd(), a.deadRetryCmd(), a.deadPurgeCmd())
}

// deadFilter are the flags that select dead letters.
type deadFilter struct {
	filter pelton.DeadFilter
	limit  int
}

func (f *deadFilter) register(cmd *cobra.Command, limit int, what string) {
	flags := cmd.Flags()
	flags.StringVar(&f.filter.Queue, "queue", "", "only letters of this `QUEUE`")
	flags.StringVar(&f.filter.Kind, "kind", "", "only letters of this `KIND`")
	flags.StringVar(&f.filter.Error, "error", "", "only letters whose last failure, \"reason: message\", has this `TEXT` in it")
	flags.IntVar(&f.limit, "limit", limit, what+"; 0 is no limit")
}

// check refuses a filter that is empty because a script's variable was.
func (f *deadFilter) check(cmd *cobra.Command) error {
	for _, name := range []string{"queue", "kind", "error"} {
		if flag := cmd.Flags().Lookup(name); flag.Changed && flag.Value.String() == "" {
			return usagef("--%s is empty: leave it out instead", name)
		}
	}
	if f.limit < 0 {
		return usagef("--limit %d is negative", f.limit)
	}
	if err := f.filter.Check(); err != nil {
		return usagef("%s", plain(err))
	}
	return nil
}

func (a *app) deadListCmd() *cobra.Command {
	var (
		where  clientFlags
		out    outputFlag
		filter deadFilter
	)
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List dead letters, newest first",
		Args:  needArgs(0, 0, ""),
		RunE: a.withClient(&where, func(cmd *cobra.Command, c *client, _ []string) error {
			if err := filter.check(cmd); err != nil {
				return err
			}
			return a.listDead(cmd.Context(), c, &out, filter)
		}),
	}
	filter.register(cmd, 50, "the most letters to list")
	where.register(cmd.Flags())
	out.register(cmd)
	return cmd
}

// listDead follows the pages, which may be short or empty, to the limit.
func (a *app) listDead(ctx context.Context, c *client, out *outputFlag, f deadFilter) error {
	list := newPrinter(a.stdout, out.value,
		func(t *taskAnswer) []byte { return t.raw },
		[]string{"ID", "KIND", "QUEUE", "FAILED", "ATTEMPT", "ERROR"},
		func(t *taskAnswer) []string {
			return []string{t.ID.String(), t.Kind, t.Queue, instant(t.FinishedAt), attempts(t), failureText(t.Error, 100)}
		})
	more, err := eachPage(list, f.limit, func(limit int, cursor string) (*taskPage, error) {
		return c.deadPage(ctx, f, limit, cursor)
	})
	if err != nil {
		return err
	}
	if list.count == 0 && out.value == formatTable {
		a.warnf("no dead letters")
	} else if more && out.value == formatTable {
		a.warnf("there may be more: --limit 0 lists all")
	}
	return list.close()
}

// taskPage is an answer of the API that lists tasks.
type taskPage struct {
	Items      []json.RawMessage `json:"items"`
	NextCursor string            `json:"next_cursor"`
}

// eachPage adds the tasks of page after page to a list, up to the limit; 0 is none.
// more says that there may be others.
func eachPage(list *printer[*taskAnswer], limit int, get func(limit int, cursor string) (*taskPage, error)) (more bool, err error) {
	const most = 500 // of a page
	cursor, more := "", true
	for more && (limit == 0 || list.count < limit) {
		want := most
		if limit > 0 {
			want = min(limit-list.count, most)
		}
		page, err := get(want, cursor)
		if err != nil {
			return false, err
		}
		for _, raw := range page.Items {
			task, err := parseTask(raw)
			if err != nil {
				return false, err
			}
			if err := list.add(task); err != nil {
				return false, err
			}
		}
		if err := list.flush(); err != nil {
			return false, err
		}
		more = page.NextCursor != "" && page.NextCursor != cursor
		cursor = page.NextCursor
	}
	return more, nil
}

func (c *client) deadPage(ctx context.Context, f deadFilter, limit int, cursor string) (*taskPage, error) {
	query := url.Values{"limit": {strconv.Itoa(limit)}}
	for name, value := range map[string]string{
		"queue": f.filter.Queue, "kind": f.filter.Kind, "error": f.filter.Error, "cursor": cursor,
	} {
		if value != "" {
			query.Set(name, value)
		}
	}
	body, err := c.do(ctx, request{method: http.MethodGet, path: []string{"dead"}, query: query})
	if err != nil {
		return nil, err
	}
	var page taskPage
	if err := json.Unmarshal(body, &page); err != nil {
		return nil, fmt.Errorf("the server's answer is not a list of dead letters: %w", err)
	}
	return &page, nil
}

// failureText is a failure for people, in at most most bytes.
func failureText(f *pelton.Failure, most int) string {
	if f == nil {
		return ""
	}
	return clip(strings.TrimSpace(fmt.Sprintf("%s: %s", f.Reason, f.Message)), most)
}

func (a *app) deadGetCmd() *cobra.Command {
	var (
		where clientFlags
		out   outputFlag
	)
	cmd := &cobra.Command{
		Use:   "get ID...",
		Short: "Show dead letters",
		Long:  "Show tasks as they were when they failed.\n\nExit codes: 0 all shown, 3 not found, 9 only some of them.",
		Args:  needArgs(1, -1, "the id of a task"),
		RunE: a.withClient(&where, func(cmd *cobra.Command, c *client, args []string) error {
			return a.eachTask(cmd.Context(), &out, args, func(ctx context.Context, id pelton.ID) (*taskAnswer, error) {
				return c.task(ctx, request{method: http.MethodGet, path: []string{"dead", id.String()}})
			})
		}),
	}
	where.register(cmd.Flags())
	out.register(cmd)
	return cmd
}

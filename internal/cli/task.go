package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/peltonq/pelton"
)

func (a *app) taskCmd() *cobra.Command {
	return group("task", "Enqueue tasks, look at them, wait for them, cancel, retry and run them",
		a.taskEnqueueCmd(), a.taskGetCmd(), a.taskWaitCmd(), a.taskWatchCmd(), a.taskWhyCmd(), a.taskListCmd(), a.taskCancelCmd(), a.taskRetryCmd(), a.taskRunCmd())
}

// taskAnswer is a task as the server sent it. The bytes are kept, so that what
// is printed as JSON is what the server said, payload included, even where it
// has fields that this version does not know.
type taskAnswer struct {
	pelton.Task
	raw []byte
}

func parseTask(body []byte) (*taskAnswer, error) {
	t := &taskAnswer{raw: body}
	if err := json.Unmarshal(body, &t.Task); err != nil {
		return nil, fmt.Errorf("the server's answer is not a task: %w", err)
	}
	return t, nil
}

// task sends a request that is answered with a task.
func (c *client) task(ctx context.Context, r request) (*taskAnswer, error) {
	body, err := c.do(ctx, r)
	if err != nil {
		return nil, err
	}
	return parseTask(body)
}

func getTask(id pelton.ID) request {
	return request{method: http.MethodGet, path: []string{"tasks", id.String()}}
}

func parseIDs(args []string) ([]pelton.ID, error) {
	ids := make([]pelton.ID, len(args))
	for i, arg := range args {
		var err error
		if ids[i], err = pelton.ParseID(arg); err != nil {
			return nil, usagef("%s", plain(err))
		}
	}
	return ids, nil
}

func (a *app) taskGetCmd() *cobra.Command {
	var (
		where clientFlags
		out   outputFlag
	)
	cmd := &cobra.Command{
		Use:   "get ID...",
		Short: "Show tasks",
		Long:  "Show tasks by their ids.\n\nExit codes: 0 all shown, 3 not found, 9 only some of them.",
		Args:  needArgs(1, -1, "the id of a task"),
		RunE: a.withClient(&where, func(cmd *cobra.Command, c *client, args []string) error {
			return a.eachTask(cmd.Context(), &out, args, func(ctx context.Context, id pelton.ID) (*taskAnswer, error) {
				return c.task(ctx, getTask(id))
			})
		}),
	}
	where.register(cmd.Flags())
	out.register(cmd)
	return cmd
}

// taskVerbCmd posts to /tasks/{id}/<verb> for each id.
func (a *app) taskVerbCmd(verb, short, long string) *cobra.Command {
	var (
		where clientFlags
		out   outputFlag
	)
	cmd := &cobra.Command{
		Use:   verb + " ID...",
		Short: short,
		Long:  long,
		Args:  needArgs(1, -1, "the id of a task"),
		RunE: a.withClient(&where, func(cmd *cobra.Command, c *client, args []string) error {
			return a.eachTask(cmd.Context(), &out, args, func(ctx context.Context, id pelton.ID) (*taskAnswer, error) {
				return c.task(ctx, request{method: http.MethodPost, path: []string{"tasks", id.String(), verb}})
			})
		}),
	}
	where.register(cmd.Flags())
	out.register(cmd)
	return cmd
}

func (a *app) taskWaitCmd() *cobra.Command {
	var (
		where   clientFlags
		out     outputFlag
		timeout = durationValue(time.Minute)
	)
	cmd := &cobra.Command{
		Use:   "wait ID...",
		Short: "Wait until tasks have ended",
		Long: `Wait until tasks have ended, and show them.

Exit codes: 0 all succeeded, 10 failed, 11 cancelled or expired, 6 not ended in
time (the task is shown as it stands), 3 not found, 9 some ended differently.`,
		Args: needArgs(1, -1, "the id of a task"),
		RunE: a.withClient(&where, func(cmd *cobra.Command, c *client, args []string) error {
			w := newWaiter(c, timeout.duration())
			return a.eachTask(cmd.Context(), &out, args, w.wait)
		}),
	}
	cmd.Flags().Var(&timeout, "timeout", "how long to wait for all of them; 0s looks once")
	where.register(cmd.Flags())
	out.register(cmd)
	return cmd
}

// eachTask does something with each task and shows them. A task that comes with
// an error is shown too. With several ids it goes on after an error, unless
// there is no server to talk to.
func (a *app) eachTask(ctx context.Context, out *outputFlag, args []string, do func(context.Context, pelton.ID) (*taskAnswer, error)) error {
	ids, err := parseIDs(args)
	if err != nil {
		return err
	}
	if len(ids) == 1 {
		task, err := do(ctx, ids[0])
		if task != nil {
			if printed := a.printTask(out, task); printed != nil {
				return printed
			}
		}
		return err
	}

	list := a.taskList(out)
	var codes tally
	progress := a.newProgress("tasks", int64(len(ids)))
	defer progress.hide()
	for i, id := range ids {
		progress.at(i, int64(i))
		task, err := do(ctx, id)
		if task != nil {
			if err := list.add(task); err != nil {
				return err
			}
		}
		code := exitCode(err)
		codes.add(code, 1)
		if err == nil {
			continue
		}
		if err := list.flush(); err != nil {
			return err
		}
		a.warnf("%s: %s", id, err)
		if rest := len(ids) - i - 1; rest > 0 && (ctx.Err() != nil || errors.Is(err, errUnreachable)) {
			a.warnf("gave up; %d more not tried", rest)
			codes.add(code, rest)
			break
		}
	}
	if err := list.close(); err != nil {
		return err
	}
	return told(codes.code())
}

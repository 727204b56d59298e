package cli

import (
	"context"
	"fmt"
	"net/http"
	"strconv"

	"github.com/spf13/cobra"
)

func (a *app) schedulePauseCmd() *cobra.Command {
	return a.scheduleVerbCmd(http.MethodPost, "pause", &cobra.Command{
		Use: "pause NAME", Short: "Stop a schedule from enqueueing tasks",
		Long: `Stop a schedule from enqueueing tasks, until "schedule resume". Ticks of the
meantime are not caught up. Tasks that it has enqueued go on.

Exit codes: 0 done, 3 no such schedule.`,
	})
}

func (a *app) scheduleResumeCmd() *cobra.Command {
	return a.scheduleVerbCmd(http.MethodPost, "resume", &cobra.Command{
		Use: "resume NAME", Short: "Let a paused schedule enqueue tasks again",
		Long: `Let a paused schedule enqueue tasks again, from its next tick on.

Exit codes: 0 done, 3 no such schedule.`,
	})
}

// scheduleVerbCmd makes cmd one that calls /schedules/NAME/verb and shows the schedule.
func (a *app) scheduleVerbCmd(method, verb string, cmd *cobra.Command) *cobra.Command {
	var (
		where clientFlags
		out   outputFlag
	)
	cmd.Args = needArgs(1, 1, "the name of a schedule")
	cmd.RunE = a.withClient(&where, func(cmd *cobra.Command, c *client, args []string) error {
		path, err := schedulePath(args[0], verb)
		if err != nil {
			return err
		}
		s, err := c.schedule(cmd.Context(), request{method: method, path: path})
		if err != nil {
			return err
		}
		return a.printSchedule(&out, s)
	})
	where.register(cmd.Flags())
	out.register(cmd)
	return cmd
}

func (a *app) scheduleRunCmd() *cobra.Command {
	var (
		where clientFlags
		out   outputFlag
		wait  durationValue
	)
	cmd := &cobra.Command{
		Use:   "run NAME",
		Short: "Enqueue a schedule's task now",
		Long: `Enqueue a schedule's task now, paused or not, beside its ticks. Each time that is
another task.

With --wait the command waits until the task has ended.

Exit codes: 0 accepted, 3 no such schedule; with --wait also 10 failed,
11 cancelled or expired, 6 not ended in time.`,
		Args: needArgs(1, 1, "the name of a schedule"),
		RunE: a.withClient(&where, func(cmd *cobra.Command, c *client, args []string) error {
			path, err := schedulePath(args[0], "run")
			if err != nil {
				return err
			}
			task, err := c.task(cmd.Context(), request{method: http.MethodPost, path: path, once: true})
			if err != nil {
				return err
			}
			if !cmd.Flags().Changed("wait") {
				return a.printTask(&out, task)
			}
			return a.waitFor(cmd.Context(), c, &out, task, wait.duration())
		}),
	}
	waitFlag(cmd, &wait)
	where.register(cmd.Flags())
	out.register(cmd)
	return cmd
}

func (a *app) scheduleDeleteCmd() *cobra.Command {
	var where clientFlags
	asks := &confirmation{app: a}
	cmd := &cobra.Command{
		Use:   "delete NAME",
		Short: "Delete a schedule",
		Long: `Delete a schedule. The tasks that it has enqueued stay. It asks before it does
that; --yes answers. It deletes what it asked about, and nothing that was set
meanwhile.

Exit codes: 0 deleted, 1 not confirmed, 2 no terminal to ask and no --yes, 3 no
such schedule, 5 changed meanwhile.`,
		Args: needArgs(1, 1, "the name of a schedule"),
		RunE: a.withClient(&where, func(cmd *cobra.Command, c *client, args []string) error {
			path, err := schedulePath(args[0], "")
			if err != nil {
				return err
			}
			r := request{method: http.MethodDelete, path: path}
			err = asks.confirm(cmd.Context(), func() (question string, err error) {
				question, r.header, err = deleteQuestion(cmd.Context(), c, path)
				return question, err
			})
			if err != nil {
				return err
			}
			_, err = c.do(cmd.Context(), r)
			return err
		}),
	}
	asks.register(cmd)
	where.register(cmd.Flags())
	return cmd
}

// deleteQuestion is about a schedule as it is, with the header that deletes no other.
func deleteQuestion(ctx context.Context, c *client, path []string) (string, http.Header, error) {
	s, err := c.schedule(ctx, request{method: http.MethodGet, path: path})
	if err != nil {
		return "", nil, err
	}
	question := printable(fmt.Sprintf("Delete schedule %s (%s, %s)?", s.Name, ruleText(&s.Schedule), s.Task.Kind), oneLine)
	return question, http.Header{"If-Match": {strconv.Quote(strconv.FormatUint(s.Revision, 10))}}, nil
}

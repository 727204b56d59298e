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

// priorityFlag is --priority of a verb that is for all of them without it.
type priorityFlag struct{ enumValue }

func (p *priorityFlag) register(cmd *cobra.Command) {
	for _, priority := range pelton.Priorities() {
		p.allowed = append(p.allowed, string(priority))
	}
	cmd.Flags().Var(&p.enumValue, "priority", "only this priority: "+p.choices()+"; all of them without")
	completeEnum(cmd, "priority", &p.enumValue)
}

func (p *priorityFlag) query() url.Values {
	if p.value == "" {
		return nil
	}
	return url.Values{"priority": {p.value}}
}

func (a *app) queuePauseCmd() *cobra.Command {
	return a.queueVerbCmd("pause", "Stop a queue from handing out tasks", `Stop a queue, or one of its priorities, from handing out tasks: within a second no
worker gets one. Running tasks go on; tasks can be enqueued and cancelled. Priorities
that were never used are paused too. The pause lasts until "queue resume".`)
}

func (a *app) queueResumeCmd() *cobra.Command {
	return a.queueVerbCmd("resume", "Let a paused queue hand out tasks again", `Let a paused queue, or one of its priorities, hand out tasks again.`)
}

func (a *app) queueVerbCmd(verb, short, long string) *cobra.Command {
	var (
		where    clientFlags
		out      outputFlag
		priority priorityFlag
	)
	cmd := &cobra.Command{
		Use:   verb + " QUEUE",
		Short: short,
		Long:  long + "\n\nExit codes: 0 done, 3 no such queue.",
		Args:  needArgs(1, 1, "the name of a queue"),
		RunE: a.withClient(&where, func(cmd *cobra.Command, c *client, args []string) error {
			q, err := c.queue(cmd.Context(), http.MethodPost, args[0], verb, priority.query(), nil)
			if err != nil {
				return err
			}
			return a.printQueue(&out, q)
		}),
	}
	priority.register(cmd)
	where.register(cmd.Flags())
	out.register(cmd)
	return cmd
}

func (a *app) queuePurgeCmd() *cobra.Command {
	var (
		where    clientFlags
		out      outputFlag
		priority priorityFlag
	)
	asks := &confirmation{app: a}
	cmd := &cobra.Command{
		Use:   "purge QUEUE",
		Short: "Cancel the tasks of a queue that wait",
		Long: `Cancel the tasks of a queue, or of one of its priorities, that wait: ready, delayed
and to be retried. Running tasks, and those that come after it began, are left alone.
Cancelled tasks stay readable as long as finished ones. It asks before it does so;
--yes answers.

Exit codes: 0 all cancelled, 1 not confirmed, 2 no terminal to ask and no --yes,
3 no such queue, 9 interrupted after some.`,
		Args: needArgs(1, 1, "the name of a queue"),
		RunE: a.withClient(&where, func(cmd *cobra.Command, c *client, args []string) error {
			err := asks.confirm(cmd.Context(), func() (string, error) {
				q, err := c.queue(cmd.Context(), http.MethodGet, args[0], "", nil, nil)
				if err != nil {
					return "", err
				}
				return purgeQuestion(q, pelton.Priority(priority.value)), nil
			})
			if err != nil {
				return err
			}
			total, err := a.purge(cmd.Context(), c, args[0], priority.query())
			return a.reportPurged(&out, total, err)
		}),
	}
	asks.register(cmd)
	priority.register(cmd)
	where.register(cmd.Flags())
	out.register(cmd)
	return cmd
}

func purgeQuestion(q *queueAnswer, p pelton.Priority) string {
	if p == "" {
		return fmt.Sprintf("Cancel %d ready and %d scheduled tasks of queue %s?", q.Ready, q.Scheduled, q.Name)
	}
	return fmt.Sprintf("Cancel %d ready tasks of queue %s with priority %s, and those that are scheduled?", q.Priorities[p].Ready, q.Name, p)
}

// purge goes on until nothing is left. An error comes with how far it came.
func (a *app) purge(ctx context.Context, c *client, queue string, query url.Values) (total int, err error) {
	cursor := ""
	progress := a.newProgress("purged", 0)
	defer progress.hide()
	for {
		asked := url.Values{}
		for name, values := range query {
			asked[name] = values
		}
		if cursor != "" {
			asked.Set("cursor", cursor)
		}
		body, err := c.do(ctx, request{method: http.MethodPost, path: []string{"queues", queue, "purge"}, query: asked})
		if err != nil {
			return total, err
		}
		var part pelton.Purged
		if err := json.Unmarshal(body, &part); err != nil {
			return total, fmt.Errorf("the server's answer is not a count: %w", err)
		}
		total += part.Purged
		if part.NextCursor == "" {
			return total, nil
		}
		cursor = part.NextCursor
		progress.at(total, 0)
	}
}

// reportPurged prints how far a purge came, also if it then failed.
func (a *app) reportPurged(out *outputFlag, total int, failed error) error {
	if failed != nil && total == 0 {
		return failed
	}
	var err error
	if out.value == formatTable {
		err = fields(a.stdout, [][2]string{{"Purged", strconv.Itoa(total)}})
	} else {
		var line []byte
		if line, err = json.Marshal(pelton.Purged{Purged: total}); err == nil {
			err = printJSON(a.stdout, out.value, line)
		}
	}
	if err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	if failed != nil {
		a.warnf("stopped: %s", failed)
		return told(exitPartly)
	}
	return nil
}

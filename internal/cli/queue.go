package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/peltonq/pelton"
)

func (a *app) queueCmd() *cobra.Command {
	return group("queue", "Look at queues, set them up, pause and purge them",
		a.queueListCmd(), a.queueGetCmd(), a.queuePauseCmd(), a.queueResumeCmd(), a.queuePurgeCmd(), a.queueSetCmd())
}

// queueAnswer is a queue as the server sent it.
type queueAnswer struct {
	pelton.Queue
	raw []byte
}

func parseQueue(body []byte) (*queueAnswer, error) {
	q := &queueAnswer{raw: body}
	if err := json.Unmarshal(body, &q.Queue); err != nil {
		return nil, fmt.Errorf("the server's answer is not a queue: %w", err)
	}
	return q, nil
}

func (a *app) queueListCmd() *cobra.Command {
	var (
		where clientFlags
		out   outputFlag
	)
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the queues and what they hold",
		Args:  needArgs(0, 0, ""),
		RunE: a.withClient(&where, func(cmd *cobra.Command, c *client, _ []string) error {
			return a.listQueues(cmd.Context(), c, &out)
		}),
	}
	where.register(cmd.Flags())
	out.register(cmd)
	return cmd
}

// listQueues follows the pages of the list to its end.
func (a *app) listQueues(ctx context.Context, c *client, out *outputFlag) error {
	list := newPrinter(a.stdout, out.value,
		func(q *queueAnswer) []byte { return q.raw },
		[]string{"QUEUE", "READY", "RUNNING", "WAITING", "SCHEDULED", "DEAD", "OLDEST", "PAUSED"},
		func(q *queueAnswer) []string {
			return []string{q.Name, count(q.Ready), count(q.Running), count(q.Waiting), count(q.Scheduled), count(q.Dead), age(oldest(q)), yesNo(q.Paused)}
		})
	err := c.eachItem(ctx, "queues", mostItems(), func(raw json.RawMessage) error {
		q, err := parseQueue(raw)
		if err != nil {
			return err
		}
		return list.add(q)
	})
	if err != nil {
		return err
	}
	if list.count == 0 && out.value == formatTable {
		a.warnf("no queues yet: a queue appears with its first task")
	}
	return list.close()
}

func (a *app) queueGetCmd() *cobra.Command {
	var (
		where clientFlags
		out   outputFlag
	)
	cmd := &cobra.Command{
		Use:   "get QUEUE",
		Short: "Show what a queue holds, by priority",
		Args:  needArgs(1, 1, "the name of a queue"),
		RunE: a.withClient(&where, func(cmd *cobra.Command, c *client, args []string) error {
			q, err := c.queue(cmd.Context(), http.MethodGet, args[0], "", nil, nil)
			if err != nil {
				return err
			}
			return a.printQueue(&out, q)
		}),
	}
	where.register(cmd.Flags())
	out.register(cmd)
	return cmd
}

// queue makes a call that answers with a queue; verb may be empty.
func (c *client) queue(ctx context.Context, method, name, verb string, query url.Values, body []byte) (*queueAnswer, error) {
	if err := pelton.ValidateQueue(name); err != nil {
		return nil, usagef("%s", plain(err))
	}
	path := []string{"queues", name}
	if verb != "" {
		path = append(path, verb)
	}
	answer, err := c.do(ctx, request{method: method, path: path, query: query, body: body})
	if err != nil {
		return nil, err
	}
	return parseQueue(answer)
}

func (a *app) printQueue(out *outputFlag, q *queueAnswer) error {
	if out.value != formatTable {
		return printJSON(a.stdout, out.value, q.raw)
	}
	settings, err := settingLines(q.raw)
	if err != nil {
		return err
	}
	err = fields(a.stdout, append([][2]string{
		{"Queue", q.Name}, {"Paused", yesNo(q.Paused)}, {"Waiting", count(q.Waiting)}, {"Scheduled", count(q.Scheduled)}, {"Dead", count(q.Dead)},
	}, settings...))
	if err == nil {
		_, err = fmt.Fprintln(a.stdout)
	}
	if err == nil {
		t := newTable(a.stdout, []string{"PRIORITY", "READY", "RUNNING", "OLDEST", "PAUSED"})
		for _, p := range pelton.Priorities() {
			if d, ok := q.Priorities[p]; ok {
				t.add([]string{string(p), count(d.Ready), count(d.Running), age(d.OldestReady), yesNo(d.Paused)})
			}
		}
		t.add([]string{"all", count(q.Ready), count(q.Running), age(oldest(q)), yesNo(q.Paused)})
		err = t.flush()
	}
	if err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

// oldest is how long the oldest ready task of any priority has been ready.
func oldest(q *queueAnswer) time.Duration {
	var ages []time.Duration
	for _, d := range q.Priorities {
		ages = append(ages, d.OldestReady)
	}
	if len(ages) == 0 {
		return 0
	}
	return slices.Max(ages)
}

func count(n uint64) string { return strconv.FormatUint(n, 10) }

func age(d time.Duration) string {
	if d <= 0 {
		return ""
	}
	if d >= time.Second {
		d = d.Round(time.Second)
	}
	return pelton.FormatDuration(d)
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/peltonq/pelton"
)

// workerAnswer is a worker as the server sent it.
type workerAnswer struct {
	pelton.Worker
	raw []byte
}

func (a *app) workerListCmd() *cobra.Command {
	var (
		where clientFlags
		out   outputFlag
	)
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the workers that are there, and what they run",
		Long: `List the workers that are there. Every worker says every few seconds that it is;
one that dies stays on the list for 15 s at most.`,
		Args: needArgs(0, 0, ""),
		RunE: a.withClient(&where, func(cmd *cobra.Command, c *client, _ []string) error {
			return a.listWorkers(cmd.Context(), c, &out)
		}),
	}
	where.register(cmd.Flags())
	out.register(cmd)
	return cmd
}

func (a *app) listWorkers(ctx context.Context, c *client, out *outputFlag) error {
	list := newPrinter(a.stdout, out.value,
		func(w *workerAnswer) []byte { return w.raw },
		[]string{"ID", "HOST", "PID", "VERSION", "QUEUES", "KINDS", "SLOTS", "RUNNING", "LEAKED", "STARTED", "SEEN"},
		func(w *workerAnswer) []string {
			return []string{
				w.ID, w.Host, strconv.Itoa(w.PID), w.Version, clip(strings.Join(w.Queues, ","), 60), strconv.Itoa(len(w.Kinds)), strconv.Itoa(w.Concurrency),
				strconv.Itoa(len(w.Running)), strconv.Itoa(w.Leaked), instant(w.StartedAt), instant(w.SeenAt),
			}
		})
	err := c.eachItem(ctx, "workers", mostItems(), func(raw json.RawMessage) error {
		w := &workerAnswer{raw: raw}
		if err := json.Unmarshal(raw, &w.Worker); err != nil {
			return fmt.Errorf("the server's answer is not a worker: %w", err)
		}
		return list.add(w)
	})
	if err != nil {
		return err
	}
	if list.count == 0 && out.value == formatTable {
		a.warnf("no workers: 'pelton worker run' is one")
	}
	return list.close()
}

package cli

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/peltonq/pelton"
)

func (a *app) taskWhyCmd() *cobra.Command {
	var (
		where clientFlags
		out   outputFlag
	)
	cmd := &cobra.Command{
		Use:   "why ID",
		Short: "Say why a task does not run",
		Long: `Say why a task does not run: first the reason that binds first, then all that
are known, with their numbers.

Exit codes: 0 shown, 3 not found.`,
		Args: needArgs(1, 1, "the id of a task"),
		RunE: a.withClient(&where, func(cmd *cobra.Command, c *client, args []string) error {
			ids, err := parseIDs(args)
			if err != nil {
				return err
			}
			body, err := c.do(cmd.Context(), request{method: http.MethodGet, path: []string{"tasks", ids[0].String(), "why"}})
			if err != nil {
				return err
			}
			return a.printWhy(&out, body)
		}),
	}
	where.register(cmd.Flags())
	out.register(cmd)
	return cmd
}

// printWhy shows a sentence, then a row for each reason.
func (a *app) printWhy(out *outputFlag, raw []byte) error {
	if out.value != formatTable {
		return printJSON(a.stdout, out.value, raw)
	}
	var why pelton.Why
	if err := json.Unmarshal(raw, &why); err != nil {
		return fmt.Errorf("the server's answer does not say why: %w", err)
	}
	sentence := fmt.Sprintf("Task %s is %s: %s.", why.TaskID, why.State, why.Message)
	if !why.Estimate.IsZero() {
		sentence += fmt.Sprintf(" It may start at %s.", instant(why.Estimate))
	}
	if _, err := fmt.Fprintln(a.stdout, printable(sentence, oneLine)); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	rows := newTable(a.stdout, []string{"CODE", "UNTIL", "RUNNING", "AHEAD", "HOLDERS", "MESSAGE"})
	for _, r := range why.Reasons {
		rows.add([]string{string(r.Code), instant(r.Until), runningOf(r), aheadOf(r.Ahead), holdersOf(r.Holders), r.Message})
	}
	if err := rows.flush(); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

func runningOf(r pelton.WhyReason) string {
	if r.MaxRunning == 0 {
		return ""
	}
	return fmt.Sprintf("%d/%d", r.Running, r.MaxRunning)
}

func aheadOf(n *pelton.Between) string {
	switch {
	case n == nil:
		return ""
	case n.AtLeast == n.AtMost:
		return strconv.FormatUint(n.AtMost, 10)
	default:
		return fmt.Sprintf("%d-%d", n.AtLeast, n.AtMost)
	}
}

// holdersOf shows three at most; -o json has them all.
func holdersOf(ids []pelton.ID) string {
	const most = 3
	var shown []string
	for _, id := range ids[:min(len(ids), most)] {
		shown = append(shown, id.String())
	}
	if len(ids) > most {
		shown = append(shown, fmt.Sprintf("and %d more", len(ids)-most))
	}
	return strings.Join(shown, " ")
}

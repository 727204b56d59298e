package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/peltonq/pelton"
)

const (
	backfillPart = 500    // ticks of one request
	mostAsJSON   = 10_000 // ticks that are held to print them as one value
)

// backfill is one run of "schedule backfill".
type backfill struct {
	app    *app
	c      *client
	out    *outputFlag
	path   []string
	from   timeValue
	to     timeValue
	limit  int // 0 is none
	dryRun bool

	rows  *printer[pelton.BackfillTick]
	total pelton.BackfillResult // Ticks only for formatJSON
	done  int
}

func (a *app) scheduleBackfillCmd() *cobra.Command {
	var (
		where clientFlags
		out   outputFlag
	)
	b := &backfill{app: a, out: &out}
	cmd := &cobra.Command{
		Use:   "backfill NAME --from TIME --to TIME",
		Short: "Enqueue the tasks of past ticks",
		Long: `Enqueue the tasks of a schedule's ticks from one time up to another one, in the
past. A tick that has its task gets no second one, so the command can be repeated.
The overlap policy does not apply.

It stops after --limit ticks and says from where to go on. With --dry-run it only
lists the ticks.

Exit codes: 0 done, 1 all were refused, 3 no such schedule, 9 some were refused, or
it was interrupted after some.`,
		Args: needArgs(1, 1, "the name of a schedule"),
		RunE: a.withClient(&where, func(cmd *cobra.Command, c *client, args []string) (err error) {
			if b.path, err = schedulePath(args[0], "backfill"); err != nil {
				return err
			}
			switch most := b.limit == 0 || b.limit > mostAsJSON; {
			case time.Time(b.from).IsZero() || time.Time(b.to).IsZero():
				return usagef("--from and --to are needed")
			case b.limit < 0:
				return usagef("--limit %d is negative", b.limit)
			case most && out.value == formatJSON:
				return usagef("-o json is for a --limit of 1 to %d: take -o jsonl", mostAsJSON)
			}
			b.c = c
			return b.run(cmd.Context())
		}),
	}
	flags := cmd.Flags()
	flags.Var(&b.from, "from", "the first moment of the interval (RFC 3339)")
	flags.Var(&b.to, "to", "the first moment after it (RFC 3339)")
	flags.IntVar(&b.limit, "limit", pelton.DefaultBackfill, "the most ticks; 0 is no limit")
	flags.BoolVar(&b.dryRun, "dry-run", false, "only list the ticks")
	where.register(flags)
	out.register(cmd)
	return cmd
}

func (b *backfill) run(ctx context.Context) error {
	b.rows = newPrinter(b.app.stdout, b.out.value, tickJSON,
		[]string{"TICK", "TASK", "STATE"},
		func(t pelton.BackfillTick) []string { return []string{instant(t.Tick), tickTask(t), b.tickState(t)} })
	b.total.Ticks = []pelton.BackfillTick{}
	progress := b.app.newProgress("ticks", int64(b.limit))
	defer progress.hide()
	b.total.NextFrom = time.Time(b.from)
	var failed error
	for !b.total.NextFrom.IsZero() && (b.limit == 0 || b.done < b.limit) && failed == nil {
		failed = b.part(ctx)
		progress.at(b.done, int64(b.done))
	}
	if failed != nil && b.done == 0 {
		return failed
	}
	if err := b.report(); err != nil {
		return err
	}
	if failed != nil {
		b.app.warnf("stopped: %s", failed)
		return told(exitPartly)
	}
	switch b.total.Failed {
	case 0:
		return nil
	case b.done:
		return told(exitFailure)
	default:
		return told(exitPartly)
	}
}

// part asks for the next ticks and shows them.
func (b *backfill) part(ctx context.Context) error {
	limit := backfillPart
	if b.limit > 0 {
		limit = min(limit, b.limit-b.done)
	}
	from := timeValue(b.total.NextFrom)
	body, err := appendFields([]byte{'{'}, []field{{"from", from.String()}, {"to", b.to.String()}, {"limit", limit}, {"dry_run", b.dryRun}})
	if err != nil {
		return err
	}
	answer, err := b.c.do(ctx, request{method: http.MethodPost, path: b.path, body: append(body, '}'), timeout: batchTimeout})
	if err != nil {
		return err
	}
	var part pelton.BackfillResult
	if err := json.Unmarshal(answer, &part); err != nil {
		return fmt.Errorf("the server's answer is not a backfill: %w", err)
	}
	b.total.Enqueued += part.Enqueued
	b.total.Existing += part.Existing
	b.total.Failed += part.Failed
	b.total.NextFrom = part.NextFrom
	b.done += len(part.Ticks)
	for _, tick := range part.Ticks {
		if b.out.value == formatJSON {
			b.total.Ticks = append(b.total.Ticks, tick)
			continue
		}
		if err := b.rows.add(tick); err != nil {
			return err
		}
	}
	return b.rows.flush()
}

// report completes the output. For people it sums up on stderr.
func (b *backfill) report() error {
	if b.out.value == formatJSON {
		line, err := json.Marshal(b.total)
		if err != nil {
			return fmt.Errorf("write output: %w", err)
		}
		return printJSON(b.app.stdout, b.out.value, line)
	}
	if b.out.value == formatTable {
		what := "enqueued"
		if b.dryRun {
			what = "would be enqueued"
		}
		b.app.warnf("%d %s, %d had their task, %d were refused", b.total.Enqueued, what, b.total.Existing, b.total.Failed)
		if next := timeValue(b.total.NextFrom); !b.total.NextFrom.IsZero() {
			b.app.warnf("there are more: go on with --from %s", next.String())
		}
	}
	return b.rows.close()
}

// tickJSON cannot fail: a tick is times, an id and text.
func tickJSON(t pelton.BackfillTick) []byte {
	raw, err := json.Marshal(t)
	if err != nil {
		panic("cli: " + err.Error())
	}
	return raw
}

func tickTask(t pelton.BackfillTick) string {
	if t.TaskID.IsZero() {
		return ""
	}
	return t.TaskID.String()
}

func (b *backfill) tickState(t pelton.BackfillTick) string {
	switch {
	case t.Error != "":
		return clip("refused: "+t.Error, mostCell)
	case t.Existing:
		return string(t.State) + " (had its task)"
	default:
		return string(t.State)
	}
}

package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

func (a *app) topCmd() *cobra.Command {
	var (
		where    clientFlags
		out      outputFlag
		interval = durationValue(time.Second)
		once     bool
	)
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Watch queues, workers and failures",
		Long: `Watch queues with what they hold by priority, how long their oldest task waits and
how many tasks come and go a second; workers with their slots and what they run; and
the newest dead letters.

Rates are differences over the last seconds: IN/S of what became ready, retries
included, OUT/S of what left a worker, however it ended.

Keys: q quits; tab or 1, 2, 3 choose a list, arrows scroll it, s sorts it by the next
column, r the other way round; / filters all lists by text, esc drops that; p stops
the clock, + and - change how often it looks.

Without a terminal, with --once or with -o it looks twice, an interval apart, and
prints what it saw.`,
		Args: needArgs(0, 0, ""),
		RunE: a.withClient(&where, func(cmd *cobra.Command, c *client, _ []string) error {
			every := interval.duration()
			if every < minInterval || every > maxInterval {
				return usagef("--interval %s is not between %s and %s", &interval, minInterval, maxInterval)
			}
			if once || out.value != formatTable || !a.interactive() {
				return a.topOnce(cmd.Context(), c, &out, every)
			}
			return a.topScreen(cmd.Context(), c, every)
		}),
	}
	cmd.Flags().Var(&interval, "interval", "how often to look")
	cmd.Flags().BoolVar(&once, "once", false, "print what there is, and end")
	where.register(cmd.Flags())
	out.register(cmd)
	return cmd
}

// interactive reports whether there is somebody at a screen with keys.
func (a *app) interactive() bool {
	in, ok := a.stdin.(*os.File)
	return ok && term.IsTerminal(int(in.Fd())) && isTerminal(a.screen()) && a.environ.get("TERM") != "dumb"
}

// screen is stdout as it was given.
func (a *app) screen() io.Writer {
	if wrapped, ok := a.stdout.(aroundProgress); ok {
		return wrapped.w
	}
	return a.stdout
}

// topScreen runs until a key or ctx ends it. A server that does not answer the first
// time is an error; one that goes away later is shown as such.
func (a *app) topScreen(ctx context.Context, c *client, interval time.Duration) error {
	first, err := c.look(ctx)
	if err != nil {
		return err
	}
	seen := first
	model := topModel{url: c.base.Redacted(), interval: interval, looking: true, look: func() tea.Msg {
		if s := seen; s != nil {
			seen = nil
			return topLook{s, nil}
		}
		s, err := c.look(ctx)
		return topLook{s, err}
	}}
	_, shown := tea.NewProgram(model, tea.WithContext(ctx), tea.WithInput(a.stdin), tea.WithOutput(a.screen()),
		tea.WithEnvironment(a.environ), tea.WithoutSignalHandler()).Run()
	if shown == nil || errors.Is(shown, tea.ErrProgramKilled) && ctx.Err() != nil {
		return nil //nolint:nilerr // it was asked to end
	}
	return fmt.Errorf("show the screen: %w", shown)
}

// topOnce looks twice, because rates are differences, and prints.
func (a *app) topOnce(ctx context.Context, c *client, out *outputFlag, interval time.Duration) error {
	before, err := c.look(ctx)
	if err != nil {
		return err
	}
	select {
	case <-time.After(interval):
	case <-ctx.Done():
		return fmt.Errorf("interrupted: %w", context.Cause(ctx))
	}
	now, err := c.look(ctx)
	if err != nil {
		return err
	}
	now.rate(before)
	if out.value != formatTable {
		raw, err := json.Marshal(now)
		if err != nil {
			return fmt.Errorf("write output: %w", err)
		}
		return printJSON(a.stdout, out.value, raw)
	}
	m := topModel{last: now}
	for s := range topSections {
		if s > 0 {
			if _, err := fmt.Fprintln(a.stdout); err != nil {
				return fmt.Errorf("write output: %w", err)
			}
		}
		if err := a.printSection(s, m.rows(s), m); err != nil {
			return fmt.Errorf("write output: %w", err)
		}
	}
	return nil
}

func (a *app) printSection(section topSection, rows []topRow, m topModel) error {
	if len(rows) == 0 {
		_, err := fmt.Fprintln(a.stdout, strings.TrimSpace(nothingOf(section, m)))
		return err
	}
	var head []string
	for _, c := range columnsOf(section) {
		head = append(head, c.title)
	}
	t := newTable(a.stdout, head)
	for _, row := range rows {
		cells := make([]string, len(row.cells))
		for i, cell := range row.cells {
			cells[i] = clip(cell, mostCell)
		}
		t.add(cells)
	}
	return t.flush()
}

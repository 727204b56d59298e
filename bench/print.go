package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"text/tabwriter"
)

// machine says in a few words what this runs on.
func machine() string {
	name := runtime.GOARCH
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(info)) {
			if key, value, _ := strings.Cut(line, ":"); strings.TrimSpace(key) == "model name" {
				name = strings.TrimSpace(value)
				break
			}
		}
	}
	return fmt.Sprintf("%d CPUs, %s, %s", runtime.NumCPU(), name, runtime.Version())
}

// table prints one line for each metric and contestant.
func (c *comparison) table(w io.Writer) error {
	fmt.Fprintf(w, "%s; %d repetitions, medians; took %s\n\n", c.Machine, c.Scale.Reps, c.Took)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "WHAT\tCONTESTANT\tMEDIAN\tUNIT\tMIN–MAX\tOF FLOOR\tOF ASYNQ\tOTHERS")
	for i, r := range c.Rows {
		what := r.Metric.Name
		if i > 0 && c.Rows[i-1].Metric == r.Metric {
			what = ""
		}
		low, high := quantile(r.Values, 0), quantile(r.Values, 1)
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s–%s\t%s\t%s\t%.0f %%\n",
			what, r.Contestant, number(r.Median), r.Metric.Unit, number(low), number(high), ratio(r.OfFloor), ratio(r.OfAsynq), 100*r.Others)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, skipped := range c.Skipped {
		fmt.Fprintln(w, "\nskipped", skipped)
	}
	return nil
}

// markdown prints the medians with one line for each metric and a column for each
// contestant, and the largest share that others had in one of them.
func (c *comparison) markdown(w io.Writer) {
	fmt.Fprintf(w, "| | %s | others, up to |\n|---|%s---|\n", strings.Join(c.order, " | "), strings.Repeat("---|", len(c.order)))
	for _, m := range c.metrics() {
		fmt.Fprintf(w, "| %s, %s |", m.Name, m.Unit)
		others := 0.0
		for _, name := range c.order {
			r, ok := c.row(m, name)
			if others = max(others, r.Others); ok {
				fmt.Fprintf(w, " %s |", number(r.Median))
			} else {
				fmt.Fprint(w, " – |")
			}
		}
		fmt.Fprintf(w, " %.0f %% |\n", 100*others)
	}
}

// number has three digits that count, or whole thousands with a comma.
func number(v float64) string {
	if v < 1000 && v > -1000 {
		return fmt.Sprintf("%.3g", v)
	}
	whole := fmt.Sprintf("%.0f", v)
	for i := len(whole) - 3; i > 0 && whole[i-1] != '-'; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	return whole
}

func ratio(v float64) string {
	if v == 0 {
		return "–"
	}
	return fmt.Sprintf("%.2f×", v)
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

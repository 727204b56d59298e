package main

import (
	"bytes"
	"encoding/json"
	"errors"
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

// save writes the comparison to files: all of it as JSON, the medians as Markdown
// and as a picture.
func (c *comparison) save(name string) error {
	var errs []error
	for suffix, write := range map[string]func(io.Writer) error{
		".json": func(w io.Writer) error { return printJSON(w, c) },
		".md":   func(w io.Writer) error { c.markdown(w); return nil },
		".svg":  c.plot,
	} {
		var out bytes.Buffer
		errs = append(errs, write(&out), os.WriteFile(name+suffix, out.Bytes(), 0o644)) //nolint:gosec // it is to be read
	}
	return errors.Join(errs...)
}

// markdown prints the medians with one line for each metric and a column for each
// contestant, and the largest share that others had in one of them. What goes
// through HTTP has a table of its own.
func (c *comparison) markdown(w io.Writer) {
	var direct, http []string
	for _, name := range c.order {
		if strings.Contains(name, "http") {
			http = append(http, name)
		} else {
			direct = append(direct, name)
		}
	}
	for _, names := range [][]string{direct, http} {
		if len(names) > 0 {
			c.markdownOf(w, names)
			fmt.Fprintln(w)
		}
	}
}

func (c *comparison) markdownOf(w io.Writer, names []string) {
	fmt.Fprintf(w, "| | %s | others, up to |\n|---|%s---|\n", strings.Join(names, " | "), strings.Repeat("---|", len(names)))
	for _, m := range c.metrics() {
		line, others, found := "", 0.0, false
		for _, name := range names {
			r, ok := c.row(m, name)
			if !ok {
				line += " – |"
				continue
			}
			line, others, found = line+" "+number(r.Median)+" |", max(others, r.Others), true
		}
		if found {
			fmt.Fprintf(w, "| %s, %s |%s %.0f %% |\n", m.Name, m.Unit, line, 100*others)
		}
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
	switch {
	case v == 0:
		return "–"
	case v < 0.1:
		return fmt.Sprintf("%.2g×", v)
	}
	return fmt.Sprintf("%.2f×", v)
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
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
	fmt.Fprintf(w, "%s; up to %d repetitions, medians; took %s\n\n", c.Machine, c.Scale.Reps, c.Took)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "WHAT\tCONTESTANT\tMEDIAN\tUNIT\tMIN–MAX\tOF FLOOR\tOF ASYNQ\tOTHERS\tBOUNDS")
	for i, r := range c.Rows {
		what := r.Metric.Name
		if i > 0 && c.Rows[i-1].Metric == r.Metric {
			what = ""
		}
		low, high := quantile(r.Values, 0), quantile(r.Values, 1)
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s–%s\t%s\t%s\t%.0f %%\t%s\n",
			what, r.Contestant, number(r.Median), r.Metric.Unit, number(low), number(high), ratio(r.OfFloor), ratio(r.OfAsynq), 100*r.Others, r.bounds())
	}
	if err := errors.Join(table.Flush(), c.list(w)); err != nil {
		return err
	}
	for _, skipped := range c.Skipped {
		fmt.Fprintln(w, "\nskipped", skipped)
	}
	return nil
}

// bounds are what a figure is held to, in one line.
func (r row) bounds() string {
	var all []string
	for _, v := range r.Must {
		all = append(all, must+" "+v.Bound+": "+held(v.Held))
	}
	for _, v := range r.Goal {
		all = append(all, goal+" "+v.Bound+": "+held(v.Held))
	}
	return strings.Join(all, "; ")
}

// list prints what has to be held, what is to be reached, and how much of both is.
func (c *comparison) list(w io.Writer) error {
	all := c.verdicts()
	if len(all)+len(c.Unjudged) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "BOUND\tHELD\tWHAT\tCONTESTANT\tMEDIAN\tLIMIT\tUNIT\tWHICH IS")
	count, kept := map[string]int{}, map[string]int{}
	for _, v := range all {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n",
			v.kind, held(v.Held), v.row.Metric.Name, v.row.Contestant, number(v.row.Median), number(v.Limit), v.row.Metric.Unit, v.Bound)
		if count[v.kind]++; v.Held {
			kept[v.kind]++
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "\nheld: %d of %d must, %d of %d goal\n", kept[must], count[must], kept[goal], count[goal])
	for _, unjudged := range c.Unjudged {
		fmt.Fprintln(w, "not judged, since the other figure is not there:", unjudged)
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
// through HTTP has a table of its own, and what few contestants are measured by has
// lines of its own. The bounds come last.
func (c *comparison) markdown(w io.Writer) {
	var direct, http []string
	for _, name := range c.order {
		if strings.Contains(name, "http") {
			http = append(http, name)
		} else {
			direct = append(direct, name)
		}
	}
	few := c.few()
	for _, names := range [][]string{direct, http} {
		names = slices.DeleteFunc(names, func(name string) bool {
			return !slices.ContainsFunc(c.Rows, func(r row) bool { return r.Contestant == name && !few[r.Metric] })
		})
		if len(names) > 0 {
			c.markdownOf(w, names, few)
			fmt.Fprintln(w)
		}
	}
	if len(few) > 0 {
		fmt.Fprint(w, "| | | median | others |\n|---|---|---|---|\n")
		for _, r := range c.Rows {
			if few[r.Metric] {
				fmt.Fprintf(w, "| %s | %s | %s %s | %.0f %% |\n", r.Metric.Name, r.Contestant, number(r.Median), r.Metric.Unit, 100*r.Others)
			}
		}
		fmt.Fprintln(w)
	}
	if all := c.verdicts(); len(all) > 0 {
		fmt.Fprint(w, "| | held | | | median | limit |\n|---|---|---|---|---|---|\n")
		for _, v := range all {
			fmt.Fprintf(w, "| %s | %s | %s | %s | %s %s | %s, %s |\n",
				v.kind, held(v.Held), v.row.Metric.Name, v.row.Contestant, number(v.row.Median), v.row.Metric.Unit, v.Bound, number(v.Limit))
		}
	}
}

// few are the metrics of modes that measure chosen contestants only.
func (c *comparison) few() map[metric]bool {
	found := map[metric]bool{}
	for _, m := range modes {
		for _, metric := range m.metrics {
			if (m.only != nil || m.brief != nil && !c.Scale.Full) && slices.ContainsFunc(c.Rows, func(r row) bool { return r.Metric == metric }) {
				found[metric] = true
			}
		}
	}
	return found
}

func (c *comparison) markdownOf(w io.Writer, names []string, few map[metric]bool) {
	fmt.Fprintf(w, "| | %s | others, up to |\n|---|%s---|\n", strings.Join(names, " | "), strings.Repeat("---|", len(names)))
	for _, m := range c.metrics() {
		if few[m] {
			continue
		}
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

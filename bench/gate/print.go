package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"golang.org/x/perf/benchunit"
)

func compareIDs(a, b id) int {
	return cmp.Or(cmp.Compare(a.pkg, b.pkg), cmp.Compare(a.name, b.name), cmp.Compare(a.unit, b.unit))
}

// printTable is benchstat's table, one for each unit, with the noise beside it.
func printTable(out io.Writer, verdicts map[id]verdict) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, b := range bounds() {
		var rows []id
		for k := range verdicts {
			if k.unit == b.unit {
				rows = append(rows, k)
			}
		}
		if len(rows) == 0 {
			continue
		}
		slices.SortFunc(rows, compareIDs)
		fmt.Fprintf(table, "\n%s\tbase\t\thead\t\tvs base\t\tnoise\n", b.unit)
		for _, k := range rows {
			v := verdicts[k]
			fmt.Fprintf(table, "%s\t%s\t± %s\t%s\t± %s\t%s\t(%s)\t%.1f %%\n", k.pkg+"."+strings.TrimPrefix(k.name, "Benchmark"),
				scale(v.base.Center, b.unit), v.base.PctRangeString(), scale(v.head.Center, b.unit), v.head.PctRangeString(),
				v.comparison.FormatDelta(v.base.Center, v.head.Center), v.comparison, 100*v.noise)
		}
	}
	return table.Flush()
}

func scale(value float64, unit string) string {
	return benchunit.Scale(value, benchunit.ClassOf(unit))
}

// describe says what became worse, in both sets of rounds.
func describe(name id, first, second map[id]verdict) string {
	var parts []string
	for _, b := range bounds() {
		k := id{name.pkg, name.name, b.unit}
		v, w := first[k], second[k]
		if v.worse && w.worse {
			parts = append(parts, fmt.Sprintf("%s %s -> %s, %+.0f %% and again %+.0f %% (allowed %.0f %%, noise %.0f and %.0f %%)", b.unit,
				scale(v.base.Center, b.unit), scale(v.head.Center, b.unit), 100*v.change(), 100*w.change(), 100*b.share, 100*v.noise, 100*w.noise))
		}
	}
	return fmt.Sprintf("%s of %s: %s", name.name, name.pkg, strings.Join(parts, "; "))
}

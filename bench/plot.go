package main

import (
	"fmt"
	"html"
	"io"
	"slices"
	"strings"
)

// Measures of the plot, in pixels.
const (
	plotColumns = 2
	panelWidth  = 460
	barHeight   = 16
	barStep     = 20
	nameWidth   = 120
	valueWidth  = 90
	panelHead   = 34
	panelGap    = 18
	plotHead    = 56
)

// plot writes the comparison as a picture: a panel for each metric of several
// contestants, a bar for each one's median, and a line from its smallest to its
// largest value.
func (c *comparison) plot(w io.Writer) error {
	var body strings.Builder
	y, rowHeight := plotHead, 0
	metrics := slices.DeleteFunc(c.metrics(), func(m metric) bool {
		count := 0
		for _, r := range c.Rows {
			if r.Metric == m {
				count++
			}
		}
		return count < 2
	})
	for i, m := range metrics {
		column := i % plotColumns
		if column == 0 {
			y, rowHeight = y+rowHeight, 0
		}
		rowHeight = max(rowHeight, c.panel(&body, m, panelGap+column*(panelWidth+panelGap), y))
	}
	height, width := y+rowHeight, panelGap+plotColumns*(panelWidth+panelGap)
	_, err := fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" font-family="sans-serif" font-size="12" fill="#222">
<rect width="100%%" height="100%%" fill="#fff"/>
<text x="%d" y="24" font-size="16" font-weight="bold">Pelton beside other queues</text>
<text x="%[3]d" y="42" fill="#666">%s; medians of %d, lines from the least to the most</text>
%s</svg>
`, width, height, panelGap, html.EscapeString(c.Machine), c.Scale.Reps, body.String())
	return err
}

// panel draws a metric and tells how high it is.
func (c *comparison) panel(w io.Writer, m metric, x, y int) int {
	var rows []row
	most := 0.0
	for _, r := range c.Rows {
		if r.Metric == m {
			rows = append(rows, r)
			most = max(most, quantile(r.Values, 1))
		}
	}
	better := "more is better"
	if m.Less {
		better = "less is better"
	}
	fmt.Fprintf(w, "<text x=\"%d\" y=\"%d\" font-weight=\"bold\">%s, %s <tspan font-weight=\"normal\" fill=\"#666\">(%s)</tspan></text>\n",
		x, y+18, html.EscapeString(m.Name), html.EscapeString(m.Unit), better)
	length := func(v float64) float64 {
		if most <= 0 {
			return 0
		}
		return max(0, v) / most * (panelWidth - nameWidth - valueWidth)
	}
	for i, r := range rows {
		top, left := y+panelHead-8+i*barStep, x+nameWidth
		middle := top + barHeight/2
		fmt.Fprintf(w, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>\n", left-6, middle+4, html.EscapeString(r.Contestant))
		fmt.Fprintf(w, "<rect x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\" fill=\"%s\"/>\n", left, top, length(r.Median), barHeight, colour(r.Contestant))
		low, high := length(quantile(r.Values, 0)), length(quantile(r.Values, 1))
		if high-low >= 1 {
			fmt.Fprintf(w, "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%[3]d\" stroke=\"#222\"/>\n", float64(left)+low, float64(left)+high, middle)
		}
		fmt.Fprintf(w, "<text x=\"%.1f\" y=\"%d\">%s</text>\n", float64(left)+max(length(r.Median), high)+5, middle+4, number(r.Median))
	}
	return panelHead + len(rows)*barStep + panelGap
}

// colour tells apart Pelton, what nothing can beat, and the others.
func colour(contestant string) string {
	switch {
	case strings.HasPrefix(contestant, "pelton"):
		return "#1f77b4"
	case strings.HasPrefix(contestant, "floor"), contestant == "http-bare":
		return "#bbb"
	default:
		return "#e8a33d"
	}
}

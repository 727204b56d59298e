package cli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// table lines up columns for people. The header comes with the first row.
type table struct {
	w      *tabwriter.Writer
	header []string
	err    error
}

func newTable(w io.Writer, header []string) *table {
	return &table{w: tabwriter.NewWriter(w, 0, 0, 2, ' ', 0), header: header}
}

func (t *table) add(cells []string) {
	if t.header != nil {
		t.line(t.header)
		t.header = nil
	}
	t.line(cells)
}

func (t *table) line(cells []string) {
	safe := make([]string, len(cells))
	for i, cell := range cells {
		if safe[i] = printable(cell, oneLine); cell == "" {
			safe[i] = "-"
		}
	}
	if _, err := fmt.Fprintln(t.w, strings.Join(safe, "\t")); err != nil && t.err == nil {
		t.err = err
	}
}

// flush writes the rows; their columns are lined up among each other.
func (t *table) flush() error {
	if err := t.w.Flush(); t.err == nil {
		t.err = err
	}
	return t.err
}

// fields prints pairs of name and value, one a line; an empty value is left out.
func fields(w io.Writer, pairs [][2]string) error {
	t := newTable(w, nil)
	for _, pair := range pairs {
		if pair[1] != "" {
			t.line(pair[:])
		}
	}
	return t.flush()
}

package cli

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

const (
	formatTable = "table"
	formatJSON  = "json"
	formatJSONL = "jsonl"
)

// outputFlag is --output.
type outputFlag struct{ enumValue }

func (o *outputFlag) register(cmd *cobra.Command) {
	o.enumValue = enumValue{value: formatTable, allowed: []string{formatTable, formatJSON, formatJSONL}}
	cmd.Flags().VarP(&o.enumValue, "output", "o", "how to print: "+o.choices())
	completeEnum(cmd, "output", &o.enumValue)
}

// warnf tells stderr something that does not end the command.
func (a *app) warnf(format string, args ...any) {
	a.progress.hide()
	_, _ = fmt.Fprintf(a.stderr, "pelton: %s\n", printable(fmt.Sprintf(format, args...), keepLines))
}

// printJSON writes one value, as the server sent it, on a line of its own.
func printJSON(w io.Writer, format string, raw []byte) error {
	line, err := jsonLine(format, raw)
	if err != nil {
		return err
	}
	if _, err := w.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

// jsonLine is raw as format wants it. JSON is passed on byte for byte. A line of
// JSON Lines has no line feed in it, so a payload that has some loses its white
// space there, and nothing else.
func jsonLine(format string, raw []byte) ([]byte, error) {
	raw = bytes.TrimRight(raw, "\r\n \t")
	if format != formatJSONL || !bytes.ContainsAny(raw, "\r\n") {
		return raw, nil
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, raw); err != nil {
		return nil, fmt.Errorf("the server's answer is not JSON: %w", err)
	}
	return compact.Bytes(), nil
}

// printer writes a list piece by piece: rows of a table, {"items":[…]} as the
// API has it, or one value per line. Items are of any type T that has a raw form.
type printer[T any] struct {
	out    *bufio.Writer
	format string
	raw    func(T) []byte
	rows   *table
	row    func(T) []string
	count  int
}

func newPrinter[T any](w io.Writer, format string, raw func(T) []byte, header []string, row func(T) []string) *printer[T] {
	out := bufio.NewWriterSize(w, 64<<10)
	return &printer[T]{out: out, format: format, raw: raw, rows: newTable(out, header), row: row}
}

func (p *printer[T]) add(item T) error {
	p.count++
	var err error
	switch p.format {
	case formatTable:
		p.rows.add(p.row(item))
	case formatJSON:
		separator := ","
		if p.count == 1 {
			separator = `{"items":[`
		}
		line, _ := jsonLine(p.format, p.raw(item)) // fails only for JSON Lines
		_, _ = p.out.WriteString(separator)        // the first error stays, and the next write has it
		_, err = p.out.Write(line)
	default:
		err = printJSON(p.out, p.format, p.raw(item))
	}
	if err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

// flush shows what was added so far.
func (p *printer[T]) flush() error {
	err := p.rows.flush()
	if flushed := p.out.Flush(); err == nil {
		err = flushed
	}
	if err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

// close completes the list; an empty one is still a list.
func (p *printer[T]) close() error {
	if p.format == formatJSON {
		if p.count == 0 {
			_, _ = p.out.WriteString(`{"items":[`)
		}
		_, _ = p.out.WriteString("]}\n") // flush has its error
	}
	return p.flush()
}

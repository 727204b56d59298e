package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/peltonq/pelton"
)

// readPayload reads the PAYLOAD argument: JSON, @FILE, or - for stdin.
func (a *app) readPayload(arg string) ([]byte, error) {
	from, payload := "the payload", []byte(arg)
	if file, isFile := strings.CutPrefix(arg, "@"); isFile || arg == "-" {
		in, name, err := a.open(file, arg == "-")
		if err != nil {
			return nil, err
		}
		defer func() { _ = in.Close() }() // only read
		// White space around the value does not count, within reason.
		if payload, err = io.ReadAll(io.LimitReader(in, 2*pelton.MaxPayload)); err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		from = "the payload from " + name
	}
	payload = bytes.Trim(payload, " \t\r\n")
	switch {
	case len(payload) > pelton.MaxPayload:
		return nil, usagef("%s is more than %d bytes", from, pelton.MaxPayload)
	case len(payload) == 0:
		return nil, usagef("%s is empty; leave it out for a task without payload", from)
	}
	if err := checkJSON(payload); err != nil {
		return nil, usagef("%s is not JSON: %w", from, err)
	}
	return payload, nil
}

// open opens a file of the user's, or stdin.
func (a *app) open(file string, stdin bool) (in io.ReadCloser, name string, err error) {
	if stdin {
		return io.NopCloser(a.stdin), "stdin", nil
	}
	f, err := os.Open(file) //nolint:gosec // the user names the file.
	if errors.Is(err, fs.ErrNotExist) || file == "" {
		return nil, "", usagef("there is no file %q", file)
	}
	if err != nil {
		return nil, "", fmt.Errorf("read the input: %w", err)
	}
	return f, file, nil
}

// checkJSON says what is wrong with a JSON text, and where.
func checkJSON(text []byte) error {
	var value json.RawMessage
	err := json.Unmarshal(text, &value)
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return fmt.Errorf("%w (at byte %d)", err, syntax.Offset)
	}
	return err
}

// field is one field of a task request.
type field struct {
	name  string
	value any
}

// newTaskBody is the body of POST /tasks. The payload is spliced in, because
// encoding/json would compact and escape it.
func newTaskBody(fields []field, payload []byte) ([]byte, error) {
	body := []byte{'{'}
	body, err := appendFields(body, fields)
	if err != nil {
		return nil, err
	}
	if payload != nil {
		body = append(append(body, `,"payload":`...), payload...)
	}
	return append(body, '}'), nil
}

// appendFields appends "name":value pairs, separated by commas.
func appendFields(dst []byte, fields []field) ([]byte, error) {
	for i, f := range fields {
		value, err := json.Marshal(f.value)
		if err != nil {
			return nil, fmt.Errorf("write field %s: %w", f.name, err)
		}
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = fmt.Appendf(dst, "%q:%s", f.name, value)
	}
	return dst, nil
}

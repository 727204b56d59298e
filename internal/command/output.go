package command

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/peltonq/pelton"
)

const (
	// resultSlack is how much white space may surround a result of the largest
	// size: print() adds a newline.
	resultSlack = 1 << 10
	maxLine     = 4 << 10 // bytes of one line of stderr in the log
	maxTail     = 2 << 10 // bytes of stderr in an error's message
)

// errTooLarge stops a program that prints more than a result may have.
var errTooLarge = fmt.Errorf("the result on stdout is larger than %d bytes", pelton.MaxPayload)

// resultBuffer collects stdout up to the size of a result.
type resultBuffer struct {
	data     []byte
	exceeded bool
}

// Write fails with errTooLarge once there is more than a result may have.
func (b *resultBuffer) Write(p []byte) (int, error) {
	if len(b.data)+len(p) > pelton.MaxPayload+resultSlack {
		b.exceeded = true
		return 0, errTooLarge
	}
	b.data = append(b.data, p...)
	return len(p), nil
}

// result is the JSON value that was printed, byte for byte, without the white
// space around it; nil if there was nothing else.
func (b *resultBuffer) result() (json.RawMessage, error) {
	value := bytes.Trim(b.data, " \t\r\n")
	switch {
	case b.exceeded || len(value) > pelton.MaxPayload:
		return nil, errTooLarge
	case len(value) == 0:
		return nil, nil
	case !utf8.Valid(value):
		return nil, errors.New("stdout is not UTF-8")
	case !json.Valid(value):
		return nil, fmt.Errorf("stdout is not one JSON value: it begins with %q", clip(value, 80))
	}
	return value, nil
}

// lineWriter hands every line of stderr to emit and remembers the end of all.
// A line longer than maxLine is cut and marked with "…".
type lineWriter struct {
	emit    func(line string)
	line    []byte
	cut     bool // line has reached maxLine; the rest of it is dropped
	tailBuf []byte
}

// Write never fails.
func (w *lineWriter) Write(p []byte) (int, error) {
	w.tailBuf = append(w.tailBuf, p[max(0, len(p)-maxTail):]...)
	w.tailBuf = w.tailBuf[max(0, len(w.tailBuf)-maxTail):]
	for rest := p; len(rest) > 0; {
		line, after, ended := bytes.Cut(rest, []byte{'\n'})
		if room := maxLine - len(w.line); len(line) > room {
			line, w.cut = line[:room], true
		}
		w.line = append(w.line, line...)
		if ended {
			w.flush()
		}
		rest = after
	}
	return len(p), nil
}

// flush emits the line that is being collected, unless it is blank.
func (w *lineWriter) flush() {
	line := strings.TrimRight(strings.ToValidUTF8(string(w.line), "\uFFFD"), " \t\r")
	if w.cut {
		line += "…"
	}
	if line != "" {
		w.emit(line)
	}
	w.line, w.cut = w.line[:0], false
}

// tail is the end of what was written, at most maxTail bytes of it.
func (w *lineWriter) tail() string {
	return strings.TrimSpace(strings.ToValidUTF8(string(w.tailBuf), ""))
}

// clip shortens a program's output for an error's message.
func clip(b []byte, most int) string {
	if len(b) <= most {
		return string(b)
	}
	return strings.ToValidUTF8(string(b[:most]), "") + "…"
}

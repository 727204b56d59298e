package cli

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/peltonq/pelton"
)

const (
	maxLine  = 1 << 20 // bytes of one task, as POST /tasks takes it
	maxChunk = 8 << 20 // bytes of tasks in one POST /tasks/batch
)

// taskLine is one task of a JSON Lines input, ready to send.
type taskLine struct {
	number int // of the line, from 1
	body   []byte
	err    error // why it cannot be sent
	traits lineTraits
	chain  lineChain // of the input up to this line
}

// lineTraits are what a line says that matters to how it is sent.
type lineTraits struct {
	keyed   bool // it has an idempotency key: sending it twice does no harm
	ordered bool // it has a concurrency key: its place among the others counts
}

// lineChain stands for all lines up to one: the hash of that line after the chain
// before it.
type lineChain [sha256.Size]byte

func (c lineChain) add(line []byte) lineChain {
	h := sha256.New()
	_, _ = h.Write(c[:]) // a hash cannot fail
	_, _ = h.Write(line)
	return lineChain(h.Sum(nil))
}

// lineReader reads tasks from JSON Lines. It holds one chunk and one line at most.
type lineReader struct {
	in       *bufio.Reader
	number   int
	read     int64   // bytes
	defaults []field // what a line gets that does not have it
	key      string  // its idempotency key is this and its number; empty for none
	chained  bool    // keep the chain
	chain    lineChain
	held     *taskLine
}

func newLineReader(in io.Reader, defaults []field) *lineReader {
	return &lineReader{in: bufio.NewReaderSize(in, maxLine+1), defaults: defaults}
}

// chunk reads the next lines for one batch: at most pelton.MaxBatch lines and
// maxChunk bytes, and no more than what is there: it does not hold lines back to
// wait for others. Lines with an err count as lines. The error is io.EOF after
// the last chunk.
func (r *lineReader) chunk() ([]taskLine, error) {
	var (
		lines []taskLine
		size  int
	)
	for len(lines) < pelton.MaxBatch {
		line := r.held
		if r.held = nil; line == nil {
			if len(lines) > 0 && !r.waiting() {
				return lines, nil
			}
			var err error
			if line, err = r.next(); err != nil {
				if len(lines) > 0 && errors.Is(err, io.EOF) {
					return lines, nil
				}
				return lines, err
			}
		}
		if size += len(line.body) + 1; size > maxChunk && len(lines) > 0 {
			r.held = line
			return lines, nil
		}
		lines = append(lines, *line)
	}
	return lines, nil
}

// waiting reports whether a whole line can be read without blocking.
func (r *lineReader) waiting() bool {
	ahead, _ := r.in.Peek(r.in.Buffered()) // of what is buffered already: cannot fail
	return bytes.IndexByte(ahead, '\n') >= 0
}

// next reads one line that is not blank. The error is the input's.
func (r *lineReader) next() (*taskLine, error) {
	for {
		text, err := r.in.ReadSlice('\n')
		if len(text) == 0 && err != nil {
			return nil, inputErr(err)
		}
		r.number++
		r.took(text)
		if errors.Is(err, bufio.ErrBufferFull) {
			if err := r.skip(); err != nil {
				return nil, err
			}
			return &taskLine{number: r.number, chain: r.chain, err: fmt.Errorf("is longer than %d bytes", maxLine)}, nil
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, inputErr(err)
		}
		if r.number == 1 {
			text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")) // a byte order mark
		}
		text = bytes.Trim(text, " \t\r\n")
		if len(text) == 0 {
			continue
		}
		defaults := r.defaults
		if r.key != "" {
			defaults = append(slices.Clip(defaults), field{"idempotency_key", fmt.Sprintf("%s:%d", r.key, r.number)})
		}
		body, traits, err := withDefaults(text, defaults)
		return &taskLine{number: r.number, body: body, err: err, traits: traits, chain: r.chain}, nil
	}
}

// took notes what was read.
func (r *lineReader) took(text []byte) {
	r.read += int64(len(text))
	if r.chained {
		r.chain = r.chain.add(text)
	}
}

// skipLines passes over lines without looking at them. The error is io.EOF when there
// are fewer.
func (r *lineReader) skipLines(n int) error {
	for r.number < n {
		text, err := r.in.ReadSlice('\n')
		if len(text) == 0 && err != nil {
			return inputErr(err)
		}
		r.number++
		r.took(text)
		if errors.Is(err, bufio.ErrBufferFull) {
			err = r.skip()
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return inputErr(err)
		}
	}
	return nil
}

// skip reads on to the end of a line.
func (r *lineReader) skip() error {
	for {
		text, err := r.in.ReadSlice('\n')
		r.took(text)
		if err == nil || errors.Is(err, io.EOF) {
			return nil
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return inputErr(err)
		}
	}
}

func inputErr(err error) error {
	if errors.Is(err, io.EOF) {
		return io.EOF
	}
	return fmt.Errorf("read the input: %w", err)
}

// withDefaults is a copy of the task object text with the fields added that it
// lacks. The rest stays byte for byte.
func withDefaults(text []byte, defaults []field) ([]byte, lineTraits, error) {
	var (
		have   map[string]json.RawMessage
		traits lineTraits
	)
	if err := json.Unmarshal(text, &have); err != nil || have == nil {
		if err := checkJSON(text); err != nil {
			return nil, traits, fmt.Errorf("is not JSON: %w", err)
		}
		return nil, traits, errors.New(`is not a task: it must be an object such as {"kind":"demo.echo","payload":1}`)
	}
	var missing []field
	for _, f := range defaults {
		name := f.name
		_, given := have[name]
		// These two exclude each other, so one of them stands in for both.
		_, delayed := have["delay"]
		_, timed := have["run_at"]
		if !given && (name != "delay" && name != "run_at" || !delayed && !timed) {
			missing = append(missing, f)
		}
	}
	if _, ok := have["kind"]; !ok && (len(missing) == 0 || missing[0].name != "kind") {
		return nil, traits, errors.New(`has no "kind"`)
	}
	body, err := appendFields([]byte{'{'}, missing)
	if err != nil {
		return nil, traits, err
	}
	if len(missing) > 0 && len(have) > 0 {
		body = append(body, ',')
	}
	for _, f := range missing {
		have[f.name] = nil // it has it now
	}
	_, traits.keyed = have["idempotency_key"]
	_, traits.ordered = have["concurrency_key"]
	return append(body, text[1:]...), traits, nil
}

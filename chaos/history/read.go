package history

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// ReadDir reads the files of all actors in dir and returns their events in the
// order of time. torn counts the files whose last line was cut off, which is what
// the death of a process in the middle of a write leaves; such a line is dropped.
// Any other line that is no event is an error.
func ReadDir(dir string) (events []Event, torn int, err error) {
	names, err := filepath.Glob(filepath.Join(dir, "*"+Suffix))
	if err != nil {
		return nil, 0, fmt.Errorf("read history in %s: %w", dir, err)
	}
	slices.Sort(names)
	for _, name := range names {
		data, err := os.ReadFile(name) //nolint:gosec // a file of the folder that the caller named
		if err != nil {
			return nil, 0, fmt.Errorf("read history: %w", err)
		}
		found, cut, err := Parse(data)
		if err != nil {
			return nil, 0, fmt.Errorf("read history %s: %w", name, err)
		}
		if cut {
			torn++
		}
		events = append(events, found...)
	}
	slices.SortStableFunc(events, func(a, b Event) int {
		switch {
		case a.At < b.At:
			return -1
		case a.At > b.At:
			return 1
		default:
			return 0
		}
	})
	return events, torn, nil
}

// Parse reads one actor's file. torn says that its last line lacks its end and
// was dropped: a line counts once its newline was written.
func Parse(data []byte) (events []Event, torn bool, err error) {
	for n := 1; len(data) > 0; n++ {
		line, rest, ended := bytes.Cut(data, []byte{'\n'})
		if !ended {
			return events, true, nil
		}
		var e Event
		if err := json.Unmarshal(line, &e); err != nil {
			return events, false, fmt.Errorf("line %d: %w", n, err)
		}
		events, data = append(events, e), rest
	}
	return events, false, nil
}

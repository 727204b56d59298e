package pelton

import "fmt"

// DeadFilter selects dead letters: the retained copies of failed tasks. An empty
// field selects all.
type DeadFilter struct {
	Queue string // the whole name
	Kind  string // the whole name
	Error string // a part of the last failure's "reason: message", in the same case
}

// Check reports what cannot match anything because it is no name, as a
// *ValidationError.
func (f DeadFilter) Check() error {
	var bad []FieldError
	if f.Queue != "" && !queueName.MatchString(f.Queue) {
		bad = append(bad, FieldError{Field: "queue", Message: fmt.Sprintf("%q must match %s", clip(f.Queue, 80), queueName)})
	}
	if f.Kind != "" && !kindName.MatchString(f.Kind) {
		bad = append(bad, FieldError{Field: "kind", Message: fmt.Sprintf("%q must match %s", clip(f.Kind, 150), kindName)})
	}
	if len(f.Error) > maxKeyBytes {
		bad = append(bad, FieldError{Field: "error", Message: fmt.Sprintf("is %d bytes, more than %d", len(f.Error), maxKeyBytes)})
	}
	if len(bad) > 0 {
		return &ValidationError{Fields: bad}
	}
	return nil
}

// Matches reports whether the filter selects a dead letter.
func (f DeadFilter) Matches(letter *Task) bool {
	if f.Queue != "" && f.Queue != letter.Queue || f.Kind != "" && f.Kind != letter.Kind {
		return false
	}
	return f.Error == "" || failedWith(letter, f.Error)
}

// DeadQuery asks for the dead letters that a filter selects, newest first.
type DeadQuery struct {
	DeadFilter

	// Cursor goes on where an earlier answer ended. Empty starts with the newest.
	Cursor string
	// Limit is the most letters that one call may list or act on. Zero means the
	// call's own bound.
	Limit int
}

// DeadPage is one page of dead letters, newest first.
type DeadPage struct {
	// Items are tasks as they were when they failed. Their Revision is the
	// letter's own, not that of the task's record.
	Items []*Task
	// NextCursor leads to the next page and is empty after the last one. A page
	// may be short, or empty, while there is one: a call looks at a bounded number
	// of letters, whether they match or not.
	NextCursor string
}

// BulkResult says how far a call by filter came.
type BulkResult struct {
	Matched    int    `json:"matched"`               // what the filter selected
	Done       int    `json:"done"`                  // what the call was carried out on; none when it was a dry run
	Failed     int    `json:"failed"`                // what refused it
	NextCursor string `json:"next_cursor,omitempty"` // where to go on; empty when nothing is left
}

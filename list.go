package pelton

import "fmt"

// TaskQuery asks for the tasks that wait for a time, soonest first. Queue, Kind and
// Priority select among them, empty ones all.
type TaskQuery struct {
	// State is Scheduled or Retrying: other lists are ErrNotSupported as yet.
	State    State
	Queue    string // the whole name
	Kind     string // the whole name
	Priority Priority

	// Cursor goes on where an earlier answer ended. Empty starts with the soonest.
	Cursor string
	// Limit is the most tasks of a page, at most 500. Zero means 50.
	Limit int
}

// Check reports what cannot match anything because it is no name, as a
// *ValidationError, and what cannot be listed by this version as ErrNotSupported.
func (q TaskQuery) Check() error {
	var bad []FieldError
	if q.State != "" && !q.State.Valid() {
		bad = append(bad, FieldError{Field: "state", Message: fmt.Sprintf("%q is none of the states", clip(string(q.State), 64))})
	}
	if q.Queue != "" && !queueName.MatchString(q.Queue) {
		bad = append(bad, FieldError{Field: "queue", Message: fmt.Sprintf("%q must match %s", clip(q.Queue, 80), queueName)})
	}
	if q.Kind != "" && !kindName.MatchString(q.Kind) {
		bad = append(bad, FieldError{Field: "kind", Message: fmt.Sprintf("%q must match %s", clip(q.Kind, 150), kindName)})
	}
	if q.Priority != "" && q.Priority.Rank() < 0 {
		bad = append(bad, FieldError{Field: "priority", Message: fmt.Sprintf("%q is none of critical, high, normal, low", clip(string(q.Priority), 64))})
	}
	if len(bad) > 0 {
		return &ValidationError{Fields: bad}
	}
	if q.State != Scheduled && q.State != Retrying {
		return fmt.Errorf("%w: tasks can be listed by state scheduled or retrying only", ErrNotSupported)
	}
	return nil
}

// TaskPage is one page of tasks.
type TaskPage struct {
	Items []*Task
	// NextCursor leads to the next page and is empty after the last one. A page may be
	// short, or empty, while there is one: a call looks at a bounded number of tasks.
	NextCursor string
}

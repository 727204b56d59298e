package pelton

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// TaskFilter selects tasks. An empty field selects all.
type TaskFilter struct {
	State    State
	Queue    string // the whole name
	Kind     string // the whole name
	Priority Priority
	Labels   map[string]string // all of them, with these very values
	Error    string            // a part of the last failure's "reason: message", in the same case
	// Since and Until select by the time that the list goes by (see TaskQuery): from Since
	// on, and before Until. Zero is no bound.
	Since, Until time.Time
}

// TaskQuery asks for the tasks that a filter selects. Its state says in what order:
//
//   - Scheduled and Retrying: by the time that they wait for, the soonest first;
//   - Queued: by when they became ready, the newest first;
//   - Running: by when they were made, the newest first. Since and Until are of their start;
//   - Succeeded, Failed, Cancelled and Expired: by when they ended, the newest first;
//   - none: all tasks, by their last change, the newest first.
type TaskQuery struct {
	TaskFilter

	// Cursor goes on where an earlier answer to the same filter ended. Empty starts at the
	// beginning.
	Cursor string
	// Limit is the most tasks of a page, at most 500. Zero means 50.
	Limit int
}

// Check reports what cannot match anything because it is no name, as a
// *ValidationError.
func (f TaskFilter) Check() error {
	var bad []FieldError
	fail := func(field, format string, args ...any) {
		bad = append(bad, FieldError{Field: field, Message: fmt.Sprintf(format, args...)})
	}
	if f.State != "" && !f.State.Valid() {
		fail("state", "%q is none of the states", clip(string(f.State), 64))
	}
	if f.Queue != "" && !queueName.MatchString(f.Queue) {
		fail("queue", "%q must match %s", clip(f.Queue, 80), queueName)
	}
	if f.Kind != "" && !kindName.MatchString(f.Kind) {
		fail("kind", "%q must match %s", clip(f.Kind, 150), kindName)
	}
	if f.Priority != "" && f.Priority.Rank() < 0 {
		fail("priority", "%q is none of critical, high, normal, low", clip(string(f.Priority), 64))
	}
	if len(f.Labels) > maxLabels {
		fail("label", "%d labels are more than the %d that a task can have", len(f.Labels), maxLabels)
	}
	for _, name := range slices.Sorted(maps.Keys(f.Labels)) {
		if len(bad) >= maxLabels {
			break
		}
		if !kindName.MatchString(name) {
			fail("label."+clip(name, 80), "the name must match %s", kindName)
		} else if problem := keyProblem(f.Labels[name]); problem != "" {
			fail("label."+name, "%s", problem)
		}
	}
	if len(f.Error) > maxKeyBytes {
		fail("error", "is %d bytes, more than %d", len(f.Error), maxKeyBytes)
	}
	if !f.Since.IsZero() && !f.Until.IsZero() && !f.Since.Before(f.Until) {
		fail("until", "is not after since")
	}
	if len(bad) > 0 {
		return &ValidationError{Fields: bad}
	}
	return nil
}

// Matches reports whether the filter selects a task by all but Since and Until, which
// are of the list that the task is in.
func (f TaskFilter) Matches(task *Task) bool {
	for name, value := range f.Labels {
		if has, ok := task.Labels[name]; !ok || has != value {
			return false
		}
	}
	return (f.State == "" || f.State == task.State) && (f.Queue == "" || f.Queue == task.Queue) &&
		(f.Kind == "" || f.Kind == task.Kind) && (f.Priority == "" || f.Priority == task.Priority) &&
		(f.Error == "" || failedWith(task, f.Error))
}

// InTime reports whether a time is one of those from Since on and before Until.
func (f TaskFilter) InTime(t time.Time) bool {
	return (f.Since.IsZero() || !t.Before(f.Since)) && (f.Until.IsZero() || t.Before(f.Until))
}

// failedWith reports whether the text is in the last failure of a task.
func failedWith(task *Task, text string) bool {
	return task.Error != nil && strings.Contains(string(task.Error.Reason)+": "+task.Error.Message, text)
}

// TaskPage is one page of tasks.
type TaskPage struct {
	Items []*Task
	// NextCursor leads to the next page and is empty after the last one. A page may be
	// short, or empty, while there is one: a call looks at a bounded number of tasks.
	NextCursor string
}

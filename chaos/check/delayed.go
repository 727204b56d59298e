package check

import (
	"fmt"
	"slices"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/chaos/history"
)

// delayed: a task that was accepted for a time does not start before it, and its time
// is not brought forward, unless somebody asked for that. Whoever was told that it is
// to run now finds it waiting no more.
func delayed(_ *index, t *task) string {
	if t.accepted != nil && t.accepted.Record != nil && !t.accepted.Record.RunAt.IsZero() {
		due := t.accepted.Record.RunAt.Truncate(time.Microsecond)
		for _, r := range t.runs {
			if r.Wall.Before(due) && !t.hurriedBefore(r.At) {
				return fmt.Sprintf("accepted for a time, started on %s %s before it, and nobody asked for that", r.Actor, due.Sub(r.Wall).Round(time.Millisecond))
			}
		}
	}
	for i := 1; i < len(t.versions); i++ {
		v, next := t.versions[i-1], t.versions[i]
		if v.waits() && next.waits() && next.Previous == v.Revision && next.RunAt.Before(v.RunAt) && !t.hurriedBefore(next.at) {
			return fmt.Sprintf("its time was brought forward by %s at revision %d, and nobody asked for that", v.RunAt.Sub(next.RunAt).Round(time.Millisecond), next.Revision)
		}
	}
	for _, e := range t.events {
		if e.Kind == history.HurryOK && e.Record.State != pelton.Queued {
			return fmt.Sprintf("it was to run now, and the answer says that it is %s", e.Record.State)
		}
	}
	return ""
}

// waits reports whether a stored record waits for a time.
func (v version) waits() bool {
	return v.Stored && (v.State == pelton.Scheduled || v.State == pelton.Retrying)
}

// hurriedBefore reports whether somebody had asked for the task to run now, or again,
// before that time.
func (t *task) hurriedBefore(at int64) bool {
	return slices.ContainsFunc(t.events, func(e history.Event) bool {
		return (e.Kind == history.HurrySent || e.Kind == history.RetrySent) && e.At <= at
	})
}

package check

import (
	"fmt"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/chaos/history"
)

// refused: nothing is enqueued by a request that got an error, each time if it was
// repeated.
func refused(h *index) []Violation {
	open := make(map[string]int)
	for i := range h.events {
		switch e := &h.events[i]; e.Kind { //nolint:exhaustive // the others are of no request
		case history.EnqueueSent:
			open[e.Ref]++
		case history.EnqueueRefused:
			open[e.Ref]--
		}
	}
	no := make(map[string]bool)
	for ref, n := range open {
		no[ref] = n <= 0
	}
	var found []Violation
	for _, t := range h.tasks {
		for _, r := range t.runs {
			if no[r.Ref] {
				found = append(found, Violation{Task: t.id, Text: "runs, although " + r.Ref + " was refused", Events: t.events})
				break
			}
		}
	}
	return found
}

// invented: what runs was asked for, once, and under the id that was answered.
func invented(h *index) []Violation {
	sent := make(map[string]bool)
	owner := make(map[string]pelton.ID)
	var found []Violation
	claim := func(t *task, e *history.Event) {
		switch id, taken := owner[e.Ref]; {
		case !sent[e.Ref]:
			found = append(found, Violation{Task: t.id, Text: fmt.Sprintf("%s of %q, which nobody sent", e.Kind, e.Ref), Events: t.events})
		case taken && id != t.id:
			found = append(found, Violation{Task: t.id, Text: fmt.Sprintf("%s of %q, which is task %s", e.Kind, e.Ref, id), Events: t.events})
		default:
			owner[e.Ref] = t.id
		}
	}
	for i := range h.events {
		switch e := &h.events[i]; e.Kind {
		case history.EnqueueSent:
			sent[e.Ref] = true
		case history.EnqueueOK, history.RunStart:
			claim(h.byID[e.Task], e)
		case history.EnqueueExisting, history.EnqueueUnknown, history.EnqueueRefused,
			history.RunEnd, history.CtxEnd, history.LockTaken, history.LockReleased, history.LockLost,
			history.CancelSent, history.CancelOK, history.CancelConflict, history.CancelUnknown, history.RetrySent,
			history.HurrySent, history.HurryOK, history.HurryConflict, history.HurryUnknown,
			history.Observe, history.Missing, history.FaultBegin, history.FaultEnd, history.Healed, history.TickDue, history.TickRun:
		}
	}
	return found
}

// cancels: a confirmed cancel is final. A task that had not been handed out never
// starts, and no task starts again. A refused cancel cancels nothing, and nothing
// is cancelled that nobody asked for.
func cancels(_ *index, t *task) string {
	asked, confirmed, unknown, conflict := false, false, false, false
	last := t.last()
	for _, e := range t.events {
		switch e.Kind {
		case history.CancelSent:
			asked = true
		case history.CancelUnknown:
			unknown = true
		case history.CancelConflict:
			conflict = true
		case history.CancelOK:
			confirmed = true
			if e.Record.State != pelton.Cancelled || last.State != pelton.Cancelled {
				return fmt.Sprintf("cancel confirmed with a record that is %s, and %s in the end", e.Record.State, last.State)
			}
			for _, r := range t.runs {
				if e.Record.StartedAt.IsZero() {
					return fmt.Sprintf("cancelled before it was handed out, and started on %s", r.Actor)
				}
				if r.Fence > e.Record.Revision {
					return fmt.Sprintf("cancelled at revision %d, and started on %s with token %d", e.Record.Revision, r.Actor, r.Fence)
				}
			}
		case history.EnqueueSent, history.EnqueueOK, history.EnqueueExisting, history.EnqueueUnknown, history.EnqueueRefused, history.RetrySent,
			history.HurrySent, history.HurryOK, history.HurryConflict, history.HurryUnknown,
			history.RunStart, history.RunEnd, history.CtxEnd, history.LockTaken, history.LockReleased, history.LockLost, history.Observe, history.Missing,
			history.FaultBegin, history.FaultEnd, history.Healed, history.TickDue, history.TickRun:
		}
	}
	switch {
	case last == nil || last.State != pelton.Cancelled:
		return ""
	case t.replaced() != nil: // see the rule of that name
		return ""
	case !asked:
		return "cancelled, and nobody asked for that"
	case conflict && !confirmed && !unknown:
		return "cancelled by a cancel that was refused"
	}
	return ""
}

// ctxEnds: the ctx of a running handler ends soon after a confirmed cancel while
// its worker is in reach.
func ctxEnds(h *index, t *task) string {
	for _, e := range t.events {
		if e.Kind != history.CancelOK {
			continue
		}
		due := e.At + int64(h.cfg.CtxEnd)
		for _, r := range t.runs {
			dead := h.heldUntil(r) <= e.Began
			if r.At > e.Began || dead || r.over(due) || h.fault(r.Actor, e.Began, due, h.cfg.tail()) {
				continue
			}
			return fmt.Sprintf("cancel confirmed, and %s runs it for longer than %s", r.Actor, time.Duration(due-e.At))
		}
	}
	return ""
}

// over reports whether the handler had ended, or knew that it should, at that time.
func (r *run) over(at int64) bool {
	return r.end != nil && r.end.At <= at || r.ctxEnd != nil && r.ctxEnd.At <= at
}

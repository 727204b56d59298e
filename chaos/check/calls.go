package check

import (
	"fmt"
	"slices"
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

// invented: what runs was asked for, once, and under the id that was answered; and nobody
// reads or cancels a task that is not there.
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
	for _, t := range h.tasks {
		if t.accepted == nil && !slices.ContainsFunc(t.events, known) && len(t.reads) > 0 {
			found = append(found, Violation{Task: t.id, Text: fmt.Sprintf("%s by %s, and nobody has enqueued it", t.reads[0].Kind, t.reads[0].Actor), Events: t.events})
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

// known reports whether an event shows that somebody enqueued its task: it runs, has a
// record that no call from outside has made, or holds a unique key.
func known(e history.Event) bool {
	return e.Kind == history.RunStart || e.Kind == history.EnqueueExisting || e.Kind == history.EnqueueRefused ||
		e.Record != nil && e.Record.Stored && e.Record.State != pelton.Cancelled
}

// cancels: a confirmed cancel is final, and nothing that a handler returns counts after it. A task
// that had not been handed out never starts, and no task starts again. A refused cancel
// cancels nothing, and nothing is cancelled that nobody asked for.
//
// A plain task may have been handed out although its record does not say so: a worker has its
// message and starts it without a look, or has started it in the last 50 ms. The
// cancel's record is there before its answer, so no other worker can start the task: its
// start would be the second of which something is written. The worker that has the
// message is sent a signal before the answer; when it has come there, the task is not started,
// or its ctx ends (see ctxEnds). So such a start is the one without a record, and it comes
// no later after the answer than Promotion, unless a fault held its worker up.
func cancels(h *index, t *task) string {
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
			if last.ResultRun != "" {
				return fmt.Sprintf("cancel confirmed, and the result of run %s counts", last.ResultRun)
			}
			for _, r := range t.runs {
				if r.bare() && r.At > e.At+int64(h.cfg.Promotion) && !h.fault(r.Actor, e.Began, r.At, h.cfg.tail()) {
					return fmt.Sprintf("cancelled, and started on %s %s later", r.Actor, between(e.At, r.At))
				}
				if e.Record.StartedAt.IsZero() && (!t.located() || !r.bare()) {
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
// its worker is in reach. So does that of one that began while the cancel was under way, or
// just after it, because its task had been handed out.
func ctxEnds(h *index, t *task) string {
	for _, e := range t.events {
		if e.Kind != history.CancelOK {
			continue
		}
		for _, r := range t.runs {
			dead := h.heldUntil(r) <= e.Began
			due := max(e.At, r.At) + int64(h.cfg.CtxEnd)
			if r.At > e.Began && !r.bare() || dead || r.over(due) || h.fault(r.Actor, e.Began, due, h.cfg.tail()) {
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

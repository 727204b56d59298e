package check

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/chaos/history"
)

// holding is the time for which a task certainly held its unique key.
type holding struct {
	t        *task
	from, to int64
}

// unique: no two tasks with one unique key are unfinished at the same time, and
// nobody is turned away in favour of a task that was over before.
func unique(h *index) []Violation {
	byKey := make(map[string][]holding)
	var names []string
	for _, t := range h.tasks {
		name := h.uniqueKey(t)
		if name == "" {
			continue
		}
		if byKey[name] == nil {
			names = append(names, name)
		}
		if held, ok := h.held(t); ok {
			byKey[name] = append(byKey[name], held)
		}
	}
	var found []Violation
	for _, name := range names {
		all := byKey[name]
		slices.SortStableFunc(all, func(a, b holding) int { return cmp.Compare(a.from, b.from) })
		for i := 1; i < len(all); i++ {
			if a, b := all[i-1], all[i]; b.from < a.to {
				found = append(found, Violation{
					Task: b.t.id, Events: slices.Concat(a.t.events, b.t.events),
					Text: fmt.Sprintf("with unique key %q was there while task %s was unfinished, for %s at least", name, a.t.id, between(b.from, min(a.to, b.to))),
				})
			}
		}
	}
	return append(found, turnedAway(h)...)
}

// uniqueKey is the task's, as its request or its record tells.
func (h *index) uniqueKey(t *task) string {
	if t.accepted != nil {
		return t.accepted.Unique
	}
	for _, e := range t.events {
		if e.Kind == history.Observe && e.Unique != "" {
			return e.Unique
		}
		if sent := h.sent[e.Ref]; e.Kind == history.RunStart && sent != nil {
			return sent.Unique
		}
	}
	return ""
}

// held is from when on a task was there, as far as somebody saw it, to its end, by the
// clock of whoever wrote it, which is before the write. ok is false if nobody saw it
// unfinished. What a retry makes of it later does not count.
func (h *index) held(t *task) (held holding, ok bool) {
	held = holding{t: t, from: h.events[len(h.events)-1].At, to: h.events[len(h.events)-1].At}
	if t.accepted != nil {
		held.from = t.accepted.At
	}
	for _, v := range t.versions {
		held.from = min(held.from, v.at)
		if v.State.Terminal() {
			held.to = min(held.to, h.clock(v.FinishedAt))
			break
		}
	}
	return held, held.from < held.to
}

// clock is the time of the history at a wall time.
func (h *index) clock(wall time.Time) int64 {
	return h.events[0].At + int64(wall.Sub(h.events[0].Wall))
}

// turnedAway looks for requests that were answered with a holder of their unique key
// that was seen to be over before they were sent.
func turnedAway(h *index) []Violation {
	var found []Violation
	for i := range h.events {
		e := &h.events[i]
		away := e.Kind == history.EnqueueExisting || e.Kind == history.EnqueueRefused
		sent := h.sent[e.Ref]
		if !away || e.Unique == "" || e.Task.IsZero() || sent == nil {
			continue
		}
		t := h.byID[e.Task]
		if over := t.overAt(); over < sent.At && !t.retried {
			found = append(found, Violation{
				Task: t.id, Events: t.events,
				Text: fmt.Sprintf("was named to %s as holder of unique key %q, and was over %s before it was asked for", e.Ref, e.Unique, between(over, sent.At)),
			})
		}
	}
	return found
}

// overAt is when the task was first seen to be over; the end of all times if never.
func (t *task) overAt() int64 {
	over := int64(1<<63 - 1)
	for _, v := range t.versions {
		if v.State.Terminal() {
			over = min(over, v.at)
		}
	}
	return over
}

// idempotent: every answer under an idempotency key names the same task, and no other
// one runs for it.
func idempotent(h *index) []Violation {
	of := make(map[string]pelton.ID)
	var found []Violation
	for i := range h.events {
		e := &h.events[i]
		key := e.Idempotency
		switch e.Kind { //nolint:exhaustive // the others name no task of a request
		case history.EnqueueOK, history.EnqueueExisting:
		case history.RunStart:
			if sent := h.sent[e.Ref]; sent != nil {
				key = sent.Idempotency
			}
		default:
			continue
		}
		if key == "" {
			continue
		}
		if id, known := of[key]; known && id != e.Task {
			found = append(found, Violation{
				Task: e.Task, Events: slices.Concat(h.byID[id].events, h.byID[e.Task].events),
				Text: fmt.Sprintf("%s under idempotency key %q, which stands for task %s", e.Kind, key, id),
			})
			continue
		}
		of[key] = e.Task
	}
	return found
}

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

// unique: no two tasks hold one unique key at the same time, each as long as it asked
// for, and nobody is turned away in favour of a task that had given it back before.
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
					Text: fmt.Sprintf("with unique key %q was there while task %s held it, for %s at least", name, a.t.id, between(b.from, min(a.to, b.to))),
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

// held is from when on a task was there, as far as somebody saw it, to when it gave its
// key back, by the clock of whoever wrote that, which is before the write. A window
// counts from before the task was asked for. ok is false if nobody saw it hold its key.
// What a retry makes of it later does not count.
func (h *index) held(t *task) (held holding, ok bool) {
	end := h.events[len(h.events)-1].At
	held = holding{t: t, from: end, to: end}
	if t.accepted != nil {
		held.from = t.accepted.At
	}
	for _, v := range t.versions {
		held.from = min(held.from, v.at)
	}
	held.to = min(held.to, h.overSince(t))
	terms := h.terms(t)
	if terms.Until == pelton.UntilStarted {
		held.to = min(held.to, h.startedSince(t))
	}
	if sent, known := h.askedAt(t); known && terms.Window > 0 && t.replaced() == nil {
		held.to = max(held.to, min(end, sent+int64(terms.Window)))
	}
	return held, held.from < held.to
}

// terms are what the task asked for with its unique key.
func (h *index) terms(t *task) pelton.Unique {
	if t.accepted != nil && t.accepted.Terms != nil {
		return *t.accepted.Terms
	}
	for _, e := range t.events {
		if e.Kind == history.Observe && e.Terms != nil {
			return *e.Terms
		}
	}
	return pelton.Unique{}
}

// askedAt is when the task was first asked for.
func (h *index) askedAt(t *task) (at int64, known bool) {
	for _, e := range t.events {
		if sent := h.sent[e.Ref]; sent != nil && (e.Kind == history.EnqueueOK || e.Kind == history.RunStart) {
			return sent.At, true
		}
	}
	return 0, false
}

// never is the end of all times.
const never = int64(1<<63 - 1)

// overSince is when the task was over, by the clock of whoever wrote so.
func (h *index) overSince(t *task) int64 {
	for _, v := range t.versions {
		if v.State.Terminal() {
			return h.clock(v.FinishedAt)
		}
	}
	return never
}

// startedSince is when a worker first started the task, by that worker's clock.
func (h *index) startedSince(t *task) int64 {
	since := never
	for _, v := range t.versions {
		if !v.StartedAt.IsZero() {
			since = min(since, h.clock(v.StartedAt))
		}
	}
	for _, r := range t.runs {
		since = min(since, r.At)
	}
	return since
}

// replaced is the version of the record that says so, or nil.
func (t *task) replaced() *version {
	i := slices.IndexFunc(t.versions, func(v version) bool { return v.Replaced && v.State.Terminal() })
	if i < 0 {
		return nil
	}
	return &t.versions[i]
}

// replaced: nobody replaces a task that a worker had started, or without asking for it,
// and who asks to replace one that waits is not refused.
func replaced(h *index) []Violation {
	var found []Violation
	for _, t := range h.tasks {
		v := t.replaced()
		if v == nil {
			continue
		}
		key := h.uniqueKey(t)
		asked := slices.ContainsFunc(h.events, func(e history.Event) bool {
			return e.Kind == history.EnqueueSent && e.Unique == key && e.Terms != nil && e.Terms.OnConflict == pelton.ConflictReplace && e.At < v.at
		})
		switch {
		case len(t.runs) > 0 || h.startedSince(t) < never:
			found = append(found, Violation{Task: t.id, Events: t.events, Text: "was replaced, and a worker has started it"})
		case !asked:
			found = append(found, Violation{Task: t.id, Events: t.events, Text: fmt.Sprintf("was replaced, and nobody had asked for that with unique key %q", key)})
		}
	}
	for i := range h.events {
		e := &h.events[i]
		sent := h.sent[e.Ref]
		if e.Kind != history.EnqueueRefused || e.Task.IsZero() || sent == nil || e.Terms == nil || e.Terms.OnConflict != pelton.ConflictReplace {
			continue
		}
		t := h.byID[e.Task]
		held, ok := h.held(t)
		if ok && held.from < sent.At && h.startedSince(t) > e.At && h.overSince(t) > e.At {
			found = append(found, Violation{Task: t.id, Events: t.events, Text: fmt.Sprintf(
				"was not replaced for %s, which asked for it, and waited for %s from then on", e.Ref, between(sent.At, min(h.startedSince(t), h.overSince(t), h.events[len(h.events)-1].At)))})
		}
	}
	return found
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
		if free := h.freeSince(t); free < sent.At && !t.retried {
			found = append(found, Violation{
				Task: t.id, Events: t.events,
				Text: fmt.Sprintf("was named to %s as holder of unique key %q, and had given it back %s before it was asked for", e.Ref, e.Unique, between(free, sent.At)),
			})
		}
	}
	return found
}

// freeSince is when the task was first seen not to hold its unique key any more: it was
// over, or started if that is what it holds it for, and its window, which begins before
// its acceptance is answered, had ended.
func (h *index) freeSince(t *task) int64 {
	terms := h.terms(t)
	free := never
	for _, v := range t.versions {
		if v.State.Terminal() || terms.Until == pelton.UntilStarted && !v.StartedAt.IsZero() {
			free = min(free, v.at)
		}
	}
	if terms.Until == pelton.UntilStarted && len(t.runs) > 0 {
		free = min(free, t.runs[0].At)
	}
	switch {
	case terms.Window == 0 || t.replaced() != nil:
		return free
	case t.accepted == nil || free == never:
		return never
	default:
		return max(free, t.accepted.At+int64(terms.Window))
	}
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

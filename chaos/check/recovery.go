package check

import (
	"fmt"
	"slices"
	"time"

	"github.com/peltonq/pelton/chaos/history"
)

// recovery: once everything is healed, every accepted task that is not over gives
// a sign of life within the lease and Recovery, or when it is due if that is
// later. It may take longer only while all slots are taken, or while workers start
// one task after the other, as they do with a backlog.
func recovery(h *index) []Violation {
	if h.healed == nil {
		return nil
	}
	starts := h.startsAfter(h.healed.At)
	var found []Violation
	for _, t := range h.tasks {
		if t.accepted == nil || t.accepted.At > h.healed.At || h.overBefore(t) || t.runsAt(h.healed.At) {
			continue
		}
		sign := t.signAfter(h.healed.At, h.events[len(h.events)-1].At)
		due := h.due(t, sign)
		if sign <= due {
			continue
		}
		if from, to, idle := h.idle(starts, due, sign); idle {
			found = append(found, Violation{Task: t.id, Events: t.events, Text: fmt.Sprintf(
				"no sign for %s after healing; slots were free and nothing was started from %s to %s after it",
				between(h.healed.At, sign), between(h.healed.At, from), between(h.healed.At, to))})
		}
	}
	return found
}

// runsAt reports whether a handler ran the task at that time, and went on to its end:
// nothing had to be recovered.
func (t *task) runsAt(at int64) bool {
	return slices.ContainsFunc(t.runs, func(r *run) bool { return r.At <= at && r.end != nil && r.end.At > at })
}

// overBefore reports whether the task had ended when all was healed, whatever a
// retry made of it since. Who wrote that may have read it later.
func (h *index) overBefore(t *task) bool {
	return slices.ContainsFunc(t.versions, func(v version) bool {
		return v.State.Terminal() && v.FinishedAt.Before(h.healed.Wall)
	})
}

// due is when the task has to have given a sign, by what was known before it gave
// one.
func (h *index) due(t *task, sign int64) int64 {
	due := h.healed.At + int64(h.cfg.tail())
	for _, v := range t.versions {
		if v.State.Terminal() || v.RunAt.IsZero() || v.at >= sign {
			continue
		}
		at := h.healed.At + int64(v.RunAt.Sub(h.healed.Wall)) + int64(h.cfg.Idle)
		due = max(due, at)
	}
	return due
}

// signAfter is when the task first started, ended a run or was seen to be over
// after that time; the end of the history if it never did.
func (t *task) signAfter(after, end int64) int64 {
	for _, e := range t.events {
		if e.At < after {
			continue
		}
		if e.Kind == history.RunStart || e.Kind == history.RunEnd || e.Record != nil && e.Record.State.Terminal() {
			return e.At
		}
	}
	return end
}

func (h *index) startsAfter(after int64) []int64 {
	var starts []int64
	for i := range h.events {
		if e := &h.events[i]; e.Kind == history.RunStart && e.At >= after {
			starts = append(starts, e.At)
		}
	}
	return starts
}

// idle looks for a while, longer than Idle, between two times in which nothing was
// started although a slot was free.
func (h *index) idle(starts []int64, from, to int64) (begin, end int64, found bool) {
	first, _ := slices.BinarySearch(starts, from)
	begin = from
	for i := first; ; i++ {
		end = to
		if i < len(starts) {
			end = min(starts[i], to)
		}
		if time.Duration(end-begin) > h.cfg.Idle && h.freeSlot(begin, end) {
			return begin, end, true
		}
		if end == to {
			return 0, 0, false
		}
		begin = end
	}
}

// freeSlot reports whether fewer handlers than slots ran throughout a while in
// which none was started, but for its first Idle: whoever ended in it freed its
// slot.
func (h *index) freeSlot(begin, end int64) bool {
	if h.cfg.Slots == 0 {
		return true
	}
	running := 0
	for _, t := range h.tasks {
		for _, r := range t.runs {
			if r.At <= begin && h.heldUntil(r) > end-int64(h.cfg.Idle) {
				running++
			}
		}
	}
	return running < h.cfg.Slots
}

// heldUntil is when a run gave its slot back: at its end, or at the death of its
// worker, which is the first fault on that worker alone after which nothing of it
// was ever heard.
func (h *index) heldUntil(r *run) int64 {
	if r.end != nil {
		return r.end.At
	}
	held := h.events[len(h.events)-1].At + 1
	for _, f := range h.faults {
		if f.target == r.Actor && f.begin >= r.At {
			held = min(held, f.begin)
		}
	}
	return held
}

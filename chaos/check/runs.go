package check

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/chaos/history"
)

func between(from, to int64) time.Duration {
	return time.Duration(to - from).Round(time.Millisecond)
}

// ofHandler reports whether a reason is one that only a handler's run can give.
func ofHandler(reason pelton.Reason) bool {
	switch reason {
	case pelton.ReasonError, pelton.ReasonPanic, pelton.ReasonTimeout, pelton.ReasonGoexit, pelton.ReasonResult, pelton.ReasonPayload, pelton.ReasonDiscarded:
		return true
	case pelton.ReasonPoison, pelton.ReasonUnknownKind, pelton.ReasonExpired:
		return false
	default:
		return false
	}
}

// ran: what succeeded ran, and so did what failed by its handler; every failure
// says why.
func ran(_ *index, t *task) string {
	last := t.last()
	switch {
	case last == nil:
		return ""
	case last.State == pelton.Failed && last.Reason == "":
		return "failed without a reason"
	case len(t.runs) > 0:
		return ""
	case last.State == pelton.Succeeded, last.State == pelton.Failed && ofHandler(last.Reason):
		return fmt.Sprintf("%s (%s) without a run", last.State, last.Reason)
	}
	return ""
}

// attempts: an attempt is a run that its handler ended. A crash, a shutdown and a
// lost lease burn none: each attempt that was counted before the last has a run of
// its number that ended, and the last one too if a handler made it final.
func attempts(_ *index, t *task) string {
	last := t.last()
	if last == nil {
		return ""
	}
	counted := last.Attempt - 1
	if last.State == pelton.Succeeded || last.State == pelton.Failed && ofHandler(last.Reason) {
		counted = last.Attempt
	}
	for n := 1; n <= counted; n++ {
		if !slices.ContainsFunc(t.runs, func(r *run) bool { return r.Attempt == n && r.attemptEnded() }) {
			return fmt.Sprintf("counts %d attempts, but no handler ended attempt %d", last.Attempt, n)
		}
	}
	return ""
}

// bare reports whether there was no record of the run when its handler began.
func (r *run) bare() bool { return r.Fence == 0 }

// of reports whether a record is of that run.
func (r *run) of(v version) bool {
	return !r.StartedAt.IsZero() && r.Worker == v.Worker && r.StartedAt.Equal(v.StartedAt)
}

// traceless reports whether it is known that nothing was ever written of a run: what it would
// have written first is of something else.
func (t *task) traceless(r *run) bool {
	return r.bare() && slices.ContainsFunc(t.versions, func(v version) bool { return t.ofFirstRun(v) && !r.of(v) })
}

// promoted: a run that goes on for longer than Promotion is in the record, unless the
// record said otherwise by then, or a fault kept its worker from writing.
func promoted(h *index, t *task) string {
	for _, r := range t.runs {
		due := r.At + int64(h.cfg.Promotion)
		if !r.bare() || h.heldUntil(r) <= due || r.over(due) || h.fault(r.Actor, r.At, due, h.cfg.tail()) {
			continue
		}
		i := slices.IndexFunc(t.versions, r.of)
		if i < 0 {
			return fmt.Sprintf("runs on %s for longer than %s, and no record ever said so", r.Actor, h.cfg.Promotion)
		}
		// Where the running record was not seen, what replaced it tells that it was there.
		if v := t.versions[i]; v.State == pelton.Running && v.at > due || v.State != pelton.Running && t.ofFirstRun(v) {
			return fmt.Sprintf("runs on %s for longer than %s, and its record does not say so", r.Actor, h.cfg.Promotion)
		}
	}
	return ""
}

// crashes: a record counts a crash only for a start that a fault on its worker, or
// on the broker, may have ended before the next start was written. A worker that dies before
// anything was written of a run leaves nothing that could be counted: that happens to a task's
// first start alone. So a task that kills its workers does so no more often than MaxCrashes,
// and that one time.
func crashes(h *index, t *task) string {
	if most := h.cfg.MaxCrashes + t.bareStarts(); t.killed > most && !t.retried {
		return fmt.Sprintf("has ended %d processes, the most is %d", t.killed, most)
	}
	last := t.last()
	if last == nil || last.Crashes == 0 {
		return ""
	}
	n := 0
	starts := t.starts()
	for i, s := range starts {
		until := last.at
		if i+1 < len(starts) {
			until = starts[i+1].at
		}
		if s.run == nil || !t.traceless(s.run) && h.fault(s.run.Actor, s.at, until, 0) {
			n++
		}
	}
	if n < last.Crashes {
		return fmt.Sprintf("counts %d crashes, a fault hit %d of its starts", last.Crashes, n)
	}
	return ""
}

// bareStarts is 1 for a task that may be started once without a record.
func (t *task) bareStarts() int {
	if t.located() || t.keyed() {
		return 1
	}
	return 0
}

// start is a start of a task as it was written: the running record, and the run
// that it led to. The run is nil if its worker died before the handler could tell. The start of
// a run that began without a record has token 0: it is the first.
type start struct {
	fence uint64
	at    int64 // of the write, as far as anybody saw it
	run   *run
}

// starts are the task's starts in the order in which they were written. A worker
// that is stopped between its write and its handler tells of the run long after.
func (t *task) starts() []start {
	var found []start
	for _, r := range t.runs {
		found = append(found, start{r.Fence, r.At, r})
	}
	var started time.Time
	for _, v := range t.versions {
		if !v.Stored || v.State != pelton.Running || v.StartedAt.Equal(started) {
			continue
		}
		started = v.StartedAt
		i := slices.IndexFunc(found, func(s start) bool { return s.fence == v.Revision || s.run != nil && s.run.bare() && s.run.of(v) })
		if i < 0 {
			found = append(found, start{v.Revision, v.at, nil})
		} else {
			found[i].at = min(found[i].at, v.at)
		}
	}
	slices.SortFunc(found, func(a, b start) int { return cmp.Compare(a.fence, b.fence) })
	return found
}

// results: the result is that of the last start, and its handler returned it.
func results(_ *index, t *task) string {
	last := t.last()
	if last == nil || last.State != pelton.Succeeded || len(t.runs) == 0 {
		return ""
	}
	latest := slices.MaxFunc(t.runs, func(a, b *run) int { return cmp.Compare(a.Fence, b.Fence) })
	switch {
	case last.ResultRun != latest.Run || last.ResultFence != latest.Fence:
		return fmt.Sprintf("has the result of run %s with token %d, the last start is %s with token %d", last.ResultRun, last.ResultFence, latest.Run, latest.Fence)
	case latest.end == nil || latest.end.Outcome != history.OK:
		return fmt.Sprintf("succeeded, but its last start %d did not end well", latest.Fence)
	case last.Worker != latest.Worker || last.Attempt != latest.Attempt:
		return fmt.Sprintf("names attempt %d of %s, the last start is attempt %d of %s", last.Attempt, last.Worker, latest.Attempt, latest.Worker)
	}
	return ""
}

// fences: every start has a token of its own, higher than that of each start
// before it. The one start that may have begun without a record is the first, and has 0: a
// second one would be that of a task that somebody had started before. Only a worker that
// was halted between its write and its handler may tell of its start late.
func fences(h *index, t *task) string {
	for j, later := range t.runs {
		for _, before := range t.runs[:j] {
			switch {
			case later.Fence == 0 && before.Fence == 0:
				return fmt.Sprintf("started on %s without a record, after %s had started it so", later.Actor, before.Actor)
			case later.Fence == before.Fence:
				return fmt.Sprintf("two starts with token %d", later.Fence)
			case later.Fence < before.Fence && !h.fault(later.Actor, before.At, later.At, h.cfg.tail()):
				return fmt.Sprintf("%s started with token %d after %s with %d", later.Actor, later.Fence, before.Actor, before.Fence)
			}
		}
	}
	return ""
}

// duplicate reports whether run i repeats the attempt of an earlier one, or began
// beside one. A handler that outlived its timeout, and one that was asked to give
// its task back, are no duplicates of what comes after them.
func (t *task) duplicate(i int) bool { return t.doubles(i) != nil }

// doubles is the earlier run that run i repeats.
func (t *task) doubles(i int) *run {
	later := t.runs[i]
	for _, before := range slices.Backward(t.runs[:i]) {
		if before.ctxEnd != nil && before.ctxEnd.Outcome == history.Timeout || t.life(before.Fence) != t.life(later.Fence) {
			continue
		}
		beside := before.end == nil || before.end.At > later.At
		if beside || before.Attempt == later.Attempt && !givenBack(before) {
			return before
		}
	}
	return nil
}

// givenBack reports whether the handler said, or was told, to run again later.
func givenBack(r *run) bool {
	return r.end.Outcome == history.Snoozed || r.end.Outcome == history.Shutdown
}

// duplicated: a task runs twice only where a fault on the worker that lost it, or
// on the broker, overlaps.
func duplicated(h *index, t *task) string {
	for i, later := range t.runs {
		before := t.doubles(i)
		if before == nil {
			continue
		}
		lost := before.Actor
		if later.Fence < before.Fence { // the one that was halted before its handler began
			lost = later.Actor
		}
		if !h.fault(lost, before.At, later.At, h.cfg.tail()) {
			return fmt.Sprintf("attempt %d on %s, then attempt %d on %s %s later, and no fault", before.Attempt, before.Actor, later.Attempt, later.Actor, between(before.At, later.At))
		}
	}
	return ""
}

// overlapping: two handlers run a task at the same time only if the worker of the
// first could not know that it had lost the task: it was stopped or dead, or the
// broker had lost its memory. One that was merely cut off ends its handler before the
// lease is over.
func overlapping(h *index, t *task) string {
	for i, later := range t.runs {
		for _, before := range t.runs[:i] {
			if before.over(later.At) {
				continue
			}
			lost := before
			if later.Fence < before.Fence {
				lost = later
			}
			if !h.unaware(lost.Actor, before.At, later.At) {
				return fmt.Sprintf("runs on %s with token %d, and from %s later on %s with token %d too", before.Actor, before.Fence, between(before.At, later.At), later.Actor, later.Fence)
			}
		}
	}
	return ""
}

// early: a task that waits for its time is not started before it.
func early(_ *index, t *task) string {
	for i := 1; i < len(t.versions); i++ {
		v, next := t.versions[i-1], t.versions[i]
		waited := v.Stored && (v.State == pelton.Scheduled || v.State == pelton.Retrying)
		if !waited || !next.Stored || next.Previous != v.Revision || next.State != pelton.Running {
			continue
		}
		if next.StartedAt.Before(v.RunAt.Truncate(time.Microsecond)) { // as records keep it
			return fmt.Sprintf("started %s before its time at revision %d", v.RunAt.Sub(next.StartedAt).Round(time.Millisecond), next.Revision)
		}
	}
	return ""
}

package check

import (
	"fmt"
	"slices"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/chaos/history"
)

// lost: after healing and draining, every accepted task has a terminal state.
func lost(_ *index, t *task) string {
	if t.accepted == nil {
		return ""
	}
	switch last := t.last(); {
	case last == nil:
		return "accepted, and its record was never read"
	case !last.State.Terminal():
		return fmt.Sprintf("accepted, and still %s at the end", last.State)
	}
	return ""
}

// missing: no 404 between the 202 and the end of retention, which begins at the
// end of the task, so that it cannot be over a retention after the 202.
func missing(_ *index, t *task) string {
	if t.accepted == nil {
		return ""
	}
	for _, e := range t.events {
		if e.Kind == history.Missing && e.Began > t.accepted.At && e.At-t.accepted.At < int64(t.accepted.Retention) {
			return fmt.Sprintf("404 to %s, %s after the 202", e.Actor, between(t.accepted.At, e.At))
		}
	}
	return ""
}

// final: a record does not change any more once it is terminal, but by a retry that
// somebody asked for, which makes it queued.
func final(_ *index, t *task) string {
	for i, v := range t.versions {
		if v.State.Terminal() && i+1 < len(t.versions) {
			next := t.versions[i+1]
			if t.requeuedBetween(v, next) {
				continue
			}
			return fmt.Sprintf("%s at revision %d, then %s at revision %d", v.State, v.Revision, next.State, next.Revision)
		}
	}
	return ""
}

// requeuedBetween reports whether a retry that somebody asked for explains what
// follows a terminal record: queued, or what can come of that where the queued
// record was not seen.
func (t *task) requeuedBetween(v, next version) bool {
	if !t.retried || !v.State.Terminal() {
		return false
	}
	return next.State == pelton.Queued || next.Previous != v.Revision && reachable(pelton.Queued, next.State)
}

// moves: a record goes from state to state only as State.CanBecome says; where
// writes between two reads were not seen, by some path of such moves. Crashes
// never become fewer, nor attempts by more than the one that was given back.
//
// A located task is queued before it has a record, at revision 0, so that its first record
// says what can come of that: by one move, or by the two of a run that was not
// written down. The same holds for what follows the first record of a task with a key.
func moves(_ *index, t *task) string {
	for _, e := range t.reads {
		if e.Record.Revision == 0 && (!t.located() || e.Record.State != pelton.Queued) {
			return fmt.Sprintf("reads %s without a record", e.Record.State)
		}
	}
	attempt, crashes := 0, 0
	for i, next := range t.versions {
		if i > 0 && t.retried && t.versions[i-1].State.Terminal() { // it begins anew
			attempt, crashes = 0, 0
		}
		if next.Attempt < attempt-1 || next.Crashes < crashes {
			return fmt.Sprintf("revision %d counts %d attempts and %d crashes after %d and %d", next.Revision, next.Attempt, next.Crashes, attempt, crashes)
		}
		attempt, crashes = max(attempt, next.Attempt), next.Crashes
		if i == 0 {
			if next.Stored && next.Previous == 0 && !t.beginsAs(next.State) {
				return fmt.Sprintf("begins as %s", next.State)
			}
			continue
		}
		v := t.versions[i-1]
		if t.requeuedBetween(v, next) {
			continue
		}
		if next.Stored && next.Previous == 0 && v.Revision == 0 {
			if !t.beginsAs(next.State) {
				return fmt.Sprintf("begins as %s", next.State)
			}
		} else if next.Stored && next.Previous == v.Revision {
			from := v.storedStates()
			if t.startsBare(v) {
				from = append(from, pelton.Running)
			}
			if !slices.ContainsFunc(from, func(s pelton.State) bool { return s.CanBecome(next.State) }) {
				return fmt.Sprintf("%s at revision %d became %s at revision %d", v.State, v.Revision, next.State, next.Revision)
			}
		} else if next.Stored && next.Previous < v.Revision {
			return fmt.Sprintf("revision %d replaced %d, although %d was there", next.Revision, next.Previous, v.Revision)
		} else if !reachable(v.State, next.State) {
			return fmt.Sprintf("%s at revision %d cannot have become %s at revision %d", v.State, v.Revision, next.State, next.Revision)
		}
	}
	return ""
}

// located reports whether the task had no record at first.
func (t *task) located() bool { return t.id.Sequence() > 0 }

// keyed reports whether the task has a concurrency key, as far as its runs tell.
func (t *task) keyed() bool {
	return slices.ContainsFunc(t.runs, func(r *run) bool { return r.Key != "" })
}

// startsBare reports whether a run may begin without a record over that version: of a task
// with a key, which was in the line and then in a relay.
func (t *task) startsBare(v version) bool {
	return t.keyed() && v.State == pelton.Queued && v.Attempt == 0 && v.StartedAt.IsZero()
}

// ofFirstRun reports whether a stored version is what a run without a record may have written first.
func (t *task) ofFirstRun(v version) bool {
	if !v.Stored {
		return false
	}
	if v.Previous == 0 {
		return t.located()
	}
	return slices.ContainsFunc(t.versions, func(before version) bool { return before.Revision == v.Previous && t.startsBare(before) })
}

// beginsAs reports whether the task's first record may have that state.
func (t *task) beginsAs(s pelton.State) bool {
	if t.located() {
		return pelton.Queued.CanBecome(s) || pelton.Running.CanBecome(s)
	}
	return s == pelton.Queued || s == pelton.Scheduled
}

// storedStates is what the stored record may be: the API shows queued for what
// waits for a time that has come.
func (v version) storedStates() []pelton.State {
	if v.Stored || v.State != pelton.Queued {
		return []pelton.State{v.State}
	}
	return []pelton.State{pelton.Queued, pelton.Scheduled, pelton.Retrying}
}

// reachable reports whether some path of moves leads from one state to another
// without an explicit requeue, which the suite never makes.
func reachable(from, to pelton.State) bool {
	seen := []pelton.State{from}
	for i := 0; i < len(seen); i++ {
		if seen[i].Terminal() {
			continue
		}
		for _, next := range pelton.States() {
			if !seen[i].CanBecome(next) {
				continue
			}
			if next == to {
				return true
			}
			if !slices.Contains(seen, next) {
				seen = append(seen, next)
			}
		}
	}
	return false
}

// hotReads is from how many reads on a server may keep a record and follow its changes.
const hotReads = 16

// stale: a read that begins after another one ended does not show an older record. Only what
// the broker told somebody else may be newer, by Followed, than what a server shows of a task that
// many read.
func stale(h *index, t *task) string {
	var began []int64
	for _, e := range t.reads {
		if !e.Record.Stored && e.Began != 0 { // else told by the broker when it came to that
			began = append(began, e.Began)
		}
	}
	slices.Sort(began)
	for _, e := range t.reads {
		if e.Record.Stored || e.Began == 0 {
			continue
		}
		asked, _ := slices.BinarySearch(began, e.At) // by then, answered or not
		for _, before := range t.reads {
			if before.At >= e.Began {
				break // reads are in the order of their ends
			}
			if before.Record.Stored && asked >= hotReads && e.Began-before.At < int64(h.cfg.Followed) {
				continue
			}
			if e.Record.Revision < before.Record.Revision {
				return fmt.Sprintf("%s read revision %d, after %s had read %d", e.Actor, e.Record.Revision, before.Actor, before.Record.Revision)
			}
		}
	}
	return ""
}

// owners: what a handler's end writes follows the running record of the same
// start, or is the first record of a task, or the first after that in which a task with a key was
// in line, and then of the start that had none. A
// worker that lost its lease writes nothing.
func owners(_ *index, t *task) string {
	for _, v := range t.versions {
		ended := v.State == pelton.Succeeded || v.State == pelton.Retrying || v.State == pelton.Failed && ofHandler(v.Reason)
		if !ended || !v.Stored || v.Previous != 0 {
			continue
		}
		if !slices.ContainsFunc(t.runs, func(r *run) bool { return r.bare() && r.of(v) }) {
			return fmt.Sprintf("its first record says %s by %s, of no start that had none", v.State, v.Worker)
		}
	}
	for i := 1; i < len(t.versions); i++ {
		v, next := t.versions[i-1], t.versions[i]
		byHandler := next.State == pelton.Succeeded || next.State == pelton.Retrying
		if !byHandler || !next.Stored || !v.Stored || next.Previous != v.Revision {
			continue
		}
		if v.waits() && t.hurriedBefore(next.at) {
			continue // whoever brought its time forward wrote it
		}
		if t.startsBare(v) && slices.ContainsFunc(t.runs, func(r *run) bool { return r.bare() && r.of(next) }) {
			continue
		}
		if v.State != pelton.Running || v.Worker != next.Worker || !v.StartedAt.Equal(next.StartedAt) {
			return fmt.Sprintf("%s by %s at revision %d over %s by %s at revision %d", next.State, next.Worker, next.Revision, v.State, v.Worker, v.Revision)
		}
	}
	return ""
}

package check

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/chaos/history"
)

// keyed is one concurrency key: its runs, and what came of counting them.
type keyed struct {
	key     string
	limit   int
	tasks   []*task
	most    int // at a time, without zombies
	zombies int // runs that others of the key ran beside, although they were lost
	over    *ranTogether
}

// ranTogether is a run that was one too many, and those beside it.
type ranTogether struct {
	later  *run
	beside []*run
}

// keys counts the runs of each concurrency key, in the order of the keys' first
// tasks.
func (h *index) keys() []*keyed {
	byKey := make(map[string]*keyed)
	var found []*keyed
	for _, t := range h.tasks {
		name := t.key()
		if name == "" {
			continue
		}
		k := byKey[name]
		if k == nil {
			k = &keyed{key: name, limit: max(h.cfg.Limits[name], 1)}
			byKey[name] = k
			found = append(found, k)
		}
		k.tasks = append(k.tasks, t)
	}
	for _, k := range found {
		h.countRuns(k)
	}
	return found
}

// key is the task's concurrency key, as its acceptance or a start of it tells.
func (t *task) key() string {
	if t.accepted != nil {
		return t.accepted.Key
	}
	if len(t.runs) > 0 {
		return t.runs[0].Key
	}
	return ""
}

// countRuns counts how many of a key's runs went on at each start of one.
func (h *index) countRuns(k *keyed) {
	var runs []*run
	for _, t := range k.tasks {
		runs = append(runs, t.runs...)
	}
	slices.SortStableFunc(runs, func(a, b *run) int { return cmp.Compare(a.At, b.At) })
	zombies := make(map[*run]bool)
	var active []*run
	for _, later := range runs {
		active = slices.DeleteFunc(active, func(r *run) bool { return h.leftBy(r) <= later.At })
		var beside []*run
		for _, r := range active {
			if h.zombie(r, later.At) {
				zombies[r] = true
			} else {
				beside = append(beside, r)
			}
		}
		active = append(active, later)
		if h.zombie(later, later.At) { // its worker stood still before its handler began
			zombies[later] = true
			continue
		}
		k.most = max(k.most, len(beside)+1)
		if len(beside) >= k.limit && k.over == nil {
			k.over = &ranTogether{later, beside}
		}
	}
	k.zombies = len(zombies)
}

// leftBy is when a run cannot go on any more, or its handler was told to stop: a
// handler that outlives its timeout, or its lease, runs beside the next one.
func (h *index) leftBy(r *run) int64 {
	left := h.heldUntil(r)
	if r.ctxEnd != nil && (r.ctxEnd.Outcome == history.Timeout || r.ctxEnd.Outcome == history.Fenced) {
		left = min(left, r.ctxEnd.At)
	}
	return left
}

// zombie reports whether the worker of a run had lost it at that time, or was about to,
// and could not know: a fault that the network alone has is no excuse.
func (h *index) zombie(r *run, at int64) bool {
	return h.wasLost(r) && h.unaware(r.Actor, r.At, at)
}

// wasLost reports whether a run was not the one that ended its task's attempt: its
// worker died, was told, or another start came after it, or the task ended as poison.
func (h *index) wasLost(r *run) bool {
	if r.end == nil || r.end.Outcome == history.Fenced || r.ctxEnd != nil && r.ctxEnd.Outcome == history.Fenced {
		return true
	}
	t := h.byID[r.Task]
	if last := t.last(); last != nil && last.Reason == pelton.ReasonPoison {
		return true
	}
	return slices.ContainsFunc(t.starts(), func(s start) bool { return s.fence > r.Fence && s.at < r.end.At })
}

// keyLimits: no more tasks of a concurrency key run at a time than its limit. Only
// runs whose workers had lost them and could not know do not count.
func keyLimits(h *index) []Violation {
	var found []Violation
	for _, k := range h.keys() {
		if k.over == nil {
			continue
		}
		later := k.over.later
		text := fmt.Sprintf("of key %q, whose limit is %d, runs on %s", k.key, k.limit, later.Actor)
		events := slices.Clone(h.byID[later.Task].events)
		for _, r := range k.over.beside {
			text += fmt.Sprintf(" beside task %s on %s (%s after its start)", r.Task, r.Actor, between(r.At, later.At))
			if r.Task != later.Task {
				events = append(events, h.byID[r.Task].events...)
			}
		}
		found = append(found, Violation{Task: later.Task, Text: text, Events: events})
	}
	return found
}

// keyOrder: tasks of a key with limit 1 start for the first time in the order of
// their acceptance: of two, of which one was accepted before the other was sent. The
// tokens of starts tell their order in a shard, whoever saw them when; of two shards, the times tell,
// which do no wrong: the first is seen to start before it ends, and the second not before that.
func keyOrder(h *index) []Violation {
	var found []Violation
	for _, k := range h.keys() {
		if k.limit > 1 {
			continue
		}
		if first, second := h.disorder(k.tasks); first != nil {
			found = append(found, Violation{
				Task: second.id, Events: slices.Concat(first.events, second.events),
				Text: fmt.Sprintf("of key %q started before task %s, which was accepted %s before it was sent", k.key, first.id, between(first.accepted.At, h.sentAt(second))),
			})
		}
	}
	return found
}

// disorder finds two tasks of which the second started first.
func (h *index) disorder(tasks []*task) (first, second *task) {
	bySent := slices.DeleteFunc(slices.Clone(tasks), func(t *task) bool {
		return t.accepted == nil || t.firstToken() == math.MaxUint64 || t.waitedForItsTime()
	})
	byAnswer := slices.Clone(bySent)
	slices.SortStableFunc(bySent, func(a, b *task) int { return cmp.Compare(h.sentAt(a), h.sentAt(b)) })
	slices.SortStableFunc(byAnswer, func(a, b *task) int { return cmp.Compare(a.accepted.At, b.accepted.At) })
	latest := make(map[uint8]*task) // by shard, of those that were accepted before
	for _, t := range bySent {
		for len(byAnswer) > 0 && byAnswer[0].accepted.At <= h.sentAt(t) {
			shard := byAnswer[0].id.Shard()
			if latest[shard] == nil || byAnswer[0].firstToken() > latest[shard].firstToken() {
				latest[shard] = byAnswer[0]
			}
			byAnswer = byAnswer[1:]
		}
		for shard, before := range latest {
			if shard == t.id.Shard() && before.firstToken() > t.firstToken() || shard != t.id.Shard() && before.firstStart() > t.firstStart() {
				return before, t
			}
		}
	}
	return nil, nil
}

// firstStart is when the task was first seen to have started.
func (t *task) firstStart() int64 {
	first := int64(math.MaxInt64)
	for _, s := range t.starts() {
		first = min(first, s.at)
	}
	return first
}

// sentAt is when the task was asked for, the first time if that was repeated.
func (h *index) sentAt(t *task) int64 {
	if sent := h.sent[t.accepted.Ref]; sent != nil {
		return sent.At
	}
	return t.accepted.Began
}

// firstToken is that of the task's first start; the highest number if it never did. The start of
// a run without a record stands where the first that was written of it does: until then
// nobody else of the line starts.
func (t *task) firstToken() uint64 {
	first := uint64(math.MaxUint64)
	for _, s := range t.starts() {
		if s.run == nil || !s.run.bare() {
			first = min(first, s.fence)
			continue
		}
		for _, v := range t.versions {
			if s.run.of(v) {
				first = min(first, v.Revision)
			}
		}
	}
	return first
}

// waitedForItsTime reports whether the task was delayed: it takes its place when its time
// comes.
func (t *task) waitedForItsTime() bool {
	return len(t.versions) > 0 && t.versions[0].State == pelton.Scheduled
}

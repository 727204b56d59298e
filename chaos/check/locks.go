package check

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/peltonq/pelton/chaos/history"
)

// grant is one acquisition of a lock.
type grant struct {
	taken *history.Event
	run   *run
	until int64 // given back, lost and told so, or dead
}

// locks: no more handlers hold a lock at a time than it has slots, unless the process
// of one stood still and could not know that it had lost it; and tokens grow.
func locks(h *index) []Violation {
	byName := make(map[string][]*grant)
	var names []string
	for _, t := range h.tasks {
		for _, r := range t.runs {
			for _, g := range h.grants(r) {
				if byName[g.taken.Lock] == nil {
					names = append(names, g.taken.Lock)
				}
				byName[g.taken.Lock] = append(byName[g.taken.Lock], g)
			}
		}
	}
	slices.Sort(names)
	var found []Violation
	for _, name := range names {
		grants := byName[name]
		slices.SortStableFunc(grants, func(a, b *grant) int { return cmp.Compare(a.taken.At, b.taken.At) })
		for _, look := range []func([]*grant) (*grant, []*grant, string){h.crowd, h.tokens} {
			if g, others, text := look(grants); g != nil {
				v := Violation{Task: g.run.Task, Text: fmt.Sprintf("lock %q: %s", name, text), Events: slices.Clone(h.byID[g.run.Task].events)}
				for _, o := range others {
					v.Events = append(v.Events, h.byID[o.run.Task].events...)
				}
				found = append(found, v)
			}
		}
	}
	return found
}

// grants are the acquisitions of a run.
func (h *index) grants(r *run) []*grant {
	var found []*grant
	for _, e := range r.locks {
		if e.Kind == history.LockTaken {
			found = append(found, &grant{taken: e, run: r, until: h.leftBy(r)})
			continue
		}
		for _, g := range found {
			if g.taken.Token == e.Token && g.taken.Lock == e.Lock {
				g.until = min(g.until, e.At)
			}
		}
	}
	return found
}

// crowd finds a grant that was one too many.
func (h *index) crowd(grants []*grant) (one *grant, others []*grant, text string) {
	var active []*grant
	for _, g := range grants {
		if g.until <= g.taken.At {
			continue // it was told that it had lost it before it could say that it had it
		}
		active = slices.DeleteFunc(active, func(a *grant) bool { return a.until <= g.taken.At })
		others = slices.DeleteFunc(slices.Clone(active), func(a *grant) bool { return h.stoodStill(a.run.Actor, a.taken.At, g.taken.At) })
		active = append(active, g)
		if len(others) >= max(g.taken.Slots, 1) && !h.stoodStill(g.run.Actor, others[0].taken.At, g.taken.At) {
			return g, others, fmt.Sprintf("%s holds it with token %d beside %d others, among them %s with token %d", g.run.Actor, g.taken.Token, len(others), others[0].run.Actor, others[0].taken.Token)
		}
	}
	return nil, nil, ""
}

// tokens finds an acquisition whose token is not higher than that of one that was
// over when it was asked for.
func (h *index) tokens(grants []*grant) (one *grant, others []*grant, text string) {
	byAsked := slices.SortedStableFunc(slices.Values(grants), func(a, b *grant) int { return cmp.Compare(a.taken.Began, b.taken.Began) })
	seen := make(map[uint64]*grant)
	var highest *grant // of those that were granted before
	for _, g := range byAsked {
		for len(grants) > 0 && grants[0].taken.At <= g.taken.Began {
			if highest == nil || grants[0].taken.Token > highest.taken.Token {
				highest = grants[0]
			}
			grants = grants[1:]
		}
		if before := seen[g.taken.Token]; before != nil {
			return g, []*grant{before}, fmt.Sprintf("token %d twice", g.taken.Token)
		}
		seen[g.taken.Token] = g
		if highest != nil && highest.taken.Token > g.taken.Token {
			return g, []*grant{highest}, fmt.Sprintf("token %d for %s, which asked when %s had %d already", g.taken.Token, g.run.Actor, highest.run.Actor, highest.taken.Token)
		}
	}
	return nil, nil, ""
}

// stoodStill reports whether the actor's process did not run for a while between two
// times. Only that keeps a holder from knowing in time: a broker that is away or dies
// does not.
func (h *index) stoodStill(actor string, from, to int64) bool {
	return slices.ContainsFunc(h.faults, func(f fault) bool {
		still := f.what == history.StopFault || f.what == history.StallFault
		return still && (f.target == actor || f.target == history.Everyone) && f.begin <= to && f.end >= from
	})
}

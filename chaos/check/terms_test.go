package check_test

import (
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/chaos/history"
)

// on is a request with a unique key and these terms.
func on(terms pelton.Unique) history.Event {
	terms.Key = "u"
	return history.Event{Unique: "kind/u", Terms: &terms}
}

var (
	starts   = pelton.Unique{Until: pelton.UntilStarted}
	windowed = pelton.Unique{Window: time.Second}
	replaces = pelton.Unique{OnConflict: pelton.ConflictReplace}
)

// termed is two tasks with one unique key and the same terms: the first, accepted at 10,
// runs from begin to end, the second is accepted at second and runs 100 ms later.
func termed(terms pelton.Unique, begin, end, second int64) *script {
	s := &script{}
	s.acceptWith(10, one, "r1", on(terms))
	s.acceptWith(second, two, "r2", on(terms))
	running := s.stored(begin, one, pelton.Running, 2, 1)
	running.Worker, running.StartedAt, running.Attempt = "id-of-w1", wall(begin), 1
	s.whole(begin, end, "w1", one, "r1", "", 2)
	s.whole(second+100, second+110, "w2", two, "r2", "", 5)
	return s
}

// swap is task one, which waits until it is replaced at 40 in favour of task two.
func swap(second pelton.Unique) *script {
	s := &script{}
	s.acceptWith(10, one, "r1", on(windowed))
	s.stored(10, one, pelton.Queued, 1, 0)
	over := s.stored(40, one, pelton.Cancelled, 2, 1)
	over.Replaced, over.FinishedAt = true, wall(39)
	s.acceptWith(41, two, "r2", on(second))
	for _, e := range s.events {
		if e.Ref == "r2" && e.Kind == history.EnqueueSent {
			e.At = 38 * ms
		}
	}
	s.whole(50, 60, "w2", two, "r2", "", 5)
	return s
}

func rejectedTerms() []example {
	return []example{
		{"unique", "until started: accepted before the other was started", func() *script { return termed(starts, 40, 60, 30) }},
		{"unique", "a window, and the other is over", func() *script { return termed(windowed, 20, 30, 900) }},
		{"unique", "refused for one that was started", func() *script {
			s := termed(starts, 20, 60, 200)
			s.answer(40, history.EnqueueRefused, one, "r3", on(pelton.Unique{}))
			return s
		}},
		{"unique", "refused for one whose window had ended", func() *script {
			s := termed(windowed, 20, 30, 2000)
			s.answer(1015, history.EnqueueRefused, one, "r3", on(pelton.Unique{}))
			return s
		}},
		{"unique", "in its window, and not replaced", func() *script {
			s := swap(replaces)
			for _, e := range s.events {
				if e.Record != nil {
					e.Record.Replaced = false
				}
			}
			s.call(38, one, history.CancelSent)
			return s
		}},
		{"replaced", "one that runs", func() *script {
			s := swap(replaces)
			s.start(30, "w1", one, "r1", 1, 2)
			return s
		}},
		{"replaced", "one that had been started, says its record", func() *script {
			s := swap(replaces)
			running := s.stored(30, one, pelton.Running, 3, 1)
			running.StartedAt, running.Attempt = wall(30), 1
			return s
		}},
		{"replaced", "nobody asked for it", func() *script { return swap(pelton.Unique{OnConflict: pelton.ConflictExisting}) }},
		{"replaced", "refused to replace one that waited", func() *script {
			s := termed(pelton.Unique{}, 60, 70, 90)
			s.answer(40, history.EnqueueRefused, one, "r3", on(replaces))
			return s
		}},
	}
}

func acceptedTerms() []example {
	return []example{
		{"unique", "until started: one waits while the other runs", func() *script { return termed(starts, 20, 100, 30) }},
		{"unique", "after the window", func() *script { return termed(windowed, 20, 30, 1010) }},
		{"unique", "refused in the window of one that is over", func() *script {
			s := termed(windowed, 20, 30, 2000)
			s.answer(900, history.EnqueueRefused, one, "r3", on(pelton.Unique{}))
			return s
		}},
		{"unique", "replacing ends the window", func() *script { return swap(replaces) }},
		{"replaced", "one that waits", func() *script { return swap(replaces) }},
		{"cancels", "replaced, which nobody asked to cancel", func() *script { return swap(replaces) }},
		{"replaced", "refused to replace one that runs", func() *script {
			s := termed(pelton.Unique{}, 20, 60, 90)
			s.answer(40, history.EnqueueRefused, one, "r3", on(replaces))
			return s
		}},
		{"replaced", "refused to replace one that was started meanwhile", func() *script {
			s := termed(pelton.Unique{}, 40, 60, 90)
			s.answer(40, history.EnqueueRefused, one, "r3", on(replaces))
			return s
		}},
	}
}

package check_test

import (
	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/chaos/history"
)

// scheduledFor is task one, accepted for a time.
func scheduledFor(at int64) *script {
	s := &script{}
	s.accept(10, one, "r1")
	s.events[len(s.events)-1].Record = &history.Record{State: pelton.Scheduled, Revision: 1, RunAt: wall(at)}
	s.stored(11, one, pelton.Scheduled, 1, 0).RunAt = wall(at)
	return s
}

// hurried is task one, whose time was brought forward at a moment.
func hurried(s *script, at int64) *script {
	s.call(at-1, one, history.HurrySent)
	s.stored(at, one, pelton.Scheduled, 2, 1).RunAt = wall(at)
	e := s.call(at+1, one, history.HurryOK)
	e.Record = &history.Record{State: pelton.Queued, Revision: 2, RunAt: wall(at)}
	return s
}

// runsAt ends the script with a run from a moment on, over revision before.
func runsAt(s *script, at int64, before uint64) *script {
	s.attempt(at, at+10, "w1", 1, before+1, before, history.OK)
	s.finish(at+11, pelton.Succeeded, "w1", at, 1, before+2, before+1)
	return s
}

func rejectedDelayed() []example {
	return []example{
		{"delayed", "before its time", func() *script { return runsAt(scheduledFor(1000), 900, 1) }},
		{"delayed", "asked for after its start", func() *script {
			s := runsAt(scheduledFor(1000), 900, 1)
			s.call(950, one, history.HurrySent)
			s.call(951, one, history.HurryConflict)
			return s
		}},
		{"delayed", "brought forward by nobody", func() *script {
			s := scheduledFor(1000)
			s.stored(500, one, pelton.Scheduled, 2, 1).RunAt = wall(600)
			return runsAt(s, 1100, 2)
		}},
		{"delayed", "confirmed, and still waiting", func() *script {
			s := hurried(scheduledFor(1000), 500)
			s.events[len(s.events)-1].Record.State = pelton.Scheduled
			return runsAt(s, 1100, 2)
		}},
		{"owners", "a retry that nobody brought forward", func() *script {
			s := queued()
			s.attempt(20, 30, "w1", 1, 2, 1, history.Failure)
			s.finish(31, pelton.Retrying, "w1", 20, 1, 3, 2).RunAt = wall(5000)
			s.finish(40, pelton.Retrying, "w1", 20, 1, 4, 3).RunAt = wall(5000)
			s.attempt(5000, 5010, "w2", 2, 5, 4, history.OK)
			s.finish(5011, pelton.Succeeded, "w2", 5000, 2, 6, 5)
			return s
		}},
		{"lost", "still scheduled at the end", func() *script { return scheduledFor(1000) }},
		{"early", "before the time to which it was brought forward", func() *script { return runsAt(hurried(scheduledFor(1000), 500), 490, 2) }},
	}
}

func acceptedDelayed() []example {
	return []example{
		{"delayed", "at its time", func() *script { return runsAt(scheduledFor(1000), 1000, 1) }},
		{"delayed", "run now", func() *script { return runsAt(hurried(scheduledFor(1000), 500), 510, 2) }},
		{"delayed", "run now, and nobody was told", func() *script {
			s := hurried(scheduledFor(1000), 500)
			e := s.events[len(s.events)-1]
			e.Kind, e.Record = history.HurryUnknown, nil
			return runsAt(s, 510, 2)
		}},
		{"delayed", "run now, twice", func() *script {
			s := runsAt(hurried(scheduledFor(1000), 500), 510, 2)
			s.call(600, one, history.HurrySent)
			s.call(602, one, history.HurryConflict)
			return s
		}},
		{"delayed", "put off for longer", func() *script {
			s := scheduledFor(1000)
			s.stored(1001, one, pelton.Scheduled, 2, 1).RunAt = wall(2000)
			return runsAt(s, 2000, 2)
		}},
		{"owners", "a retry that was brought forward", func() *script {
			s := queued()
			s.attempt(20, 30, "w1", 1, 2, 1, history.Failure)
			s.finish(31, pelton.Retrying, "w1", 20, 1, 3, 2).RunAt = wall(5000)
			s.call(39, one, history.HurrySent)
			s.finish(40, pelton.Retrying, "w1", 20, 1, 4, 3).RunAt = wall(40)
			s.attempt(50, 60, "w2", 2, 5, 4, history.OK)
			s.finish(61, pelton.Succeeded, "w2", 50, 2, 6, 5)
			return s
		}},
		{"delayed", "cancelled, and retried before its time", func() *script {
			s := scheduledFor(10_000)
			s.call(100, one, history.CancelSent)
			s.stored(101, one, pelton.Cancelled, 2, 1).RunAt = wall(10_000)
			s.call(200, one, history.RetrySent)
			s.stored(201, one, pelton.Queued, 3, 2)
			return runsAt(s, 210, 3)
		}},
	}
}

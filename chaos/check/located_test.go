package check_test

import (
	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/chaos/history"
)

// located is the id of a plain task, guessed one that nobody was given.
var located, guessed = one.At(7), two.At(7)

// bare is a plain task that is started on w1 at 20, without a record.
func bare() *script {
	s := &script{}
	s.accept(10, located, "r1")
	s.read(15, located, pelton.Queued, 0)
	s.start(20, "w1", located, "r1", 1, 0)
	return s
}

// says is a record of the run that the actor began at begin, with token fence.
func (s *script) says(at int64, state pelton.State, actor string, begin int64, revision, previous, fence uint64) *history.Record {
	r := s.stored(at, located, state, revision, previous)
	r.Attempt, r.Worker, r.StartedAt = 1, "id-of-"+actor, wall(begin-1)
	if state == pelton.Succeeded {
		r.ResultFence, r.ResultRun = fence, name(actor, fence)
	}
	if state.Terminal() {
		r.FinishedAt = wall(at)
	}
	return r
}

// short is a plain task whose only record is that of its end.
func short() *script {
	s := bare()
	s.end(30, "w1", located, 0, history.OK)
	s.says(31, pelton.Succeeded, "w1", 20, 5, 0, 0)
	return s
}

// polled is short, read so often before its end, and after that at late as it was before.
func polled(n, late int64) *script {
	s := short()
	for i := range n {
		s.read(16, located, pelton.Queued, 0).Began = (11 + i%4) * ms
	}
	s.read(late, located, pelton.Queued, 0)
	return s
}

// lasting is a plain task that runs until 3,000, and is written to run at promoted; 0 is
// never.
func lasting(promoted int64) *script {
	s := bare()
	before := uint64(0)
	if promoted > 0 {
		s.says(promoted, pelton.Running, "w1", 20, 5, 0, 0)
		before = 5
	}
	s.end(3000, "w1", located, 0, history.OK)
	s.says(3001, pelton.Succeeded, "w1", 20, 6, before, 0)
	return s
}

// diedYoung is a plain task whose first worker died before it wrote anything. The second one
// counts so many crashes.
func diedYoung(crashes int) *script {
	s := bare()
	s.fault(30, 400, "kill", "w1")
	s.start(1500, "w2", located, "r1", 1, 5)
	s.says(1499, pelton.Running, "w2", 1500, 5, 0, 5).Crashes = crashes
	s.end(1600, "w2", located, 5, history.OK)
	s.says(1601, pelton.Succeeded, "w2", 1500, 6, 5, 5).Crashes = crashes
	return s
}

// killer is a plain task that ends so many processes.
func killer(n int64) *script {
	s := bare()
	for i := range n {
		s.fault(25+i*1000, 400+i*1000, history.ExitFault, "w1")
		s.events[len(s.events)-1].Task, s.events[len(s.events)-2].Task = located, located
	}
	s.says(n*1000, pelton.Failed, "w1", 20, 9, 8, 0).Reason = pelton.ReasonPoison
	return s
}

// cancelledYoung is a plain task whose cancel is asked for at 100 and answered at 105, by a record
// that knows of no start.
func cancelledYoung() *script {
	s := &script{}
	s.accept(10, located, "r1")
	s.call(100, located, history.CancelSent)
	s.stored(104, located, pelton.Cancelled, 5, 0).FinishedAt = wall(104)
	e := s.call(105, located, history.CancelOK)
	e.Began, e.Record = 100*ms, &history.Record{State: pelton.Cancelled, Revision: 5}
	return s
}

// startedBeside is cancelledYoung with a start, and the end of its ctx.
func startedBeside(start, ctxEnd int64) *script {
	s := cancelledYoung()
	s.start(start, "w1", located, "r1", 1, 0)
	s.ctxEnd(ctxEnd, "w1", located, 0, history.Cancelled)
	s.end(ctxEnd+1, "w1", located, 0, history.Cancelled)
	return s
}

func rejectedLocated() []example {
	return []example{
		{"moves", "no record of a task that had one at once", func() *script {
			s := plain()
			s.read(11, one, pelton.Queued, 0)
			return s
		}},
		{"moves", "running without a record", func() *script {
			s := short()
			s.read(25, located, pelton.Running, 0)
			return s
		}},
		{"final", "succeeded, and cancelled by a record that knows nothing of it", func() *script {
			s := short()
			s.stored(50, located, pelton.Cancelled, 7, 0).FinishedAt = wall(50)
			return s
		}},
		{"moves", "two first records", func() *script {
			s := startedBeside(90, 106)
			s.says(110, pelton.Failed, "w1", 90, 6, 0, 0).Reason = pelton.ReasonError
			return s
		}},
		{"stale", "no record after there was one", func() *script {
			s := short()
			s.read(40, located, pelton.Queued, 0)
			return s
		}},
		{"stale", "few read it, and the broker had told more", func() *script { return polled(13, 600) }},
		{"stale", "many read it, and the broker had told more long before", func() *script { return polled(30, 1100) }},
		{"owners", "succeeded, of no start", func() *script {
			s := short()
			s.events[len(s.events)-1].Record.Worker = "id-of-w2"
			return s
		}},
		{"owners", "succeeded at once, of a start that was written", func() *script {
			s := bare()
			s.fault(25, 400, "kill", "w1")
			s.start(1500, "w2", located, "r1", 1, 5)
			s.end(1600, "w2", located, 5, history.OK)
			s.says(1601, pelton.Succeeded, "w2", 1500, 6, 0, 5)
			return s
		}},
		{"results", "of another run", func() *script {
			s := short()
			s.events[len(s.events)-1].Record.ResultRun = name("w2", 0)
			return s
		}},
		{"fences", "started twice without a record", func() *script {
			s := bare()
			s.fault(25, 400, "kill", "w1")
			s.start(1500, "w2", located, "r1", 1, 0)
			s.end(1510, "w2", located, 0, history.OK)
			s.says(1511, pelton.Succeeded, "w2", 1500, 5, 0, 0)
			return s
		}},
		{"promoted", "never", func() *script { return lasting(0) }},
		{"promoted", "late", func() *script { return lasting(1100) }},
		{"crashes", "of a start that left no trace", func() *script { return diedYoung(1) }},
		{"crashes", "one that kills for ever", func() *script { return killer(pelton.DefaultMaxCrashes + 2) }},
		{"cancels", "long before its start", func() *script { return startedBeside(1200, 1201) }},
		{"cancels", "not handed out, and started with a token", func() *script {
			s := cancelledYoung()
			s.start(90, "w1", located, "r1", 1, 4)
			s.end(106, "w1", located, 4, history.Cancelled)
			return s
		}},
		{"cancels", "and its result counts", func() *script {
			s := startedBeside(90, 106)
			for _, e := range s.events {
				if e.Record != nil && e.Record.Stored {
					e.Record.ResultRun = name("w1", 0)
				}
			}
			return s
		}},
		{"ctx-ends", "of one that began beside the cancel, never", func() *script {
			s := cancelledYoung()
			s.start(103, "w1", located, "r1", 1, 0)
			s.end(9000, "w1", located, 0, history.OK)
			return s
		}},
		{"ctx-ends", "of one that began after the cancel, late", func() *script { return startedBeside(110, 1200) }},
		{"invented", "read under an id that nobody was given", func() *script {
			s := short()
			s.read(20, guessed, pelton.Queued, 0)
			return s
		}},
		{"invented", "cancelled under an id that nobody was given", func() *script {
			s := short()
			s.call(20, guessed, history.CancelSent)
			s.call(25, guessed, history.CancelOK).Record = &history.Record{State: pelton.Cancelled, Revision: 4}
			s.stored(24, guessed, pelton.Cancelled, 4, 0).FinishedAt = wall(24)
			return s
		}},
	}
}

func acceptedLocated() []example {
	return []example{
		{"moves", "its end is all that was written", short},
		{"moves", "put back by a run without a record", func() *script {
			s := bare()
			s.end(30, "w1", located, 0, history.Failure)
			s.says(31, pelton.Retrying, "w1", 20, 5, 0, 0).RunAt = wall(500)
			s.start(510, "w2", located, "r1", 2, 6)
			running := s.says(509, pelton.Running, "w2", 510, 6, 5, 6)
			running.Attempt = 2
			s.end(520, "w2", located, 6, history.OK)
			s.says(521, pelton.Succeeded, "w2", 510, 7, 6, 6).Attempt = 2
			return s
		}},
		{"stale", "read without a record while it got one", func() *script {
			s := short()
			s.read(40, located, pelton.Queued, 0).Began = 14 * ms
			return s
		}},
		{"stale", "many read it, and the broker had told more just before", func() *script { return polled(15, 600) }},
		{"stale", "many read it, of whom most have their answers later", func() *script {
			s := polled(5, 600)
			for range 12 {
				s.read(700, located, pelton.Queued, 0).Began = 550 * ms
			}
			return s
		}},
		{"owners", "of the start without a record", short},
		{"results", "of the run without a token", short},
		{"fences", "the one without a record told late", func() *script {
			s := &script{}
			s.accept(10, located, "r1")
			s.fault(21, 2000, "stop", "w1")
			s.start(1500, "w2", located, "r1", 1, 5)
			s.says(1499, pelton.Running, "w2", 1500, 5, 0, 5)
			s.end(1600, "w2", located, 5, history.OK)
			s.says(1601, pelton.Succeeded, "w2", 1500, 6, 5, 5)
			s.start(2001, "w1", located, "r1", 1, 0)
			s.end(2002, "w1", located, 0, history.Fenced)
			return s
		}},
		{"promoted", "in time", func() *script { return lasting(80) }},
		{"promoted", "as what replaced it says", func() *script {
			s := bare()
			s.end(3000, "w1", located, 0, history.OK)
			s.says(3001, pelton.Succeeded, "w1", 20, 6, 5, 0)
			return s
		}},
		{"promoted", "not while the broker was away", func() *script {
			s := lasting(0)
			s.fault(30, 900, "server-kill", history.Everyone)
			return s
		}},
		{"crashes", "a start that left no trace", func() *script { return diedYoung(0) }},
		{"crashes", "once more than the budget, the first time without a trace", func() *script { return killer(pelton.DefaultMaxCrashes + 1) }},
		{"crashes", "of a start that was written when it lasted", func() *script {
			s := bare()
			s.says(80, pelton.Running, "w1", 20, 5, 0, 0)
			s.fault(100, 400, "kill", "w1")
			s.start(1500, "w2", located, "r1", 1, 6)
			s.says(1499, pelton.Running, "w2", 1500, 6, 5, 6).Crashes = 1
			s.end(1600, "w2", located, 6, history.OK)
			s.says(1601, pelton.Succeeded, "w2", 1500, 7, 6, 6).Crashes = 1
			return s
		}},
		{"cancels", "in its first milliseconds", func() *script { return startedBeside(90, 106) }},
		{"cancels", "handed out, and started after the answer", func() *script { return startedBeside(120, 140) }},
		{"cancels", "of one whose handler had returned", func() *script {
			s := cancelledYoung()
			s.start(90, "w1", located, "r1", 1, 0)
			s.end(95, "w1", located, 0, history.OK)
			return s
		}},
		{"cancels", "started by a worker that had stood still", func() *script {
			s := startedBeside(2000, 2010)
			s.fault(90, 1990, "stop", "w1")
			return s
		}},
		{"ctx-ends", "of one that began beside the cancel", func() *script { return startedBeside(103, 400) }},
		{"invented", "nothing under an id that nobody was given", func() *script {
			s := short()
			s.call(20, guessed, history.Missing)
			s.call(25, guessed, history.CancelSent)
			s.call(26, guessed, history.CancelUnknown)
			return s
		}},
	}
}

package check_test

import (
	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/chaos/history"
)

func rejectedRuns() []example {
	return []example{
		{"runs", "succeeded without a run", func() *script {
			s := queued()
			s.stored(20, one, pelton.Running, 2, 1)
			s.stored(30, one, pelton.Succeeded, 3, 2)
			return s
		}},
		{"runs", "failed without a reason", func() *script {
			s := queued()
			s.attempt(20, 30, "w1", 1, 2, 1, history.Failure)
			s.finish(31, pelton.Failed, "w1", 20, 1, 3, 2)
			return s
		}},
		{"runs", "panicked without a run", func() *script {
			s := queued()
			s.stored(20, one, pelton.Running, 2, 1)
			s.stored(30, one, pelton.Failed, 3, 2).Reason = pelton.ReasonPanic
			return s
		}},
		{"attempts", "a crash burned one", func() *script {
			s := queued()
			s.attempt(20, 0, "w1", 1, 2, 1, "")
			s.fault(100, 200, "kill", "w1")
			s.attempt(1500, 1600, "w2", 2, 3, 2, history.OK)
			s.finish(1601, pelton.Succeeded, "w2", 1500, 2, 4, 3)
			return s
		}},
		{"attempts", "a lost lease burned one", func() *script {
			s := queued()
			s.attempt(20, 900, "w1", 1, 2, 1, history.Fenced)
			s.fault(100, 1000, "drop", history.Everyone)
			s.attempt(1500, 1600, "w2", 2, 3, 2, history.OK)
			s.finish(1601, pelton.Succeeded, "w2", 1500, 2, 4, 3)
			return s
		}},
		{"crashes", "without a fault", func() *script {
			s := plain()
			for _, e := range s.events {
				if e.Record != nil && e.Record.State != pelton.Queued {
					e.Record.Crashes = 1
				}
			}
			return s
		}},
		{"crashes", "more than starts that died", func() *script {
			s := killed(100, 400)
			s.fault(500, 600, "kill", "w3") // which had no part in it
			s.events[len(s.events)-3].Record.Crashes = 2
			return s
		}},
		{"crashes", "a fault that came after the takeover", func() *script {
			s := queued()
			s.attempt(20, 2000, "w1", 1, 2, 1, history.Fenced)
			s.attempt(1500, 1600, "w2", 1, 3, 2, history.OK)
			s.fault(1550, 1700, "stop", "w1")
			s.finish(1601, pelton.Succeeded, "w2", 1500, 1, 4, 3).Crashes = 1
			return s
		}},
		{"results", "of an earlier start", func() *script {
			s := killed(100, 400)
			s.events[len(s.events)-1].Record.ResultFence = 2
			return s
		}},
		{"results", "of a start that did not end well", func() *script {
			s := queued()
			s.attempt(20, 30, "w1", 1, 2, 1, history.Fenced)
			s.finish(31, pelton.Succeeded, "w1", 20, 1, 3, 2)
			return s
		}},
		{"results", "under another worker's name", func() *script {
			s := plain()
			for _, e := range s.events {
				if e.Record != nil && e.Record.State != pelton.Queued {
					e.Record.Worker = "id-of-w9"
				}
			}
			return s
		}},
		{"fences", "one token twice", func() *script {
			s := killed(100, 400)
			for _, e := range s.events {
				if e.Kind == history.RunStart && e.Actor == "w1" {
					e.Fence = 3
				}
			}
			return s
		}},
		{"fences", "a lower token later", func() *script {
			s := killed(100, 400)
			for _, e := range s.events {
				if e.Kind == history.RunStart && e.Actor == "w1" {
					e.Fence = 9
				}
			}
			return s
		}},
		{"duplicates", "the same attempt on two workers", func() *script {
			s := queued()
			s.attempt(20, 0, "w1", 1, 2, 1, "")
			s.attempt(1500, 1600, "w2", 1, 3, 2, history.OK)
			s.finish(1601, pelton.Succeeded, "w2", 1500, 1, 4, 3)
			return s
		}},
		{"duplicates", "again after it ended well", func() *script {
			s := queued()
			s.attempt(20, 30, "w1", 1, 2, 1, history.OK)
			s.attempt(40, 50, "w1", 1, 3, 2, history.OK)
			s.finish(51, pelton.Succeeded, "w1", 40, 1, 4, 3)
			return s
		}},
		{"duplicates", "the next attempt beside the last", func() *script {
			s := queued()
			s.attempt(20, 100, "w1", 1, 2, 1, history.Failure)
			s.attempt(40, 50, "w2", 2, 3, 2, history.OK)
			s.finish(51, pelton.Succeeded, "w2", 40, 2, 4, 3)
			return s
		}},
		{"duplicates", "the fault was another worker's", func() *script {
			s := killed(100, 400)
			for _, e := range s.events {
				if e.Target == "w1" {
					e.Target = "w3"
				}
			}
			return s
		}},
		{"overlaps", "while the first was only cut off", func() *script {
			s := queued()
			s.attempt(20, 1600, "w1", 1, 2, 1, history.Fenced)
			s.fault(100, 1500, "net-drop", "w1")
			s.attempt(1200, 1300, "w2", 1, 3, 2, history.OK)
			s.finish(1301, pelton.Succeeded, "w2", 1200, 1, 4, 3)
			return s
		}},
		{"early", "a retry before its time", func() *script {
			s := queued()
			s.attempt(20, 30, "w1", 1, 2, 1, history.Failure)
			s.finish(31, pelton.Retrying, "w1", 20, 1, 3, 2).RunAt = wall(1000)
			s.attempt(500, 600, "w2", 2, 4, 3, history.OK)
			s.finish(601, pelton.Succeeded, "w2", 500, 2, 5, 4)
			return s
		}},
		{"duplicates", "the fault was long over", func() *script {
			s := queued()
			s.fault(11, 12, "kill", "w1")
			s.attempt(20_000, 0, "w1", 1, 2, 1, "")
			s.attempt(21_500, 21_600, "w2", 1, 3, 2, history.OK)
			s.finish(21_601, pelton.Succeeded, "w2", 21_500, 1, 4, 3)
			return s
		}},
	}
}

func acceptedRuns() []example {
	return []example{
		{"runs", "poison without a run", func() *script {
			s := queued()
			s.stored(20, one, pelton.Running, 2, 1)
			s.stored(30, one, pelton.Failed, 3, 2).Reason = pelton.ReasonPoison
			return s
		}},
		{"attempts", "a handler that outlived its timeout", func() *script {
			s := queued()
			s.attempt(20, 5000, "w1", 1, 2, 1, history.OK)
			s.ctxEnd(100, "w1", one, 2, history.Timeout)
			s.finish(200, pelton.Retrying, "w1", 20, 1, 3, 2)
			s.attempt(1500, 1600, "w2", 2, 4, 3, history.OK)
			s.finish(1601, pelton.Succeeded, "w2", 1500, 2, 5, 4)
			return s
		}},
		{"attempts", "cancelled in the middle of the second", func() *script {
			s := queued()
			s.attempt(20, 30, "w1", 1, 2, 1, history.Panic)
			s.finish(31, pelton.Retrying, "w1", 20, 1, 3, 2)
			s.attempt(1040, 1060, "w1", 2, 4, 3, history.Cancelled)
			s.call(1050, one, history.CancelSent)
			s.call(1055, one, history.CancelOK).Record = &history.Record{State: pelton.Cancelled, Revision: 5, Attempt: 2, StartedAt: wall(1040)}
			s.finish(1054, pelton.Cancelled, "w1", 1040, 2, 5, 4)
			return s
		}},
		{"crashes", "as many as faults", func() *script {
			s := killed(100, 400)
			for _, e := range s.events {
				if e.Record != nil && e.Record.Revision >= 3 {
					e.Record.Crashes = 1
				}
			}
			return s
		}},
		{"crashes", "of a start that its handler could not tell of", func() *script {
			s := queued()
			died := s.stored(20, one, pelton.Running, 2, 1)
			died.Worker, died.StartedAt, died.Attempt = "id-of-w1", wall(20), 1
			s.fault(20, 100, "kill", "w1")
			s.attempt(1500, 1600, "w2", 1, 3, 2, history.OK)
			s.finish(1601, pelton.Succeeded, "w2", 1500, 1, 4, 3).Crashes = 1
			return s
		}},
		{"crashes", "of a start that its handler told late", func() *script {
			s := queued()
			stopped := s.stored(20, one, pelton.Running, 2, 1)
			stopped.Worker, stopped.StartedAt, stopped.Attempt = "id-of-w1", wall(20), 1
			s.fault(21, 2000, "stop", "w1")
			s.attempt(1500, 1600, "w2", 1, 3, 2, history.OK)
			s.finish(1601, pelton.Succeeded, "w2", 1500, 1, 4, 3).Crashes = 1
			s.start(2001, "w1", one, "r1", 1, 2)
			s.end(2100, "w1", one, 2, history.Fenced)
			return s
		}},
		{"results", "of the successor, while the zombie ends later", func() *script {
			s := killed(100, 400)
			s.end(3000, "w1", one, 2, history.OK)
			return s
		}},
		{"fences", "told late by a worker that was stopped", func() *script {
			s := queued()
			s.stored(20, one, pelton.Running, 2, 1).Worker = "id-of-w1"
			s.fault(21, 2000, "stop", "w1")
			s.attempt(1500, 1600, "w2", 1, 3, 2, history.OK)
			s.finish(1601, pelton.Succeeded, "w2", 1500, 1, 4, 3)
			s.start(2001, "w1", one, "r1", 1, 2)
			s.end(2002, "w1", one, 2, history.Fenced)
			return s
		}},
		{"duplicates", "after a kill", func() *script { return killed(100, 400) }},
		{"duplicates", "while everybody was cut off", func() *script {
			s := killed(100, 400)
			for _, e := range s.events {
				if e.Target == "w1" {
					e.Target = history.Everyone
				}
			}
			return s
		}},
		{"duplicates", "a fault that nothing ended", func() *script {
			s := killed(100, 400)
			for i, e := range s.events {
				if e.Kind == history.FaultEnd {
					s.events = append(s.events[:i], s.events[i+1:]...)
					break
				}
			}
			return s
		}},
		{"overlaps", "after the first knew that it was cut off", func() *script {
			s := queued()
			s.attempt(20, 1600, "w1", 1, 2, 1, history.Fenced)
			s.ctxEnd(800, "w1", one, 2, history.Fenced)
			s.fault(100, 1500, "net-drop", "w1")
			s.attempt(1200, 1300, "w2", 1, 3, 2, history.OK)
			s.finish(1301, pelton.Succeeded, "w2", 1200, 1, 4, 3)
			return s
		}},
		{"early", "a retry at its time", func() *script {
			s := queued()
			s.attempt(20, 30, "w1", 1, 2, 1, history.Failure)
			s.finish(31, pelton.Retrying, "w1", 20, 1, 3, 2).RunAt = wall(500)
			s.attempt(500, 600, "w2", 2, 4, 3, history.OK)
			s.finish(601, pelton.Succeeded, "w2", 500, 2, 5, 4)
			return s
		}},
		{"duplicates", "the first attempt again after a retry", retried},
		{"duplicates", "snoozed", func() *script {
			s := queued()
			s.attempt(20, 30, "w1", 1, 2, 1, history.Snoozed)
			s.finish(31, pelton.Scheduled, "w1", 20, 0, 3, 2)
			s.attempt(40, 50, "w1", 1, 4, 3, history.OK)
			s.finish(51, pelton.Succeeded, "w1", 40, 1, 5, 4)
			return s
		}},
		{"duplicates", "beside a handler that ignored its timeout", func() *script {
			s := queued()
			s.attempt(20, 0, "w1", 1, 2, 1, "")
			s.ctxEnd(100, "w1", one, 2, history.Timeout)
			s.finish(200, pelton.Retrying, "w1", 20, 1, 3, 2)
			s.attempt(1500, 1600, "w1", 2, 4, 3, history.OK)
			s.finish(1601, pelton.Succeeded, "w1", 1500, 2, 5, 4)
			return s
		}},
	}
}

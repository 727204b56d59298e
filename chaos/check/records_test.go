package check_test

import (
	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/chaos/history"
)

func rejectedRecords() []example {
	return []example{
		{"lost", "never over", func() *script {
			s := queued()
			s.read(100, one, pelton.Queued, 1)
			return s
		}},
		{"lost", "never read", func() *script {
			s := &script{}
			s.accept(10, one, "r1")
			return s
		}},
		{"lost", "still running", func() *script {
			s := queued()
			s.attempt(20, 0, "w1", 1, 2, 1, "")
			return s
		}},
		{"missing", "404 after the 202", func() *script {
			s := plain()
			s.call(50, one, history.Missing)
			return s
		}},
		{"final", "two terminal states", func() *script {
			s := plain()
			s.finish(50, pelton.Failed, "w1", 20, 1, 4, 3).Reason = pelton.ReasonError
			return s
		}},
		{"final", "alive again", func() *script {
			s := plain()
			s.read(50, one, pelton.Running, 4)
			s.read(60, one, pelton.Succeeded, 5)
			return s
		}},
		{"final", "retried, and over again without a start", func() *script {
			s := plain()
			s.call(40, one, history.RetrySent)
			s.stored(45, one, pelton.Failed, 4, 3).Reason = pelton.ReasonError
			return s
		}},
		{"moves", "succeeded without running", func() *script {
			s := queued()
			s.start(20, "w1", one, "r1", 1, 2)
			s.end(21, "w1", one, 2, history.OK)
			s.finish(30, pelton.Succeeded, "w1", 20, 1, 3, 1)
			return s
		}},
		{"moves", "begins as running", func() *script {
			s := &script{}
			s.accept(10, one, "r1")
			s.attempt(20, 30, "w1", 1, 2, 0, history.OK)
			s.finish(31, pelton.Succeeded, "w1", 20, 1, 3, 2)
			return s
		}},
		{"moves", "a write over what was replaced", func() *script {
			s := plain()
			for _, e := range s.events {
				if e.Record != nil && e.Record.State == pelton.Succeeded {
					e.Record.Previous = 1
				}
			}
			return s
		}},
		{"moves", "crashes become fewer", func() *script {
			s := plain()
			s.fault(15, 16, "kill", "w2")
			for _, e := range s.events {
				if e.Record != nil && e.Record.State == pelton.Running {
					e.Record.Crashes = 1
				}
			}
			return s
		}},
		{"moves", "attempts become fewer", func() *script {
			s := queued()
			s.attempt(20, 30, "w1", 1, 2, 1, history.Failure)
			s.finish(31, pelton.Retrying, "w1", 20, 1, 3, 2)
			s.attempt(40, 50, "w1", 2, 4, 3, history.Failure)
			s.finish(51, pelton.Retrying, "w1", 40, 2, 5, 4)
			s.attempt(60, 70, "w1", 3, 6, 5, history.Failure)
			s.finish(71, pelton.Retrying, "w1", 60, 1, 7, 6)
			s.call(79, one, history.CancelSent)
			s.stored(80, one, pelton.Cancelled, 8, 7).Attempt = 3
			return s
		}},
		{"stale", "an older record after a newer one", func() *script {
			s := plain()
			s.read(40, one, pelton.Succeeded, 3)
			s.read(50, one, pelton.Running, 2)
			return s
		}},
		{"owners", "a zombie finishes over its successor", func() *script {
			s := queued()
			s.attempt(20, 2000, "w1", 1, 2, 1, history.OK)
			s.fault(100, 1900, "stop", "w1")
			s.attempt(1500, 2100, "w2", 1, 3, 2, history.OK)
			s.finish(2001, pelton.Succeeded, "w1", 20, 1, 4, 3)
			return s
		}},
		{"owners", "an earlier start of the same worker", func() *script {
			s := queued()
			s.attempt(20, 2000, "w1", 1, 2, 1, history.OK)
			s.fault(100, 1900, "drop", "w1")
			s.attempt(1500, 2100, "w1", 1, 3, 2, history.OK)
			s.finish(2001, pelton.Succeeded, "w1", 20, 1, 4, 3)
			return s
		}},
	}
}

func acceptedRecords() []example {
	return []example{
		{"lost", "succeeded", plain},
		{"final", "retried because somebody asked", retried},
		{"lost", "unknown and never stored", func() *script {
			s := plain()
			s.add(40, "producer", history.EnqueueSent).Ref = "r2"
			s.add(41, "producer", history.EnqueueUnknown).Ref = "r2"
			return s
		}},
		{"missing", "after the retention", func() *script {
			s := plain()
			s.call(10+day.Milliseconds()+1, one, history.Missing)
			return s
		}},
		{"missing", "asked before the 202", func() *script {
			s := plain()
			s.call(11, one, history.Missing).Began = 9 * ms
			return s
		}},
		{"final", "the same revision again and again", func() *script {
			s := plain()
			for at := range int64(3) {
				r := s.read(100+at, one, pelton.Succeeded, 3).Record
				r.Attempt = 1
			}
			return s
		}},
		{"moves", "a retry", func() *script {
			s := queued()
			s.attempt(20, 30, "w1", 1, 2, 1, history.Failure)
			s.finish(31, pelton.Retrying, "w1", 20, 1, 3, 2)
			s.attempt(1040, 1050, "w1", 2, 4, 3, history.OK)
			s.finish(1051, pelton.Succeeded, "w1", 1040, 2, 5, 4)
			return s
		}},
		{"moves", "a retry that reads queued", func() *script {
			s := queued()
			s.attempt(20, 30, "w1", 1, 2, 1, history.Failure)
			s.read(1000, one, pelton.Queued, 3).Record.Attempt = 1
			s.attempt(1040, 1050, "w1", 2, 4, 3, history.OK)
			s.finish(1051, pelton.Succeeded, "w1", 1040, 2, 5, 4)
			return s
		}},
		{"moves", "released, and queued again", func() *script {
			s := queued()
			s.attempt(20, 30, "w1", 1, 2, 1, history.Shutdown)
			s.finish(31, pelton.Queued, "w1", 20, 0, 3, 2)
			s.attempt(40, 50, "w2", 1, 4, 3, history.OK)
			s.finish(51, pelton.Succeeded, "w2", 40, 1, 5, 4)
			return s
		}},
		{"moves", "writes between were not seen", func() *script {
			s := queued()
			s.start(20, "w1", one, "r1", 1, 2)
			s.end(21, "w1", one, 2, history.OK)
			s.finish(31, pelton.Succeeded, "w1", 20, 1, 3, 2)
			return s
		}},
		{"stale", "reads side by side", func() *script {
			s := plain()
			s.read(40, one, pelton.Succeeded, 3)
			s.read(50, one, pelton.Running, 2).Began = 15 * ms
			return s
		}},
		{"owners", "progress, then the end", func() *script {
			s := queued()
			s.attempt(20, 1000, "w1", 1, 2, 1, history.OK)
			progress := s.stored(500, one, pelton.Running, 3, 2)
			progress.Attempt, progress.Worker, progress.StartedAt = 1, "id-of-w1", wall(20)
			end := s.finish(1001, pelton.Succeeded, "w1", 20, 1, 4, 3)
			end.ResultFence, end.ResultRun = 2, name("w1", 2)
			return s
		}},
	}
}

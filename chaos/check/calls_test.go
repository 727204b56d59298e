package check_test

import (
	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/chaos/history"
)

func rejectedCalls() []example {
	return []example{
		{"refused", "runs all the same", func() *script {
			s := &script{}
			s.add(9, "producer", history.EnqueueSent).Ref = "r1"
			s.add(10, "producer", history.EnqueueRefused).Ref = "r1"
			s.start(20, "w1", one, "r1", 1, 2)
			return s
		}},
		{"invented", "never sent", func() *script {
			s := &script{}
			s.start(20, "w1", one, "r1", 1, 2)
			return s
		}},
		{"invented", "two tasks of one request", func() *script {
			s := plain()
			s.start(40, "w1", two, "r1", 1, 9)
			return s
		}},
		{"cancels", "starts although it was never handed out", func() *script {
			s := cancelled()
			s.start(15, "w1", one, "r1", 1, 1)
			s.end(16, "w1", one, 1, history.OK)
			return s
		}},
		{"cancels", "starts again", func() *script {
			s := running()
			s.end(1060, "w1", one, 2, history.Cancelled)
			s.fault(1070, 1080, "kill", "w1")
			s.start(1100, "w2", one, "r1", 1, 9)
			s.end(1101, "w2", one, 9, history.Cancelled)
			return s
		}},
		{"cancels", "answered by a record that is not", func() *script {
			s := plain()
			s.call(40, one, history.CancelSent)
			s.call(45, one, history.CancelOK).Record = &history.Record{State: pelton.Succeeded, Revision: 3, Attempt: 1, StartedAt: wall(20)}
			return s
		}},
		{"cancels", "nobody asked", func() *script {
			s := queued()
			s.stored(20, one, pelton.Cancelled, 2, 1)
			return s
		}},
		{"cancels", "refused and done", func() *script {
			s := queued()
			s.call(20, one, history.CancelSent)
			s.call(25, one, history.CancelConflict)
			s.stored(24, one, pelton.Cancelled, 2, 1)
			return s
		}},
		{"ctx-ends", "never", func() *script {
			s := running()
			s.end(9000, "w1", one, 2, history.OK)
			return s
		}},
		{"ctx-ends", "too late", func() *script {
			s := running()
			s.ctxEnd(2060, "w1", one, 2, history.Cancelled)
			return s
		}},
	}
}

// running is task one, cancelled at 1,050 while it ran on w1. Its handler's end is
// left to the caller.
func running() *script {
	s := queued()
	s.attempt(20, 0, "w1", 1, 2, 1, "")
	s.call(1040, one, history.CancelSent)
	s.call(1050, one, history.CancelOK).Record = &history.Record{State: pelton.Cancelled, Revision: 3, Attempt: 1, StartedAt: wall(20)}
	s.finish(1045, pelton.Cancelled, "w1", 20, 1, 3, 2)
	return s
}

func acceptedCalls() []example {
	return []example{
		{"refused", "did not run", func() *script {
			s := plain()
			s.add(40, "producer", history.EnqueueSent).Ref = "r2"
			s.add(41, "producer", history.EnqueueRefused).Ref = "r2"
			return s
		}},
		{"invented", "unknown, and runs", func() *script {
			s := plain()
			s.add(40, "producer", history.EnqueueSent).Ref = "r2"
			s.add(41, "producer", history.EnqueueUnknown).Ref = "r2"
			s.start(50, "w1", two, "r2", 1, 9)
			return s
		}},
		{"cancels", "before it was handed out", cancelled},
		{"cancels", "repeated", func() *script {
			s := cancelled()
			s.call(40, one, history.CancelOK).Record = &history.Record{State: pelton.Cancelled, Revision: 2}
			return s
		}},
		{"cancels", "of a task that was over", func() *script {
			s := plain()
			s.call(40, one, history.CancelSent)
			s.call(45, one, history.CancelConflict)
			return s
		}},
		{"cancels", "answered by nobody", func() *script {
			s := queued()
			s.call(20, one, history.CancelSent)
			s.call(25, one, history.CancelUnknown)
			s.stored(24, one, pelton.Cancelled, 2, 1)
			return s
		}},
		{"ctx-ends", "at once", func() *script {
			s := running()
			s.ctxEnd(1051, "w1", one, 2, history.Cancelled)
			return s
		}},
		{"ctx-ends", "on a worker out of reach", func() *script {
			s := running()
			s.fault(900, 3000, "drop", "w1")
			s.ctxEnd(3001, "w1", one, 2, history.Fenced)
			return s
		}},
		{"ctx-ends", "of a worker long dead", func() *script {
			s := queued()
			s.attempt(20, 0, "w1", 1, 2, 1, "")
			s.fault(30, 40, "kill", "w1")
			s.attempt(1500, 0, "w2", 1, 3, 2, "")
			s.call(9000, one, history.CancelSent)
			s.call(9010, one, history.CancelOK).Record = &history.Record{State: pelton.Cancelled, Revision: 4, Attempt: 1, StartedAt: wall(1500)}
			s.finish(9005, pelton.Cancelled, "w2", 1500, 1, 4, 3)
			s.ctxEnd(9011, "w2", one, 3, history.Cancelled)
			return s
		}},
	}
}

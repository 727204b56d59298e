package check_test

import (
	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/chaos/history"
)

// ticking is a schedule with ticks at 0 and 1,000, of which the first ran.
func ticking() *script {
	s := &script{}
	for _, at := range []int64{0, 1000} {
		e := s.add(at, "nemesis", history.TickDue)
		e.Schedule, e.Tick = "s", wall(at)
	}
	s.tickRun(20, 0, one)
	return s
}

func (s *script) tickRun(at, tick int64, id pelton.ID) {
	e := s.add(at, "w1", history.TickRun)
	e.Schedule, e.Tick, e.Task = "s", wall(tick), id
}

func rejectedTicks() []example {
	with := func(at, tick int64, id pelton.ID) func() *script {
		return func() *script {
			s := ticking()
			s.tickRun(at, tick, id)
			return s
		}
	}
	return []example{
		{"ticks", "one has no task", ticking},
		{"ticks", "two tasks", func() *script {
			s := with(1010, 1000, two)()
			s.tickRun(1020, 1000, three)
			return s
		}},
		{"ticks", "its task ran twice", func() *script {
			s := with(1010, 1000, two)()
			s.tickRun(1020, 1000, two)
			return s
		}},
		{"ticks", "early", with(999, 1000, two)},
		{"ticks", "late", with(6001, 1000, two)},
		{"ticks", "one that was not due, early", func() *script {
			s := with(1010, 1000, two)()
			s.tickRun(1500, 2000, three)
			return s
		}},
	}
}

func acceptedTicks() []example {
	return []example{
		{"ticks", "in time", func() *script {
			s := ticking()
			s.tickRun(1000, 1000, two)
			return s
		}},
		{"ticks", "just in time, and one more", func() *script {
			s := ticking()
			s.tickRun(5900, 1000, two)
			s.tickRun(2100, 2000, three)
			return s
		}},
	}
}

package check_test

import (
	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/chaos/history"
)

// resumed is task one whose worker was killed at 100, healed at 1,000, and which
// started again at that time. The lease and 5 s end at 7,000.
func resumed(again int64) *script {
	s := queued()
	s.attempt(20, 0, "w1", 1, 2, 1, "")
	s.fault(100, 900, "kill", "w1")
	s.healed(1000)
	s.attempt(again, again+100, "w2", 1, 3, 2, history.OK)
	s.finish(again+101, pelton.Succeeded, "w2", again, 1, 4, 3)
	return s
}

// other is a run of task two on w3.
func other(s *script, begin, end int64) *script {
	s.accept(15, two, "r2")
	s.start(begin, "w3", two, "r2", 1, 5)
	s.end(end, "w3", two, 5, history.OK)
	r := s.read(end+1, two, pelton.Succeeded, 6).Record
	r.ResultFence, r.ResultRun, r.Attempt, r.Worker, r.FinishedAt = 5, name("w3", 5), 1, "id-of-w3", wall(end)
	return s
}

func rejectedRecovery() []example {
	return []example{
		{"recovery", "too late", func() *script { return resumed(8200) }},
		{"recovery", "the slot was free for the last seconds", func() *script {
			return other(resumed(9200), 500, 7100)
		}},
		{"recovery", "too late, and put back after that", func() *script {
			s := queued()
			s.healed(1000)
			s.attempt(16_000, 16_010, "w1", 1, 2, 1, history.Failure)
			s.finish(16_011, pelton.Retrying, "w1", 16_000, 1, 3, 2).RunAt = wall(16_500)
			s.attempt(16_500, 16_600, "w1", 2, 4, 3, history.OK)
			s.finish(16_601, pelton.Succeeded, "w1", 16_500, 2, 5, 4)
			return s
		}},
		{"recovery", "long after its retry was due", func() *script {
			s := queued()
			s.attempt(20, 30, "w1", 1, 2, 1, history.Failure)
			s.finish(31, pelton.Retrying, "w1", 20, 1, 3, 2).RunAt = wall(9000)
			s.healed(1000)
			s.attempt(11_500, 11_600, "w1", 2, 4, 3, history.OK)
			s.finish(11_601, pelton.Succeeded, "w1", 11_500, 2, 5, 4)
			return s
		}},
	}
}

func acceptedRecovery() []example {
	return []example{
		{"recovery", "in time", func() *script { return resumed(6900) }},
		{"recovery", "no slot was free", func() *script { return other(resumed(9200), 500, 9000) }},
		{"recovery", "one task after the other", func() *script {
			s := resumed(9200)
			s.fault(101, 102, "kill", "w1")
			for at := int64(6500); at < 9200; at += 500 {
				id := pelton.NewID(wall(at), 0)
				ref := id.String()
				s.accept(12, id, ref)
				s.start(at, "w3", id, ref, 1, uint64(at))
				s.end(at+1, "w3", id, uint64(at), history.OK)
				r := s.read(at+2, id, pelton.Succeeded, uint64(at+1)).Record
				r.ResultFence, r.ResultRun, r.Attempt, r.Worker, r.FinishedAt = uint64(at), name("w3", uint64(at)), 1, "id-of-w3", wall(at+1)
			}
			return s
		}},
		{"recovery", "over before healing", func() *script {
			s := plain()
			s.healed(1000)
			s.read(60_000, one, pelton.Succeeded, 3)
			return s
		}},
		{"recovery", "under way while all was healed", func() *script {
			s := queued()
			s.attempt(20, 60_000, "w1", 1, 2, 1, history.OK)
			s.finish(60_001, pelton.Succeeded, "w1", 20, 1, 3, 2)
			s.healed(1000)
			return s
		}},
		{"recovery", "over before healing, and retried long after", func() *script {
			s := plain()
			s.healed(1000)
			s.call(60_000, one, history.RetrySent)
			s.stored(60_001, one, pelton.Queued, 4, 3)
			s.attempt(60_002, 60_010, "w2", 1, 5, 4, history.OK)
			s.finish(60_011, pelton.Succeeded, "w2", 60_002, 1, 6, 5)
			return s
		}},
		{"recovery", "a retry that is due later", func() *script {
			s := queued()
			s.attempt(20, 30, "w1", 1, 2, 1, history.Failure)
			s.finish(31, pelton.Retrying, "w1", 20, 1, 3, 2).RunAt = wall(9000)
			s.healed(1000)
			s.attempt(9100, 9200, "w1", 2, 4, 3, history.OK)
			s.finish(9201, pelton.Succeeded, "w1", 9100, 2, 5, 4)
			return s
		}},
	}
}

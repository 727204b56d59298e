package chaos_test

import (
	"testing"
	"time"

	"github.com/peltonq/pelton"
)

// A deploy restarts workers and the server one after the other, with SIGTERM, while
// tasks come in. No fault is written into the history: whatever ends within the
// grace runs once, and nothing fails.
func TestRollingRestart(t *testing.T) {
	t.Parallel()
	p := theProfile()
	p.lease = 5 * time.Second // longer than any restart takes
	if raceEnabled {
		p.lease *= 3
	}
	s := newSuite(t, p)
	rounds := 2
	if p.long {
		rounds = 10
	}
	s.while(p.tasks, 15*time.Millisecond, func() {
		for range rounds {
			for _, w := range s.fleet {
				s.replace(w)
			}
			s.restartServer()
		}
	})
	s.healed()
	if report := s.judge(); report.Counts.Duplicates > 0 {
		t.Errorf("%d tasks ran twice", report.Counts.Duplicates)
	}
}

// A long task outlives ten restarts of its worker, whose grace is too short for it,
// and five kills of the server: it is begun again each time, and no crash is counted.
func TestLongTaskOutlivesRestarts(t *testing.T) {
	t.Parallel()
	p := theProfile()
	s := newSuite(t, p)
	ms := 10_000 // longer than a round takes where everything is slow
	if p.long {
		ms = 60_000
	}
	id := s.producer.must(order{kind: "chaos.sleep", ms: ms})
	for n := range 10 {
		s.replace(s.runner(id))
		if n%2 == 1 {
			s.runner(id)
			s.crashServer(s.between(0, p.lease/2))
		}
	}
	s.healed()
	s.producer.finish(time.Duration(ms)*time.Millisecond+p.drain, id)
	if task := s.producer.get(id, ""); task == nil || task.State != pelton.Succeeded || task.Attempt != 1 || task.Crashes != 0 {
		t.Errorf("the long task: %+v", task)
	}
	s.judge()
}

// runner waits until some worker runs the task.
func (s *suite) runner(id pelton.ID) *slot {
	s.Helper()
	var found *slot
	s.eventually("the long task runs", s.lease+10*time.Second, func() bool {
		for _, w := range s.fleet {
			if !w.process().ended() && s.open(w.actorName())[id] {
				found = w
				return true
			}
		}
		return false
	})
	return found
}

// replace restarts a worker with SIGTERM, and waits for its successor.
func (s *suite) replace(w *slot) {
	s.Helper()
	p := w.process()
	w.terminate(w.actorName())
	s.eventually("the worker ends", 20*time.Second, p.ended)
	s.eventually("it has a successor", 5*time.Second, func() bool { return w.process() != p })
	w.ready()
}

// restartServer restarts the server with SIGTERM.
func (s *suite) restartServer() {
	s.Helper()
	s.server.terminate()
	s.server.start()
}

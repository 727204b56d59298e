package chaos_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/chaos/history"
	"github.com/peltonq/pelton/internal/failpoint"
)

// withFailpoints lets every worker and every server die between two writes of the
// protocol, until all gaps have had their deaths.
func withFailpoints(s *suite) {
	s.built = instrumented
	deaths := 1
	if s.long {
		deaths = 10
	}
	// What was put back without its message must be there before a worker can die of
	// publishing it: most workers wait for that at first.
	workers := append([]failpoint.Point{failpoint.PutBackRecorded, failpoint.RepublishPublished, failpoint.RepublishPublished}, failpoint.OfWorkers()...)
	s.workerPoints = newPoints(rand.New(rand.NewPCG(s.rand.Uint64(), 4)), deaths, workers...)
	s.serverPoints = newPoints(rand.New(rand.NewPCG(s.rand.Uint64(), 5)), deaths, failpoint.OfServers()...)
}

// Every gap between two writes of the protocol is a place to die: each is died at,
// and what it leaves is repaired.
func TestFailpoints(t *testing.T) {
	t.Parallel()
	p := theProfile()
	s := newSuite(t, p, withFailpoints)
	var doomed []pelton.ID
	deadline := time.Now().Add(3 * p.drain) // no promise: how soon all have died depends on the machine
	for n := 0; len(s.workerPoints.missing())+len(s.serverPoints.missing()) > 0; n++ {
		if time.Now().After(deadline) {
			t.Errorf("nobody died at %v and %v", s.workerPoints.missing(), s.serverPoints.missing())
			break
		}
		s.producer.enqueue(order{kind: "chaos.quick"})
		s.producer.enqueue(order{kind: "chaos.fail", times: 1})
		releases := slices.ContainsFunc(s.fleet, func(w *slot) bool { return w.diesAt() == failpoint.ReleaseRecorded })
		if releases || n%8 == 0 {
			// Longer than the grace, and than what this loop takes to see that it runs.
			s.producer.enqueue(order{kind: "chaos.sleep", ms: 4000})
		}
		if id, ok := s.producer.enqueue(order{kind: "chaos.doom", times: 1}); ok {
			doomed = append(doomed, id)
		}
		if id, ok := s.producer.enqueue(order{kind: "chaos.sleep", ms: 300, delay: 100 * time.Millisecond}); ok {
			s.producer.cancel(id)
		}
		if id, ok := s.producer.enqueue(order{kind: "chaos.quick", delay: time.Hour}); ok {
			s.producer.insist(hurrying(), id) // else it would be there for an hour
		}
		if n%4 == 3 && len(doomed) > 0 {
			s.producer.retry(doomed[s.rand.IntN(len(doomed))])
		}
		for _, w := range s.fleet {
			if name := w.actorName(); w.diesAt() == failpoint.ReleaseRecorded && len(s.open(name)) > 0 {
				w.terminate(name)
			}
		}
		s.pause(50 * time.Millisecond)
	}
	for _, w := range s.fleet {
		if w.diesAt() != "" {
			w.crash() // its place has been died at
		}
	}
	s.healed()
	s.resurrect(doomed)
	s.judge()
}

// resurrect retries doomed tasks until all have succeeded.
func (s *suite) resurrect(doomed []pelton.ID) {
	s.Helper()
	s.producer.finish(s.drain, doomed...)
	for _, id := range doomed {
		for try := 0; ; try++ {
			task := s.producer.get(id, "1s")
			if task != nil && task.State == pelton.Succeeded {
				break
			}
			if try == 10 {
				s.Errorf("task %s is %+v after %d retries", id, task, try)
				break
			}
			if task != nil && task.State == pelton.Failed {
				s.producer.retry(id)
			}
		}
	}
}

// withExclusionPoints is withFailpoints for the gaps of lines, unique keys and locks.
func withExclusionPoints(s *suite) {
	s.built = instrumented
	deaths := 1
	if s.long {
		deaths = 10
	}
	s.workerPoints = newPoints(rand.New(rand.NewPCG(s.rand.Uint64(), 4)), deaths, failpoint.OfWorkersExclusion()...)
	s.serverPoints = newPoints(rand.New(rand.NewPCG(s.rand.Uint64(), 5)), deaths, failpoint.OfServersExclusion()...)
}

// Every gap between two writes of lines, unique keys and named locks is a place to die:
// limits hold, nothing is lost, and no key is stuck.
func TestExclusionFailpoints(t *testing.T) {
	t.Parallel()
	p := theProfile()
	s := newSuite(t, p, withExclusionPoints)
	s.limits = map[string]int{"two": 2, history.LineOf(history.Few, ""): 2}
	s.change(http.MethodPut, "/limits/few", fmt.Sprintf(`{"kind":%q,"max_running":2}`, history.Few))
	s.change(http.MethodPut, "/limits/two", `{"concurrency_key":"two","max_running":2}`)
	keys, uniques, locks := []string{"one", "two", "three"}, []string{"u", "v"}, []string{"l", "m"}
	var asking sync.WaitGroup
	deadline := time.Now().Add(3 * p.drain) // no promise: how soon all have died depends on the machine
	for n := 0; len(s.workerPoints.missing())+len(s.serverPoints.missing()) > 0; n++ {
		if time.Now().After(deadline) {
			t.Errorf("nobody died at %v and %v", s.workerPoints.missing(), s.serverPoints.missing())
			break
		}
		s.producer.enqueue(order{kind: "chaos.sleep", ms: 30, key: keys[n%len(keys)]})
		s.producer.enqueue(order{kind: history.Few, ms: 20})
		if n%4 == 0 { // a line that is run by relays
			for i := range 6 { // the others go back behind the third
				kind := []string{"chaos.quick", "chaos.quick", "chaos.sleep", "chaos.quick", "chaos.fail", "chaos.fail"}[i]
				s.producer.enqueue(order{kind: kind, ms: 120, times: 1, key: keys[n/4%len(keys)]})
			}
		}
		if n%8 == 0 { // longer than a third of the lease
			s.producer.enqueue(order{kind: "chaos.locked", ms: int(p.lease.Milliseconds()) / 2, lock: locks[n/8%len(locks)]})
		}
		o := order{kind: "chaos.sleep", ms: 10, unique: uniques[n%len(uniques)], conflict: pelton.OnConflicts()[n/2%2], idempotency: s.producer.name()}
		asking.Go(func() { s.producer.settle(o.idempotency, o) })
		s.pause(50 * time.Millisecond)
	}
	asking.Wait()
	for _, w := range s.fleet {
		if w.diesAt() != "" {
			w.crash() // its place has been died at
		}
	}
	s.healed()
	// Whatever was left behind, everything can be had again, once the leases of the dead are over:
	// until then they have their turns.
	s.producer.drain(s.drain)
	s.pause(p.lease + time.Second)
	var again []pelton.ID
	for _, key := range keys {
		for range 3 {
			again = append(again, s.producer.must(order{kind: "chaos.sleep", ms: 500, key: key}))
		}
	}
	for range 6 {
		again = append(again, s.producer.must(order{kind: history.Few, ms: 500}))
	}
	for _, key := range uniques {
		again = append(again, s.producer.must(order{kind: "chaos.sleep", unique: key}))
	}
	for _, lock := range locks {
		again = append(again, s.producer.must(order{kind: "chaos.locked", lock: lock}))
	}
	s.producer.finish(s.drain, again...)
	if c := s.judge().Counts; c.MostPerKey != 2 {
		t.Errorf("want at most 2 of a key at a time: %s", c)
	}
}

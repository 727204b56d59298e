package chaos_test

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/chaos/history"
)

// change makes a request that changes something until it is answered well.
func (s *suite) change(method, path, body string) {
	s.Helper()
	s.eventually(method+" "+path, 10*time.Second, func() bool {
		status, answer, err := call(s.Context(), method, s.producer.url(path), body)
		if err == nil && status >= 400 && status < 500 {
			s.Fatalf("%s %s: %d %s", method, path, status, answer)
		}
		return err == nil && status < 300
	})
}

// pauseQueue pauses the queue for a while.
func (s *suite) pauseQueue(d time.Duration) {
	s.Helper()
	s.change(http.MethodPost, "/queues/default/pause", "")
	s.pause(d)
	s.change(http.MethodPost, "/queues/default/resume", "")
}

// busyAfterPause pauses the queue, so that tasks wait, and gives a worker that is in the
// middle of them.
func (s *suite) busyAfterPause() *slot {
	s.Helper()
	s.pauseQueue(s.between(100*time.Millisecond, 400*time.Millisecond))
	w := s.anyone()
	before := w.written()
	s.eventually("a worker is busy", s.patience(), func() bool { return w.written() > before+2<<10 })
	return w
}

// lines enqueues n tasks of each key, one key's after the other, so that the order of
// their acceptance is known, and a few keys at a time, so that lines form. It waits for
// the answers.
func (s *suite) lines(keys []string, n int) {
	var enqueuing sync.WaitGroup
	places := make(chan struct{}, 16)
	for i, key := range keys {
		ms := 30 + (i*7)%60
		enqueuing.Go(func() {
			for left := n; left > 0; left -= 10 {
				places <- struct{}{}
				for range min(left, 10) {
					s.producer.must(order{kind: "chaos.sleep", ms: ms, key: key})
				}
				<-places
			}
		})
	}
	enqueuing.Wait()
}

// Keys keep their limits and their order while workers die and are stopped and the queue
// is paused.
func TestKeys(t *testing.T) {
	t.Parallel()
	p := theProfile()
	p.workers = 3
	s := newSuite(t, p)
	s.limits = make(map[string]int)
	s.change(http.MethodPut, "/limits/two", `{"concurrency_key":"two-*","max_running":2}`)
	var keys []string
	for i := range 50 {
		key := fmt.Sprintf("two-%d", i)
		s.limits[key] = 2
		keys = append(keys, key)
	}
	for i := range 10 {
		keys = append(keys, fmt.Sprintf("one-%d", i))
	}
	n, rounds := 7, 1
	if p.long {
		n, rounds = 20_000/len(keys)+1, 8
	}
	s.producer.must(order{kind: "chaos.quick"}) // a queue that is not there cannot be paused
	var enqueuing sync.WaitGroup
	enqueuing.Go(func() { s.lines(keys, n) })
	for round := range rounds {
		s.busyAfterPause().crash()
		s.halt(s.busyAfterPause(), p.lease+s.between(200*time.Millisecond, 700*time.Millisecond))
		if round%2 == 1 {
			s.crashServer(s.between(0, p.lease/2))
		}
	}
	enqueuing.Wait()
	s.healed()
	if c := s.judge().Counts; c.MostPerKey != 2 || c.Accepted != n*len(keys)+1 || c.Faults["kill"] == 0 || c.Faults[history.StopFault] == 0 {
		t.Errorf("want %d tasks, at most 2 of a key at a time, kills and stops: %s", n*len(keys)+1, c)
	}
}

// A kind keeps its limit while workers die and are stopped and the server is killed: runs take their turns by the messages that
// they have, and where there are none soon the tasks go through the line of the kind.
func TestFewOfAKind(t *testing.T) {
	t.Parallel()
	p := theProfile()
	p.workers = 3
	s := newSuite(t, p)
	const most = 8
	s.limits = map[string]int{history.LineOf(history.Few, ""): most}
	s.change(http.MethodPut, "/limits/few", fmt.Sprintf(`{"kind":%q,"max_running":%d}`, history.Few, most))
	n, rounds := 150, 2
	if p.long {
		n, rounds = 600, 12
	}
	s.producer.must(order{kind: "chaos.quick"}) // a queue that is not there cannot be paused
	for round := range rounds {
		var enqueuing sync.WaitGroup
		for part := range 4 { // mostly short ones, in bursts of longer ones
			enqueuing.Go(func() {
				for i := range n {
					o := order{kind: history.Few, ms: i % 3}
					if i%100 < 8 {
						o.ms = 150
					}
					if part == 0 {
						o.key = fmt.Sprint("few-", i%5) // which has its turn first
					}
					s.producer.must(o)
					s.pause(15 * time.Millisecond)
				}
			})
		}
		if round%2 == 0 { // there is room, and runs take it
			s.pause(s.between(500*time.Millisecond, 1500*time.Millisecond))
			s.fleet[s.rand.IntN(len(s.fleet))].crash()
		} else { // the dead keep their turns, and all go through the line
			s.busyAfterPause().crash()
			s.halt(s.busyAfterPause(), p.lease+s.between(200*time.Millisecond, 700*time.Millisecond))
			s.crashServer(s.between(0, p.lease/2))
		}
		enqueuing.Wait()
		s.producer.drain(s.drain)
	}
	s.healed()
	if c := s.judge().Counts; c.MostPerKey != most || c.Accepted != 4*n*rounds+1 || c.Faults["kill"] == 0 || c.Faults[history.StopFault] == 0 {
		t.Errorf("want %d tasks, at most %d at a time, kills and stops: %s", 4*n*rounds, most, c)
	}
}

// settle repeats a request until its answer tells what became of it.
func (p *producer) settle(ref string, o order) history.Event {
	deadline := time.Now().Add(time.Minute)
	for {
		e := p.post(ref, o)
		if !e.Task.IsZero() {
			return e
		}
		if time.Now().After(deadline) {
			p.s.Errorf("%s has no answer after a minute: %s", ref, e.Note)
			return e
		}
		p.s.pause(150 * time.Millisecond)
	}
}

// crowd is n requests at a time, each repeated until it is answered.
func (s *suite) crowd(n int, request func(i int) (ref string, o order)) []history.Event {
	answers := make([]history.Event, n)
	var asking sync.WaitGroup
	for i := range n {
		ref, o := request(i)
		asking.Go(func() { answers[i] = s.producer.settle(ref, o) })
	}
	asking.Wait()
	return answers
}

// oneOf checks that all answers name one task, how many of them it was accepted by, and
// gives it.
func (s *suite) oneOf(what string, answers []history.Event, accepted int) pelton.ID {
	s.Helper()
	n := 0
	for _, e := range answers {
		if e.Task != answers[0].Task {
			s.Errorf("%s: tasks %s and %s", what, answers[0].Task, e.Task)
		}
		if e.Kind == history.EnqueueOK {
			n++
		}
	}
	if n != accepted {
		s.Errorf("%s: accepted %d times, want %d", what, n, accepted)
	}
	return answers[0].Task
}

// Of a hundred requests at a time, with one unique key or one idempotency key, one makes
// a task, also when the server is killed among them and they are repeated.
func TestUniqueAndIdempotent(t *testing.T) {
	t.Parallel()
	p := theProfile()
	s := newSuite(t, p)
	const crowd = 100
	rounds := 2
	if p.long {
		rounds = 20
	}
	var contending sync.WaitGroup
	contending.Go(func() { s.contend(rounds) })
	waits := order{kind: "chaos.quick", delay: time.Hour} // it holds its key until it is cancelled
	for round := range rounds {
		for _, policy := range []pelton.OnConflict{pelton.ConflictReject, pelton.ConflictExisting, ""} {
			var killing sync.WaitGroup
			if round%2 == 1 {
				after := s.between(0, 80*time.Millisecond)
				killing.Go(func() {
					s.pause(after)
					s.crashServer(0)
				})
			}
			what := fmt.Sprintf("round %d, %q", round, policy)
			shared := s.producer.name()
			answers := s.crowd(crowd, func(int) (string, order) {
				o := waits
				if policy == "" {
					o.idempotency = "i-" + shared
					return shared, o
				}
				ref := s.producer.name()
				o.unique, o.conflict, o.idempotency = "u", policy, "i-"+ref
				return ref, o
			})
			killing.Wait()
			accepted := 1
			if policy == "" {
				accepted = crowd
			}
			s.producer.cancel(s.oneOf(what, answers, accepted))
		}
	}
	contending.Wait()
	s.healed()
	if report := s.judge(); report.Counts.Accepted <= 3*rounds || report.Counts.Cancelled != 3*rounds {
		t.Errorf("keys that were given back were not taken again: %s", report.Counts)
	}
}

// contend enqueues tasks that run, of a few unique keys, from many sides, while workers
// die.
func (s *suite) contend(rounds int) {
	var asking sync.WaitGroup
	for i := range 8 {
		o := order{kind: "chaos.sleep", ms: 20, unique: fmt.Sprint("r", i%3), conflict: pelton.OnConflicts()[i%2]}
		asking.Go(func() {
			for range 20 * rounds {
				o.idempotency = s.producer.name()
				s.producer.settle(o.idempotency, o)
				s.pause(10 * time.Millisecond)
			}
		})
	}
	for i := range rounds {
		s.pause(300 * time.Millisecond)
		s.fleet[i%len(s.fleet)].crash() // not at random: the nemesis is at work elsewhere
	}
	asking.Wait()
}

// Locks exclude while those who hold them are killed and stopped, and the broker is
// killed with the server.
func TestLocks(t *testing.T) {
	t.Parallel()
	p := theProfile()
	p.workers = 3
	s := newSuite(t, p)
	n, rounds := p.tasks/2, 1
	if p.long {
		n, rounds = p.tasks, 10
	}
	next := 0
	var enqueuing sync.WaitGroup
	enqueuing.Go(func() {
		s.producer.flood(s.Context(), 10*time.Millisecond, func() (order, bool) {
			if next++; next > n {
				return order{}, false
			}
			o := order{kind: "chaos.locked", ms: 20 + next*13%50, lock: fmt.Sprint("lock-", next%4)}
			if next%4 == 3 {
				o.lock, o.slots = "semaphore", 3
			}
			return o, true
		})
	})
	for range rounds {
		s.pause(s.between(200*time.Millisecond, 500*time.Millisecond))
		s.halt(s.anyone(), p.lease+s.between(500*time.Millisecond, time.Second))
		s.anyone().crash()
		s.pause(s.between(100*time.Millisecond, 300*time.Millisecond))
		s.crashServer(s.between(0, p.lease/2))
	}
	enqueuing.Wait()
	s.healed()
	if report := s.judge(); report.Counts.Succeeded != n {
		t.Errorf("%d of %d tasks had their locks: %s", report.Counts.Succeeded, n, report.Counts)
	}
}

// A unique key is held as long as its task asked for, until it was started or for a
// window, and is taken over from one that waits by who asks for that, while workers and
// the server are killed.
func TestUniqueTerms(t *testing.T) {
	t.Parallel()
	p := theProfile()
	s := newSuite(t, p)
	each, rounds := 25, 2
	if p.long {
		each, rounds = 250, 20
	}
	families := []order{
		{kind: "chaos.sleep", ms: 150, unique: "started", until: pelton.UntilStarted},
		{kind: "chaos.sleep", ms: 150, unique: "finished"},
		{kind: "chaos.quick", unique: "window", window: time.Second},
		{kind: "chaos.quick", unique: "both", window: time.Second, until: pelton.UntilStarted, delay: 200 * time.Millisecond},
		{kind: "chaos.sleep", ms: 20, unique: "waits", delay: 300 * time.Millisecond},
	}
	var asking sync.WaitGroup
	for i, family := range families {
		for side := range 3 {
			asking.Go(func() {
				for n := range each {
					o := family
					o.conflict = pelton.OnConflicts()[(i+side+n)%3]
					o.idempotency = s.producer.name()
					s.producer.settle(o.idempotency, o)
					s.pause(30 * time.Millisecond)
				}
			})
		}
	}
	for i := range rounds {
		s.pause(s.between(200*time.Millisecond, 500*time.Millisecond))
		s.fleet[i%len(s.fleet)].crash()
		s.pause(s.between(100*time.Millisecond, 400*time.Millisecond))
		s.crashServer(s.between(0, p.lease/2))
	}
	asking.Wait()
	s.healed()
	if c := s.judge().Counts; c.Replaced == 0 || c.Replaced != c.Cancelled || c.Accepted < 2*len(families) || c.Faults["kill"] < rounds {
		t.Errorf("want keys that are taken again, and tasks that are replaced, under %d kills: %s", rounds, c)
	}
}

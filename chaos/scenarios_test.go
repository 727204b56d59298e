package chaos_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/chaos/history"
	"github.com/peltonq/pelton/chaos/proxy"
)

// orders is an endless source of tasks: a few that are quick, many that take up to
// a second, some that fail at first.
func (s *suite) orders(n int) func() (order, bool) {
	random := rand.New(rand.NewPCG(s.rand.Uint64(), 1))
	return func() (order, bool) {
		if n--; n < 0 {
			return order{}, false
		}
		ms := 10 + random.IntN(600)
		if s.keys > 0 && random.IntN(4) == 0 {
			return order{kind: "chaos.sleep", ms: ms / 4, key: fmt.Sprintf("key-%d", random.IntN(s.keys))}, true
		}
		switch roll := random.IntN(100); {
		case roll < 30:
			return order{kind: "chaos.quick"}, true
		case roll < 80:
			return order{kind: "chaos.sleep", ms: ms, bare: roll%2 == 0}, true
		case roll < 90:
			return order{kind: "chaos.fail", ms: ms / 10, times: 1 + random.IntN(2), bare: roll%2 == 0}, true
		case roll < 95:
			return order{kind: "chaos.sleep", ms: ms, delay: time.Duration(ms) * time.Millisecond}, true
		default:
			return order{kind: "chaos.quick", at: time.Now().Add(time.Duration(5*ms) * time.Millisecond)}, true
		}
	}
}

// while enqueues n tasks at an even pace, and makes faults meanwhile.
func (s *suite) while(n int, tick time.Duration, faults func()) {
	var flooding sync.WaitGroup
	next := s.orders(n) // here, so that a seed means the same in every run
	flooding.Go(func() { s.producer.flood(s.Context(), tick, next) })
	faults()
	flooding.Wait()
}

// patience is how long it may take until a worker is busy: what was handed out to one that is gone
// comes back with its lease.
func (s *suite) patience() time.Duration { return 10*time.Second + 2*s.lease }

// written is how much all workers have written to their histories.
func (s *suite) written() (all int64) {
	for _, w := range s.fleet {
		all += w.written()
	}
	return all
}

// burst enqueues n tasks that become ready at the same time, and waits until a worker
// is in the middle of them, or they may be over: they keep every slot busy with writes, so that a
// process that dies now dies between two of them. Some fail first and take longer than the lease after that, so that a
// second copy of their message meets a running one.
func (s *suite) burst(n int, w *slot) {
	s.Helper()
	random := rand.New(rand.NewPCG(s.rand.Uint64(), 3))
	began, runs := s.written(), int64(n)
	at := time.Now().Add(100*time.Millisecond + time.Duration(n)*1500*time.Microsecond)
	s.producer.flood(s.Context(), 500*time.Microsecond, func() (order, bool) {
		if n--; n < 0 {
			return order{}, false
		}
		switch roll := random.IntN(100); {
		case roll < 70:
			return order{kind: "chaos.quick", at: at}, true
		case roll < 97:
			return order{kind: "chaos.fail", times: 1 + random.IntN(2), at: at}, true
		default:
			return order{kind: "chaos.fail", times: 1, ms: int(s.lease.Milliseconds()) + 500, at: at}, true
		}
	})
	before := w.written()
	s.eventually("a worker is busy", s.patience(), func() bool {
		return w.written() > before+4<<10 || s.written() > began+400*runs // few tasks may all go to others; a run writes 500
	})
	s.pause(s.between(0, 40*time.Millisecond))
}

// Workers die all the time, and nothing else does.
func TestWorkerKillLoop(t *testing.T) {
	t.Parallel()
	p := theProfile()
	s, proxies := newLinkedSuite(t, p)
	for range p.kills {
		i := s.rand.IntN(len(s.fleet))
		s.burst(min(p.tasks, 500), s.fleet[i])
		if s.rand.IntN(4) > 0 {
			s.tear(s.fleet[i], proxies[i])
		} else {
			s.fleet[i].crash()
		}
		for _, w := range s.fleet {
			w.ready()
		}
	}
	s.healed()
	report := s.judge()
	if report.Counts.Faults["kill"] == 0 || report.Counts.Duplicates == 0 {
		t.Errorf("the kills hit nothing: %s", report.Counts)
	}
}

// Without any fault, cancels of tasks that wait, that are delayed and that run are
// kept to the letter, and nothing runs twice.
func TestCancel(t *testing.T) {
	t.Parallel()
	p := theProfile()
	s := newSuite(t, p)
	slots := p.workers * p.concurrency
	var ids []pelton.ID
	for i := range 3 * slots { // a third runs, two thirds wait
		o := order{kind: "chaos.sleep", ms: 2500}
		if i%5 == 4 {
			o.delay = time.Second
		}
		ids = append(ids, s.producer.must(o))
	}
	s.eventually("tasks run", 10*time.Second, func() bool { return len(s.open(s.fleet[0].actorName())) > 0 })
	for i, id := range ids {
		if i%2 == 0 {
			s.producer.cancel(id)
		}
	}
	s.healed()
	report := s.judge()
	if report.Counts.Cancelled == 0 || report.Counts.Succeeded == 0 {
		t.Errorf("cancels hit all or nothing: %s", report.Counts)
	}
}

// A worker that is stopped past its lease and then goes on changes nothing: its
// tasks have ended elsewhere by then, and their records keep their revisions.
func TestStoppedWorker(t *testing.T) {
	t.Parallel()
	p := theProfile()
	s := newSuite(t, p)
	zombie := s.fleet[0]
	var ids []pelton.ID
	for range p.workers * p.concurrency {
		ids = append(ids, s.producer.must(order{kind: "chaos.sleep", ms: 1200}))
	}
	s.eventually("the worker has tasks", 10*time.Second, func() bool { return len(s.open(zombie.actorName())) >= p.concurrency/2 })
	name := zombie.actorName()
	resume := zombie.halt()
	halted := s.open(name)
	s.producer.finish(p.lease+30*time.Second, ids...)
	before := make(map[pelton.ID]uint64)
	for _, id := range ids {
		before[id] = s.producer.get(id, "").Revision
	}
	resume()
	s.eventually("the zombie has noticed", 10*time.Second, func() bool { return len(s.open(name)) == 0 })
	s.pause(p.lease) // whatever it may have sent has arrived
	for _, id := range ids {
		if now := s.producer.get(id, ""); now.Revision != before[id] || now.State != pelton.Succeeded {
			t.Errorf("task %s is %s at revision %d, it was at %d before the zombie woke up", id, now.State, now.Revision, before[id])
		}
	}
	if len(halted) == 0 {
		t.Error("the worker was stopped with nothing to do")
	}
	t.Logf("%d tasks were halted", len(halted))
	s.healed()
	s.judge()
}

// open lists the tasks that an actor began and did not end.
func (s *suite) open(actor string) map[pelton.ID]bool {
	s.Helper()
	events, _, err := history.ReadDir(s.dir)
	if err != nil {
		s.Fatal(err)
	}
	open := make(map[pelton.ID]bool)
	for _, e := range events {
		switch {
		case e.Actor != actor:
		case e.Kind == history.RunStart:
			open[e.Task] = true
		case e.Kind == history.RunEnd:
			delete(open, e.Task)
		}
	}
	return open
}

// The server dies with its broker, five times, and comes back on the same data. A
// healthy task that outlives all of that does not become poison.
func TestServerKilled(t *testing.T) {
	t.Parallel()
	p := theProfile()
	s := newSuite(t, p)
	long := order{kind: "chaos.sleep", ms: 6000}
	if p.long {
		long.ms = 60_000
	}
	id := s.producer.must(long)
	s.while(p.tasks, 10*time.Millisecond, func() {
		for range 5 {
			s.burst(min(p.tasks/2, 500), s.anyone())
			s.crashServer(s.between(0, p.lease/2))
		}
	})
	s.healed()
	s.producer.finish(p.drain, id)
	if task := s.producer.get(id, ""); task == nil || task.State != pelton.Succeeded {
		t.Errorf("the long task: %+v", task)
	}
	s.judge()
}

// The network between a worker and the broker breaks in every way, for longer than
// the lease and for a moment.
func TestNetworkCut(t *testing.T) {
	t.Parallel()
	p := theProfile()
	s, proxies := newLinkedSuite(t, p)
	n := p.tasks
	if !p.long {
		n *= 3 // it takes a while to go through all modes
	}
	s.while(n, 15*time.Millisecond, func() {
		for i, mode := range proxy.Modes() {
			// The other worker blinks meanwhile.
			var cuts sync.WaitGroup
			cuts.Go(func() { s.cut(s.fleet[i%2], proxies[i%2], mode, p.lease+p.cut) })
			s.pause(p.lease / 2)
			s.cut(s.fleet[1-i%2], proxies[1-i%2], mode, p.lease/5)
			cuts.Wait()
		}
	})
	s.healed()
	s.judge()
}

// Handlers that panic, end their goroutine, end their process, hang and take memory.
func TestHandlers(t *testing.T) {
	t.Parallel()
	p := theProfile()
	s := newSuite(t, p)
	times := 1
	if p.long {
		times = 10
	}
	var exits, others []pelton.ID
	for range times {
		for _, o := range []order{
			{kind: "chaos.panic", times: 2},
			{kind: "chaos.panic", times: 1, ms: 100},
			{kind: "chaos.goexit", times: 1},
			{kind: "chaos.hang", times: 1, ms: int((p.lease + 10*time.Second).Milliseconds()), timeout: time.Second},
			{kind: "chaos.hang", times: 1, ms: 3000, timeout: time.Second},
			{kind: "chaos.hog", mib: 128, ms: 200},
			{kind: "chaos.hog", mib: 256, ms: 200},
			{kind: "chaos.snooze", times: 3, ms: 20},
			{kind: "chaos.fail", times: 3},
		} {
			others = append(others, s.producer.must(o))
		}
		exits = append(exits, s.producer.must(order{kind: "chaos.exit", times: 1, ms: 100}))
		exits = append(exits, s.producer.must(order{kind: "chaos.exit", times: 2, ms: 300}))
	}
	s.while(p.tasks/3, 20*time.Millisecond, func() { s.producer.finish(p.drain, exits...) })
	s.healed()
	s.producer.finish(p.drain, others...)
	for _, id := range append(exits, others...) {
		if task := s.producer.get(id, ""); task == nil || task.State != pelton.Succeeded && (task.Error == nil || task.Error.Reason != pelton.ReasonPoison) {
			t.Errorf("task %s: %+v", id, task)
		}
	}
	s.judge()
}

// A task that kills its worker each time is poison after its crashes, and leaves
// the workers in peace.
func TestPoison(t *testing.T) {
	t.Parallel()
	p := theProfile()
	s := newSuite(t, p)
	id := s.producer.must(order{kind: "chaos.exit", times: 1000, ms: 50})
	s.producer.finish(3*(p.lease+5*time.Second)+10*time.Second, id)
	if task := s.producer.get(id, ""); task == nil || task.State != pelton.Failed || task.Error == nil || task.Error.Reason != pelton.ReasonPoison {
		t.Errorf("a task that kills its worker each time: %+v", task)
	}
	s.healed()
	if t.Failed() {
		return // it never ends
	}
	if report := s.judge(); report.Counts.Faults[history.ExitFault] != pelton.DefaultMaxCrashes {
		t.Errorf("%d workers died of it, the budget is %d", report.Counts.Faults[history.ExitFault], pelton.DefaultMaxCrashes)
	}
}

// Everything at once, at random: workers are killed, stopped and cut off, the
// server is killed, tasks are cancelled and read.
func TestMixed(t *testing.T) {
	t.Parallel()
	p := theProfile()
	s, proxies := newLinkedSuite(t, p)
	browsing, stop := context.WithCancel(t.Context())
	picks := rand.New(rand.NewPCG(s.rand.Uint64(), 2))
	var readers sync.WaitGroup
	readers.Go(func() {
		cancel, hurry := cancelling(), hurrying()
		s.producer.browse(browsing, func(n int) (int, *verb) {
			young := n - 1 - picks.IntN(min(n, 8)) // which may still wait
			switch picks.IntN(8) {
			case 0:
				return young, &cancel
			case 1:
				return young, &hurry
			default:
				return picks.IntN(n), nil
			}
		})
	})
	s.while(p.tasks, p.mixed/time.Duration(p.tasks), func() {
		for began := time.Now(); time.Since(began) < p.mixed; {
			s.pause(s.between(100*time.Millisecond, 700*time.Millisecond))
			i := s.rand.IntN(len(s.fleet))
			switch roll := s.rand.IntN(10); {
			case roll < 4:
				s.fleet[i].crash()
			case roll < 6:
				s.halt(s.fleet[i], s.between(p.lease/2, 2*p.lease))
			case roll < 8:
				modes := proxy.Modes()
				s.cut(s.fleet[i], proxies[i], modes[s.rand.IntN(len(modes))], s.between(p.lease/4, 3*p.lease/2))
			default:
				s.crashServer(s.between(0, p.lease))
			}
		}
	})
	stop()
	readers.Wait()
	s.healed()
	s.judge()
}

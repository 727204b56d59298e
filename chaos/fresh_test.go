package chaos_test

import (
	"context"
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

// young gives plain tasks, most of which are over before anybody writes that they run. Some are
// put back by a run that was not written, some are just old enough.
func (s *suite) young() func() order {
	random := rand.New(rand.NewPCG(s.rand.Uint64(), 7))
	return func() order {
		ms := random.IntN(45)
		switch roll := random.IntN(100); {
		case roll < 30:
			return order{kind: "chaos.quick"}
		case roll < 85:
			return order{kind: "chaos.sleep", ms: ms, bare: true}
		case roll < 93:
			return order{kind: "chaos.fail", ms: ms, times: 1, bare: true}
		default:
			return order{kind: "chaos.sleep", ms: 60 + ms, bare: true}
		}
	}
}

// meanwhile enqueues what next gives, one order per tick, while do goes on.
func (s *suite) meanwhile(tick time.Duration, next func() order, do func()) {
	s.Helper()
	ctx, stop := context.WithCancel(s.Context())
	var flooding sync.WaitGroup
	flooding.Go(func() {
		s.producer.flood(ctx, tick, func() (order, bool) { return next(), ctx.Err() == nil })
	})
	do()
	stop()
	flooding.Wait()
}

// busy waits until a worker has begun some more runs.
func (s *suite) busy(w *slot) {
	s.Helper()
	before := w.written()
	s.eventually("a worker is busy", 20*time.Second, func() bool { return w.written() > before+2<<10 })
}

// Workers die in the first milliseconds of runs of which nothing is written: killed, and in each gap
// of such a run.
func TestFreshWorkerDies(t *testing.T) {
	t.Parallel()
	p := theProfile()
	deaths := 1
	if p.long {
		deaths = 10
	}
	s := newSuite(t, p, func(s *suite) {
		s.built = instrumented
		s.workerPoints = newPoints(rand.New(rand.NewPCG(s.rand.Uint64(), 4)), deaths, failpoint.FreshStarted, failpoint.FreshPromoted, failpoint.FreshFinished, failpoint.SegmentSealed)
	})
	s.meanwhile(3*time.Millisecond, s.young(), func() {
		for range p.kills {
			w := s.anyone()
			s.busy(w)
			s.pause(s.between(0, 50*time.Millisecond))
			w.crash()
			w.ready()
		}
		s.eventually("workers die in all gaps", p.drain, func() bool { return len(s.workerPoints.missing()) == 0 })
	})
	for _, w := range s.fleet {
		if w.diesAt() != "" {
			w.crash()
		}
	}
	s.healed()
	if c := s.judge().Counts; c.Faults["kill"] == 0 || c.Faults["failpoint"] < 4*deaths || c.Traceless == 0 {
		t.Errorf("nobody died in a run without a record: %s", c)
	}
}

// deadly are the flags of a server whose own worker runs tasks that kill it, in a queue of their own.
func deadly() []string {
	return []string{"--queues", "deadly", "--exec", "chaos.deadly=/bin/sh -c 'kill -9 $PPID'"}
}

// letDie enqueues a task that kills the server, and lets it go when it is known which
// one it is. It comes right after others, so that the broker dies before it has written
// down that it handed it out. Those are of a kind that nobody knows in that queue.
func (s *suite) letDie() (id pelton.ID, others []pelton.ID) {
	s.Helper()
	o := order{kind: "chaos.deadly", queue: "deadly"}
	later := o
	later.delay = time.Hour
	s.producer.insist(cancelling(), s.producer.must(later)) // a queue that is not there cannot be paused
	s.change(http.MethodPost, "/queues/deadly/pause", "")
	for range 4 {
		others = append(others, s.producer.must(order{kind: "chaos.quick", queue: "deadly"}))
	}
	id = s.producer.must(o)
	s.server.fears(id)
	s.change(http.MethodPost, "/queues/deadly/resume", "")
	return id, others
}

// The server with its broker dies when it has handed out much, and when much was finished
// of which it may have forgotten the end. Whatever it hands out again
// as if it were new keeps its outcome; and a task that kills it is found out.
func TestHorizon(t *testing.T) {
	t.Parallel()
	p := theProfile()
	p.serve = deadly()
	s := newSuite(t, p)
	rounds := 4
	if p.long {
		rounds = 20
	}
	s.meanwhile(3*time.Millisecond, s.young(), func() {
		for range rounds {
			s.busy(s.anyone())
			s.pause(s.between(0, 50*time.Millisecond))
			s.crashServer(s.between(0, 200*time.Millisecond))
		}
		if most := pelton.DefaultMaxCrashes + 1; s.dieTogether(most) > most {
			t.Errorf("a task ended more than %d workers", most)
		}
	})
	id, others := s.letDie()
	s.producer.finish(4*(p.lease+5*time.Second)+20*time.Second, id)
	if task := s.producer.get(id, ""); task == nil || task.State != pelton.Failed || task.Error == nil || task.Error.Reason != pelton.ReasonPoison {
		t.Errorf("a task that kills its server: %+v", task)
	}
	for _, id := range others {
		s.producer.insist(cancelling(), id)
	}
	s.healed()
	if t.Failed() {
		return // it never ends
	}
	if c := s.judge().Counts; c.Faults[history.ExitFault] < pelton.DefaultMaxCrashes || c.Bare == 0 {
		t.Errorf("the server died too seldom, or no task ran without a record: %s", c)
	}
}

// dieTogether enqueues a task that ends its worker at once, and kills the server with its
// broker each time that happens, before that has written down what it handed out. It reports how
// many workers the task has ended when it is over, or has ended more than enough.
func (s *suite) dieTogether(enough int) int {
	s.Helper()
	names := func() (names []string) {
		for _, w := range s.fleet {
			names = append(names, w.actorName())
		}
		return names
	}
	alive := names()
	id := s.producer.must(order{kind: "chaos.exit", times: 1000, bare: true})
	deaths := 0
	s.eventually("it is over, or has ended too many", 2*time.Minute, func() bool {
		if slices.ContainsFunc(s.fleet, func(w *slot) bool { return w.process().ended() }) || !slices.Equal(names(), alive) {
			s.crashServer(0)
			for _, w := range s.fleet {
				w.ready()
			}
			alive = names()
			deaths = s.count(func(e history.Event) bool { return isExit(e) && e.Task == id })
		}
		if deaths > enough {
			return true
		}
		task := s.producer.get(id, "")
		return task != nil && task.State.Terminal()
	})
	return deaths
}

// guess gives an id that has another task's place, and was given to nobody.
func guess(id pelton.ID) pelton.ID { return pelton.NewID(time.Now(), 0).At(id.Sequence()) }

// Every task is there for everybody who asks, from the answer on that accepted it to its end
// and beyond, while workers run and finish it; and nobody finds one under an id that is
// not its own.
func TestReadsUnderLoad(t *testing.T) {
	t.Parallel()
	p := theProfile()
	s := newSuite(t, p)
	s.readWhile(p.tasks*2, s.young())
	for _, id := range s.producer.accepted()[:10] {
		if task := s.producer.get(guess(id), ""); task != nil {
			t.Errorf("a guess found task %s", task.ID)
		}
	}
	s.healed()
	if c := s.judge().Counts; c.Bare == 0 || c.Reads < 2*c.Accepted || c.Duplicates > 0 {
		t.Errorf("too few reads, or tasks ran twice: %s", c)
	}
}

// readWhile enqueues n tasks, and several readers ask for each from then on until they
// see its end.
func (s *suite) readWhile(n int, next func() order) {
	s.Helper()
	const readers = 4
	var reading sync.WaitGroup
	places := make(chan struct{}, 8)
	for range n {
		places <- struct{}{}
		o := next()
		reading.Go(func() {
			defer func() { <-places }()
			id := s.producer.must(o)
			var of sync.WaitGroup
			for range readers {
				of.Go(func() { s.readToTheEnd(id) })
			}
			of.Wait()
		})
	}
	reading.Wait()
}

// readToTheEnd reads a task again and again until it is over or not found.
func (s *suite) readToTheEnd(id pelton.ID) {
	for deadline := time.Now().Add(s.drain); time.Now().Before(deadline); {
		if task := s.producer.get(id, ""); task != nil && task.State.Terminal() {
			return
		}
	}
	s.Errorf("task %s is not over, or not there, after %s", id, s.drain)
}

// A task that ends its process at once leaves no trace of its first start, and is poison
// after one death more than others.
func TestFreshPoison(t *testing.T) {
	t.Parallel()
	p := theProfile()
	s := newSuite(t, p)
	id := s.producer.must(order{kind: "chaos.exit", times: 1000, bare: true})
	s.producer.finish(4*(p.lease+5*time.Second)+20*time.Second, id)
	task := s.producer.get(id, "")
	if task == nil || task.State != pelton.Failed || task.Error == nil || task.Error.Reason != pelton.ReasonPoison {
		t.Errorf("a task that kills its worker at once: %+v", task)
	}
	s.healed()
	if t.Failed() {
		return // it never ends
	}
	c := s.judge().Counts
	if want := pelton.DefaultMaxCrashes + c.Traceless; c.Faults[history.ExitFault] != want || task.Crashes != pelton.DefaultMaxCrashes {
		t.Errorf("%d workers died of it and %d crashes were counted, want %d: %s", c.Faults[history.ExitFault], task.Crashes, want, c)
	}
}

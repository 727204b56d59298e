package chaos_test

import (
	"math/rand/v2"
	"sync"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/chaos/history"
	"github.com/peltonq/pelton/chaos/proxy"
	"github.com/peltonq/pelton/internal/failpoint"
)

// freshVariants are protocols that lack a rule of tasks without a record.
func freshVariants() []variant {
	return []variant{
		{
			lacks: failpoint.NoSecondLook,
			provoke: func(s *suite, _ []*proxy.Proxy) { // reads in the moment in which a task ends
				for deadline := time.Now().Add(s.drain); time.Now().Before(deadline) && s.count(isMissing) == 0; {
					s.readWhile(50, func() order { return order{kind: "chaos.quick"} })
				}
			},
			noticed: []string{"missing"},
		},
		{
			lacks: failpoint.SeedBlind,
			provoke: func(s *suite, _ []*proxy.Proxy) { // a cancel under an id that is none
				s.whilePaused(func() { s.producer.cancel(guess(s.producer.must(order{kind: "chaos.quick"}))) })
			},
			noticed: []string{"lost", "invented"},
		},
		{
			lacks: failpoint.NoHorizon,
			provoke: func(s *suite, _ []*proxy.Proxy) {
				most := pelton.DefaultMaxCrashes + 1
				s.meanwhile(3*time.Millisecond, s.young(), func() {
					for tries := 0; s.dieTogether(most) <= most && tries < 4; tries++ {
						s.Log("the broker remembered too much")
					}
				})
			},
			noticed: []string{"crashes", "fences"},
		},
		{
			lacks: failpoint.AllFresh,
			provoke: func(s *suite, _ []*proxy.Proxy) {
				s.producer.must(order{kind: "chaos.exit", times: 1000, bare: true})
				s.eventually("it kills once too often", time.Minute, func() bool { return s.count(isExit) > pelton.DefaultMaxCrashes+1 })
			},
			noticed: []string{"crashes"},
		},
		{
			lacks: failpoint.NoPromotion,
			provoke: func(s *suite, _ []*proxy.Proxy) {
				for range s.concurrency {
					s.producer.must(order{kind: "chaos.sleep", ms: 3000, bare: true})
				}
			},
			noticed: []string{"promoted"},
		},
		{
			lacks:   failpoint.NoSeal,
			provoke: func(s *suite, _ []*proxy.Proxy) { s.cancelAtTheEnd() },
			noticed: []string{"final", "moves"},
		},
		{
			lacks:   failpoint.SealBlind,
			provoke: func(s *suite, _ []*proxy.Proxy) { s.cancelAtTheEnd() },
			noticed: []string{"final", "moves"},
		},
	}
}

// cancelAtTheEnd cancels tasks in the moment in which they succeed, until one is both, or for a while.
func (s *suite) cancelAtTheEnd() {
	s.Helper()
	for deadline := time.Now().Add(s.drain); time.Now().Before(deadline) && !s.endedTwice(); {
		var cancelling sync.WaitGroup
		for range 4 {
			random := rand.New(rand.NewPCG(s.rand.Uint64(), 8))
			cancelling.Go(func() {
				for range 50 {
					id := s.producer.must(order{kind: "chaos.quick", bare: true})
					s.pause(time.Duration(random.IntN(4000)) * time.Microsecond)
					s.producer.cancel(id)
				}
			})
		}
		cancelling.Wait()
	}
}

// endedTwice reports whether two stored versions of a task are terminal.
func (s *suite) endedTwice() bool {
	s.Helper()
	ended := map[pelton.ID]uint64{}
	return s.count(func(e history.Event) bool {
		if e.Kind != history.Observe || e.Record == nil || !e.Record.Stored || !e.Record.State.Terminal() {
			return false
		}
		before, known := ended[e.Task]
		ended[e.Task] = e.Record.Revision
		return known && before != e.Record.Revision
	}) > 0
}

func isMissing(e history.Event) bool { return e.Kind == history.Missing }

func isExit(e history.Event) bool {
	return e.Kind == history.FaultBegin && e.Fault == history.ExitFault
}

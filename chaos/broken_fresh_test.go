package chaos_test

import (
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
	}
}

func isMissing(e history.Event) bool { return e.Kind == history.Missing }

func isExit(e history.Event) bool {
	return e.Kind == history.FaultBegin && e.Fault == history.ExitFault
}

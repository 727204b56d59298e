package chaos_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/chaos/history"
	"github.com/peltonq/pelton/chaos/proxy"
	"github.com/peltonq/pelton/internal/failpoint"
)

// variant is a protocol that lacks a rule: what brings that to light, and which
// rules of the checker notice.
type variant struct {
	lacks   failpoint.Rule
	points  []failpoint.Point // at which workers die
	provoke func(s *suite, proxies []*proxy.Proxy)
	noticed []string
}

func variants() []variant {
	return slices.Concat([]variant{
		{
			lacks:   failpoint.AckFirst,
			points:  []failpoint.Point{failpoint.AckedFirst},
			provoke: func(s *suite, _ []*proxy.Proxy) { s.while(60, 10*time.Millisecond, func() { s.allDie() }) },
			noticed: []string{"lost", "recovery"},
		},
		{
			lacks: failpoint.NoCAS,
			provoke: func(s *suite, _ []*proxy.Proxy) {
				for i := range 60 { // some of which run, without a record at first
					s.producer.cancel(s.producer.must(order{kind: "chaos.sleep", ms: i % 3 * 20, bare: i%2 == 0}))
				}
			},
			noticed: []string{"final", "moves", "cancels"},
		},
		{
			lacks: failpoint.NoFence,
			provoke: func(s *suite, proxies []*proxy.Proxy) {
				n := s.concurrency + 1 // some on each of the two, and room on the one that has fewer
				for range n {
					s.producer.must(order{kind: "chaos.sleep", ms: int(3 * s.lease.Milliseconds())})
				}
				s.eventually("tasks run", 10*time.Second, func() bool { return s.running() == n })
				i := 0
				if len(s.open(s.fleet[1].actorName())) > len(s.open(s.fleet[0].actorName())) {
					i = 1
				}
				s.cut(s.fleet[i], proxies[i], proxy.Drop, 2*s.lease)
			},
			noticed: []string{"overlaps"},
		},
		{
			lacks: failpoint.NoEpoch,
			provoke: func(s *suite, _ []*proxy.Proxy) { // copies of first attempts that are over
				s.copiesOf(4, order{kind: "chaos.fail", times: 1, wait: 5 * time.Second}, func([]pelton.ID) bool { return s.retries() == 4 })
			},
			noticed: []string{"early"},
		},
		{
			lacks: failpoint.NoCarrier,
			provoke: func(s *suite, _ []*proxy.Proxy) { // copies of what runs
				s.copiesOf(4, order{kind: "chaos.sleep", ms: 3000}, s.allRun)
			},
			noticed: []string{"duplicates", "overlaps"},
		},
		{
			lacks:  failpoint.NoRepublish,
			points: []failpoint.Point{failpoint.PutBackRecorded},
			provoke: func(s *suite, _ []*proxy.Proxy) {
				for range 20 {
					s.producer.must(order{kind: "chaos.fail", times: 2})
				}
				s.allDie()
			},
			noticed: []string{"lost", "recovery"},
		},
		{
			lacks: failpoint.CrashBurns,
			provoke: func(s *suite, _ []*proxy.Proxy) {
				for range 2 * s.concurrency {
					s.producer.must(order{kind: "chaos.sleep", ms: 500})
				}
				s.eventually("tasks run", 10*time.Second, func() bool { return len(s.open(s.fleet[0].actorName())) > 0 })
				s.fleet[0].crash()
			},
			noticed: []string{"attempts"},
		},
		{
			lacks: failpoint.NoHandOn,
			provoke: func(s *suite, _ []*proxy.Proxy) {
				for range 6 { // a line that is complete before its first turn is over
					s.producer.must(order{kind: "chaos.sleep", ms: 1000, key: "k"})
				}
			},
			noticed: []string{"lost", "recovery"},
		},
		{
			lacks: failpoint.KeyBlind,
			provoke: func(s *suite, _ []*proxy.Proxy) {
				for range 4 {
					s.producer.must(order{kind: "chaos.sleep", ms: 1000, unique: "u", conflict: pelton.ConflictReject})
				}
			},
			noticed: []string{"unique"},
		},
		{
			lacks: failpoint.TurnBlind,
			provoke: func(s *suite, _ []*proxy.Proxy) {
				s.limits = map[string]int{history.LineOf(history.Few, ""): 2}
				s.change(http.MethodPut, "/limits/few", fmt.Sprintf(`{"kind":%q,"max_running":2}`, history.Few))
				s.pause(time.Second) // until workers know it
				for range 6 {
					s.producer.must(order{kind: history.Few, ms: 500})
				}
			},
			noticed: []string{"key-limits"},
		},
		{
			lacks: failpoint.NoRenewal,
			provoke: func(s *suite, _ []*proxy.Proxy) {
				for range 3 {
					s.producer.must(order{kind: "chaos.locked", ms: int(2 * s.lease.Milliseconds()), lock: "l"})
				}
				s.eventually("two hold the lock", 10*time.Second, func() bool { return s.count(func(e history.Event) bool { return e.Kind == history.LockTaken }) > 1 })
			},
			noticed: []string{"locks"},
		},
	}, relayVariants(), freshVariants())
}

// relayVariants are protocols that lack a rule of relays.
func relayVariants() []variant {
	return []variant{
		{
			lacks: failpoint.RelayBlind,
			provoke: func(s *suite, _ []*proxy.Proxy) { // tasks that were cancelled behind one that has its turn
				s.whilePaused(func() {
					var cancelled []pelton.ID
					for i := range 30 { // several lines: whoever gets a second message of a first one's looks at the records behind it
						id := s.producer.must(order{kind: "chaos.quick", key: string(rune('a' + i%6))})
						if i >= 6 && i < 18 {
							cancelled = append(cancelled, id)
						}
					}
					for _, id := range cancelled {
						s.producer.cancel(id)
					}
					for _, w := range s.fleet {
						w.crash() // it has heard of that
					}
				})
			},
			noticed: []string{"final", "moves", "cancels"},
		},
		{
			lacks:  failpoint.RelayLost,
			points: []failpoint.Point{failpoint.RelayTaken},
			provoke: func(s *suite, _ []*proxy.Proxy) {
				s.whilePaused(func() {
					for i := range 60 {
						s.producer.must(order{kind: "chaos.quick", key: string(rune('a' + i%10))})
					}
				})
				s.allDie()
			},
			noticed: []string{"lost", "recovery"},
		},
	}
}

// whilePaused lets nothing start meanwhile.
func (s *suite) whilePaused(do func()) {
	s.Helper()
	s.producer.finish(20*time.Second, s.producer.must(order{kind: "chaos.quick"})) // a queue that is not there cannot be paused
	s.change(http.MethodPost, "/queues/default/pause", "")
	do()
	s.change(http.MethodPost, "/queues/default/resume", "")
}

// count counts the events so far that are such.
func (s *suite) count(such func(history.Event) bool) int {
	s.Helper()
	events, _, err := history.ReadDir(s.dir)
	if err != nil {
		s.Fatal(err)
	}
	return len(slices.DeleteFunc(events, func(e history.Event) bool { return !such(e) }))
}

// The suite notices when a rule of the protocol is missing.
func TestBrokenProtocol(t *testing.T) {
	t.Parallel()
	for _, v := range variants() {
		t.Run(string(v.lacks), func(t *testing.T) {
			t.Parallel()
			p := theProfile()
			p.workers, p.concurrency, p.drain = 2, 4, 12*time.Second
			var proxies []*proxy.Proxy
			s := newSuite(t, p, linked(&proxies), func(s *suite) {
				s.built, s.broken = instrumented, v.lacks
				s.workerPoints = newPoints(rand.New(rand.NewPCG(s.rand.Uint64(), 4)), 2, v.points...)
			})
			v.provoke(s, proxies)
			s.healed()
			report := s.examine()
			var rules []string
			for _, found := range report.Violations {
				rules = append(rules, found.Rule)
			}
			slices.Sort(rules)
			rules = slices.Compact(rules)
			t.Logf("noticed by %v", rules)
			if !slices.ContainsFunc(v.noticed, func(rule string) bool { return slices.Contains(rules, rule) }) {
				t.Errorf("nobody noticed that the protocol is %s: want one of %v, got %v", v.lacks, v.noticed, rules)
			}
		})
	}
}

// Every rule that can be switched off has a variant.
func TestVariants(t *testing.T) {
	t.Parallel()
	var lacking []failpoint.Rule
	for _, v := range variants() {
		lacking = append(lacking, v.lacks)
	}
	if !slices.Equal(lacking, failpoint.Rules()) {
		t.Errorf("variants lack %v, rules are %v", lacking, failpoint.Rules())
	}
}

// retries counts the records that were put back after a failed attempt.
func (s *suite) retries() int {
	s.Helper()
	return s.count(func(e history.Event) bool {
		return e.Kind == history.Observe && e.Record.Stored && e.Record.State == pelton.Retrying
	})
}

// allDie waits until processes have died at all their points, and replaces those
// that still have one.
func (s *suite) allDie() {
	s.Helper()
	s.eventually("workers die", 20*time.Second, func() bool { return len(s.workerPoints.missing()) == 0 })
	for _, w := range s.fleet {
		if w.diesAt() != "" {
			w.crash()
		}
	}
}

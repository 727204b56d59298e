package chaos_test

import (
	"sync"
	"testing"
	"time"

	"github.com/peltonq/pelton"
)

// Delayed tasks wait while the server and workers die: they start at their time or when
// somebody says so, never before; those that are cancelled never do, and none is lost.
func TestDelayed(t *testing.T) {
	t.Parallel()
	p := theProfile()
	s := newSuite(t, p)
	rounds, each := 3, p.tasks/6
	if p.long {
		rounds, each = 20, p.tasks/40
	}
	hurried, cancelled := 0, 0
	for round := range rounds {
		// They fall due while the server is away, in the middle of the kills, and after.
		var enqueuing sync.WaitGroup
		begin := time.Now()
		next := 0
		enqueuing.Go(func() {
			s.producer.flood(s.Context(), 2*time.Millisecond, func() (order, bool) {
				if next++; next > each {
					return order{}, false
				}
				o := order{kind: "chaos.quick", at: begin.Add(time.Duration(200+next*7919%3500) * time.Millisecond)}
				if next%5 == 0 {
					o = order{kind: "chaos.quick", delay: time.Duration(100+next*31%900) * time.Millisecond}
				}
				if next%7 == 0 {
					o.key = "lined"
				}
				return o, true
			})
		})
		// And some for much later, whose time is brought forward, or that are cancelled.
		var later []pelton.ID
		for i := range 12 {
			o := order{kind: "chaos.quick", delay: time.Hour}
			if i%3 == 2 {
				o.key = "lined"
			}
			later = append(later, s.producer.must(o))
		}
		enqueuing.Wait()
		var acting sync.WaitGroup
		for i, id := range later {
			do := hurrying()
			if i%4 == 3 {
				do = cancelling()
				cancelled++
			} else {
				hurried++
			}
			acting.Go(func() {
				s.pause(time.Duration(i*40) * time.Millisecond)
				s.producer.insist(do, id)
			})
		}
		s.pause(s.between(0, 200*time.Millisecond))
		s.crashServer(s.between(0, p.lease/2))
		s.fleet[round%len(s.fleet)].crash()
		acting.Wait()
	}
	s.healed()
	if c := s.judge().Counts; c.Accepted != rounds*(each+12) || c.Cancelled != cancelled || c.Faults["kill"] == 0 {
		t.Errorf("want %d tasks, %d cancelled and %d hurried, and kills: %s", rounds*(each+12), cancelled, hurried, c)
	}
}

package worker

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
	"github.com/peltonq/pelton/internal/limit"
)

// refusing is a limiter that is out of reach.
type refusing struct{ booking limit.Booking }

func (r *refusing) Take(context.Context, limit.Bucket, int) limit.Decision { return limit.Decision{} }

func (r *refusing) Book(context.Context, limit.Bucket, int, time.Duration) limit.Booking {
	return r.booking
}

// A closed limit is asked less and less often.
func TestLimitsClosed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 1, mail(1, 1))
		f.limits.limiter = &refusing{limit.Booking{Closed: true, Wait: 250 * time.Millisecond}}
		way := &broker.Limited{}
		var waits []time.Duration
		for range 7 {
			v := f.limits.check(t.Context(), f.rules, nil, "mail", "", way, hand{nearBy, true})
			if !v.putOff || v.by != "mail" {
				t.Fatalf("verdict of a closed limit: %+v", v)
			}
			waits = append(waits, time.Until(v.until)-250*time.Millisecond)
			way.Times++
		}
		want := []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, longestClosed, longestClosed}
		if !slices.Equal(waits, want) {
			t.Errorf("waits %v, want %v", waits, want)
		}
	})
}

// A broker or worker whose clock is ahead does not send a task back and forth.
func TestLimitsDoNotTrustClocks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 1, mail(1, 1))
		check := func(way *broker.Limited) limitVerdict {
			return f.limits.check(t.Context(), f.rules, nil, "mail", "", way, hand{nearBy, true})
		}
		check(&broker.Limited{})
		way := &broker.Limited{}
		putOffs := 0
		for { // delivered at once, whenever it is put off
			v := check(way)
			if v.until.IsZero() {
				break
			}
			if v.putOff {
				putOffs++
				continue
			}
			time.Sleep(time.Until(v.until))
		}
		if putOffs > 2 {
			t.Errorf("put off %d times", putOffs)
		}
	})
}

// What was counted under one form of a limit does not count under another.
func TestLimitsChangeForm(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 1, mail(1, 1))
		way := &broker.Limited{}
		f.limits.check(t.Context(), f.rules, nil, "mail", "", &broker.Limited{}, hand{nearBy, true})
		if v := f.limits.check(t.Context(), f.rules, nil, "mail", "", way, hand{nearBy, true}); !v.putOff {
			t.Fatalf("the second task: %+v", v)
		}
		f.rule(2, mail(1, 1))
		if v := f.limits.check(t.Context(), f.rules, nil, "mail", "", way, hand{nearBy, true}); !v.until.IsZero() || len(way.Passes) != 1 || way.Passes[0].Revision != 2 {
			t.Errorf("under another form: %+v, %+v", v, way.Passes)
		}
		f.rule(3)
		if v := f.limits.check(t.Context(), f.rules, nil, "mail", "", way, hand{nearBy, true}); !v.until.IsZero() || len(way.Passes) != 0 {
			t.Errorf("without limits: %+v, %+v", v, way.Passes)
		}
	})
}

// Who finds no place in a hand loses nothing but a moment.
func TestLimitsWithFullHands(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 1, mail(100, 10))
		f.crowded = 3
		begin := time.Now()
		for range 1000 {
			f.send("mail", "")
		}
		f.all.Wait()
		if took := time.Since(begin).Seconds(); took < 9.9-rounding || took > 12 {
			t.Errorf("1000 tasks at 100/s took %.1f s", took)
		}
		within(t, f.starts["mail"], mail(100, 10).Rate, fullHand)
	})
}

func TestCostCounts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dear := mail(100, 10)
		dear.Cost = 10
		f := newFleet(t, 1, dear)
		begin := time.Now()
		for range 50 {
			f.send("mail", "")
		}
		f.all.Wait()
		if took := time.Since(begin).Seconds(); took < 4.9-rounding || took > 5.5 {
			t.Errorf("50 tasks that cost 10 of 100/s took %.2f s", took)
		}
	})
}

func TestPausesEndInOrder(t *testing.T) {
	t.Parallel()
	now := time.Now()
	from := broker.Rules{Pauses: []broker.Pause{
		{Kind: "mail", Until: now.Add(time.Minute)}, {RateKey: "acme", Until: now.Add(time.Hour)}, {Kind: "over", Until: now},
	}}
	r := newRules(from, newRules(broker.Rules{}, &rules{}))
	for i := range 3 {
		want := now.Add(time.Minute + time.Duration(i)*pauseStep)
		if got := r.paused("mail", "", time.Time{}, now); !got.Equal(want) {
			t.Errorf("task %d until %s, want %s", i, got, want)
		}
	}
	r = newRules(from, r) // anything changed
	if got := r.paused("mail", "", time.Time{}, now); !got.Equal(now.Add(time.Minute + 3*pauseStep)) {
		t.Errorf("the count began anew: %s", got.Sub(now))
	}
	if got := r.paused("mail", "acme", time.Time{}, now); !got.Equal(now.Add(time.Hour)) {
		t.Errorf("kind and key paused: %s, want the later", got.Sub(now))
	}
	for name, c := range map[string]struct {
		kind, key   string
		waited, now time.Time
	}{
		"another kind":       {"k", "", time.Time{}, now},
		"another key":        {"k", "acme2", time.Time{}, now},
		"no key":             {"k", "", time.Time{}, now},
		"over":               {"over", "", time.Time{}, now},
		"it was waited for":  {"mail", "", now.Add(time.Minute), now},
		"over by this clock": {"mail", "", time.Time{}, now.Add(time.Minute)},
	} {
		if got := r.paused(c.kind, c.key, c.waited, c.now); !got.IsZero() {
			t.Errorf("%s: paused until %s", name, got)
		}
	}
	for range 20_000 {
		r.paused("mail", "", time.Time{}, now)
	}
	if got := r.paused("mail", "", time.Time{}, now); !got.Equal(now.Add(time.Minute + pauseSpread)) {
		t.Errorf("spread %s, want at most %s", got.Sub(now)-time.Minute, pauseSpread)
	}
}

func TestTaskIsHeldAgainstAtMostSoManyLimits(t *testing.T) {
	t.Parallel()
	var from broker.Rules
	for i := range 2 * mostLimits {
		from.Limits = append(from.Limits, broker.RevisedLimit{Limit: pelton.Limit{Name: fmt.Sprint(i), RateKey: "*", Rate: pelton.RateLimit{Limit: 1}}})
	}
	from.Limits = append(from.Limits, broker.RevisedLimit{Limit: pelton.Limit{Name: "running", Kind: "k", MaxRunning: 1}}) // is of no rate
	if got := len(newRules(from, &rules{}).applying("k", "acme")); got != mostLimits {
		t.Errorf("%d limits apply, want %d", got, mostLimits)
	}
}

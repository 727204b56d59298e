package worker

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
	"github.com/peltonq/pelton/internal/limit"
)

// fleet is many tasks on their way through limits, with a broker whose schedules
// fire late, all on the clock of a synctest bubble.
type fleet struct {
	t      *testing.T
	limits limits
	rules  *rules
	random *rand.Rand

	// crowded says how often there is no place in a hand: one time in so many.
	crowded int

	mu      sync.Mutex
	away    time.Time // no schedule fires before
	starts  map[string][]time.Time
	putOffs map[string]int // by task
	most    int
	all     sync.WaitGroup
}

func newFleet(t *testing.T, seed uint64, list ...pelton.Limit) *fleet {
	t.Helper()
	local, err := limit.NewLocal(1)
	if err != nil {
		t.Fatal(err)
	}
	f := &fleet{
		t: t, limits: limits{limiter: local, namespace: "test"}, random: rand.New(rand.NewPCG(seed, 1)),
		starts: make(map[string][]time.Time), putOffs: make(map[string]int),
	}
	f.rule(1, list...)
	return f
}

// rule changes the limits.
func (f *fleet) rule(revision uint64, list ...pelton.Limit) {
	var from broker.Rules
	for _, l := range list {
		l, err := l.Normalized()
		if err != nil {
			f.t.Fatal(err)
		}
		from.Limits = append(from.Limits, broker.RevisedLimit{Limit: l, Revision: revision})
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = newRules(from, newRules(broker.Rules{}, &rules{}))
}

// late is when a schedule for a time fires.
func (f *fleet) late(at time.Time) time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	fires := at.Truncate(250 * time.Millisecond).Add(250 * time.Millisecond) // all of a quarter together
	return fires.Add(time.Duration(f.random.IntN(int(5 * time.Millisecond))))
}

// notBefore puts off what fires while all is away.
func (f *fleet) notBefore(at time.Time) time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	if at.Before(f.away) {
		return f.away
	}
	return at
}

// send lets a task of a kind, with a key, arrive now.
func (f *fleet) send(kind, key string) {
	f.mu.Lock()
	name := fmt.Sprintf("%s/%s/%d", kind, key, len(f.putOffs))
	f.putOffs[name] = 0
	f.mu.Unlock()
	f.all.Go(func() {
		way := &broker.Limited{}
		for {
			f.mu.Lock()
			rules, in := f.rules, hand{near: nearBy, free: f.crowded == 0 || f.random.IntN(f.crowded) > 0}
			f.mu.Unlock()
			v := f.limits.check(f.t.Context(), rules, nil, kind, key, way, in)
			switch {
			case v.until.IsZero():
				f.mu.Lock()
				f.starts[kind+key] = append(f.starts[kind+key], time.Now())
				f.mu.Unlock()
				return
			case v.putOff:
				way.Times++
				f.mu.Lock()
				f.putOffs[name]++
				f.most = max(f.most, f.putOffs[name])
				f.mu.Unlock()
				for at := f.late(v.until); time.Now().Before(at); at = f.notBefore(at) {
					time.Sleep(time.Until(at))
				}
			default:
				time.Sleep(time.Until(v.until))
			}
		}
	})
}

// rounding is what the limiter's floating point may take off a wait, in seconds.
const rounding = 1e-3

// within fails the test if any window of the starts has more than its bound, where
// starts may be that much later than they were counted.
func within(t testing.TB, starts []time.Time, rate pelton.RateLimit, late time.Duration) {
	t.Helper()
	rate = rate.Filled()
	slices.SortFunc(starts, time.Time.Compare)
	for i := range starts {
		for j := i; j < len(starts); j++ {
			window := starts[j].Sub(starts[i])
			if most := (window+late).Seconds()*float64(rate.Limit)/rate.Per.Seconds() + float64(rate.Burst); float64(j-i+1) > most+rounding {
				t.Fatalf("%d starts within %s, at most %.2f", j-i+1, window, most)
			}
		}
	}
}

func mail(limit, burst int) pelton.Limit {
	return pelton.Limit{Name: "mail", Kind: "mail", Rate: pelton.RateLimit{Limit: limit, Burst: burst}}
}

// A backlog is spread once: each task is put off at most a few times, no window has
// more than its bound, and the whole takes as long as the rate says.
func TestLimitsSpreadABacklog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 1, mail(100, 10))
		begin := time.Now()
		for range 2000 {
			f.send("mail", "")
			time.Sleep(100 * time.Microsecond)
		}
		f.all.Wait()
		within(t, f.starts["mail"], mail(100, 10).Rate, 0)
		if took := time.Since(begin).Seconds(); took < 19.9-rounding || took > 20.9 { // (2000-10)/100, and a quarter late
			t.Errorf("2000 tasks at 100/s took %.1f s", took)
		}
		if f.most > 2 {
			t.Errorf("a task was put off %d times", f.most)
		}
	})
}

// Tasks whose place has passed while all was away start at the rate, not at once,
// and are put off once more at most.
func TestLimitsAfterAnOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 1, mail(100, 10))
		begin := time.Now()
		for range 3000 {
			f.send("mail", "")
		}
		time.Sleep(2 * time.Second)
		f.mu.Lock()
		f.away = time.Now().Add(10 * time.Second)
		f.mu.Unlock()
		f.all.Wait()
		within(t, f.starts["mail"], mail(100, 10).Rate, 0)
		if took := time.Since(begin).Seconds(); took < 38 || took > 41 {
			t.Errorf("3000 tasks at 100/s with 10 s away took %.1f s", took)
		}
		if f.most > 3 {
			t.Errorf("a task was put off %d times", f.most)
		}
	})
}

// Whatever the limits and the arrivals, the bound holds and everything starts. Of
// two limits, one may let a task start later than the other counted it.
func TestLimitsBoundHolds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		list := []pelton.Limit{
			mail(rapid.IntRange(5, 300).Draw(rt, "mail"), rapid.IntRange(1, 20).Draw(rt, "burst")),
		}
		crowded := rapid.SampledFrom([]int{0, 3}).Draw(rt, "crowded")
		var late time.Duration
		if crowded > 0 { // what was booked and finds no place starts late
			late = 2 * fullHand
		}
		if rapid.Bool().Draw(rt, "two") {
			late = staleAfter
			list = append(list, pelton.Limit{Name: "tenants", RateKey: "*", Rate: pelton.RateLimit{Limit: rapid.IntRange(5, 50).Draw(rt, "tenants"), Burst: rapid.IntRange(1, 5).Draw(rt, "tenants' burst")}})
		}
		keys := rapid.SliceOfN(rapid.SampledFrom([]string{"", "a", "b"}), 1, 120).Draw(rt, "keys")
		away := time.Duration(rapid.IntRange(0, 5000).Draw(rt, "away")) * time.Millisecond
		seed := rapid.Uint64().Draw(rt, "seed")
		synctest.Test(t, func(t *testing.T) {
			f := newFleet(t, seed, list...)
			f.crowded = crowded
			for i, key := range keys {
				f.send("mail", key)
				if i%10 == 0 {
					time.Sleep(20 * time.Millisecond)
				}
				if i == len(keys)/2 {
					f.mu.Lock()
					f.away = time.Now().Add(away)
					f.mu.Unlock()
				}
			}
			f.all.Wait()
			var all []time.Time
			for name, starts := range f.starts {
				all = append(all, starts...)
				if name != "mail" && len(list) > 1 {
					within(t, starts, list[1].Rate, late)
				}
			}
			within(t, all, list[0].Rate, late)
			if len(all) != len(keys) || f.most > 20 {
				t.Errorf("%d of %d started, one was put off %d times", len(all), len(keys), f.most)
			}
		})
	})
}

// A tenant's backlog takes no places in the line that he shares with others.
func TestLimitsOfKeysComeFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tenants := pelton.Limit{Name: "z-tenants", RateKey: "*", Rate: pelton.RateLimit{Limit: 1}}
		f := newFleet(t, 1, mail(10, 10), tenants)
		for range 1000 {
			f.send("mail", "greedy")
		}
		time.Sleep(time.Second)
		begin := time.Now()
		f.send("mail", "modest")
		time.Sleep(2 * time.Second)
		f.mu.Lock()
		modest := f.starts["mailmodest"]
		f.mu.Unlock()
		if len(modest) != 1 || modest[0].Sub(begin) > time.Second {
			t.Errorf("a task of another tenant started at %v, sent at %s", modest, begin)
		}
		f.rule(2) // lets everything that waits go
		f.all.Wait()
	})
}

// A limit that is lifted or raised is noticed by those that wait far ahead, within
// half of their wait.
func TestLimitsRaised(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		slow := mail(1, 1)
		slow.Rate.Per = time.Minute
		f := newFleet(t, 1, slow)
		for range 600 { // ten hours
			f.send("mail", "")
		}
		time.Sleep(time.Hour)
		f.rule(2, mail(100, 1))
		begin := time.Now()
		f.all.Wait()
		if took := time.Since(begin); took > 5*time.Hour {
			t.Errorf("a limit that was raised after an hour of ten took %s more", took)
		}
		within(t, f.starts["mail"], mail(100, 2).Rate, 0) // each form by itself
		if f.most > mostLooks {
			t.Errorf("a task was put off %d times", f.most)
		}
	})
}

// The number of looks is bounded also for the farthest place.
func TestLimitsFarPlace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		slow := mail(1, 1)
		slow.Rate.Per = 23 * time.Hour
		f := newFleet(t, 1, slow)
		for range 3 { // the last finds no place within a day
			f.send("mail", "")
		}
		begin := time.Now()
		f.all.Wait()
		if took := time.Since(begin).Hours(); took < 46 || took > 47.1 {
			t.Errorf("the third task in 23 h each started after %.1f h", took)
		}
		within(t, f.starts["mail"], slow.Rate, 0)
		if f.most > 24+mostLooks {
			t.Errorf("a task was put off %d times", f.most)
		}
	})
}

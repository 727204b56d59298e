package scheduler

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/peltonq/pelton"
)

var noon = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

// seconds are ticks by their distance from noon, in seconds.
func seconds(ticks []time.Time) []float64 {
	var s []float64
	for _, tick := range ticks {
		s = append(s, tick.Sub(noon).Seconds())
	}
	return s
}

func TestDecide(t *testing.T) {
	t.Parallel()
	const none, last, all = pelton.CatchUpNone, pelton.CatchUpLast, pelton.CatchUpAll
	every2 := &rule{every: 2 * time.Second, anchor: noon}
	once := &rule{at: noon}
	ended := &rule{every: 2 * time.Second, anchor: noon, end: noon.Add(4 * time.Second)}
	at := func(s float64) time.Time { return noon.Add(time.Duration(s * float64(time.Second))) }
	for name, tt := range map[string]struct {
		rule   *rule
		policy pelton.CatchUp
		window time.Duration
		after  float64
		now    float64
		slack  time.Duration
		ticks  []float64
		missed float64 // 0: none
		next   float64 // 0: none
	}{
		"not due":                       {every2, last, 0, 2, 3.9, onTime, nil, 0, 4},
		"due":                           {every2, none, 0, 2, 4, onTime, []float64{4}, 0, 6},
		"just in time":                  {every2, none, 0, 2, 5, onTime, []float64{4}, 0, 6},
		"too late":                      {every2, none, 0, 2, 5.001, onTime, nil, 4, 6},
		"late, but again":               {every2, none, 0, 2, 9, onRedelivery, []float64{4, 6, 8}, 0, 10},
		"too late again":                {every2, none, 0, 2, 9.001, onRedelivery, []float64{6, 8}, 4, 10},
		"none leaves out what was":      {every2, none, 0, 2, 22.5, onTime, []float64{22}, 20, 24},
		"last of what was, and on time": {every2, last, 0, 2, 22.5, onTime, []float64{20, 22}, 0, 24},
		"last of what was":              {every2, last, 0, 2, 23.5, onTime, []float64{22}, 0, 24},
		"all":                           {every2, all, time.Hour, 2, 11, onTime, []float64{4, 6, 8, 10}, 0, 12},
		"all within the window":         {every2, all, 5 * time.Second, 2, 11, onTime, []float64{6, 8, 10}, 4, 12},
		"the window's edge is within":   {every2, all, 5 * time.Second, 2, 13, onTime, []float64{8, 10, 12}, 6, 14},
		"once":                          {once, none, 0, -1, 0.5, onTime, []float64{0}, 0, 0},
		"once, missed":                  {once, last, 0, -1, 9000, onTime, []float64{0}, 0, 0},
		"once, over":                    {once, last, 0, 0, 9000, onTime, nil, 0, 0},
		"the end is within":             {ended, all, time.Hour, 0, 100, onTime, []float64{2, 4}, 0, 0},
		"decided already":               {every2, all, time.Hour, 10, 9, onTime, nil, 0, 12},
		"a clock that went back":        {every2, last, 0, 10, -50, onTime, nil, 0, 12},
	} {
		p := decide(tt.rule, tt.policy, tt.window, at(tt.after), at(tt.now), tt.slack)
		if diff := cmp.Diff(tt.ticks, seconds(p.ticks)); diff != "" {
			t.Errorf("%s: ticks %s", name, diff)
		}
		if missed := p.missed.Sub(noon).Seconds(); (tt.missed != 0 || !p.missed.IsZero()) && missed != tt.missed {
			t.Errorf("%s: missed %v, want %v", name, missed, tt.missed)
		}
		if next := p.next.Sub(noon).Seconds(); (tt.next != 0 || !p.next.IsZero()) && next != tt.next {
			t.Errorf("%s: next %v, want %v", name, next, tt.next)
		}
	}
}

// A long time of ticks is decided in steps that are bounded and leave nothing out.
func TestDecideInSteps(t *testing.T) {
	t.Parallel()
	r := &rule{every: time.Second, anchor: noon}
	now := noon.Add(400 * time.Second)
	after, want := noon, noon
	for steps := 0; ; steps++ {
		p := decide(r, pelton.CatchUpAll, time.Hour, after, now, onTime)
		if len(p.ticks) > maxTicks {
			t.Fatalf("%d ticks at once", len(p.ticks))
		}
		for _, tick := range p.ticks {
			if want = want.Add(time.Second); !tick.Equal(want) {
				t.Fatalf("tick %s, want %s", tick, want)
			}
		}
		if after = p.last; p.wake.After(now) {
			break
		}
		if steps > 20 {
			t.Fatal("no end")
		}
	}
	if !want.Equal(now) {
		t.Errorf("the last tick is %s, want %s", want, now)
	}
}

// Years of downtime of a schedule that fires every second take no time.
func TestLatestAfterYears(t *testing.T) {
	t.Parallel()
	r := &rule{cron: mustParse(t, "* * * * * *", time.UTC)}
	now := noon.Add(500 * time.Millisecond)
	if got := r.latest(noon.AddDate(-30, 0, 0), now); !got.Equal(noon) {
		t.Errorf("%s", got)
	}
	rare := &rule{cron: mustParse(t, "0 0 29 2 *", time.UTC)}
	if got := rare.latest(noon.AddDate(-30, 0, 0), noon); !got.Equal(time.Date(2024, 2, 29, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("%s", got)
	}
	if got := rare.latest(noon.AddDate(-1, 0, 0), noon); !got.IsZero() {
		t.Errorf("%s is not after the last one", got)
	}
}

// Whenever somebody looks, and however late: each tick is decided once, in order; none
// is early; what is on time is never left out; and with all, nothing is within the window.
func TestDecideOnce(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := &rule{
			name: "r", every: time.Duration(rapid.IntRange(1000, 5000).Draw(t, "every")) * time.Millisecond, anchor: noon,
		}
		r.jitter = time.Duration(rapid.Int64Range(0, r.every.Milliseconds()-1).Draw(t, "jitter")) * time.Millisecond
		policy := rapid.SampledFrom(pelton.CatchUps()).Draw(t, "policy")
		window := time.Duration(rapid.IntRange(1, 60).Draw(t, "window")) * time.Second
		after, now := noon, noon
		decided := map[time.Time]bool{}
		for range rapid.IntRange(1, 30).Draw(t, "looks") {
			now = now.Add(time.Duration(rapid.IntRange(0, 20_000).Draw(t, "rest")) * time.Millisecond)
			slack := rapid.SampledFrom([]time.Duration{onTime, onRedelivery}).Draw(t, "slack")
			p := decide(r, policy, window, after, now, slack)
			for _, tick := range p.ticks {
				if decided[tick] || !tick.After(after) || r.due(tick).After(now) {
					t.Fatalf("tick %s after %s at %s, decided %t", tick, after, now, decided[tick])
				}
				decided[tick] = true
			}
			if p.last.IsZero() != (len(p.ticks) == 0 && p.missed.IsZero()) {
				t.Fatalf("last is %s with %d ticks, missed %s", p.last, len(p.ticks), p.missed)
			}
			end := after
			if !p.last.IsZero() {
				end = p.last
			}
			for tick := r.next(after); !tick.After(end); tick = r.next(tick) {
				late := now.Sub(r.due(tick))
				if !decided[tick] && (late <= slack || policy == pelton.CatchUpAll && late <= window) {
					t.Fatalf("tick %s is left out, %s late", tick, late)
				}
			}
			if next := r.next(end); !next.Equal(p.next) || !p.wake.Equal(r.due(next)) {
				t.Fatalf("next is %s at %s, want %s", p.next, p.wake, next)
			}
			after = end
		}
	})
}

func TestJitter(t *testing.T) {
	t.Parallel()
	r := &rule{name: "a", every: time.Minute, anchor: noon, jitter: 30 * time.Second}
	other := &rule{name: "b", every: time.Minute, anchor: noon, jitter: 30 * time.Second}
	var sum time.Duration
	differ := 0
	const n = 1000
	tick := noon
	for range n {
		tick = r.next(tick)
		by := r.due(tick).Sub(tick)
		if by < 0 || by >= r.jitter || by != r.due(tick).Sub(tick) {
			t.Fatalf("tick %s is delayed by %s", tick, by)
		}
		if by != other.due(tick).Sub(tick) {
			differ++
		}
		sum += by
	}
	if mean := sum / n; mean < 13*time.Second || mean > 17*time.Second || differ < n*9/10 {
		t.Errorf("the mean delay is %s, %d of %d differ from those of another schedule", mean, differ, n)
	}
}

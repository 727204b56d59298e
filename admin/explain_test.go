package admin

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
)

// The order of reasons, and the estimate, by what is known of a task.
func TestExplain(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 12, 1, 8, 0, 0, 0, time.UTC)
	soon, later := now.Add(time.Minute), now.Add(time.Hour)
	type change = func(*broker.Standing)
	ready := func(ahead, higher uint64) change {
		return func(s *broker.Standing) {
			s.Lane = &broker.LaneStanding{Ahead: &pelton.Between{AtLeast: ahead, AtMost: ahead}, Higher: higher}
		}
	}
	scheduled := func(at time.Time) change {
		return func(s *broker.Standing) { s.Record.State, s.Record.RunAt = pelton.Scheduled, at }
	}
	limited := func(way broker.Limited) change { return func(s *broker.Standing) { s.Record.Limited = &way } }
	pauseKind := func(until time.Time) change {
		return func(s *broker.Standing) { s.KindPause = &broker.Pause{Kind: "k", Until: until} }
	}
	pauseQueue := func(s *broker.Standing) { s.Queue.Pause(pelton.Normal) }
	nobody := func(s *broker.Standing) { s.Workers = nil }
	busy := func(s *broker.Standing) { s.Workers[0].Running = make([]pelton.ID, 2) }
	full := func(s *broker.Standing) { s.Lane.Running, s.Lane.MaxRunning = 3, 3 }
	rated := func(s *broker.Standing) { s.Queue.Settings.Rate = &pelton.RateLimit{Limit: 10} }
	expired := func(s *broker.Standing) { s.Record.ExpiresAt = now }
	inLine := func(n int) change {
		return func(s *broker.Standing) {
			s.Record.ConcurrencyKey = "acme"
			s.Line = &broker.LineStanding{Of: broker.OfKey, Limit: n, Holders: make([]pelton.ID, n)}
		}
	}
	type codes = []pelton.WhyCode
	for name, tc := range map[string]struct {
		changes  []change
		want     codes
		estimate time.Time
		message  string
	}{
		"over":             {[]change{func(s *broker.Standing) { s.Record.State = pelton.Expired }, nobody, pauseQueue}, codes{pelton.WhyFinished}, time.Time{}, "expired"},
		"runs":             {[]change{func(s *broker.Standing) { s.Record.State, s.Record.Owner = pelton.Running, "w" }, pauseQueue}, codes{pelton.WhyRunning}, time.Time{}, "on worker w"},
		"its worker died":  {[]change{func(s *broker.Standing) { s.Record.State, s.Record.Owner = pelton.Running, "x" }}, codes{pelton.WhyWorkerLost}, now.Add(30 * time.Second), "in 30s at the latest"},
		"and nobody knows": {[]change{func(s *broker.Standing) { s.Record.State, s.Record.Owner, s.Queue.BaseLease = pelton.Running, "x", 0 }}, codes{pelton.WhyWorkerLost}, time.Time{}, "when the lease is over"},
		"and paused":       {[]change{func(s *broker.Standing) { s.Record.State, s.Record.Owner = pelton.Running, "x" }, pauseQueue}, codes{pelton.WhyWorkerLost, pelton.WhyPausedQueue}, time.Time{}, ""},

		"scheduled":                  {[]change{scheduled(soon)}, codes{pelton.WhyScheduled}, soon, "scheduled for 2026-12-01T08:01:00.000Z"},
		"scheduled, its time passed": {[]change{scheduled(now)}, codes{pelton.WhyReady}, time.Time{}, ""},
		"scheduled for nobody":       {[]change{scheduled(soon), nobody}, codes{pelton.WhyScheduled, pelton.WhyNoWorkerQueue}, time.Time{}, ""},
		"scheduled, kind paused":     {[]change{scheduled(soon), pauseKind(later)}, codes{pelton.WhyScheduled}, soon, ""},
		"backing off, kind paused":   {[]change{scheduled(soon), pauseKind(later), func(s *broker.Standing) { s.Record.State = pelton.Retrying }}, codes{pelton.WhyBackingOff, pelton.WhyPausedKind}, later, ""},
		"after its own pause":        {[]change{scheduled(later), pauseKind(later), func(s *broker.Standing) { s.Record.State = pelton.Retrying }}, codes{pelton.WhyBackingOff}, later, ""},
		"unknown kind":               {[]change{scheduled(soon), func(s *broker.Standing) { s.Record.Deferrals, s.Record.Limited = 2, &broker.Limited{By: "l"} }}, codes{pelton.WhyUnknownKind}, time.Time{}, "2 times in a row"},
		"put off by a pause":         {[]change{scheduled(later), limited(broker.Limited{Times: 1}), pauseKind(soon)}, codes{pelton.WhyPausedKind}, later, ""},
		"by one that is over":        {[]change{scheduled(soon), limited(broker.Limited{Times: 1}), pauseKind(now)}, codes{pelton.WhyScheduled}, soon, "a pause that is over"},
		"limited": {
			[]change{scheduled(soon), limited(broker.Limited{By: "l", Passes: []broker.Pass{{Limit: "m", At: now}, {Limit: "l", At: later}}})},
			codes{pelton.WhyRateLimited},
			later, "its place in the limit's line comes at 2026-12-01T09:00:00.000Z; it is looked at again at 2026-12-01T08:01",
		},
		"booked": {
			[]change{scheduled(soon), limited(broker.Limited{By: "l", Passes: []broker.Pass{{Limit: "l", At: later, Booked: true}}}), func(s *broker.Standing) {
				s.Limit = &pelton.Limit{Name: "l", Rate: pelton.RateLimit{Limit: 5, Per: time.Second, Burst: 5}}
			}},
			codes{pelton.WhyRateLimited},
			later, "limit l lets 5 start in 1s; its start is booked",
		},
		"limit closed": {[]change{scheduled(soon), limited(broker.Limited{By: "l"})}, codes{pelton.WhyRateLimited}, time.Time{}, "it has no place yet"},

		"ready":                     {nil, codes{pelton.WhyReady}, time.Time{}, ""},
		"first in its lane":         {[]change{ready(0, 0)}, codes{pelton.WhyReady}, time.Time{}, ""},
		"one before it":             {[]change{ready(1, 0)}, codes{pelton.WhyWaitingBehind}, time.Time{}, "1 task is before"},
		"higher ones before it":     {[]change{ready(0, 2)}, codes{pelton.WhyWaitingBehind}, time.Time{}, "at most 2 tasks are"},
		"both":                      {[]change{ready(2, 2)}, codes{pelton.WhyWaitingBehind}, time.Time{}, "2 to 4 tasks are"},
		"full, behind, busy, rated": {[]change{ready(2, 0), full, busy, rated}, codes{pelton.WhyLaneFull, pelton.WhyWaitingBehind, pelton.WhyWorkersBusy, pelton.WhyQueueRate}, time.Time{}, "3 of 3"},
		"handed out, full, busy":    {[]change{ready(0, 0), full, busy, func(s *broker.Standing) { s.Lane.Ahead = nil }}, codes{pelton.WhyReady}, time.Time{}, ""},
		"rated":                     {[]change{ready(20, 0), rated}, codes{pelton.WhyWaitingBehind, pelton.WhyQueueRate}, now.Add(2 * time.Second), ""},
		"expired in a paused queue": {[]change{ready(0, 0), expired, pauseQueue}, codes{pelton.WhyExpiring, pelton.WhyPausedQueue}, time.Time{}, ""},
		"paused by its consumer":    {[]change{ready(0, 0), func(s *broker.Standing) { s.Lane.Paused = true }}, codes{pelton.WhyPausedQueue}, time.Time{}, ""},
		"kind paused":               {[]change{ready(0, 0), pauseKind(soon)}, codes{pelton.WhyPausedKind}, soon, ""},
		"kind was paused":           {[]change{ready(0, 0), pauseKind(now)}, codes{pelton.WhyReady}, time.Time{}, ""},
		"no worker of the kind":     {[]change{ready(0, 0), func(s *broker.Standing) { s.Workers[0].Kinds = nil }}, codes{pelton.WhyNoWorkerKind}, time.Time{}, ""},
		"one of two is free": {[]change{ready(0, 0), busy, func(s *broker.Standing) {
			s.Workers = append(s.Workers, broker.Presence{ID: "v", Queues: []string{"q"}, Kinds: []string{"k"}, Concurrency: 1})
		}}, codes{pelton.WhyReady}, time.Time{}, ""},
		"in line":                     {[]change{inLine(1)}, codes{pelton.WhyWaitingForKey}, time.Time{}, `1 of 1 turns of concurrency key "acme" are taken, by task`},
		"in a long line, and nowhere": {[]change{inLine(300), nobody, pauseQueue}, codes{pelton.WhyWaitingForKey, pelton.WhyPausedQueue, pelton.WhyNoWorkerQueue}, time.Time{}, "300 of 300"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &broker.Standing{
				Record:  &broker.Record{Meta: broker.Meta{ID: pelton.NewID(now, 0), Kind: "k", Queue: "q", Priority: pelton.Normal, MaxAttempts: 20}, State: pelton.Queued},
				Queue:   &broker.QueueConfig{Name: "q", BaseLease: 30 * time.Second},
				Workers: []broker.Presence{{ID: "w", Queues: []string{"q"}, Kinds: []string{"k"}, Concurrency: 2}},
			}
			for _, change := range tc.changes {
				change(s)
			}
			why := explain(s, now)
			var got codes
			for _, r := range why.Reasons {
				got = append(got, r.Code)
				if r.Message == "" || len(r.Holders) > pelton.MaxWhyHolders {
					t.Errorf("reason = %+v", r)
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("reasons (-want +got):\n%s", diff)
			}
			if !why.Estimate.Equal(tc.estimate) {
				t.Errorf("estimate %s, want %s", why.Estimate, tc.estimate)
			}
			if why.Code != got[0] || why.Message != why.Reasons[0].Message || !strings.Contains(why.Message, tc.message) {
				t.Errorf("%s %q lacks %q", why.Code, why.Message, tc.message)
			}
		})
	}
}

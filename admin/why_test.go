package admin_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
	"github.com/peltonq/pelton/worker"
)

// Each code through the broker, with its numbers.
func TestWhy(t *testing.T) {
	t.Parallel()
	tests := map[pelton.WhyCode]func(*testing.T, *asker){
		pelton.WhyFinished:       whyFinished,
		pelton.WhyRunning:        whyRunning,
		pelton.WhyWorkerLost:     whyWorkerLost,
		pelton.WhyScheduled:      whyScheduled,
		pelton.WhyBackingOff:     whyBackingOff,
		pelton.WhyRateLimited:    whyRateLimited,
		pelton.WhyUnknownKind:    whyUnknownKind,
		pelton.WhyWaitingForKey:  whyWaitingForKey,
		pelton.WhyWaitingForKind: whyWaitingForKind,
		pelton.WhyExpiring:       whyExpiring,
		pelton.WhyPausedQueue:    whyPausedQueue,
		pelton.WhyNoWorkerQueue:  whyNoWorker,
		pelton.WhyNoWorkerKind:   whyNoWorkerKind,
		pelton.WhyPausedKind:     whyPausedKind,
		pelton.WhyPausedRateKey:  whyPausedRateKey,
		pelton.WhyLaneFull:       whyLaneFull,
		pelton.WhyWaitingBehind:  whyWaitingBehind,
		pelton.WhyWorkersBusy:    whyWorkersBusy,
		pelton.WhyQueueRate:      whyQueueRate,
		pelton.WhyReady:          whyReady,
	}
	docs, err := os.ReadFile("../docs/why.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, code := range pelton.WhyCodes() {
		if tests[code] == nil || !strings.Contains(string(docs), "\n| `"+string(code)+"` |") {
			t.Errorf("%s has no test, or is not in docs/why.md", code)
		}
	}
	for code, test := range tests {
		t.Run(string(code), func(t *testing.T) {
			t.Parallel()
			test(t, newAsker(t))
		})
	}
}

func whyFinished(t *testing.T, a *asker) {
	id := a.enqueue(t, "k")
	task, err := a.producing.Cancel(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	why := a.answers(t, id, pelton.WhyFinished)
	wantReason(t, why.Reasons[0], pelton.WhyReason{Code: pelton.WhyFinished, Since: task.FinishedAt})
	if why.State != pelton.Cancelled || !strings.Contains(why.Message, "cancelled") {
		t.Errorf("why = %+v", why)
	}
}

func whyRunning(t *testing.T, a *asker) {
	a.work(t, nil, 1)
	id := a.enqueue(t, "block", pelton.WithMaxAttempts(3))
	why := a.answers(t, id, pelton.WhyRunning)
	task, err := a.producing.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	wantReason(t, why.Reasons[0], pelton.WhyReason{Code: pelton.WhyRunning, Worker: task.Worker, Since: task.StartedAt, Attempt: 1, MaxAttempts: 3})
}

// A task of a worker that is gone does not run, whatever its state says; who would
// take it over is missing too.
func whyWorkerLost(t *testing.T, a *asker) {
	id := a.enqueue(t, "k")
	a.setQueue(t, func(s *pelton.QueueSettings) { s.Lease = 20 * time.Second })
	a.change(t, id, func(r *broker.Record) { r.State, r.Owner, r.Attempt = pelton.Running, "gone", 1 })
	why := a.answers(t, id, pelton.WhyWorkerLost, pelton.WhyNoWorkerQueue)
	if left := time.Until(why.Reasons[0].Until); why.Reasons[0].Worker != "gone" || left < 10*time.Second || left > 20*time.Second || !why.Estimate.IsZero() {
		t.Errorf("why = %+v", why)
	}
	a.pretend(t, idler())
	if why = a.answers(t, id, pelton.WhyWorkerLost); !why.Estimate.Equal(why.Reasons[0].Until) {
		t.Errorf("why = %+v", why)
	}
}

func whyScheduled(t *testing.T, a *asker) {
	at := time.Now().Add(time.Hour).UTC().Round(time.Millisecond)
	late := a.enqueue(t, "snooze", pelton.WithRunAt(at))
	wantReason(t, a.answers(t, late, pelton.WhyScheduled, pelton.WhyNoWorkerQueue).Reasons[0], pelton.WhyReason{Code: pelton.WhyScheduled, Until: at})
	keyed := a.enqueue(t, "snooze", pelton.WithRunAt(at), pelton.WithConcurrencyKey("acme"))

	a.work(t, map[string]worker.HandlerFunc{"snooze": func(context.Context, *pelton.Task) (json.RawMessage, error) {
		return nil, pelton.Snooze(time.Hour)
	}}, 1)
	for _, id := range []pelton.ID{late, keyed} {
		if why := a.answers(t, id, pelton.WhyScheduled); !why.Estimate.Equal(at) || !strings.Contains(why.Message, "scheduled for") {
			t.Errorf("why = %+v", why)
		}
	}
	snoozed := a.enqueue(t, "snooze")
	if why := a.answers(t, snoozed, pelton.WhyScheduled); time.Until(why.Estimate) < 50*time.Minute || !strings.Contains(why.Message, "put it off") {
		t.Errorf("why = %+v", why)
	}
}

func whyBackingOff(t *testing.T, a *asker) {
	a.work(t, map[string]worker.HandlerFunc{"fail": func(context.Context, *pelton.Task) (json.RawMessage, error) {
		return nil, errors.New("boom")
	}}, 1)
	id := a.enqueue(t, "fail", pelton.WithMaxAttempts(5), pelton.WithBackoff(pelton.Backoff{Initial: time.Hour}))
	why := a.answers(t, id, pelton.WhyBackingOff)
	task, err := a.producing.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	wantReason(t, why.Reasons[0], pelton.WhyReason{Code: pelton.WhyBackingOff, Until: task.RunAt, Attempt: 1, MaxAttempts: 5})
	if !why.Estimate.Equal(task.RunAt) || why.State != pelton.Retrying {
		t.Errorf("why = %+v", why)
	}
}

func whyRateLimited(t *testing.T, a *asker) {
	a.setLimit(t, pelton.Limit{Name: "pause", Kind: "k", Rate: pelton.RateLimit{Limit: 1, Per: time.Hour}})
	ids := a.enqueueMany(t, 2, pelton.Spec{Kind: "k"})
	// Before, it met a worker that did not know its kind: what put it off last counts.
	a.change(t, ids[1], func(r *broker.Record) { r.Deferrals, r.DeferredAt = 3, time.Now() })
	a.work(t, map[string]worker.HandlerFunc{"k": func(context.Context, *pelton.Task) (json.RawMessage, error) { return nil, nil }}, 1)
	a.answers(t, ids[0], pelton.WhyFinished)
	why := a.answers(t, ids[1], pelton.WhyRateLimited)
	r := why.Reasons[0]
	if left := time.Until(r.Until); r.Limit != "pause" || r.Rate == nil || r.Rate.Limit != 1 || left < 50*time.Minute || left > time.Hour {
		t.Errorf("reason = %+v", r)
	}
	if !r.LookAt.Before(r.Until) || !r.LookAt.After(time.Now()) || !why.Estimate.Equal(r.Until) {
		t.Errorf("why = %+v", why)
	}
	// A task that is taken over is put off by its queue's rate, too.
	a.setQueue(t, func(s *pelton.QueueSettings) { s.Rate = &pelton.RateLimit{Limit: 7} })
	a.change(t, ids[1], func(r *broker.Record) { r.Limited.By = broker.QueueLimit(pelton.DefaultQueue) })
	if r := a.ask(t, ids[1]).Reasons[0]; r.Code != pelton.WhyRateLimited || r.Limit != "queue:default" || r.Rate == nil || r.Rate.Limit != 7 {
		t.Errorf("by the queue's rate: %+v", r)
	}
	a.change(t, ids[1], func(r *broker.Record) { r.Limited.By = "pause" })
	if err := a.DeleteLimit(t.Context(), "pause"); err != nil {
		t.Fatal(err)
	}
	if why := a.ask(t, ids[1]); why.Reasons[0].Rate != nil || !strings.Contains(why.Message, "deleted") {
		t.Errorf("of a limit that is gone: %+v", why)
	}
}

func whyUnknownKind(t *testing.T, a *asker) {
	a.work(t, nil, 1)
	id := a.enqueue(t, "stranger")
	why := a.answers(t, id, pelton.WhyUnknownKind, pelton.WhyNoWorkerKind)
	r := why.Reasons[0]
	if r.Deferrals < 1 || r.Kind != "stranger" || !r.LookAt.After(r.Since) || r.Since.IsZero() || !why.Estimate.IsZero() {
		t.Errorf("reason = %+v", r)
	}
	wantReason(t, why.Reasons[1], pelton.WhyReason{Code: pelton.WhyNoWorkerKind, Queue: pelton.DefaultQueue, Kind: "stranger", Workers: 1})
}

func whyWaitingForKey(t *testing.T, a *asker) {
	a.work(t, map[string]worker.HandlerFunc{"k": func(context.Context, *pelton.Task) (json.RawMessage, error) { return nil, nil }}, 4)
	holder := a.enqueue(t, "block", pelton.WithConcurrencyKey("acme"))
	a.answers(t, holder, pelton.WhyRunning)
	ids := a.enqueueMany(t, 120, pelton.Spec{Kind: "k", ConcurrencyKey: "acme"})
	for at, ahead := range map[int]pelton.Between{0: {}, 7: {AtLeast: 7, AtMost: 7}, 119: {AtLeast: 100, AtMost: 119}} {
		why := a.answers(t, ids[at], pelton.WhyWaitingForKey)
		wantReason(t, why.Reasons[0], pelton.WhyReason{
			Code: pelton.WhyWaitingForKey, Key: "acme", Running: 1, MaxRunning: 1, Holders: []pelton.ID{holder}, Ahead: &ahead,
		})
		if !strings.Contains(why.Message, holder.String()) || !why.Estimate.IsZero() {
			t.Errorf("why = %+v", why)
		}
	}
	if _, err := a.producing.Cancel(t.Context(), holder); err != nil {
		t.Fatal(err)
	}
	a.answers(t, ids[119], pelton.WhyFinished)
}

func whyWaitingForKind(t *testing.T, a *asker) {
	a.setLimit(t, pelton.Limit{Name: "one", Kind: "block", MaxRunning: 1})
	a.work(t, nil, 4)
	holder := a.enqueue(t, "block")
	a.answers(t, holder, pelton.WhyRunning)
	second := a.enqueue(t, "block")
	eventually(t, "its place is there", func() bool { // the record says so before
		why := a.ask(t, second)
		return why.Code == pelton.WhyWaitingForKind && why.Reasons[0].Ahead != nil
	})
	why := a.answers(t, second, pelton.WhyWaitingForKind)
	wantReason(t, why.Reasons[0], pelton.WhyReason{
		Code: pelton.WhyWaitingForKind, Kind: "block", Running: 1, MaxRunning: 1, Holders: []pelton.ID{holder}, Ahead: &pelton.Between{},
	})
}

func whyExpiring(t *testing.T, a *asker) {
	a.pretend(t, idler())
	id := a.enqueue(t, "k", pelton.WithExpiresAt(time.Now().Add(time.Hour)))
	a.answers(t, id, pelton.WhyReady)
	at := time.Now().Add(-time.Minute).UTC()
	a.change(t, id, func(r *broker.Record) { r.ExpiresAt = at })
	wantReason(t, a.answers(t, id, pelton.WhyExpiring).Reasons[0], pelton.WhyReason{Code: pelton.WhyExpiring, Since: at})
}

func whyPausedQueue(t *testing.T, a *asker) {
	a.pretend(t, idler())
	low, late := a.enqueue(t, "k", pelton.WithPriority(pelton.Low)), a.enqueue(t, "k", pelton.WithPriority(pelton.Low), pelton.WithDelay(time.Hour))
	if _, err := a.Pause(t.Context(), pelton.DefaultQueue, pelton.Low); err != nil {
		t.Fatal(err)
	}
	want := pelton.WhyReason{Code: pelton.WhyPausedQueue, Queue: pelton.DefaultQueue, Priority: pelton.Low}
	wantReason(t, a.answers(t, low, pelton.WhyPausedQueue).Reasons[0], want)
	why := a.answers(t, late, pelton.WhyScheduled, pelton.WhyPausedQueue)
	wantReason(t, why.Reasons[1], want)
	if !why.Estimate.IsZero() {
		t.Errorf("a pause has no end, and yet the estimate is %s", why.Estimate)
	}
	if _, err := a.Resume(t.Context(), pelton.DefaultQueue, pelton.Low); err != nil {
		t.Fatal(err)
	}
	a.answers(t, low, pelton.WhyReady)
}

func whyNoWorker(t *testing.T, a *asker) {
	id := a.enqueue(t, "k")
	wantReason(t, a.answers(t, id, pelton.WhyNoWorkerQueue).Reasons[0], pelton.WhyReason{Code: pelton.WhyNoWorkerQueue, Queue: pelton.DefaultQueue})
	other := idler()
	other.Queues = []string{"other"}
	a.pretend(t, other)
	wantReason(t, a.answers(t, id, pelton.WhyNoWorkerQueue).Reasons[0], pelton.WhyReason{Code: pelton.WhyNoWorkerQueue, Queue: pelton.DefaultQueue, Workers: 1})
	if err := a.Probe(t.Context()); err != nil { // leaves something among the workers
		t.Fatal(err)
	}
	if err := a.b.HidePresence(t.Context(), other.ID); err != nil {
		t.Fatal(err)
	}
	wantReason(t, a.answers(t, id, pelton.WhyNoWorkerQueue).Reasons[0], pelton.WhyReason{Code: pelton.WhyNoWorkerQueue, Queue: pelton.DefaultQueue})
}

func whyNoWorkerKind(t *testing.T, a *asker) {
	a.pretend(t, idler())
	id := a.enqueue(t, "stranger")
	wantReason(t, a.answers(t, id, pelton.WhyNoWorkerKind).Reasons[0], pelton.WhyReason{
		Code: pelton.WhyNoWorkerKind, Queue: pelton.DefaultQueue, Kind: "stranger", Workers: 1,
	})
}

func whyPausedKind(t *testing.T, a *asker) {
	first := a.pausing(t, pelton.PauseKind)
	if why := a.ask(t, first); why.Code != pelton.WhyBackingOff {
		t.Errorf("the first: %+v", why)
	}
	why := a.answers(t, a.enqueue(t, "k"), pelton.WhyPausedKind)
	r := why.Reasons[0]
	if left := time.Until(r.Until); r.Kind != "k" || r.Key != "" || left < 50*time.Minute || left > time.Hour {
		t.Errorf("reason = %+v", r)
	}
	eventually(t, "it is put off", func() bool { return a.ask(t, why.TaskID).State == pelton.Scheduled })
	if why = a.answers(t, why.TaskID, pelton.WhyPausedKind); why.Reasons[0].LookAt.Before(r.Until) || !why.Estimate.Equal(why.Reasons[0].LookAt) {
		t.Errorf("why = %+v", why)
	}
	a.answers(t, a.enqueue(t, "other"), pelton.WhyFinished)
}

func whyPausedRateKey(t *testing.T, a *asker) {
	a.pausing(t, pelton.PauseKey)
	r := a.answers(t, a.enqueue(t, "other", pelton.WithRateKey("acme")), pelton.WhyPausedRateKey).Reasons[0]
	if left := time.Until(r.Until); r.Key != "acme" || r.Kind != "" || left < 50*time.Minute || left > time.Hour {
		t.Errorf("reason = %+v", r)
	}
	a.answers(t, a.enqueue(t, "other", pelton.WithRateKey("b")), pelton.WhyFinished)
}

func whyLaneFull(t *testing.T, a *asker) {
	a.setQueue(t, func(s *pelton.QueueSettings) { s.MaxRunning = map[pelton.Priority]int{pelton.Normal: 1} })
	a.work(t, nil, 8)
	a.answers(t, a.enqueue(t, "block"), pelton.WhyRunning)
	second := a.enqueue(t, "block")
	want := pelton.WhyReason{Code: pelton.WhyLaneFull, Queue: pelton.DefaultQueue, Priority: pelton.Normal, Running: 1, MaxRunning: 1}
	wantReason(t, a.answers(t, second, pelton.WhyLaneFull).Reasons[0], want)
	why := a.answers(t, a.enqueue(t, "block"), pelton.WhyLaneFull, pelton.WhyWaitingBehind)
	wantReason(t, why.Reasons[0], want)
	wantReason(t, why.Reasons[1], pelton.WhyReason{
		Code: pelton.WhyWaitingBehind, Queue: pelton.DefaultQueue, Priority: pelton.Normal, Ahead: &pelton.Between{AtLeast: 1, AtMost: 1},
	})
}

func whyWaitingBehind(t *testing.T, a *asker) {
	a.pretend(t, idler())
	ids := a.enqueueMany(t, 130, pelton.Spec{Kind: "k"})
	ask := func(id pelton.ID, want pelton.Between) {
		t.Helper()
		wantReason(t, a.answers(t, id, pelton.WhyWaitingBehind).Reasons[0], pelton.WhyReason{
			Code: pelton.WhyWaitingBehind, Queue: pelton.DefaultQueue, Priority: pelton.Normal, Ahead: &want,
		})
	}
	a.answers(t, ids[0], pelton.WhyReady)
	ask(ids[42], pelton.Between{AtLeast: 42, AtMost: 42})
	ask(ids[129], pelton.Between{AtLeast: 100, AtMost: 129})
	a.enqueueMany(t, 3, pelton.Spec{Kind: "k", Priority: pelton.High})
	a.enqueueMany(t, 3, pelton.Spec{Kind: "k", Priority: pelton.Low})
	ask(ids[1], pelton.Between{AtLeast: 1, AtMost: 4})
	if why := a.ask(t, ids[1]); !strings.Contains(why.Message, "3 of them of a higher priority") || !why.Estimate.IsZero() {
		t.Errorf("why = %+v", why)
	}
}

func whyWorkersBusy(t *testing.T, a *asker) {
	busy := idler()
	busy.Running = []pelton.ID{pelton.NewID(time.Now(), 0), pelton.NewID(time.Now(), 0)}
	a.pretend(t, busy)
	wantReason(t, a.answers(t, a.enqueue(t, "k"), pelton.WhyWorkersBusy).Reasons[0], pelton.WhyReason{
		Code: pelton.WhyWorkersBusy, Running: 2, MaxRunning: 2, Workers: 1,
	})
}

func whyQueueRate(t *testing.T, a *asker) {
	a.pretend(t, idler())
	a.setQueue(t, func(s *pelton.QueueSettings) { s.Rate = &pelton.RateLimit{Limit: 2, Per: time.Minute} })
	ids := a.enqueueMany(t, 21, pelton.Spec{Kind: "k"})
	rate := pelton.RateLimit{Limit: 2, Per: time.Minute}.Filled()
	wantReason(t, a.answers(t, ids[0], pelton.WhyQueueRate).Reasons[0], pelton.WhyReason{Code: pelton.WhyQueueRate, Queue: pelton.DefaultQueue, Rate: &rate})
	why := a.answers(t, ids[20], pelton.WhyWaitingBehind, pelton.WhyQueueRate)
	if left := time.Until(why.Estimate); left < 9*time.Minute || left > 10*time.Minute {
		t.Errorf("20 before it at 2 a minute, and yet the estimate is in %s", left)
	}
}

func whyReady(t *testing.T, a *asker) {
	a.pretend(t, idler())
	id := a.enqueue(t, "k")
	wantReason(t, a.answers(t, id, pelton.WhyReady).Reasons[0], pelton.WhyReason{Code: pelton.WhyReady})
	if why := a.ask(t, id); why.State != pelton.Queued || !why.Estimate.IsZero() {
		t.Errorf("why = %+v", why)
	}
}

func TestWhyErrors(t *testing.T) {
	t.Parallel()
	a := newAsker(t)
	if why, err := a.Why(t.Context(), pelton.NewID(time.Now(), 0)); !errors.Is(err, pelton.ErrNotFound) {
		t.Errorf("of nothing: %+v, %v", why, err)
	}
	id := a.enqueue(t, "k")
	a.nc.Close()
	if why, err := a.Why(t.Context(), id); !errors.Is(err, pelton.ErrUnavailable) {
		t.Errorf("without a connection: %+v, %v", why, err)
	}
}

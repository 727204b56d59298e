package worker_test

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
	"github.com/peltonq/pelton/internal/limit"
	"github.com/peltonq/pelton/internal/redistest"
	"github.com/peltonq/pelton/redislimit"
	"github.com/peltonq/pelton/worker"
)

// meter measures how busy the machine is: the longest read from the broker.
type meter struct {
	longest atomic.Int64
	stop    func()
}

// measure measures until the end of the test, or stop.
func (r *rig) measure(t *testing.T) *meter {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	m := &meter{}
	var reading sync.WaitGroup
	m.stop = func() { cancel(); reading.Wait() }
	t.Cleanup(m.stop)
	unknown := pelton.NewID(time.Now(), 0)
	reading.Go(func() {
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			begin := time.Now()
			_, _ = r.client.Get(ctx, unknown) // is not found
			m.longest.Store(max(m.longest.Load(), int64(time.Since(begin))))
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	})
	return m
}

// slack is what lies at most between a start that was counted and a handler that
// notes it: a read, a write, and a machine that does other things too.
func (m *meter) slack() time.Duration {
	return min(50*time.Millisecond+4*time.Duration(m.longest.Load()), 1500*time.Millisecond)
}

// quiet reports whether rates can be held against the clock at all.
func (m *meter) quiet(t *testing.T) bool {
	t.Helper()
	if longest := time.Duration(m.longest.Load()); longest > 50*time.Millisecond {
		t.Logf("a read took %s: the machine is too busy to hold a rate against its clock", longest)
		return false
	}
	return true
}

// startLog notes when tasks start.
type startLog struct {
	mu  sync.Mutex
	at  map[string][]time.Time
	ids map[string][]pelton.ID
}

func (r *rig) logStarts(kinds ...string) *startLog {
	s := &startLog{at: make(map[string][]time.Time), ids: make(map[string][]pelton.ID)}
	for _, kind := range kinds {
		r.on(kind, func(_ context.Context, task *pelton.Task) (json.RawMessage, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			name := task.Kind + task.RateKey
			s.at[name], s.ids[name] = append(s.at[name], time.Now()), append(s.ids[name], task.ID)
			return nil, nil
		})
	}
	return s
}

func (s *startLog) starts(name string) []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.at[name])
}

// boundHolds fails the test if a window of the starts has more than the limit allows.
func boundHolds(t *testing.T, m *meter, starts []time.Time, l pelton.Limit) {
	t.Helper()
	rate := l.Rate.Filled()
	slices.SortFunc(starts, time.Time.Compare)
	for i := range starts {
		for j := i; j < len(starts); j++ {
			window := starts[j].Sub(starts[i])
			if most := (window+m.slack()).Seconds()*float64(rate.Limit)/rate.Per.Seconds() + float64(rate.Burst); float64(j-i+1) > most {
				t.Fatalf("%d starts within %s, at most %.1f with a slack of %s", j-i+1, window, most, m.slack())
			}
		}
	}
}

func (r *rig) limit(t *testing.T, l pelton.Limit) pelton.Limit {
	t.Helper()
	l, err := l.Normalized()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.broker(t).SaveLimit(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	return l
}

// counter is an Observer that counts.
type putOffs struct {
	worker.Observer
	mu      sync.Mutex
	byTask  map[pelton.ID]int
	byLimit map[string]int
	started int
}

func (p *putOffs) Started(*pelton.Task, time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.started++
}
func (p *putOffs) Ended(*pelton.Task, worker.Outcome, time.Duration) {}
func (p *putOffs) Crashed(*pelton.Task)                              {}

func (p *putOffs) PutOff(task *pelton.Task, limit string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.byTask == nil {
		p.byTask, p.byLimit = make(map[pelton.ID]int), make(map[string]int)
	}
	p.byTask[task.ID]++
	p.byLimit[limit]++
}

func (p *putOffs) most() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	most := 0
	for _, n := range p.byTask {
		most = max(most, n)
	}
	return most
}

// A limited kind starts at its rate, in order, without counting attempts, and
// everything else in its lane goes on.
func TestLimitedKind(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	starts, m := r.logStarts("mail", "other"), r.measure(t)
	l := r.limit(t, pelton.Limit{Name: "mail", Kind: "mail", Rate: pelton.RateLimit{Limit: 50, Burst: 5}})
	seen := &putOffs{}
	r.run(t, worker.Config{Concurrency: 4, Observer: seen})
	begin := time.Now()
	limited := r.enqueueMany(t, 150, "mail")
	others := r.enqueueMany(t, 100, "other")
	r.succeeds(t, others...)
	if took := time.Since(begin); took > 2*time.Second && m.quiet(t) {
		t.Errorf("100 tasks behind a limited kind took %s", took)
	}
	r.succeeds(t, limited...)
	if took := time.Since(begin).Seconds(); took < 2.8 || took > 4 && m.quiet(t) { // (150-5)/50
		t.Errorf("150 tasks at 50/s took %.2f s", took)
	}
	boundHolds(t, m, starts.starts("mail"), l)
	if task := r.get(t, limited[149]); task.Attempt != 1 || len(task.Errors) != 0 {
		t.Errorf("task after its deferrals: attempt %d, errors %v", task.Attempt, task.Errors)
	}
	if most := seen.most(); most > 3 || most < 1 && m.quiet(t) { // none waits where tasks come slower than the rate
		t.Errorf("a task was put off %d times", most)
	}
	// In order, but for what comes back within the same moments.
	starts.mu.Lock()
	defer starts.mu.Unlock()
	moved := 0
	for i, id := range starts.ids["mail"] {
		was := slices.Index(limited, id)
		moved += max(was-i, i-was)
	}
	if apart := float64(moved) / 150; apart > 12 && m.quiet(t) { // a quarter of a second at 50/s
		t.Errorf("tasks started %.1f places from their order", apart)
	}
}

// Each key that a pattern matches has a bucket of its own; a task without a key
// has none.
func TestLimitedRateKeys(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	starts, m := r.logStarts("k"), r.measure(t)
	l := r.limit(t, pelton.Limit{Name: "tenants", RateKey: "acme*", Rate: pelton.RateLimit{Limit: 10, Burst: 2}})
	r.run(t, worker.Config{Concurrency: 8})
	begin := time.Now()
	var limited, free []pelton.ID
	for _, key := range []string{"acme-1", "acme-2"} {
		limited = append(limited, r.enqueueMany(t, 17, "k", pelton.WithRateKey(key))...)
	}
	free = append(r.enqueueMany(t, 50, "k"), r.enqueueMany(t, 50, "k", pelton.WithRateKey("other"))...)
	r.succeeds(t, free...)
	if took := time.Since(begin); took > time.Second && m.quiet(t) {
		t.Errorf("what is not limited took %s", took)
	}
	r.succeeds(t, limited...)
	if took := time.Since(begin).Seconds(); took < 1.4 || took > 2.6 && m.quiet(t) { // (17-2)/10, both at once
		t.Errorf("17 tasks of each key at 10/s took %.2f s", took)
	}
	boundHolds(t, m, starts.starts("kacme-1"), l)
	boundHolds(t, m, starts.starts("kacme-2"), l)
}

// Workers learn of limits that come, change and go while they run.
func TestLimitsChangeLive(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	starts := r.logStarts("mail")
	r.run(t, worker.Config{})
	r.succeeds(t, r.enqueueMany(t, 50, "mail")...)
	hourly := r.limit(t, pelton.Limit{Name: "mail", Kind: "mail", Rate: pelton.RateLimit{Limit: 1, Per: time.Hour}})
	eventually(t, "a task is put off", func() bool {
		task := r.enqueue(t, "mail")
		state := pelton.Queued
		for state == pelton.Queued || state == pelton.Running {
			state = r.get(t, task.ID).State
		}
		return state == pelton.Scheduled
	})
	waiting := r.enqueue(t, "mail")
	eventually(t, "another waits for its place", func() bool {
		task := r.get(t, waiting.ID)
		return task.State == pelton.Scheduled && time.Until(task.RunAt) > 20*time.Minute && task.Attempt == 0
	})
	if err := r.broker(t).DeleteLimit(t.Context(), hourly.Name); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the limit is lifted", func() bool {
		task := r.enqueue(t, "mail")
		state := pelton.Queued
		for !state.Terminal() && state != pelton.Scheduled {
			state = r.get(t, task.ID).State
		}
		return state == pelton.Succeeded
	})
	if n := len(starts.starts("mail")); n < 52 {
		t.Errorf("%d starts", n)
	}
}

// openFleet starts workers that share a Redis, each with connections of its own.
func openFleet(t *testing.T, r *rig, server *redistest.Server, n int, cfg worker.Config) *fallbacks {
	t.Helper()
	f := &fallbacks{}
	for range n {
		limiter, err := redislimit.Open(t.Context(), server.URL, redislimit.Config{Share: 1 / float64(n), Observer: f})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = limiter.Close() })
		cfg.Limiter = limiter
		runOn(t, r.nc, r.Mux, cfg)
	}
	return f
}

// fallbacks counts what was answered without Redis: a machine that is too busy to
// answer within 50 ms is one without Redis.
type fallbacks struct{ atomic.Int64 }

func (f *fallbacks) RedisUp(bool)                 {}
func (f *fallbacks) LimitFellBack(string, string) { f.Add(1) }

// Four workers hold a limit together: within 5 % of it, and no window has more
// than its bound.
func TestFleetHoldsALimit(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	starts, m := r.logStarts("mail"), r.measure(t)
	l := r.limit(t, pelton.Limit{Name: "mail", Kind: "mail", Rate: pelton.RateLimit{Limit: 100, Burst: 10, OnError: pelton.OnErrorClosed}})
	without := openFleet(t, r, redistest.Start(t), 4, worker.Config{Concurrency: 8})
	// Where Redis does not answer in time, which a busy machine makes it do, a closed
	// limit puts tasks off for longer and longer.
	r.succeedsWithin(t, 4*patience, r.enqueueMany(t, 310, "mail")...)
	got := starts.starts("mail")
	boundHolds(t, m, got, l)
	if rate := float64(len(got)-l.Rate.Burst) / got[len(got)-1].Sub(got[0]).Seconds(); m.quiet(t) && without.Load() == 0 && (rate < 95 || rate > 105) {
		t.Errorf("310 tasks started at %.1f/s, want 100/s", rate)
	}
}

// With Redis gone a limit is each worker's share, or none, or shut, as it says;
// no attempt is counted, and what was shut goes on when Redis is back.
func TestFleetWithoutRedis(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	starts, m := r.logStarts("local", "open", "closed"), r.measure(t)
	limits := make(map[string]pelton.Limit)
	for _, mode := range []string{pelton.OnErrorLocal, pelton.OnErrorOpen, pelton.OnErrorClosed} {
		limits[mode] = r.limit(t, pelton.Limit{Name: mode, Kind: mode, Rate: pelton.RateLimit{Limit: 20, Burst: 4, OnError: mode}})
	}
	server := redistest.Start(t)
	seen := &putOffs{}
	openFleet(t, r, server, 2, worker.Config{Concurrency: 8, Observer: seen})
	for mode := range limits {
		r.succeedsWithin(t, 4*patience, r.enqueueMany(t, 5, mode)...)
	}
	server.Kill()
	begin := time.Now()
	open := r.enqueueMany(t, 200, "open")
	local := r.enqueueMany(t, 44, "local")
	closed := r.enqueueMany(t, 20, "closed")
	r.succeeds(t, open...)
	if took := time.Since(begin); took > 3*time.Second && m.quiet(t) {
		t.Errorf("200 tasks of an open limit took %s", took)
	}
	r.succeeds(t, local...)
	// (44-4)/20 s, or up to (44-2)/10 if one worker gets them all.
	if took := time.Since(begin).Seconds(); took < 1.8 || took > 5 && m.quiet(t) {
		t.Errorf("44 tasks at twice the half of 20/s took %.2f s", took)
	}
	boundHolds(t, m, starts.starts("local")[5:], limits["local"])
	if n := len(starts.starts("closed")); n != 5 {
		t.Errorf("%d tasks of a closed limit started", n-5)
	}
	for _, id := range closed {
		if task := r.get(t, id); task.State.Terminal() || task.Attempt != 0 {
			t.Errorf("a task of a closed limit is %s in attempt %d", task.State, task.Attempt)
		}
	}
	seen.mu.Lock()
	if n := seen.byLimit["closed"]; n > 100 { // 20 tasks, after 1, 2, 4 … s
		t.Errorf("20 tasks were put off %d times in %s: that is a hot loop", n, time.Since(begin))
	}
	seen.mu.Unlock()
	server.Run()
	r.succeedsWithin(t, 4*patience, closed...)
	if task := r.get(t, closed[19]); task.Attempt != 1 {
		t.Errorf("attempt %d", task.Attempt)
	}
}

// A worker that stops gives back what it holds.
func TestStoppedWorkerGivesBackWhatItHolds(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.logStarts("mail", "other")
	r.limit(t, pelton.Limit{Name: "mail", Kind: "mail", Rate: pelton.RateLimit{Limit: 3, Burst: 1}})
	first := r.run(t, worker.Config{Concurrency: 4})
	ids := r.enqueueMany(t, 3, "mail")
	r.succeeds(t, ids[0])
	if err := first.stop(t); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	r.run(t, worker.Config{Concurrency: 4})
	r.succeeds(t, append(ids, r.enqueue(t, "other").ID)...)
	if took := time.Since(begin); took > 15*time.Second { // the lease is 30 s
		t.Errorf("what the first worker held was taken after %s", took)
	}
	r.idle(t)
}

// A task of a dead worker is counted again, and its crash is kept while it waits.
func TestTakeoverIsLimited(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	starts := r.logStarts("mail")
	r.limit(t, pelton.Limit{Name: "mail", Kind: "mail", Rate: pelton.RateLimit{Limit: 1, Per: 8 * time.Second, Burst: 1}})
	shared, err := limit.NewLocal(1)
	if err != nil {
		t.Fatal(err)
	}
	b := r.broker(t)
	dead := &broker.Record{Meta: broker.Meta{
		ID: pelton.NewID(time.Now(), 0), Kind: "mail", Queue: "late", Priority: pelton.Normal, MaxAttempts: 3,
		Timeout: time.Minute, Retention: time.Hour, CreatedAt: time.Now(),
	}, State: pelton.Running, Owner: "gone", StartedAt: time.Now()}
	if err := b.EnsureLane(t.Context(), broker.Lane{Queue: "late", Priority: pelton.Normal}); err != nil {
		t.Fatal(err)
	}
	seq, err := b.PublishReady(t.Context(), dead.Envelope())
	if err != nil {
		t.Fatal(err)
	}
	dead.Carrier = seq
	if err := b.CreateRecord(t.Context(), dead); err != nil {
		t.Fatal(err)
	}
	r.run(t, worker.Config{Limiter: shared})
	r.succeeds(t, r.enqueue(t, "mail").ID) // takes what there is
	begin := time.Now()
	r.run(t, worker.Config{Queues: []string{"late"}, Limiter: shared})
	eventually(t, "its place in line comes", func() bool {
		task := r.get(t, dead.ID)
		return task.State == pelton.Scheduled && task.Crashes == 1
	})
	if task := r.finished(t, dead.ID); task.State != pelton.Succeeded || task.Crashes != 1 || task.Attempt != 1 {
		t.Errorf("task is %s after %d crashes in attempt %d", task.State, task.Crashes, task.Attempt)
	}
	if n, took := len(starts.starts("mail")), time.Since(begin); n != 2 || took < time.Second {
		t.Errorf("%d starts, the second after %s", n, took)
	}
}

// Run does not let a task past a limit: one that the limit put off stays where it is,
// and one whose time was brought forward is put off like all others.
func TestRunDoesNotPassALimit(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	starts := r.logStarts("mail")
	r.limit(t, pelton.Limit{Name: "mail", Kind: "mail", Rate: pelton.RateLimit{Limit: 1, Per: time.Hour, Burst: 1}})
	r.run(t, worker.Config{Concurrency: 4})
	r.succeeds(t, r.enqueue(t, "mail").ID)
	waits := func(id pelton.ID) *pelton.Task {
		t.Helper()
		eventually(t, "the limit put it off", func() bool { return r.get(t, id).State == pelton.Scheduled })
		return r.get(t, id)
	}
	before := waits(r.enqueue(t, "mail").ID)
	for range 3 {
		after, err := r.client.Run(t.Context(), before.ID)
		if err != nil || after.Revision != before.Revision || !after.RunAt.Equal(before.RunAt) {
			t.Errorf("Run of a task that a limit put off = %+v, %v, want it as it was: %+v", after, err, before)
		}
	}
	delayed := r.enqueue(t, "mail", pelton.WithDelay(24*time.Hour))
	if run, err := r.client.Run(t.Context(), delayed.ID); err != nil || run.State != pelton.Queued {
		t.Errorf("Run of a delayed task = %+v, %v", run, err)
	}
	waits(delayed.ID)
	if n := len(starts.starts("mail")); n != 1 {
		t.Errorf("%d started, the limit is 1", n)
	}
}

// Retries wait for years if a handler says so, not for ever, and not for nothing.
func TestLongestSnooze(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.on("sleepy", func(_ context.Context, task *pelton.Task) (json.RawMessage, error) {
		if !task.RunAt.IsZero() {
			return nil, nil
		}
		return nil, pelton.Snooze(1<<63 - 1)
	})
	r.run(t, worker.Config{})
	id := r.enqueue(t, "sleepy").ID
	eventually(t, "it is put off", func() bool { return r.get(t, id).State == pelton.Scheduled })
	if at := r.get(t, id).RunAt; at.Year() != pelton.MaxRunYear {
		t.Errorf("put off until %s", at)
	}
	if _, err := r.client.Run(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	r.succeeds(t, id)
}

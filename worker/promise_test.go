package worker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/producer"
	"github.com/peltonq/pelton/worker"
)

// stalls are the times at which the machine was not itself: somebody who asked the
// broker for something every 5 ms got no answer, or no processor. Everything of these
// tests runs in this process, so it stood still as well. What is promised within a
// time is promised of the rest.
type stalls struct {
	mu    sync.Mutex
	spans [][2]time.Time
	asked time.Time // the question that is under way was due then
}

// stall is how late an answer is that stands for one.
const stall = 20 * time.Millisecond

// watchStalls watches until the end of the test.
func (r *rig) watchStalls(t *testing.T) *stalls {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	s := &stalls{asked: time.Now()}
	var watching sync.WaitGroup
	t.Cleanup(func() { cancel(); watching.Wait() })
	unknown := pelton.NewID(time.Now(), 0)
	watching.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			_, _ = r.client.Get(ctx, unknown) // is not found
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
			s.mu.Lock()
			if now := time.Now(); now.Sub(s.asked) > stall {
				s.spans = append(s.spans, [2]time.Time{s.asked, now})
			}
			s.asked = time.Now()
			s.mu.Unlock()
		}
	})
	return s
}

// in is for how long the machine stalled between two times.
func (s *stalls) in(from, to time.Time) (sum time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	spans := s.spans
	if now := time.Now(); now.Sub(s.asked) > stall {
		spans = append(spans[:len(spans):len(spans)], [2]time.Time{s.asked, now})
	}
	for _, span := range spans {
		begin, end := span[0], span[1]
		if begin.Before(from) {
			begin = from
		}
		if end.After(to) {
			end = to
		}
		sum += max(0, end.Sub(begin))
	}
	return sum
}

// since is the time since then in which the machine did not stall.
func (s *stalls) since(from time.Time) time.Duration {
	now := time.Now()
	return now.Sub(from) - s.in(from, now)
}

// within waits until cond holds, which is promised within d from then.
func (s *stalls) within(t *testing.T, d time.Duration, from time.Time, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		if s.since(from) > d {
			t.Fatalf("not within %s, and %s of stalls: %s", d, s.in(from, time.Now()), what)
		}
		<-tick.C
	}
	t.Logf("%s within %s, of which the machine stalled for %s", what, time.Since(from).Round(time.Millisecond), s.in(from, time.Now()).Round(time.Millisecond))
}

// elapse waits until the machine has had d of its time since then.
func (s *stalls) elapse(d time.Duration, from time.Time) {
	for left := d; left > 0; left = d - s.since(from) {
		<-time.After(max(left, time.Millisecond))
	}
}

// begun is which worker started something last, and when.
type begun struct {
	mu   sync.Mutex
	last map[string]time.Time
}

func (b *begun) note(worker string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.last == nil {
		b.last = make(map[string]time.Time)
	}
	b.last[worker] = time.Now()
}

// since gives how many workers have started something since then, and the latest start.
func (b *begun) since(then time.Time) (workers int, latest time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, at := range b.last {
		if at.After(then) {
			workers++
		}
		if at.After(latest) {
			latest = at
		}
	}
	return workers, latest
}

// paces takes a moment, so that a backlog lasts.
func paces(context.Context) {
	timer := time.NewTimer(2 * time.Millisecond)
	defer timer.Stop()
	<-timer.C
}

// Three workers that are in the middle of a backlog start nothing of a lane later than a
// second after it was asked to be paused, each of them, and go on within a second of
// being resumed.
func TestPauseHoldsWithinASecond(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	s := f.watchStalls(t)
	var low, others begun
	f.on("k", func(ctx context.Context, task *pelton.Task) (json.RawMessage, error) {
		if task.Priority == pelton.Low {
			low.note(task.Worker)
		} else {
			others.note(task.Worker)
		}
		paces(ctx)
		return nil, nil
	})
	f.work(t, 3, worker.Config{Concurrency: 2})
	const backlog = 3000
	ids := f.enqueueMany(t, backlog, "k", pelton.WithPriority(pelton.Low))
	for round, p := range []pelton.Priority{pelton.Low, ""} {
		began := time.Now()
		eventually(t, "all three work", func() bool { workers, _ := low.since(began); return workers == 3 })
		asked := time.Now()
		f.pause(t, p)
		s.elapse(time.Second, asked)
		held := time.Now()
		if p == pelton.Low {
			f.succeeds(t, f.enqueueMany(t, 20, "k")...)
		}
		s.elapse(time.Second, held)
		workers, latest := low.since(held)
		if workers > 0 {
			t.Errorf("round %d: %d workers started something of a lane that had been paused %s before", round, workers, latest.Sub(asked))
		}
		t.Logf("round %d: the last start came %s after the pause was asked for", round, latest.Sub(asked).Round(time.Millisecond))
		if f.get(t, ids[backlog-1]).State.Terminal() {
			t.Fatal("the backlog was done before its pause held")
		}
		resumed := time.Now()
		f.resume(t, p)
		s.within(t, time.Second, resumed, "all three go on", func() bool { workers, _ := low.since(resumed); return workers == 3 })
	}
}

// What a queue's settings say holds within two seconds, on three workers and for two
// producers.
func TestSettingsHoldWithinTwoSeconds(t *testing.T) {
	t.Parallel()
	const promised = 2 * time.Second
	f := newFleet(t)
	s := f.watchStalls(t)
	g := newGauge()
	release := make(chan struct{})
	f.on("hold", func(ctx context.Context, _ *pelton.Task) (json.RawMessage, error) {
		defer g.enter("hold")()
		select {
		case <-release:
		case <-ctx.Done():
		}
		return nil, nil
	})
	var busy atomic.Pointer[gauge]
	busy.Store(newGauge())
	var quick begun
	f.on("quick", func(ctx context.Context, task *pelton.Task) (json.RawMessage, error) {
		quick.note(task.Worker)
		defer busy.Load().enter("quick")()
		paces(ctx)
		return nil, nil
	})
	f.set(t, `{"max_running":{"normal":1}}`)
	f.work(t, 3, worker.Config{Concurrency: 4})
	held := f.enqueueMany(t, 12, "hold")
	eventually(t, "one runs", func() bool { return g.running("hold") == 1 })
	for _, n := range []int{2, 7, 12} {
		asked := time.Now()
		f.set(t, fmt.Sprintf(`{"max_running":{"normal":%d}}`, n))
		s.within(t, promised, asked, fmt.Sprintf("%d run", n), func() bool { return g.running("hold") == n })
	}
	close(release)
	f.succeeds(t, held...)

	// Lower, under a backlog: what runs goes on, and what starts later keeps to it.
	f.enqueueMany(t, 5000, "quick")
	eventually(t, "several run", func() bool { return busy.Load().peak("quick") > 2 })
	asked := time.Now()
	f.set(t, `{"max_running":{"normal":1}}`)
	s.elapse(promised, asked)
	eventually(t, "nothing from before runs", func() bool { return busy.Load().running("quick") <= 1 })
	fresh := newGauge()
	busy.Store(fresh)
	s.elapse(time.Second, time.Now())
	if peak := fresh.peak("quick"); peak != 1 {
		t.Errorf("%d ran at once two seconds after the limit was 1", peak)
	}

	// A rate that lets hardly anything start, and its end.
	asked = time.Now()
	f.set(t, `{"max_running":null,"rate":{"limit":1,"per":"1h","burst":1}}`)
	s.elapse(promised, asked)
	limited := time.Now()
	s.elapse(time.Second, limited)
	if workers, latest := quick.since(limited); workers > 0 {
		t.Errorf("%d workers started something %s after the rate was one an hour", workers, latest.Sub(asked))
	}
	asked = time.Now()
	f.set(t, `{"rate":null}`)
	s.within(t, promised, asked, "all go on", func() bool { workers, _ := quick.since(asked); return workers == 3 })

	// A lease: workers and the broker.
	for _, lease := range []time.Duration{20 * time.Second, 40 * time.Second} {
		asked = time.Now()
		f.set(t, fmt.Sprintf(`{"lease":%q}`, lease))
		s.within(t, promised, asked, "the broker expects a lease of "+lease.String(), func() bool { return f.ackWait(t) == lease })
	}

	// Producers.
	other, err := producer.New(t.Context(), f.connect(), producer.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(other.Close)
	asked = time.Now()
	f.set(t, `{"timeout":"77s","max_attempts":3}`)
	for i, c := range []*producer.Client{f.client, other} {
		s.within(t, promised, asked, fmt.Sprintf("producer %d gives tasks the timeout", i), func() bool {
			task, err := c.Enqueue(t.Context(), pelton.Spec{Kind: "quick"})
			if err != nil {
				t.Fatal(err)
			}
			return task.Timeout == 77*time.Second && task.MaxAttempts == 3
		})
	}
	f.pause(t, "")
	asked = time.Now()
	f.set(t, `{"max_depth":1}`)
	for i, c := range []*producer.Client{f.client, other} {
		s.within(t, promised, asked, fmt.Sprintf("producer %d refuses", i), func() bool {
			_, err := c.Enqueue(t.Context(), pelton.Spec{Kind: "quick"})
			if err != nil && !errors.Is(err, pelton.ErrOverloaded) {
				t.Fatal(err)
			}
			return err != nil
		})
	}
}

// A lower lane that waits gets the next slot that is free after MaxWait, however many
// tasks of higher ones there are. With several such lanes each gets one of the next.
func TestMaxWaitGivesTheNextSlot(t *testing.T) {
	t.Parallel()
	const maxWait = time.Second
	r := newRig(t)
	s := r.watchStalls(t)
	var (
		mu    sync.Mutex
		highs []time.Time
		stop  bool
	)
	low := make(chan time.Time, 100)
	r.on("flood", func(ctx context.Context, _ *pelton.Task) (json.RawMessage, error) {
		mu.Lock()
		highs = append(highs, time.Now())
		over := stop
		mu.Unlock()
		if over {
			return nil, nil
		}
		paces(ctx)
		_, err := r.client.Enqueue(ctx, pelton.Spec{Kind: "flood", Priority: pelton.High})
		return nil, err
	})
	r.on("low", func(context.Context, *pelton.Task) (json.RawMessage, error) {
		low <- time.Now()
		return nil, nil
	})
	r.run(t, worker.Config{Concurrency: 1, MaxWait: maxWait})
	lower := []pelton.Priority{pelton.Normal, pelton.Low}
	for _, p := range lower { // their lanes are there
		r.succeeds(t, r.enqueue(t, "low", pelton.WithPriority(p)).ID)
		<-low
	}
	r.enqueueMany(t, 50, "flood", pelton.WithPriority(pelton.High))
	eventually(t, "the flood is there", func() bool { mu.Lock(); defer mu.Unlock(); return len(highs) > 20 })
	for round := range 3 {
		waits := time.Now()
		for _, p := range lower {
			r.enqueue(t, "low", pelton.WithPriority(p))
		}
		for i := range lower {
			at := receive(t, low, "start of a lower task")
			// Since when its turn had come, however long the machine stalled until then.
			due := waits.Add(maxWait + s.in(waits, at))
			mu.Lock()
			passed := 0
			for _, high := range highs {
				if high.After(due) && high.Before(at) {
					passed++
				}
			}
			mu.Unlock()
			// One has the slot when the time comes; then both have theirs in turn.
			if passed > 1+i {
				t.Errorf("round %d: %d higher tasks started when a lower one had waited for %s and %s of stalls", round, passed, maxWait, s.in(waits, at))
			}
			t.Logf("round %d: a lower task started after %s, %d higher ones passed it after its time", round, at.Sub(waits).Round(time.Millisecond), passed)
		}
	}
	mu.Lock()
	stop = true
	mu.Unlock()
	r.idle(t)
}

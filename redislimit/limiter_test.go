package redislimit_test

import (
	"bytes"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/limit"
	"github.com/peltonq/pelton/internal/redistest"
	"github.com/peltonq/pelton/redislimit"
)

func TestMain(m *testing.M) {
	redislimit.Silence()
	goleak.VerifyTestMain(m)
}

const patience = 10 * time.Second

// seen is an Observer that remembers.
type seen struct {
	mu    sync.Mutex
	up    []bool
	modes map[string]int
}

func (s *seen) RedisUp(up bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.up = append(s.up, up)
}

func (s *seen) LimitFellBack(limit string, mode string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.modes == nil {
		s.modes = make(map[string]int)
	}
	if limit == "mail" {
		s.modes[mode]++
	}
}

func open(t *testing.T, url string, cfg redislimit.Config) *redislimit.Limiter {
	t.Helper()
	l, err := redislimit.Open(t.Context(), url, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// answer is how long a patient Limiter waits for Redis: on a busy machine more than
// 50 ms may pass although Redis is there.
const answer = 2 * time.Second

func openPatient(t *testing.T, url string, cfg redislimit.Config) *redislimit.Limiter {
	t.Helper()
	l, err := redislimit.OpenPatient(t.Context(), url, cfg, answer)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func bucket(r pelton.RateLimit) limit.Bucket {
	return limit.Bucket{Limit: "mail", Key: "mail", Rate: r}
}

func TestTakeAndBook(t *testing.T) {
	t.Parallel()
	l := openPatient(t, redistest.Start(t).URL, redislimit.Config{})
	b := bucket(pelton.RateLimit{Limit: 1, Per: time.Minute, Burst: 5})
	near := func(got, want time.Duration) bool { return (got - want).Abs() < 15*time.Second }

	if d := l.Take(t.Context(), b, 2); d.Allowed != 2 || d.Remaining != 3 || d.RetryAfter != 0 || !near(d.ResetAfter, 2*time.Minute) {
		t.Errorf("two of five: %+v", d)
	}
	if d := l.Take(t.Context(), b, 9); d.Allowed != 3 || d.Remaining != 0 || !near(d.RetryAfter, time.Minute) || !near(d.ResetAfter, 5*time.Minute) {
		t.Errorf("nine where three are left: %+v", d)
	}
	for range 2 {
		if d := l.Take(t.Context(), b, 1); d.Allowed != 0 || !near(d.RetryAfter, time.Minute) {
			t.Errorf("one where none is left: %+v", d)
		}
		if got := l.Book(t.Context(), b, 1, 30*time.Second); got.OK || !near(got.Wait, time.Minute) {
			t.Errorf("booked further ahead than asked: %+v", got)
		}
	}
	for i, want := range []time.Duration{1, 2, 5} {
		if got := l.Book(t.Context(), b, max(1, int(want-2)), time.Hour); !got.OK || !near(got.Wait, want*time.Minute) {
			t.Errorf("booking %d: %+v, want %s", i, got, want*time.Minute)
		}
	}
	if d := l.Take(t.Context(), b, 1); d.Allowed != 0 || !near(d.RetryAfter, 6*time.Minute) {
		t.Errorf("taken behind the bookings: %+v", d)
	}
	other := b
	other.Key = "another"
	if got := l.Book(t.Context(), other, 5, 0); !got.OK || got.Wait != 0 {
		t.Errorf("another bucket: %+v", got)
	}
}

// Four processes that each ask again at RetryAfter start, together, the whole rate
// and never more than the bound in any window.
func TestFleetTakesItsRateAndNoMore(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	const limitPerSecond, burst, length = 200, 10, 2 * time.Second
	b := bucket(pelton.RateLimit{Limit: limitPerSecond, Per: time.Second, Burst: burst, OnError: pelton.OnErrorClosed})
	var (
		mu      sync.Mutex
		starts  []time.Time
		slowest time.Duration // of an answer: a busy machine's
		all     sync.WaitGroup
	)
	watcher := &seen{}
	begin := time.Now()
	for range 4 {
		l := open(t, server.URL, redislimit.Config{Observer: watcher})
		all.Go(func() {
			for time.Since(begin) < length {
				asked := time.Now()
				d := l.Take(t.Context(), b, 3)
				now := time.Now()
				mu.Lock()
				slowest = max(slowest, now.Sub(asked))
				for range d.Allowed {
					starts = append(starts, now)
				}
				mu.Unlock()
				pause(t, d.RetryAfter)
			}
		})
	}
	all.Wait()
	want := limitPerSecond*length.Seconds() + burst
	switch got := float64(len(starts)); {
	case got > 1.05*want:
		t.Errorf("%v starts in %s, want about %v", got, length, want)
	case slowest > 20*time.Millisecond || len(watcher.modes) > 0:
		t.Logf("an answer took %s: the machine is too busy to reach a rate", slowest)
	case got < 0.95*want:
		t.Errorf("%v starts in %s, want about %v", got, length, want)
	}
	slices.SortFunc(starts, time.Time.Compare)
	late := 10*time.Millisecond + 2*slowest // between the grant and its noting lie a reply and a scheduler
	for i := range starts {
		for j := i; j < len(starts); j++ {
			window := starts[j].Sub(starts[i]) + late
			if most := window.Seconds()*limitPerSecond + burst; float64(j-i+1) > most {
				t.Fatalf("%d starts within %s, at most %.1f", j-i+1, window-late, most)
			}
		}
	}
}

func pause(t *testing.T, d time.Duration) {
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}

// Without Redis each limit goes on as it says, at once; when Redis is back, so is
// the fleet's limit, and one line tells of each.
func TestRedisGoesAndComesBack(t *testing.T) {
	t.Parallel()
	for name, away := range map[string]struct{ leave, back func(*redistest.Server) }{
		"killed": {(*redistest.Server).Kill, (*redistest.Server).Run},
		"hangs":  {(*redistest.Server).Hang, (*redistest.Server).Resume},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			var log bytes.Buffer
			watcher := &seen{}
			l := openPatient(t, server.URL, redislimit.Config{
				Share: 0.5, Observer: watcher, Logger: slog.New(slog.NewTextHandler(&log, nil)),
			})
			at := func(mode string) limit.Bucket {
				b := bucket(pelton.RateLimit{Limit: 1, Per: time.Hour, Burst: 4, OnError: mode})
				b.Key += mode
				return b
			}
			modes := []string{"", pelton.OnErrorOpen, pelton.OnErrorClosed}
			for _, mode := range modes {
				if d := l.Take(t.Context(), at(mode), 9); d.Allowed != 4 {
					t.Fatalf("%s with Redis: %+v", mode, d)
				}
			}
			away.leave(server)

			var slowest time.Duration
			timed := func(do func()) {
				begin := time.Now()
				do()
				slowest = max(slowest, time.Since(begin))
			}
			for range 3 { // questions that go unanswered, then none
				timed(func() { l.Take(t.Context(), at("warm"), 1) })
			}
			timed(func() {
				if d := l.Take(t.Context(), at("rested"), 9); d.Allowed != 2 || d.RetryAfter < time.Hour {
					t.Errorf("local: %+v, want the share of the burst", d)
				}
				if d := l.Take(t.Context(), at(""), 9); d.Allowed != 0 || d.RetryAfter < time.Hour {
					t.Errorf("local: %+v, after the fleet has had its burst", d)
				}
				if got := l.Book(t.Context(), at(""), 1, 3*time.Hour); !got.OK || got.Wait < time.Hour {
					t.Errorf("local booking: %+v, want at the share of the rate", got)
				}
			})
			timed(func() {
				if d := l.Take(t.Context(), at(pelton.OnErrorOpen), 9); d.Allowed != 9 {
					t.Errorf("open: %+v", d)
				}
				if got := l.Book(t.Context(), at(pelton.OnErrorOpen), 1, 0); !got.OK || got.Wait != 0 {
					t.Errorf("open booking: %+v", got)
				}
			})
			timed(func() {
				if d := l.Take(t.Context(), at(pelton.OnErrorClosed), 9); d.Allowed != 0 || d.RetryAfter < tick {
					t.Errorf("closed: %+v", d)
				}
				if got := l.Book(t.Context(), at(pelton.OnErrorClosed), 1, time.Hour); got.OK || !got.Closed || got.Wait < tick {
					t.Errorf("closed booking: %+v", got)
				}
			})
			if slowest > 2*answer { // one question at most was asked
				t.Errorf("an answer without Redis took %s", slowest)
			}

			away.back(server)
			eventually(t, "Redis counts again", func() bool {
				watcher.mu.Lock()
				defer watcher.mu.Unlock()
				return len(watcher.up) == 3
			}, func() { l.Take(t.Context(), at(pelton.OnErrorOpen), 1) })
			if d := l.Take(t.Context(), at(""), 1); d.Allowed != 0 || d.RetryAfter < 30*time.Minute {
				t.Errorf("with Redis again: %+v", d)
			}
			if !slices.Equal(watcher.up, []bool{true, false, true}) {
				t.Errorf("told of %v", watcher.up)
			}
			watcher.mu.Lock()
			defer watcher.mu.Unlock()
			if watcher.modes[pelton.OnErrorLocal] < 2 || watcher.modes[pelton.OnErrorOpen] < 2 || watcher.modes[pelton.OnErrorClosed] < 2 {
				t.Errorf("fallbacks counted: %v", watcher.modes)
			}
			if text := log.String(); strings.Count(text, "\n") != 2 || !strings.Contains(text, "redis is out of reach") || !strings.Contains(text, "redis is back") {
				t.Errorf("log:\n%s", text)
			}
		})
	}
}

// tick is the least that a closed limit lets anybody wait: no hot loop.
const tick = 250 * time.Millisecond

// While Redis is away hardly anything is asked of it, however many ask.
func TestNoQuestionsWhileTripped(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	server.Kill()
	begin := time.Now()
	l := open(t, server.URL, redislimit.Config{})
	asked := l.CountQuestions()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 2000 {
				l.Take(t.Context(), bucket(pelton.RateLimit{Limit: 1, Per: time.Second, Burst: 1}), 1)
			}
		})
	}
	all.Wait()
	got := asked()
	if most := int64(time.Since(begin) / redislimit.TripFor); got > most {
		t.Errorf("%d of 16,000 questions were asked of Redis in %s", got, time.Since(begin))
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"", "127.0.0.1:6379", "http://127.0.0.1", "redis://:secret@host:port"} {
		_, err := redislimit.Open(t.Context(), url, redislimit.Config{})
		if !errors.Is(err, pelton.ErrInvalid) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", url, err)
		}
	}
	if _, err := redislimit.Open(t.Context(), "redis://127.0.0.1:1", redislimit.Config{Share: 2}); !errors.Is(err, pelton.ErrInvalid) {
		t.Errorf("a share of 2: %v", err)
	}
}

func eventually(t *testing.T, what string, cond func() bool, do func()) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", patience, what)
		}
		do()
		pause(t, 5*time.Millisecond)
	}
}

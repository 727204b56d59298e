package e2e_test

import (
	"context"
	"encoding/json"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/redistest"
)

// Four worker processes hold a limit together through Redis: within 5 % of the
// rate, and in no window more than it allows. When Redis dies the limit, which is
// closed then, lets nothing start; when it is back the rest runs, and no attempt
// was counted.
func TestFleetOfProcessesHoldsALimit(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	s := serve(t, "--addr", "127.0.0.1:0", "--data", filepath.Join(t.TempDir(), "data"), "--nats-listen", "127.0.0.1:0", "--nats-token", "secret")
	const perSecond, burst = 100, 10
	if status, _, answer, err := call(t.Context(), http.MethodPut, s.url+"/limits/echo", `{"kind":"demo.echo","rate":{"limit":100,"burst":10,"on_error":"closed"}}`); err != nil || status != http.StatusOK {
		t.Fatalf("PUT /limits/echo: %d %s %v", status, answer, err)
	}
	for range 4 {
		start(t, "worker", "run", "--demo", "--nats", s.nats, "--nats-token", "secret", "--redis", redis.URL).line("worker started")
	}
	longest := s.busy(t)
	ids := s.postMany(t, strings.TrimSuffix(strings.Repeat(`{"kind":"demo.echo"},`, 410), ","))
	starts := s.startsOf(t, ids)
	slack := 50*time.Millisecond + 4*longest()
	slices.SortFunc(starts, time.Time.Compare)
	for i := range starts {
		for j := i; j < len(starts); j++ {
			window := starts[j].Sub(starts[i])
			if most := (window+slack).Seconds()*perSecond + burst; float64(j-i+1) > most {
				t.Fatalf("%d starts within %s, at most %.1f with a slack of %s", j-i+1, window, most, slack)
			}
		}
	}
	rate := float64(len(starts)-burst) / starts[len(starts)-1].Sub(starts[0]).Seconds()
	if longest() > 50*time.Millisecond {
		t.Logf("%.1f starts/s; a request took %s: the machine is too busy to hold a rate against its clock", rate, longest())
	} else if rate < 0.95*perSecond || rate > 1.05*perSecond {
		t.Errorf("%.1f starts/s, want %d", rate, perSecond)
	}

	redis.Kill()
	closed := s.postMany(t, strings.TrimSuffix(strings.Repeat(`{"kind":"demo.echo"},`, 20), ","))
	for _, id := range closed {
		for task := s.get(id, ""); task.State != pelton.Scheduled; task = s.get(id, "100ms") {
			if task.State.Terminal() || task.Attempt > 0 {
				t.Fatalf("task of a closed limit is %s", task.State)
			}
		}
	}
	redis.Run()
	deadline := time.Now().Add(90 * time.Second)
	for _, id := range closed {
		if task := s.finish(id, deadline); task.State != pelton.Succeeded || task.Attempt != 1 {
			t.Errorf("task %s is %s in attempt %d", id, task.State, task.Attempt)
		}
	}
}

// postMany enqueues tasks in one batch.
func (s *server) postMany(t *testing.T, tasks string) []pelton.ID {
	t.Helper()
	status, _, answer, err := call(t.Context(), http.MethodPost, s.url+"/tasks/batch", `{"tasks":[`+tasks+`]}`)
	if err != nil || status != http.StatusOK {
		t.Fatalf("POST /tasks/batch: %d %s %v", status, answer, err)
	}
	var batch struct {
		Items []struct {
			Task *pelton.Task `json:"task"`
		} `json:"items"`
	}
	if err := json.Unmarshal(answer, &batch); err != nil {
		t.Fatal(err)
	}
	var ids []pelton.ID
	for _, item := range batch.Items {
		ids = append(ids, item.Task.ID)
	}
	return ids
}

// startsOf waits for the tasks and gives when they started.
func (s *server) startsOf(t *testing.T, ids []pelton.ID) []time.Time {
	t.Helper()
	deadline := time.Now().Add(90 * time.Second)
	var starts []time.Time
	for _, id := range ids {
		task := s.finish(id, deadline)
		if task.State != pelton.Succeeded || task.Attempt != 1 {
			t.Fatalf("task %s is %s in attempt %d", id, task.State, task.Attempt)
		}
		starts = append(starts, task.StartedAt)
	}
	return starts
}

// busy measures how busy the machine is, until the end of the test: the longest
// request so far.
func (s *server) busy(t *testing.T) (longest func() time.Duration) {
	t.Helper()
	var mu sync.Mutex
	var most time.Duration
	ctx, cancel := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	asking.Go(func() {
		for tick := time.NewTicker(5 * time.Millisecond); ctx.Err() == nil; <-tick.C {
			begin := time.Now()
			_, _, _, _ = call(ctx, http.MethodGet, s.url+"/queues/default", "") // that it answers is all
			mu.Lock()
			most = max(most, time.Since(begin))
			mu.Unlock()
		}
	})
	t.Cleanup(func() { cancel(); asking.Wait() })
	return func() time.Duration {
		mu.Lock()
		defer mu.Unlock()
		return most
	}
}

// A process that serves limits without Redis says what that means.
func TestLimitsWithoutRedisAreWarnedOf(t *testing.T) {
	t.Parallel()
	s := serve(t, "--addr", "127.0.0.1:0", "--data", filepath.Join(t.TempDir(), "data"), "--demo", "--rate-share", "0.5")
	if status, _, answer, err := call(t.Context(), http.MethodPut, s.url+"/limits/echo", `{"kind":"demo.echo","rate":{"limit":1,"per":"1h"}}`); err != nil || status != http.StatusOK {
		t.Fatalf("PUT /limits/echo: %d %s %v", status, answer, err)
	}
	for {
		s.log.mu.Lock()
		lines, more := s.log.lines, s.log.more
		s.log.mu.Unlock()
		if slices.ContainsFunc(lines, func(line string) bool {
			return strings.Contains(line, "rate limits are not shared") && strings.Contains(line, `"share":0.5`)
		}) {
			break
		}
		select {
		case <-more:
		case <-time.After(10 * time.Second):
			t.Fatalf("no warning:\n%s", s.tail(20))
		}
	}
	s.kill(syscall.SIGTERM)
}

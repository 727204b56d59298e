package e2e_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/peltonq/pelton"
)

// An accepted task survives kill -9 of the server: 5 times 100 tasks are posted by
// several callers, the server dies while it still answers, and at the end every
// task that was answered with 202 has succeeded.
func TestServerKilledRightAfterAccepting(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "data")
	var mu sync.Mutex
	var accepted []pelton.ID
	for round := range 5 {
		s := serve(t, "--addr", "127.0.0.1:0", "--data", data, "--demo")
		var posting sync.WaitGroup
		enough := make(chan struct{})
		before := len(accepted)
		for range 8 {
			posting.Go(func() {
				for i := 0; ; i++ {
					status, _, answer, err := call(context.Background(), http.MethodPost, s.url+"/tasks", fmt.Sprintf(`{"kind":"demo.echo","payload":%d}`, i))
					if err != nil {
						return // the server is dead
					}
					if status != http.StatusAccepted {
						t.Errorf("POST: %d %s", status, answer)
						return
					}
					var task pelton.Task
					if err := json.Unmarshal(answer, &task); err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					accepted = append(accepted, task.ID)
					if len(accepted) == before+100 {
						close(enough)
					}
					mu.Unlock()
				}
			})
		}
		<-enough
		s.kill(syscall.SIGKILL)
		posting.Wait()
		t.Logf("round %d: killed with %d tasks accepted", round, len(accepted))
	}
	s := serve(t, "--addr", "127.0.0.1:0", "--data", data, "--demo")
	deadline := time.Now().Add(90 * time.Second)
	for _, id := range accepted {
		if task := s.finish(id, deadline); task.State != pelton.Succeeded {
			t.Errorf("task %s has %s: %+v", id, task.State, task.Error)
		}
	}
	if len(accepted) < 500 {
		t.Errorf("only %d tasks were accepted", len(accepted))
	}
}

// A worker that is killed in the middle of its tasks loses none of them: they end
// elsewhere within the lease and 5 s.
func TestWorkerKilledInTheMiddle(t *testing.T) {
	t.Parallel()
	const lease = 3 * time.Second
	s := serve(t, "--addr", "127.0.0.1:0", "--data", filepath.Join(t.TempDir(), "data"), "--nats-listen", "127.0.0.1:0", "--nats-token", "secret", "--lease", lease.String())
	victim := worker(t, s, "--concurrency", "25")
	var ids []pelton.ID
	for range 100 {
		ids = append(ids, s.post(`{"kind":"demo.sleep","payload":{"ms":300}}`).ID)
	}
	// In the middle: some are over, some run on the victim, some wait.
	s.finish(ids[10], time.Now().Add(30*time.Second))
	victim.kill(syscall.SIGKILL)
	killed := time.Now()
	worker(t, s, "--concurrency", "25")
	for _, id := range ids {
		task := s.finish(id, killed.Add(90*time.Second))
		if task.State != pelton.Succeeded {
			t.Errorf("task %s has %s: %+v", id, task.State, task.Error)
		}
		// 100 tasks of 0.3 s in 25 slots take 1.2 s of their own, and a busy machine takes
		// its time for starting a worker and for them.
		if late := task.FinishedAt.Sub(killed); late > lease+5*time.Second+1200*time.Millisecond+8*time.Second {
			t.Errorf("task %s ended %s after the kill, the lease is %s", id, late, lease)
		}
		if task.Attempt != 1 {
			t.Errorf("task %s counts %d attempts: a crash is none", id, task.Attempt)
		}
	}
}

// worker starts `pelton worker run --demo` on the server's broker and waits until
// it serves.
func worker(t *testing.T, s *server, args ...string) *process {
	t.Helper()
	w := start(t, append([]string{"worker", "run", "--nats", s.nats, "--nats-token", "secret", "--demo"}, args...)...)
	w.line("worker started")
	return w
}

// Two worker processes share a queue, and the limits of a priority hold in each of
// them at every moment: shown by the records' times of start and end.
func TestTwoWorkersShareAQueueWithinTheirLimits(t *testing.T) {
	t.Parallel()
	s := serve(t, "--addr", "127.0.0.1:0", "--data", filepath.Join(t.TempDir(), "data"), "--nats-listen", "127.0.0.1:0", "--nats-token", "secret")
	limits := map[pelton.Priority]int{pelton.Low: 2, pelton.High: 5}
	for range 2 {
		worker(t, s, "--concurrency", "8", "--limit", "low=2", "--limit", "high=5")
	}
	var ids []pelton.ID
	for i := range 240 {
		priority := []pelton.Priority{pelton.Low, pelton.Normal, pelton.High}[i%3]
		ids = append(ids, s.post(fmt.Sprintf(`{"kind":"demo.sleep","payload":{"ms":30},"priority":%q}`, priority)).ID)
	}
	type lane struct {
		worker   string
		priority pelton.Priority
	}
	type moment struct {
		at    time.Time
		delta int
	}
	moments := map[lane][]moment{}
	ran := map[string]int{}
	deadline := time.Now().Add(90 * time.Second)
	for _, id := range ids {
		task := s.finish(id, deadline)
		at := lane{task.Worker, task.Priority}
		moments[at] = append(moments[at], moment{task.StartedAt, 1}, moment{task.FinishedAt, -1})
		ran[task.Worker]++
	}
	if len(ran) != 2 {
		t.Errorf("%d workers ran tasks, want 2: %v", len(ran), ran)
	}
	for at, list := range moments {
		// An end before a start at the same instant: the slot was free again.
		slices.SortFunc(list, func(a, b moment) int {
			if c := a.at.Compare(b.at); c != 0 {
				return c
			}
			return a.delta - b.delta
		})
		now, peak := 0, 0
		for _, m := range list {
			now += m.delta
			peak = max(peak, now)
		}
		limit, limited := limits[at.priority]
		t.Logf("%s %s: %d tasks, at most %d at a time", at.worker, at.priority, len(list)/2, peak)
		if limited && peak > limit {
			t.Errorf("%s ran %d %s tasks at a time, limit %d", at.worker, peak, at.priority, limit)
		}
		if peak > 8 {
			t.Errorf("%s ran %d tasks at a time in 8 slots", at.worker, peak)
		}
	}
}

// A broker that goes away is a 503 with Retry-After within a second, and nobody
// has to restart anything when it comes back.
func TestBrokerAwayAndBack(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "data")
	broker := serve(t, "--addr", "127.0.0.1:0", "--data", data, "--nats-listen", "127.0.0.1:0", "--nats-token", "secret", "--lease", "3s")
	replica := serve(t, "--addr", "127.0.0.1:0", "--nats", broker.nats, "--nats-token", "secret")
	worker(t, broker)
	first := replica.post(`{"kind":"demo.echo","payload":1}`)
	replica.finish(first.ID, time.Now().Add(30*time.Second))

	broker.kill(syscall.SIGKILL)
	for _, try := range []struct{ method, path, body string }{
		{http.MethodPost, "/tasks", `{"kind":"demo.echo"}`},
		{http.MethodGet, "/tasks/" + first.ID.String(), ""},
		{http.MethodGet, "/queues", ""},
	} {
		began := time.Now()
		status, header, answer, err := call(t.Context(), try.method, replica.url+try.path, try.body)
		if err != nil || status != http.StatusServiceUnavailable || header.Get("Retry-After") == "" {
			t.Errorf("%s %s without a broker: %d %q %s %v, want 503 with Retry-After", try.method, try.path, status, header.Get("Retry-After"), answer, err)
		}
		if took := time.Since(began); took > 4*time.Second { // waiting for the broker it would be 5
			t.Errorf("%s %s without a broker answered after %s", try.method, try.path, took)
		}
	}

	address := broker.nats[len("nats://"):]
	again := serve(t, "--addr", "127.0.0.1:0", "--data", data, "--nats-listen", address, "--nats-token", "secret", "--lease", "3s")
	deadline := time.Now().Add(30 * time.Second)
	for {
		status, _, answer, err := call(t.Context(), http.MethodPost, replica.url+"/tasks?wait=10s", `{"kind":"demo.echo","payload":2}`)
		if err == nil && status == http.StatusOK {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("no recovery within 30 s: %d %s %v", status, answer, err)
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-t.Context().Done():
		}
	}
	if task := again.get(first.ID, ""); task.State != pelton.Succeeded {
		t.Errorf("the task from before has %s", task.State)
	}
}

// SIGTERM lets running tasks end and loses nothing that waits.
func TestSigtermDrains(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "data")
	s := serve(t, "--addr", "127.0.0.1:0", "--data", data, "--demo", "--concurrency", "4", "--grace", "20s")
	var ids []pelton.ID
	for range 8 {
		ids = append(ids, s.post(`{"kind":"demo.sleep","payload":{"ms":700}}`).ID)
	}
	s.kill(syscall.SIGTERM)
	if s.err != nil {
		t.Errorf("serve ended with %v after SIGTERM", s.err)
	}
	s = serve(t, "--addr", "127.0.0.1:0", "--data", data, "--demo")
	for _, id := range ids {
		task := s.finish(id, time.Now().Add(60*time.Second))
		if task.State != pelton.Succeeded || task.Attempt != 1 || task.Crashes != 0 {
			t.Errorf("task %s has %s, attempt %d, crashes %d", id, task.State, task.Attempt, task.Crashes)
		}
	}
}

// A second server on the same data folder is told so.
func TestDataFolderIsLocked(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "data")
	serve(t, "--addr", "127.0.0.1:0", "--data", data)
	second := start(t, "serve", "--addr", "127.0.0.1:0", "--data", data)
	<-second.done
	if second.err == nil {
		t.Error("a second server runs on the same data folder")
	}
	if info, err := os.Stat(data); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("data folder: %v, %v, want mode 0700", info.Mode().Perm(), err)
	}
}

// The binary is one file below 45 MB.
func TestBinarySize(t *testing.T) {
	t.Parallel()
	if raceEnabled {
		t.Skip("the race detector's binary is larger")
	}
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) || info.Size() > 45<<20 {
		t.Errorf("binary: %v, %v", info, err)
	}
}

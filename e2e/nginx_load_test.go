package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	working "github.com/peltonq/pelton/worker"
)

const (
	loadRate    = 500 // POSTs a second
	loadFor     = 10 * time.Second
	loadCallers = 64
)

// load is what callers of an API under load have seen.
type load struct {
	mu       sync.Mutex
	ids      map[int]pelton.ID // by number of the request
	failed   int               // requests that the caller had to repeat
	replayed int               // repeats that found the task
	slowest  time.Duration     // from the first try of a request to its 202
	took     time.Duration
}

// accepted is how many requests were answered 202.
func (l *load) accepted() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.ids)
}

// post sends one task until it is accepted, as a client does that follows the
// documents: the same key and body again after no answer, 503, and 409 with Retry-After.
func (l *load) post(t *testing.T, url string, n int) {
	begin := time.Now()
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for tries := 1; ; tries++ {
		status, header, answer, err := ask(t.Context(), http.MethodPost, url+"/tasks", fmt.Sprintf("load-%d", n), fmt.Sprintf(`{"kind":"load.run","payload":%d}`, n))
		if err == nil && status == http.StatusAccepted {
			var task pelton.Task
			if err := json.Unmarshal(answer, &task); err != nil {
				t.Error(err)
				return
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			l.ids[n] = task.ID
			l.slowest = max(l.slowest, time.Since(begin))
			if tries > 1 {
				l.failed++
			}
			if header.Get("Idempotent-Replayed") == "true" {
				l.replayed++
			}
			return
		}
		mends := err != nil || status == http.StatusServiceUnavailable || status == http.StatusConflict && header.Get("Retry-After") != ""
		if !mends || time.Since(begin) > time.Minute {
			t.Errorf("request %d, try %d: %d %s %v", n, tries, status, answer, err)
			return
		}
		select {
		case <-again.C:
		case <-t.Context().Done():
			return
		}
	}
}

// run sends loadRate requests a second for loadFor, or as many as the machine can.
func (l *load) run(t *testing.T, url string) {
	numbers := make(chan int, loadCallers)
	var calling sync.WaitGroup
	for range loadCallers {
		calling.Go(func() {
			for n := range numbers {
				l.post(t, url, n)
			}
		})
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	begin, sent := time.Now(), 0
	for since := time.Duration(0); since < loadFor; since = time.Since(begin) {
		for ; sent < int(since.Seconds()*loadRate); sent++ {
			numbers <- sent
		}
		<-tick.C
	}
	close(numbers)
	calling.Wait()
	l.took = time.Since(begin)
	if len(l.ids) != sent {
		t.Errorf("%d of %d requests were accepted", len(l.ids), sent)
	}
}

// loadWorker runs the tasks of a load in this process and counts their runs.
func loadWorker(t *testing.T, url string) (runs func() map[string]int) {
	t.Helper()
	nc, err := nats.Connect(url, nats.Token("secret"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	var mu sync.Mutex
	seen := make(map[string]int)
	mux := working.NewMux()
	mux.Handle("load.run", working.HandlerFunc(func(_ context.Context, task *pelton.Task) (json.RawMessage, error) {
		mu.Lock()
		defer mu.Unlock()
		seen[string(task.Payload)]++
		return nil, nil
	}))
	w, err := working.New(nc, mux, working.Config{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("worker: %v", err)
		}
	})
	return func() map[string]int {
		mu.Lock()
		defer mu.Unlock()
		copied := make(map[string]int, len(seen))
		for payload, n := range seen {
			copied[payload] = n
		}
		return copied
	}
}

// fleet is a broker, two replicas behind nginx, and a worker.
type fleet struct {
	replicas  [2]*server
	addresses [2]string
	nginx     *balancer
	broker    *server
	runs      func() map[string]int
}

func startFleet(t *testing.T) *fleet {
	t.Helper()
	require(t, "nginx")
	f := &fleet{broker: serve(t, "--addr", "127.0.0.1:0", "--data", filepath.Join(t.TempDir(), "data"), "--nats-listen", "127.0.0.1:0", "--nats-token", "secret")}
	for i := range f.replicas {
		f.replicas[i] = f.start(t, "127.0.0.1:0")
		f.addresses[i] = strings.TrimPrefix(f.replicas[i].url, "http://")
	}
	f.nginx = nginxBefore(t, f.addresses)
	f.runs = loadWorker(t, f.broker.nats)
	return f
}

// start starts a replica.
func (f *fleet) start(t *testing.T, address string) *server {
	t.Helper()
	return replica(t, f.broker.nats, "--nats-token", "secret", "--addr", address, "--drain-delay", "2s")
}

// strike puts the fleet under load and calls strike when a third of it is over.
func (f *fleet) strike(t *testing.T, strike func()) *load {
	t.Helper()
	l := &load{ids: make(map[int]pelton.ID)}
	loaded := make(chan struct{})
	go func() {
		defer close(loaded)
		l.run(t, f.nginx.url)
	}()
	eventually(t, "a third of the load", func() bool { return l.accepted() >= loadRate*int(loadFor.Seconds())/3 })
	strike()
	<-loaded
	passed := 0
	for _, r := range f.nginx.requests(t) {
		if r.passedOn() {
			passed++
		}
	}
	t.Logf("%d tasks, %.0f/s; nginx passed %d on, callers repeated %d, of which %d found their task; the slowest took %s",
		len(l.ids), float64(len(l.ids))/l.took.Seconds(), passed, l.failed, l.replayed, l.slowest.Round(time.Millisecond))
	return l
}

// check counts: each request has one task of its own, which has run once.
func (f *fleet) check(t *testing.T, l *load) {
	t.Helper()
	distinct := make(map[pelton.ID]int)
	for n, id := range l.ids {
		if other, twice := distinct[id]; twice {
			t.Errorf("requests %d and %d have the same task", n, other)
		}
		distinct[id] = n
	}
	eventually(t, "all tasks have run", func() bool { return len(f.runs()) >= len(l.ids) })
	numbers := make(chan int, loadCallers)
	var reading sync.WaitGroup
	for range loadCallers {
		reading.Go(func() {
			for n := range numbers {
				path := "/tasks/" + l.ids[n].String() + "?wait=30s"
				status, _, answer, err := ask(t.Context(), http.MethodGet, f.nginx.url+path, "", "")
				var task pelton.Task
				if err == nil {
					err = json.Unmarshal(answer, &task)
				}
				if err != nil || status != http.StatusOK || task.State != pelton.Succeeded {
					t.Errorf("task of request %d: %d %s %v", n, status, answer, err)
				}
			}
		})
	}
	for n := range l.ids {
		numbers <- n
	}
	close(numbers)
	reading.Wait()
	runs := f.runs()
	for n := range l.ids {
		if got := runs[fmt.Sprint(n)]; got != 1 {
			t.Errorf("the task of request %d ran %d times", n, got)
		}
	}
	if len(runs) != len(l.ids) {
		t.Errorf("%d requests were accepted, %d tasks ran", len(l.ids), len(runs))
	}
}

// One of two replicas is killed and started again under 500 POSTs a second with
// idempotency keys: no task is lost and none is there twice.
func TestReplicaKilledUnderLoad(t *testing.T) {
	t.Parallel()
	f := startFleet(t)
	l := f.strike(t, func() {
		f.replicas[0].kill(syscall.SIGKILL)
		f.replicas[0] = f.start(t, f.addresses[0])
	})
	f.check(t, l)
}

// A replica that is stopped in order under the same load says that it is not ready
// and goes on serving for its delay; no caller of nginx notices.
func TestReplicaStoppedUnderLoad(t *testing.T) {
	t.Parallel()
	f := startFleet(t)
	stopped := f.replicas[0]
	l := f.strike(t, func() {
		if err := stopped.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		signalled := time.Now()
		await(t, stopped.process, stopped.url+"/readyz", http.StatusServiceUnavailable)
		if status, _, answer, err := call(t.Context(), http.MethodPost, stopped.url+"/tasks", `{"kind":"other"}`); err != nil || status != http.StatusAccepted {
			t.Errorf("POST to a replica that is not ready any more: %d %s %v", status, answer, err)
		}
		<-stopped.done
		if took := time.Since(signalled); stopped.err != nil || took < 2*time.Second {
			t.Errorf("it ended after %s: %v", took, stopped.err)
		}
	})
	if l.failed > 0 {
		t.Errorf("callers had to repeat %d requests", l.failed)
	}
	f.check(t, l)
}

package e2e_test

import (
	"bufio"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
)

// watchersEnv says how many watch in TestIdleWatchers.
const watchersEnv = "PELTON_WATCHERS"

// TestIdleWatchers holds event streams and long polls of one server, half of each, every
// one for a task of its own: what they cost the server in memory, and the broker in
// requests. PELTON_WATCHERS=10000 is the long form.
func TestIdleWatchers(t *testing.T) {
	n := 800
	if raceEnabled {
		n = 200
	} else {
		t.Parallel()
	}
	if text := os.Getenv(watchersEnv); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	s := serve(t, "--addr", "127.0.0.1:0", "--data", filepath.Join(t.TempDir(), "data"), "--nats-listen", "127.0.0.1:0", "--nats-token", "secret")
	var ids []pelton.ID
	for len(ids) < n {
		tasks := strings.Repeat(`,{"kind":"nobody.knows"}`, min(n-len(ids), 500))
		ids = append(ids, s.postMany(t, tasks[1:])...)
	}
	requests := s.countRequests(t)
	calm := requests(5 * time.Second)
	before, _ := s.resident()

	began := time.Now()
	held := make([]net.Conn, n)
	for i := range held {
		path := "/tasks/" + ids[i].String() + "?wait=60s"
		if i%2 == 0 {
			path = "/tasks/" + ids[i].String() + "/events"
		}
		held[i] = s.send(path)
	}
	s.eventually("pelton_http_held", float64(n))
	opened := time.Since(began)
	requests(5 * time.Second) // until all have begun to wait
	busy := requests(10 * time.Second)
	during, _ := s.resident()
	if got := s.metric("pelton_http_held"); got != float64(n) {
		t.Fatalf("%v of %d are held after %s", got, n, time.Since(began))
	}
	each := float64(during-before) * 1024 / float64(n)
	t.Logf("%d watchers, there within %s: %d MiB without them, %d MiB with them, %.1f KiB each; %.0f requests a second to the broker without, %.0f with them",
		n, opened.Round(time.Millisecond), before, during, each, calm, busy)
	most := 100.0 // of few: garbage counts more than they do
	if n >= 5000 {
		most = 50_000.0 / 1024
	}
	if each > most && !raceEnabled {
		t.Errorf("a watcher costs %.1f KiB, want %.1f at most", each, most)
	}
	if busy > calm+450 { // 100 looks a second, of up to three requests, and some of those that have just begun
		t.Errorf("%.0f requests a second, from %.0f: that grows with the watchers", busy, calm)
	}

	// They are told: of the first and the last task, which have subscriptions of both sorts.
	for _, i := range []int{0, n - 1} {
		if status, _, answer, err := call(t.Context(), http.MethodPost, s.url+"/tasks/"+ids[i].String()+"/cancel", ""); err != nil || status != http.StatusOK {
			t.Fatalf("cancel: %d %s %v", status, answer, err)
		}
		told := time.Now()
		status, _, text := s.receive(held[i])
		if status != http.StatusOK || !strings.Contains(string(text), `"state":"cancelled"`) {
			t.Errorf("watcher %d: %d %.300s", i, status, text)
		}
		if took := time.Since(told); took > 5*time.Second {
			t.Errorf("watcher %d was told after %s", i, took)
		}
	}
	for _, conn := range held {
		_ = conn.Close()
	}
	s.eventually("pelton_http_held", 0)
}

// countRequests gives a function that says how many requests and messages a second reach
// the broker, answers apart, for a time.
func (s *server) countRequests(t *testing.T) func(time.Duration) float64 {
	t.Helper()
	nc := s.connect(t, nats.Token("secret"))
	var n atomic.Int64
	_, err := nc.Subscribe(">", func(msg *nats.Msg) {
		if !strings.HasPrefix(msg.Subject, "_INBOX.") {
			n.Add(1)
		}
	})
	if err == nil {
		err = nc.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	return func(d time.Duration) float64 {
		before := n.Load()
		<-time.After(d)
		return float64(n.Load()-before) / d.Seconds()
	}
}

// A reader that does not read is dropped, and what it did not read is not kept for it.
func TestSlowReaderIsDropped(t *testing.T) {
	t.Parallel()
	s := serve(t, "--demo", "--addr", "127.0.0.1:0", "--data", filepath.Join(t.TempDir(), "data"))
	// Each attempt is two events with the whole task.
	task := s.post(`{"kind":"demo.fail","payload":{"times":1000,"message":"` + strings.Repeat("x", 200_000) + `"},"max_attempts":1000,"backoff":{"initial":"100ms","max":"100ms"}}`)
	before, _ := s.resident()
	conn := s.send("/tasks/" + task.ID.String() + "/events")
	t.Cleanup(func() { _ = conn.Close() })
	if tcp, ok := conn.(*net.TCPConn); ok && tcp.SetReadBuffer(4<<10) != nil {
		t.Error("the buffer is as it was")
	}
	s.eventually("pelton_http_held", 1)
	began := time.Now()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for s.metric("pelton_http_held") > 0 {
		if time.Since(began) > 90*time.Second {
			t.Fatal("a reader that does not read is still there")
		}
		<-ticker.C
	}
	now, _ := s.resident()
	t.Logf("dropped after %s; %d MiB at first, %d MiB then", time.Since(began).Round(time.Millisecond), before, now)
	if now > before+80 && !raceEnabled {
		t.Errorf("%d MiB, from %d", now, before)
	}

	// Somebody else comes in time, with the last event that it has, and misses nothing that counts.
	if status, _, answer, err := call(t.Context(), http.MethodPost, s.url+"/tasks/"+task.ID.String()+"/cancel", ""); err != nil || status != http.StatusOK {
		t.Fatalf("cancel: %d %.200s %v", status, answer, err)
	}
	again := s.send("/tasks/" + task.ID.String() + "/events")
	defer func() { _ = again.Close() }()
	resp, err := http.ReadResponse(bufio.NewReader(again), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var last struct{ State string }
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if data, found := strings.CutPrefix(lines.Text(), "data: "); found {
			if err := json.Unmarshal([]byte(data), &last); err != nil {
				t.Fatal(err)
			}
		}
	}
	if last.State != "cancelled" {
		t.Errorf("the last event says %q, %v", last.State, lines.Err())
	}
}

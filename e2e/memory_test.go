package e2e_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/peltonq/pelton"
)

// resident is a process's resident memory in MiB, and the most that it ever was.
func (p *process) resident() (now, peak int) {
	p.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		p.t.Skipf("no memory to look at: %v", err)
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		switch fields[0] {
		case "VmRSS:":
			now, err = strconv.Atoi(fields[1])
		case "VmHWM:":
			peak, err = strconv.Atoi(fields[1])
		}
		if err != nil {
			p.t.Fatal(err)
		}
	}
	return now >> 10, peak >> 10
}

// metric reads one metric of the server.
func (s *server) metric(name string) float64 {
	s.t.Helper()
	status, _, text, err := call(s.t.Context(), http.MethodGet, s.url+"/metrics", "")
	if err != nil || status != http.StatusOK {
		s.t.Fatalf("GET /metrics: %d %v", status, err)
	}
	for line := range strings.Lines(string(text)) {
		if value, found := strings.CutPrefix(line, name+" "); found {
			n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				s.t.Fatal(err)
			}
			return n
		}
	}
	s.t.Fatalf("there is no metric %s", name)
	return 0
}

// eventually waits until the metric has the value.
func (s *server) eventually(name string, want float64) {
	s.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; {
		got := s.metric(name)
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%s is %v, want %v", name, got, want)
		}
	}
}

// wantBusy checks that an answer tells when to come again.
func wantBusy(t *testing.T, header http.Header, answer []byte) {
	t.Helper()
	var p struct {
		Type   string `json:"type"`
		Status int    `json:"status"`
	}
	if err := json.Unmarshal(answer, &p); err != nil || p.Type != "unavailable" || p.Status != 503 || header.Get("Retry-After") == "" || header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("refused by %s, Retry-After %q: %s", header.Get("Content-Type"), header.Get("Retry-After"), answer)
	}
}

// Forty clients send the largest batches at once, half of them without saying how
// large, while one enqueues single tasks. The server takes as many as it has memory
// for and tells the others to come again; every single task gets in.
func TestLargeBatchesDoNotFillMemory(t *testing.T) {
	t.Parallel()
	const clients = 40
	s := serve(t, "--addr", "127.0.0.1:0", "--data", filepath.Join(t.TempDir(), "data"))
	before, _ := s.resident()
	item := `{"kind":"demo.echo","queue":"large","payload":"` + strings.Repeat("x", 255_000) + `"}`
	batch := `{"tasks":[` + strings.Repeat(item+",", 64) + item + `]}`

	single, stop := context.WithCancel(t.Context())
	var all, posting sync.WaitGroup
	posted := 0
	posting.Go(func() {
		for ; single.Err() == nil; posted++ {
			if status, _, answer, err := call(t.Context(), http.MethodPost, s.url+"/tasks", `{"kind":"demo.echo"}`); err != nil || status != http.StatusAccepted {
				t.Errorf("a single task: %d %s %v", status, answer, err)
				return
			}
		}
	})
	var mu sync.Mutex
	accepted, refused := 0, 0
	for n := range clients {
		all.Go(func() {
			var body io.Reader = strings.NewReader(batch)
			if n%2 == 0 {
				body = struct{ io.Reader }{body} // chunked
			}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+"/tasks/batch", body)
			if err != nil {
				t.Error(err)
				return
			}
			req.Header.Set("Content-Type", "application/json")
			resp, err := client.Do(req)
			if err != nil {
				t.Errorf("a client was cut off: %v", err)
				return
			}
			defer resp.Body.Close()
			answer, err := io.ReadAll(resp.Body)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				t.Errorf("an answer was cut off: %v", err)
			case resp.StatusCode == http.StatusOK:
				accepted++
			default:
				refused++
				wantBusy(t, resp.Header, answer)
			}
		})
	}
	all.Wait()
	stop()
	posting.Wait()
	_, peak := s.resident()
	t.Logf("%d batches accepted, %d refused, %d single tasks; %d MiB at first, %d at most", accepted, refused, posted, before, peak)
	if accepted == 0 || refused == 0 || posted == 0 {
		t.Errorf("%d batches accepted, %d refused, %d single tasks", accepted, refused, posted)
	}
	if got := s.metric(`pelton_http_refused_total{bound="memory"}`); got < float64(refused) {
		t.Errorf("%v requests are counted as refused", got)
	}
	s.eventually("pelton_http_memory_bytes", 0)
	// Without a bound it was 1,100 MiB with half as many clients.
	if most := before + 500; peak > most && !raceEnabled {
		t.Errorf("%d MiB, more than %d", peak, most)
	}
	if status, _, answer, err := call(t.Context(), http.MethodPost, s.url+"/tasks/batch", batch); err != nil || status != http.StatusOK {
		t.Errorf("a batch when all is over: %d %.200s %v", status, answer, err)
	}
}

// Answers are held up to the bound, and those cost what docs/memory.md says. When
// their task ends, with a result of 200 KB, all are answered within memory, or told
// to come again.
func TestHeldAnswersDoNotFillMemory(t *testing.T) {
	t.Parallel()
	most, beyond := 1500, 100
	if raceEnabled { // it makes writing 1,500 large answers at once a matter of many seconds, in which nothing else is served
		most = 200
	}
	s := serve(t, "--addr", "127.0.0.1:0", "--data", filepath.Join(t.TempDir(), "data"), "--max-held", strconv.Itoa(most), "--exec", "big=printf 1%0200000d 0")
	status, _, answer, err := call(t.Context(), http.MethodPost, s.url+"/queues/default/pause", "")
	if err != nil || status != http.StatusNotFound && status != http.StatusOK {
		t.Fatalf("pause: %d %s %v", status, answer, err)
	}
	s.post(`{"kind":"big","delay":"1h"}`) // so that there is a queue
	if status, _, answer, err = call(t.Context(), http.MethodPost, s.url+"/queues/default/pause", ""); err != nil || status != http.StatusOK {
		t.Fatalf("pause: %d %s %v", status, answer, err)
	}
	task := s.post(`{"kind":"big"}`)
	before, _ := s.resident()

	held := make([]net.Conn, most)
	for i := range held {
		path := "/tasks/" + task.ID.String() + "?wait=60s"
		if i%3 == 0 {
			path = "/tasks/" + task.ID.String() + "/events"
		}
		held[i] = s.send(path)
	}
	s.eventually("pelton_http_held", float64(most))
	during, _ := s.resident()
	for range beyond {
		status, header, answer, err := call(t.Context(), http.MethodGet, s.url+"/tasks/"+task.ID.String()+"?wait=20s", "")
		if err != nil || status != http.StatusServiceUnavailable {
			t.Fatalf("beyond the bound: %d %v", status, err)
		}
		wantBusy(t, header, answer)
	}
	status, header, answer, err := call(t.Context(), http.MethodGet, s.url+"/tasks/"+task.ID.String()+"/events", "")
	if err != nil || status != http.StatusServiceUnavailable {
		t.Fatalf("a stream beyond the bound: %d %v", status, err)
	}
	wantBusy(t, header, answer)
	if got := s.get(task.ID, ""); got.State != pelton.Queued {
		t.Errorf("who does not wait gets %s", got.State)
	}
	each := (during - before) * 1024 / most
	t.Logf("%d answers held: %d MiB at first, %d with them, %d KiB each", most, before, during, each)
	if each > 100 && !raceEnabled {
		t.Errorf("a held answer costs %d KiB", each)
	}

	if status, _, answer, err := call(t.Context(), http.MethodPost, s.url+"/queues/default/resume", ""); err != nil || status != http.StatusOK {
		t.Fatalf("resume: %d %s %v", status, answer, err)
	}
	answered, told := 0, 0
	for i, conn := range held {
		status, header, text := s.receive(conn)
		switch done := bytes.Contains(text, []byte(`"state":"succeeded"`)); {
		case status == http.StatusOK && done:
			answered++
		case status == http.StatusOK && i%3 == 0: // a stream that ended: its reader comes back
			told++
		case status == http.StatusServiceUnavailable:
			told++
			wantBusy(t, header, text)
		default:
			t.Fatalf("answer %d: %d %.300s", i, status, text)
		}
	}
	s.eventually("pelton_http_held", 0)
	_, peak := s.resident()
	t.Logf("%d answered, %d told to come again, %d MiB at most", answered, told, peak)
	if answered == 0 {
		t.Error("nobody was answered")
	}
	if peak > during+500 && !raceEnabled {
		t.Errorf("%d MiB, from %d", peak, during)
	}
	if got := s.get(task.ID, ""); got.State != pelton.Succeeded || len(got.Result) != 200_001 {
		t.Errorf("the task has %s and a result of %d bytes", got.State, len(got.Result))
	}
}

// receive reads the answer to what send sent.
func (s *server) receive(conn net.Conn) (status int, header http.Header, text []byte) {
	s.t.Helper()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, err = io.ReadAll(resp.Body); err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, text
}

// send makes a GET on a connection of its own and does not wait for the answer.
func (s *server) send(path string) net.Conn {
	s.t.Helper()
	conn, err := (&net.Dialer{Timeout: 20 * time.Second}).DialContext(s.t.Context(), "tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(80 * time.Second)); err != nil {
		s.t.Fatal(err)
	}
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", path); err != nil {
		s.t.Fatal(err)
	}
	return conn
}

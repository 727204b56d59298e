package api

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/peltonq/pelton"
)

// buffer is a bytes.Buffer for several goroutines.
type buffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func (b *buffer) Reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.buf.Reset()
}

func captureLog() (*slog.Logger, *buffer) {
	b := &buffer{}
	return slog.New(slog.NewJSONHandler(b, nil)), b
}

func TestToken(t *testing.T) {
	t.Parallel()
	tasks := newFakeTasks()
	h := serve(t, tasks, func(c *Config) { c.Token = "s3cret" })
	for authorization, ok := range map[string]bool{
		"": false, "Bearer s3cret": true, "bearer s3cret": true, "Bearer  s3cret ": true, "Bearer S3cret": false, "Bearer s3cre": false,
		"Bearer s3cret2": false, "Bearer ": false, "Bearer": false, "s3cret": false, "Basic czNjcmV0": false,
	} {
		w := call(t, h, http.MethodPost, "/tasks", `{"kind":"a"}`, "Authorization", authorization)
		if (w.Code == 202) != ok {
			t.Errorf("%q: status = %d", authorization, w.Code)
		}
		if !ok {
			wantProblem(t, w, 401, kindUnauthorized)
			if !strings.HasPrefix(w.Header().Get("WWW-Authenticate"), "Bearer ") {
				t.Errorf("WWW-Authenticate = %q", w.Header().Get("WWW-Authenticate"))
			}
		}
	}
	if got := len(tasks.accepted()); got != 3 {
		t.Errorf("enqueued %d", got)
	}
	for _, path := range []string{"/queues", "/openapi.json", "/schedules", "/nowhere", "/healthz/", "/healthz/../queues"} {
		if w := call(t, h, http.MethodGet, path, ""); w.Code != 401 {
			t.Errorf("%s: status = %d", path, w.Code)
		}
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		if w := call(t, h, http.MethodGet, path, ""); w.Code != 200 {
			t.Errorf("%s: status = %d", path, w.Code)
		}
	}
}

func TestHost(t *testing.T) {
	t.Parallel()
	h := serve(t, newFakeTasks(), func(c *Config) {
		c.CheckHost = true
		c.AllowedHosts = []string{"Pelton.internal", "other.internal:7420"}
	})
	for host, ok := range map[string]bool{
		"localhost": true, "localhost:7420": true, "LOCALHOST": true, "localhost.": true, "127.0.0.1:7420": true, "127.1.2.3": true,
		"[::1]:7420": true, "[::1]": true, "pelton.internal": true, "pelton.INTERNAL:80": true, "other.internal:7420": true,
		"other.internal": false, "other.internal:80": false, "evil.example": false, "evil.example:7420": false, "127.0.0.1.evil.example": false,
		"localhost.evil.example": false, "10.0.0.1:7420": false, "[::2]": false, "0.0.0.0": false, "": false, "0127.0.0.1": false,
	} {
		w := call(t, h, http.MethodGet, "/queues", "", "Host", host)
		if (w.Code == 200) != ok {
			t.Errorf("%q: status = %d", host, w.Code)
		}
		if !ok {
			wantProblem(t, w, 421, kindMisdirected)
		}
	}
	open := serve(t, newFakeTasks(), nil)
	if w := call(t, open, http.MethodGet, "/queues", "", "Host", "evil.example"); w.Code != 200 {
		t.Errorf("without CheckHost: status = %d", w.Code)
	}
}

func TestCrossOrigin(t *testing.T) {
	t.Parallel()
	tasks := newFakeTasks()
	h := serve(t, tasks, nil)
	for _, headers := range [][]string{
		{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "http://evil.example"},
	} {
		wantProblem(t, call(t, h, http.MethodPost, "/tasks", `{"kind":"a"}`, headers...), 403, kindForbidden)
	}
	if got := tasks.accepted(); len(got) > 0 {
		t.Errorf("enqueued %+v", got)
	}
	for _, headers := range [][]string{{"Sec-Fetch-Site", "same-origin"}, {"Origin", "http://localhost:7420"}} {
		if w := call(t, h, http.MethodPost, "/tasks", `{"kind":"a"}`, headers...); w.Code != 202 {
			t.Errorf("%v: status = %d", headers, w.Code)
		}
	}
}

func TestEveryAnswerIsNotSniffed(t *testing.T) {
	t.Parallel()
	h := serve(t, newFakeTasks(), nil)
	for _, path := range []string{"/queues", "/nowhere", "/healthz", "/tasks/x"} {
		if got := call(t, h, http.MethodGet, path, "").Header().Get("X-Content-Type-Options"); got != "nosniff" {
			t.Errorf("%s: X-Content-Type-Options = %q", path, got)
		}
	}
}

// panicking panics in Get with whatever it holds.
type panicking struct {
	*fakeTasks
	value any
}

func (p panicking) Get(context.Context, pelton.ID) (*pelton.Task, error) { panic(p.value) }

func TestPanics(t *testing.T) {
	t.Parallel()
	path := "/tasks/" + exampleTask(false).ID.String()
	log, logged := captureLog()
	h := serve(t, nil, func(c *Config) { c.Logger, c.Tasks = log, panicking{newFakeTasks(), "boom at hunter2"} })
	w := call(t, h, http.MethodGet, path, "")
	wantProblem(t, w, 500, kindInternal)
	if strings.Contains(w.Body.String(), "hunter2") {
		t.Errorf("the answer tells too much: %s", w.Body)
	}
	if got := logged.String(); strings.Count(got, "hunter2") != 1 || !strings.Contains(got, "panicking.Get") {
		t.Errorf("logged %s", got)
	}

	h = serve(t, nil, func(c *Config) { c.Tasks = panicking{newFakeTasks(), http.ErrAbortHandler} })
	defer func() {
		if err, ok := recover().(error); !ok || !errors.Is(err, http.ErrAbortHandler) {
			t.Errorf("ErrAbortHandler did not pass: %v", err)
		}
	}()
	call(t, h, http.MethodGet, path, "")
}

func TestPanicAfterTheStartCutsTheConnection(t *testing.T) {
	t.Parallel()
	log, logged := captureLog()
	s := &server{Config: Config{Logger: log}}
	ts := httptest.NewServer(s.catch(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, strings.Repeat("x", 10_000))
		panic("half way")
	})))
	defer ts.Close()
	resp, err := ts.Client().Do(newRequest(t, http.MethodGet, ts.URL, nil))
	if err == nil {
		_, err = io.ReadAll(resp.Body)
		_ = resp.Body.Close()
	}
	if err == nil || !strings.Contains(logged.String(), "half way") {
		t.Errorf("a cut answer looks whole; logged %s", logged)
	}
}

func newRequest(t *testing.T, method, url string, body io.Reader) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	return r
}

// TestOverARealConnection is about what a recorder cannot show: bodies without a
// length, limits, and that the deadline for a body does not end a wait.
func TestOverARealConnection(t *testing.T) {
	t.Parallel()
	tasks := newFakeTasks()
	ts := httptest.NewServer(serve(t, tasks, func(c *Config) { c.CheckHost = true }))
	defer ts.Close()
	post := func(path string, body io.Reader) (int, string) {
		resp, err := ts.Client().Do(newRequest(t, http.MethodPost, ts.URL+path, body))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(text)
	}
	unsized := func(s string) io.Reader { return struct{ io.Reader }{strings.NewReader(s)} }

	if code, text := post("/tasks?wait=30ms", unsized(`{"kind":"a","payload":{ "x": 1 }}`)); code != 202 || !strings.Contains(text, `"payload":{ "x": 1 }`) {
		t.Errorf("status = %d: %s", code, text)
	}
	if code, text := post("/tasks", unsized("")); code != 400 || !strings.Contains(text, "empty") {
		t.Errorf("empty: status = %d: %s", code, text)
	}
	if code, _ := post("/tasks", unsized(strings.Repeat(" ", maxTaskBody+1))); code != 413 {
		t.Errorf("large: status = %d", code)
	}
	if code, _ := post("/tasks", strings.NewReader(strings.Repeat(" ", maxTaskBody+1))); code != 413 {
		t.Errorf("large: status = %d", code)
	}
	if got := len(tasks.accepted()); got != 1 {
		t.Errorf("enqueued %d", got)
	}
}

func TestCutOffBodyIsMalformed(t *testing.T) {
	t.Parallel()
	tasks := newFakeTasks()
	ts := httptest.NewServer(serve(t, tasks, nil))
	defer ts.Close()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", ts.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_, err = fmt.Fprintf(conn, "POST /tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"kind\":\"a\"}")
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusBadRequest || len(tasks.accepted()) > 0 {
		t.Errorf("status = %d, enqueued %d", resp.StatusCode, len(tasks.accepted()))
	}
}

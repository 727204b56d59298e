package cli

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/peltonq/pelton"
)

// batchServer answers POST /tasks/batch; answer decides about each batch.
type batchServer struct {
	mu    sync.Mutex
	sizes []int
}

func (s *batchServer) start(t *testing.T, answer func(w http.ResponseWriter, tasks []json.RawMessage)) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body struct {
			Tasks []json.RawMessage `json:"tasks"`
		}
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			t.Error(err)
		}
		s.mu.Lock()
		s.sizes = append(s.sizes, len(body.Tasks))
		s.mu.Unlock()
		answer(w, body.Tasks)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func accept(w http.ResponseWriter, tasks []json.RawMessage) {
	items := make([]string, len(tasks))
	for i := range tasks {
		items[i] = fmt.Sprintf(`{"status":202,"task":{"id":%q,"kind":"k","state":"queued"}}`, pelton.NewID(time.Now(), 0))
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = fmt.Fprintf(w, `{"items":[%s]}`, strings.Join(items, ","))
}

func refuse(w http.ResponseWriter, status int, kind string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, `{"type":%q,"title":"No","status":%d,"detail":"because"}`, kind, status)
}

func TestEnqueueLinesInBatches(t *testing.T) {
	t.Parallel()
	var s batchServer
	url := s.start(t, accept)
	code, stdout, stderr := runMain(t, url, strings.Repeat("{\"kind\":\"k\"}\n", 2500), "task", "enqueue", "-", "--jsonl", "-o", "jsonl")
	if code != exitOK || stderr != "" || strings.Count(stdout, "\n") != 2500 {
		t.Errorf("code %d, %d lines, stderr %q", code, strings.Count(stdout, "\n"), stderr)
	}
	if len(s.sizes) < 3 || s.sizes[0] != pelton.MaxBatch {
		t.Errorf("batches of %v", s.sizes)
	}
}

// A batch that is refused as a whole is halved until the bad line is found.
func TestEnqueueLinesFindsTheBadOne(t *testing.T) {
	t.Parallel()
	var s batchServer
	url := s.start(t, func(w http.ResponseWriter, tasks []json.RawMessage) {
		for _, task := range tasks {
			if strings.Contains(string(task), "bad") {
				refuse(w, http.StatusBadRequest, "malformed-json")
				return
			}
		}
		accept(w, tasks)
	})
	input := strings.Repeat("{\"kind\":\"k\"}\n", 36) + "{\"kind\":\"bad\"}\n" + strings.Repeat("{\"kind\":\"k\"}\n", 63)
	code, stdout, stderr := runMain(t, url, input, "task", "enqueue", "-", "--jsonl", "-o", "jsonl")
	if code != exitPartly || strings.Count(stdout, "\n") != 99 {
		t.Errorf("code %d, %d lines", code, strings.Count(stdout, "\n"))
	}
	if want := "line 37: No: because"; !strings.Contains(stderr, want) {
		t.Errorf("stderr %q, want %q in it", stderr, want)
	}
}

func TestEnqueueLinesStops(t *testing.T) {
	t.Parallel()
	input := strings.Repeat("{\"kind\":\"k\"}\n", 1500)
	for _, tc := range []struct {
		name   string
		answer func(w http.ResponseWriter)
		first  bool // already at the first batch
		want   int
		stderr string
	}{
		{"rate limited at once", func(w http.ResponseWriter) { refuse(w, http.StatusTooManyRequests, "rate-limited") }, true, exitRateLimited, "stopped at lines 1 to 1000"},
		{"rate limited later", func(w http.ResponseWriter) { refuse(w, http.StatusTooManyRequests, "rate-limited") }, false, exitPartly, "stopped at lines 1001 to"},
		{"unavailable", func(w http.ResponseWriter) { refuse(w, http.StatusServiceUnavailable, "unavailable") }, true, exitUnreachable, "No: because"},
		{"cut off", func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, true, exitFailure, "may or may not"},
		{"nonsense", func(w http.ResponseWriter) { _, _ = w.Write([]byte(`{"items":[]}`)) }, true, exitFailure, "not one item for each task"},
		{"something else", func(w http.ResponseWriter) { w.WriteHeader(http.StatusNotFound) }, true, exitFailure, "does not look like Pelton"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var s batchServer
			url := s.start(t, func(w http.ResponseWriter, tasks []json.RawMessage) {
				s.mu.Lock()
				first := len(s.sizes) == 1
				s.mu.Unlock()
				if first == tc.first {
					tc.answer(w)
					return
				}
				accept(w, tasks)
			})
			code, _, stderr := runMain(t, url, input, "task", "enqueue", "-", "--jsonl", "--retry-for", "0s", "--window", "1")
			if code != tc.want || !strings.Contains(stderr, tc.stderr) {
				t.Errorf("code %d, want %d; stderr %q, want %q in it", code, tc.want, stderr, tc.stderr)
			}
		})
	}
}

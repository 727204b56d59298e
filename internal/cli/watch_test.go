package cli

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/peltonq/pelton"
)

func TestSSEEvent(t *testing.T) {
	t.Parallel()
	stream := ": hello\n\nid: 3\nevent: state\ndata: {\"a\":\ndata: 1}\n\n:\n\nid:4\ndata:x\nretry: 5\n\nid: 5\n\n"
	var got []string
	var e sseEvent
	for line := range strings.SplitSeq(strings.TrimSuffix(stream, "\n"), "\n") {
		if e.line([]byte(line)) {
			got = append(got, e.id+" "+string(e.data))
			e = sseEvent{}
		}
	}
	if diff := cmp.Diff([]string{"3 {\"a\":\n1}", "4 x"}, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// TestWatchComesBack goes on where a broken stream ended, over a server that is
// away in between.
func TestWatchComesBack(t *testing.T) {
	t.Parallel()
	const id = "0199b0c0-0000-8000-8000-000000000000"
	task := func(state string, revision int) string {
		return fmt.Sprintf(`{"id":%q,"kind":"k","queue":"q","priority":"low","state":%q,"attempt":1,"max_attempts":2,"crashes":0,"revision":%d}`, id, state, revision)
	}
	var calls atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch n, last := calls.Add(1), r.Header.Get("Last-Event-ID"); {
		case r.URL.Path != "/tasks/"+id+"/events":
			t.Errorf("path %s", r.URL.Path)
		case n == 1 && last == "":
			_, _ = fmt.Fprintf(w, ": hi\n\nid: 7\nevent: state\ndata: %s\n\nid: 8\ndata: half of", task("queued", 7))
		case n == 2 && last == "7":
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = fmt.Fprint(w, `{"type":"unavailable","title":"Unavailable","status":503}`)
		case n == 3 && last == "7":
			_, _ = fmt.Fprintf(w, "id: 8\nevent: state\ndata: %s\n\n", task("cancelled", 8))
		default:
			t.Errorf("call %d with Last-Event-ID %q", n, last)
		}
	}))
	defer server.Close()
	var stdout, stderr bytes.Buffer
	code := Main(t.Context(), []string{"task", "watch", id, "-o", "jsonl", "--url", server.URL}, strings.NewReader(""), &stdout, &stderr, nil)
	if want := task("queued", 7) + "\n" + task("cancelled", 8) + "\n"; code != exitTaskGone || stdout.String() != want {
		t.Errorf("exit code %d, stdout %s, stderr %s", code, &stdout, &stderr)
	}
	if calls.Load() != 3 {
		t.Errorf("%d calls", calls.Load())
	}
}

// TestBulkStops tells how far it came when the server goes away in the middle.
func TestBulkStops(t *testing.T) {
	t.Parallel()
	var bodies []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body bytes.Buffer
		_, _ = body.ReadFrom(r.Body)
		bodies = append(bodies, body.String())
		if len(bodies) == 2 {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = fmt.Fprint(w, `{"type":"unavailable","title":"Unavailable","status":503}`)
			return
		}
		_, _ = fmt.Fprint(w, `{"matched":1000,"done":1000,"failed":0,"next_cursor":"zz"}`)
	}))
	defer server.Close()
	var stdout, stderr bytes.Buffer
	code := Main(t.Context(), []string{"dead", "retry", "--queue", "q", "--limit", "1500", "-o", "json", "--url", server.URL}, strings.NewReader(""), &stdout, &stderr, nil)
	if code != exitPartly || stdout.String() != `{"matched":1000,"done":1000,"failed":0,"next_cursor":"zz"}`+"\n" || !strings.Contains(stderr.String(), "stopped: Unavailable") {
		t.Errorf("exit code %d, stdout %s, stderr %s", code, &stdout, &stderr)
	}
	want := []string{`{"dry_run":false,"limit":1000,"queue":"q"}`, `{"cursor":"zz","dry_run":false,"limit":500,"queue":"q"}`}
	if diff := cmp.Diff(want, bodies); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

func TestPurgeAsksNobody(t *testing.T) {
	t.Parallel()
	var stdout, stderr bytes.Buffer
	code := Main(t.Context(), []string{"dead", "purge", "--all", "--url", "http://127.0.0.1:1"}, strings.NewReader("y\n"), &stdout, &stderr, nil)
	if code != exitUsage || !strings.Contains(stderr.String(), "--yes") {
		t.Errorf("exit code %d, stderr %s", code, &stderr)
	}
}

func TestWatchDetail(t *testing.T) {
	t.Parallel()
	for _, state := range pelton.States() {
		task := &taskAnswer{}
		task.State, task.Result, task.Worker = state, []byte("1"), "w1"
		task.Error = &pelton.Failure{Message: "boo", Reason: pelton.ReasonError}
		got := watchDetail(task)
		if (got == "") != (state == pelton.Queued || state == pelton.Cancelled) {
			t.Errorf("%s: %q", state, got)
		}
	}
}

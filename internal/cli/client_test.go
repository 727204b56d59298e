package cli

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

const someID = "0199b0c0-0000-8000-8000-000000000000"

func serveFunc(t *testing.T, fn http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(fn)
	t.Cleanup(server.Close)
	return server.URL
}

func taskInState(w http.ResponseWriter, state string) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = fmt.Fprintf(w, `{"id":%q,"kind":"k","state":%q,"attempt":1,"new_field":true}`+"\n", someID, state)
}

// A server that restarts while a client waits is waited for.
func TestWaitOutlivesARestart(t *testing.T) {
	t.Parallel()
	var calls atomic.Int32
	url := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("wait") == "" {
			t.Errorf("no wait in %s", r.URL)
		}
		switch calls.Add(1) {
		case 1:
			taskInState(w, "queued")
		case 2:
			panic(http.ErrAbortHandler)
		case 3:
			refuse(w, http.StatusServiceUnavailable, "unavailable")
		default:
			taskInState(w, "succeeded")
		}
	})
	code, stdout, stderr := runMain(t, url, "", "task", "wait", someID, "-o", "json")
	if code != exitOK || !strings.Contains(stdout, `"state":"succeeded","attempt":1,"new_field":true}`) {
		t.Errorf("code %d, stdout %q, stderr %q", code, stdout, stderr)
	}
}

func TestWaitGivesUpAtOnceWithoutServer(t *testing.T) {
	t.Parallel()
	var calls atomic.Int32
	url := serveFunc(t, func(w http.ResponseWriter, _ *http.Request) {
		calls.Add(1)
		refuse(w, http.StatusServiceUnavailable, "unavailable")
	})
	if code, _, _ := runMain(t, url, "", "task", "wait", someID); code != exitUnreachable || calls.Load() != 1 {
		t.Errorf("code %d after %d calls", code, calls.Load())
	}
}

func TestEnqueueWithoutAnswer(t *testing.T) {
	t.Parallel()
	url := serveFunc(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	code, _, stderr := runMain(t, url, "", "task", "enqueue", "k")
	if code != exitFailure || !strings.Contains(stderr, "may or may not") {
		t.Errorf("code %d, stderr %q", code, stderr)
	}
	// Reading and cancelling can be repeated: that is a server that is not there.
	if code, _, _ := runMain(t, url, "", "task", "get", someID); code != exitUnreachable {
		t.Errorf("get: code %d", code)
	}
	if code, _, _ := runMain(t, url, "", "task", "cancel", someID); code != exitUnreachable {
		t.Errorf("cancel: code %d", code)
	}
}

func TestRequest(t *testing.T) {
	t.Parallel()
	url := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Authorization"); got != "Bearer s3cret" {
			t.Errorf("Authorization %q", got)
		}
		if r.URL.Path != "/base/tasks/"+someID {
			t.Errorf("path %s", r.URL.Path)
		}
		taskInState(w, "running")
	})
	code, _, stderr := runMain(t, url+"/base/", "", "task", "get", someID, "--token", "s3cret", "--log-level", "debug")
	if code != exitOK || strings.Contains(stderr, "s3cret") || !strings.Contains(stderr, "msg=request") {
		t.Errorf("code %d, stderr %q", code, stderr)
	}
}

func TestRedirectIsNotFollowed(t *testing.T) {
	t.Parallel()
	url := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "https://pelton.example/tasks", http.StatusMovedPermanently)
	})
	code, _, stderr := runMain(t, url, "", "task", "enqueue", "k")
	if code != exitFailure || !strings.Contains(stderr, "https://pelton.example/tasks") {
		t.Errorf("code %d, stderr %q", code, stderr)
	}
}

// What handlers and servers write must not drive the terminal.
func TestNoControlSequences(t *testing.T) {
	t.Parallel()
	url := serveFunc(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, `{"id":%q,"kind":"k","state":"failed","error":{"message":"\u001b[2Jgone\n\u009bx","reason":"error"}}`, someID)
	})
	_, stdout, stderr := runMain(t, url, "", "task", "wait", someID)
	for name, text := range map[string]string{"stdout": stdout, "stderr": stderr} {
		if strings.ContainsAny(text, "\x1b\u009b") || !strings.Contains(text, `\u001b[2Jgone`) {
			t.Errorf("%s %q", name, text)
		}
	}
}

func TestJSONLine(t *testing.T) {
	t.Parallel()
	raw := "{\"payload\":{\r\n  \"a\": \"<é> \\n\" , \"n\": 1.0 }}\n"
	for format, want := range map[string]string{
		formatJSON:  strings.TrimSuffix(raw, "\n"),
		formatJSONL: `{"payload":{"a":"<é> \n","n":1.0}}`,
	} {
		got, err := jsonLine(format, []byte(raw))
		if err != nil || string(got) != want {
			t.Errorf("%s: %s, %v", format, got, err)
		}
	}
}

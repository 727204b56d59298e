package api

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/peltonq/pelton"
)

func TestPlannedCallsAreNotSupported(t *testing.T) {
	t.Parallel()
	h := serve(t, newFakeTasks(), nil)
	for _, planned := range planned() {
		method, path, _ := strings.Cut(planned, " ")
		path = strings.NewReplacer("{id}", pelton.NewID(time.Now(), 0).String(), "{queue}", "default", "{name}", "x").Replace(path)
		wantProblem(t, call(t, h, method, path, ""), 404, kindNotSupported)
	}
}

func TestWrongPathsAndMethods(t *testing.T) {
	t.Parallel()
	h := serve(t, newFakeTasks(), nil)
	for _, path := range []string{"/", "/nowhere", "/tasks/", "/queues/a/b", "/Tasks", "/openapi.yaml", "/schemas/Task"} {
		wantProblem(t, call(t, h, http.MethodGet, path, ""), 404, kindNotFound)
	}
	for call1, allow := range map[string]string{
		"DELETE /tasks":          "GET, HEAD, POST",
		"OPTIONS /tasks":         "GET, HEAD, POST",
		"GET /tasks/batch":       "POST",
		"HEAD /tasks/batch":      "POST",
		"PUT /tasks/batch":       "POST",
		"DELETE /tasks/x":        "GET, HEAD",
		"GET /tasks/x/cancel":    "POST",
		"GET /tasks/x/run":       "POST",
		"POST /queues":           "GET, HEAD",
		"DELETE /queues/default": "GET, HEAD, PATCH",
		"GET /queues/x/pause":    "POST",
		"PATCH /queues":          "GET, HEAD",
		"POST /healthz":          "GET, HEAD",
		"POST /schedules":        "GET, HEAD",
		"PATCH /schedules/x":     "GET, HEAD, PUT, DELETE",
		"PATCH /schedules/apply": "GET, HEAD, PUT, DELETE, POST",
		"GET /schedules/x/run":   "POST",
	} {
		method, path, _ := strings.Cut(call1, " ")
		w := call(t, h, method, path, "")
		wantProblem(t, w, 405, kindNotAllowed)
		if got := w.Header().Get("Allow"); got != allow {
			t.Errorf("%s: Allow = %q", call1, got)
		}
	}
}

func TestQueues(t *testing.T) {
	t.Parallel()
	queues := &fakeQueues{}
	h := serve(t, newFakeTasks(), func(c *Config) { c.Queues = queues })
	if w := call(t, h, http.MethodGet, "/queues", ""); w.Body.String() != "{\"items\":[]}\n" {
		t.Errorf("no queues: %s", w.Body)
	}
	queues.queues = []pelton.Queue{*exampleQueue()}
	var list namesPage[pelton.Queue]
	w := call(t, h, http.MethodGet, "/queues", "")
	if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(namesPage[pelton.Queue]{Items: queues.queues}, list); diff != "" {
		t.Errorf("queues (-want +got):\n%s", diff)
	}
	w = call(t, h, http.MethodGet, "/queues/default", "")
	if want := `"high":{"ready":2,"running":1,"oldest_ready":"2s","paused":false}`; !strings.Contains(w.Body.String(), want) {
		t.Errorf("queue: %s", w.Body)
	}
	wantProblem(t, call(t, h, http.MethodGet, "/queues/other", ""), 404, kindNotFound)
	p := wantProblem(t, call(t, h, http.MethodGet, "/queues/Bad", ""), 422, kindInvalid)
	if p.Errors[0].Location != "path.queue" {
		t.Errorf("errors = %+v", p.Errors)
	}
	p = wantProblem(t, call(t, h, http.MethodGet, "/queues?sort=name", ""), 422, kindInvalid)
	if p.Errors[0].Location != "query.sort" {
		t.Errorf("errors = %+v", p.Errors)
	}
}

func TestHealthAndReadiness(t *testing.T) {
	t.Parallel()
	var notReady error
	h := serve(t, newFakeTasks(), func(c *Config) { c.Ready = func() error { return notReady } })
	if w := call(t, h, http.MethodGet, "/readyz", ""); w.Code != 200 || w.Body.String() != "{\"status\":\"ready\"}\n" {
		t.Errorf("status = %d: %s", w.Code, w.Body)
	}
	notReady = errors.New("stream pelton_TASKS_0: no leader")
	w := call(t, h, http.MethodGet, "/readyz", "")
	p := wantProblem(t, w, 503, kindUnavailable)
	if w.Header().Get("Retry-After") != "1" || !strings.Contains(p.Detail, "no leader") {
		t.Errorf("headers %v, detail %q", w.Header(), p.Detail)
	}
	if w := call(t, h, http.MethodGet, "/healthz", ""); w.Code != 200 || w.Body.String() != "{\"status\":\"ok\"}\n" {
		t.Errorf("status = %d: %s", w.Code, w.Body)
	}
}

package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/peltonq/pelton"
)

func serveQueues(t *testing.T) (http.Handler, *fakeQueues) {
	t.Helper()
	queues := &fakeQueues{queues: []pelton.Queue{*exampleQueue()}, purged: examplePurged()}
	return serve(t, newFakeTasks(), func(c *Config) { c.Queues = queues }), queues
}

func TestPatchQueue(t *testing.T) {
	t.Parallel()
	h, _ := serveQueues(t)
	w := call(t, h, http.MethodPatch, "/queues/default", `{"timeout":null,"lease":"1m30s","max_running":{"low":4}}`, "Content-Type", "application/merge-patch+json")
	var queue pelton.Queue
	if err := json.Unmarshal(w.Body.Bytes(), &queue); err != nil || w.Code != 200 {
		t.Fatalf("%d %s: %v", w.Code, w.Body, err)
	}
	want := pelton.QueueSettings{Lease: 90 * time.Second, MaxRunning: map[pelton.Priority]int{pelton.Normal: 8, pelton.Low: 4}}
	if diff := cmp.Diff(want, queue.Settings); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
	if want := `"settings":{"max_running":{"low":4,"normal":8},"lease":"1m30s"}`; !strings.Contains(w.Body.String(), want) {
		t.Errorf("%s has no %s", w.Body, want)
	}
	if w := call(t, h, http.MethodPatch, "/queues/new", `{}`); w.Code != 200 || !strings.Contains(w.Body.String(), `"settings":{}`) {
		t.Errorf("a queue that does not exist: %d %s", w.Code, w.Body)
	}
}

func TestPatchQueueRefuses(t *testing.T) {
	t.Parallel()
	h, queues := serveQueues(t)
	for body, locations := range map[string][]string{
		`{"colour":1}`:              {"body.colour"},
		`{"max_running":{"low":0}}`: {"body.max_running.low"},
		`{"lease":5,"timeout":"x"}`: {"body.lease", "body.timeout"},
		`{"rate":{"limit":0}}`:      {"body.rate.limit"},
		`[]`:                        {"body"},
		`null`:                      {"body"},
	} {
		p := wantProblem(t, call(t, h, http.MethodPatch, "/queues/default", body), 422, kindInvalid)
		var got []string
		for _, e := range p.Errors {
			got = append(got, e.Location)
		}
		if !slices.Equal(got, locations) {
			t.Errorf("%s: errors at %v, want %v", body, got, locations)
		}
	}
	wantProblem(t, call(t, h, http.MethodPatch, "/queues/default", `{"rate":{"limit":5}}`), 422, kindNotSupported)
	wantProblem(t, call(t, h, http.MethodPatch, "/queues/default", `{"lease":"1m","lease":"2m"}`), 400, kindMalformed)
	wantProblem(t, call(t, h, http.MethodPatch, "/queues/default", ""), 400, kindMalformed)
	wantProblem(t, call(t, h, http.MethodPatch, "/queues/default", `{}`, "Content-Type", "text/plain"), 415, kindMediaType)
	wantProblem(t, call(t, h, http.MethodPatch, "/queues/UPPER", `{}`), 422, kindInvalid)
	queues.err = fmt.Errorf("settle: %w", pelton.ErrUnknownOutcome)
	wantProblem(t, call(t, h, http.MethodPatch, "/queues/default", `{}`), 503, kindUnknownOutcome)
}

func TestQueueVerbs(t *testing.T) {
	t.Parallel()
	h, queues := serveQueues(t)
	for target, want := range map[string]string{
		"/queues/default/pause":                       "pause default ",
		"/queues/default/pause?priority=low":          "pause default low",
		"/queues/default/resume":                      "resume default ",
		"/queues/default/resume?priority=critical":    "resume default critical",
		"/queues/default/purge":                       "purge default  ",
		"/queues/default/purge?priority=low&cursor=x": "purge default low x",
	} {
		queues.asked = nil
		if w := call(t, h, http.MethodPost, target, ""); w.Code != 200 || !slices.Equal(queues.asked, []string{want}) {
			t.Errorf("%s: %d %s, asked for %q", target, w.Code, w.Body, queues.asked)
		}
	}
	if w := call(t, h, http.MethodPost, "/queues/default/purge", ""); w.Body.String() != `{"purged":71304,"next_cursor":"r-9zk-c2s"}`+"\n" {
		t.Errorf("purge: %s", w.Body)
	}
	for _, verb := range []string{"pause", "resume", "purge"} {
		wantProblem(t, call(t, h, http.MethodPost, "/queues/other/"+verb, ""), 404, kindNotFound)
		wantProblem(t, call(t, h, http.MethodPost, "/queues/UPPER/"+verb, ""), 422, kindInvalid)
		for _, query := range []string{"priority=urgent", "priority=", "colour=red"} {
			p := wantProblem(t, call(t, h, http.MethodPost, "/queues/default/"+verb+"?"+query, ""), 422, kindInvalid)
			if want := "query." + strings.Split(query, "=")[0]; len(p.Errors) == 0 || p.Errors[0].Location != want {
				t.Errorf("%s?%s: %+v, want an error at %s", verb, query, p.Errors, want)
			}
		}
	}
	p := wantProblem(t, call(t, h, http.MethodPost, "/queues/default/purge?cursor=bad", ""), 422, kindInvalid)
	if p.Errors[0].Location != "query.cursor" {
		t.Errorf("errors = %+v", p.Errors)
	}
}

func TestFullQueueIs429(t *testing.T) {
	t.Parallel()
	tasks := newFakeTasks()
	h := serve(t, tasks, nil)
	tasks.err = fmt.Errorf("enqueue k: queue default: %w: it holds 3 ready tasks", pelton.ErrOverloaded)
	w := call(t, h, http.MethodPost, "/tasks", `{"kind":"k"}`)
	wantProblem(t, w, 429, kindOverloaded)
	if w.Header().Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	w = call(t, h, http.MethodPost, "/tasks/batch", `{"tasks":[{"kind":"k"}]}`)
	if !strings.Contains(w.Body.String(), `"status":429`) || !strings.Contains(w.Body.String(), `"type":"overloaded"`) {
		t.Errorf("batch: %s", w.Body)
	}
}

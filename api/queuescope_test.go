package api

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/peltonq/pelton"
)

// A token that is bound to queues may do with them what its scopes say, and nothing with
// others, whichever way a queue is named, or a task or schedule of it.
func TestBoundTokens(t *testing.T) {
	t.Parallel()
	own, foreign := exampleTask(false), exampleTask(false)
	own.Queue, foreign.Queue = "mine", "theirs"
	foreign.ID = pelton.NewID(time.Now(), 0)
	tasks := newFakeTasks()
	tasks.put(own)
	tasks.put(foreign)
	keys := newFakeKeyring(pelton.Token{ID: "bound", Name: "bound", Scopes: pelton.Scopes(), Queues: []string{"mine"}})
	schedules := newFakeSchedules()
	dead := &fakeDead{}
	h := serve(t, tasks, func(c *Config) {
		c.Keyring, c.Schedules, c.Dead = keys, schedules, dead
		c.Queues = &fakeQueues{queues: []pelton.Queue{{Name: "mine"}, {Name: "theirs"}}}
		c.Metrics = http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	})
	put := func(queue string) {
		t.Helper()
		if _, _, err := schedules.Put(t.Context(), pelton.Schedule{Name: "s", Every: time.Hour, Task: pelton.Spec{Kind: "a", Queue: queue}}); err != nil {
			t.Fatal(err)
		}
	}
	unaware := []string{
		"/limits", "/locks", "/workers", "/metrics", "/tokens", "/audit", "POST /schedules/apply",
	}
	for target, body := range everyCall("{id}") {
		isUnaware := false
		for _, u := range unaware {
			isUnaware = isUnaware || strings.Contains(target, u)
		}
		for queue, id := range map[string]pelton.ID{"mine": own.ID, "theirs": foreign.ID} {
			put(queue)
			dead.letters = []*pelton.Task{own, foreign} // the calls before may have taken them
			fill := strings.NewReplacer("%s", queue, "{id}", id.String())
			method, path, _ := strings.Cut(fill.Replace(target), " ")
			w := call(t, h, method, path, fill.Replace(body), bearer("bound")...)
			switch {
			case target == "POST /tasks/batch":
				want := map[string]string{"mine": `"status":202`, "theirs": `"status":403`}[queue]
				if w.Code != 200 || !strings.Contains(w.Body.String(), want) {
					t.Errorf("%s of %s: %d %s", target, queue, w.Code, w.Body)
				}
			case target == "GET /openapi.json", target == "GET /openapi-3.0.json", target == "GET /docs":
				if w.Code != 200 {
					t.Errorf("%s: %d", target, w.Code)
				}
			case target == "GET /queues", target == "GET /schedules":
				if w.Code != 200 || strings.Contains(w.Body.String(), "theirs") {
					t.Errorf("%s: %d %s", target, w.Code, w.Body)
				}
			case isUnaware || queue == "theirs":
				if w.Code != 403 {
					t.Errorf("%s of %s: %d %s, want 403", target, queue, w.Code, w.Body)
				}
			case w.Code == 403 || w.Code == 401 || w.Code >= 500:
				t.Errorf("%s of %s: %d %s", target, queue, w.Code, w.Body)
			}
		}
	}
	for _, spec := range tasks.accepted() {
		if spec.Queue != "mine" {
			t.Errorf("enqueued to %q", spec.Queue)
		}
	}

	// Watching, and what has no queue in it where one could be.
	for target, want := range map[string]int{
		"GET /tasks/" + foreign.ID.String() + "/events": 403,
		"GET /tasks?state=scheduled":                    200,
		"GET /dead":                                     200,
		"GET /queues/default":                           403,
	} {
		method, path, _ := strings.Cut(target, " ")
		if w := call(t, h, method, path, "", bearer("bound")...); w.Code != want {
			t.Errorf("%s: %d %s", target, w.Code, w.Body)
		}
	}
	if got := dead.asked.Queue; got != "mine" {
		t.Errorf("GET /dead without a queue asked for %q", got)
	}
	before := len(tasks.accepted())
	for _, body := range []string{`{"kind":"a"}`, `{"kind":"a","queue":"mine","unique":{"key":"k","on_conflict":"replace"}}`} {
		wantProblem(t, call(t, h, http.MethodPost, "/tasks", body, bearer("bound")...), 403, kindForbidden)
	}
	if len(tasks.accepted()) != before {
		t.Error("enqueued by a request that got an error")
	}
	put("theirs")
	wantProblem(t, call(t, h, http.MethodPut, "/schedules/s", `{"every":"2h","task":{"kind":"a","queue":"mine"}}`, bearer("bound")...), 403, kindForbidden)

	// With several queues, a filter must name one.
	keys.add(pelton.Token{ID: "two", Name: "two", Scopes: pelton.Scopes(), Queues: []string{"mine", "more"}})
	for _, target := range []string{"GET /tasks?state=scheduled", "GET /dead", "POST /dead/purge {}"} {
		parts := append(strings.Split(target, " "), "")
		p := wantProblem(t, call(t, h, parts[0], parts[1], parts[2], bearer("two")...), 403, kindForbidden)
		if !strings.Contains(p.Detail, "mine, more") {
			t.Errorf("%s: %s", target, p.Detail)
		}
	}
}

// holding answers with the task that holds the unique key.
type holding struct {
	*fakeTasks
	holder *pelton.Task
}

func (h holding) Submit(context.Context, pelton.Spec, ...pelton.Option) (pelton.Enqueued, error) {
	return pelton.Enqueued{Task: h.holder, Existing: true}, nil
}

func (h holding) EnqueueMany(context.Context, []pelton.Spec) ([]pelton.Enqueued, error) {
	return []pelton.Enqueued{{Task: h.holder, Existing: true}}, nil
}

// The task that holds a unique key may be of another queue.
func TestBoundTokenDoesNotGetTheHolder(t *testing.T) {
	t.Parallel()
	holder := exampleTask(true)
	holder.Queue = "theirs"
	keys := newFakeKeyring(pelton.Token{ID: "bound", Name: "bound", Scopes: pelton.Scopes(), Queues: []string{"mine"}})
	h := serve(t, newFakeTasks(), func(c *Config) { c.Keyring, c.Tasks = keys, holding{newFakeTasks(), holder} })
	const task = `{"kind":"a","queue":"mine","unique":{"key":"k","on_conflict":"existing"}}`
	wantProblem(t, call(t, h, http.MethodPost, "/tasks", task, bearer("bound")...), 403, kindForbidden)
	w := call(t, h, http.MethodPost, "/tasks/batch", `{"tasks":[`+task+`]}`, bearer("bound")...)
	if w.Code != 200 || !strings.Contains(w.Body.String(), `"status":403`) || strings.Contains(w.Body.String(), holder.ID.String()) {
		t.Errorf("batch: %d %s", w.Code, w.Body)
	}
	holder.Queue = "mine"
	if w := call(t, h, http.MethodPost, "/tasks", task, bearer("bound")...); w.Code != 200 {
		t.Errorf("of its own queue: %d", w.Code)
	}
}

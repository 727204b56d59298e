package api

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/peltonq/pelton"
)

// fakeLister remembers what it was asked.
type fakeLister struct {
	page  pelton.TaskPage
	err   error
	asked pelton.TaskQuery

	result pelton.BulkResult
	dryRun bool
	verb   string
}

func (f *fakeLister) Tasks(_ context.Context, q pelton.TaskQuery) (*pelton.TaskPage, error) {
	f.asked = q
	if err := q.Check(); err != nil {
		return nil, err
	}
	return &f.page, f.err
}

func (f *fakeLister) CancelTasks(_ context.Context, q pelton.TaskQuery, dryRun bool) (*pelton.BulkResult, error) {
	f.asked, f.dryRun, f.verb = q, dryRun, "cancel"
	return &f.result, cmp.Or(q.Check(), f.err)
}

func (f *fakeLister) RetryTasks(_ context.Context, q pelton.TaskQuery, dryRun bool) (*pelton.BulkResult, error) {
	f.asked, f.dryRun, f.verb = q, dryRun, "retry"
	return &f.result, cmp.Or(q.Check(), f.err)
}

func TestListTasks(t *testing.T) {
	t.Parallel()
	lister := &fakeLister{}
	h := serve(t, newFakeTasks(), func(c *Config) { c.Lists = lister })
	if w := call(t, h, http.MethodGet, "/tasks?state=retrying", ""); w.Code != 200 || w.Body.String() != "{\"items\":[]}\n" {
		t.Errorf("no tasks: %d %s", w.Code, w.Body)
	}
	if diff := gocmp.Diff(pelton.TaskQuery{TaskFilter: pelton.TaskFilter{State: pelton.Retrying}, Limit: 50}, lister.asked); diff != "" {
		t.Errorf("defaults (-want +got):\n%s", diff)
	}
	lister.page = pelton.TaskPage{Items: []*pelton.Task{exampleScheduled()}, NextCursor: "c"}
	w := call(t, h, http.MethodGet, "/tasks?state=scheduled&queue=emails&kind=email.send&priority=high&limit=7&cursor=x.y&label.tenant=acme&label.odd=&error=boo&since=2026-12-01T08:00:00Z&until=2026-12-01T10:00:00%2B01:00", "")
	if body := w.Body.String(); w.Code != 200 || !strings.Contains(body, `"state":"scheduled"`) || !strings.HasSuffix(body, `,"next_cursor":"c"}`+"\n") {
		t.Errorf("page: %d %s", w.Code, body)
	}
	want := pelton.TaskQuery{TaskFilter: pelton.TaskFilter{
		State: pelton.Scheduled, Queue: "emails", Kind: "email.send", Priority: pelton.High, Labels: map[string]string{"tenant": "acme", "odd": ""},
		Error: "boo", Since: exampleTime(), Until: exampleTime().Add(time.Hour),
	}, Limit: 7, Cursor: "x.y"}
	if diff := gocmp.Diff(want, lister.asked); diff != "" {
		t.Errorf("query (-want +got):\n%s", diff)
	}
	for query, location := range map[string]string{
		"state=waiting": "query.state", "state=": "query.state", "state=scheduled&queue=B": "query.queue", "state=scheduled&kind=*": "query.kind",
		"state=scheduled&priority=urgent": "query.priority", "state=scheduled&limit=0": "query.limit", "state=scheduled&limit=501": "query.limit",
		"state=scheduled&limit=x": "query.limit", "state=scheduled&queue=": "query.queue", "state=scheduled&sort=due": "query.sort",
		"queue=a&queue=b": "query.queue", "label.%2A=x": "query.label.*", "label.a=%0A": "query.label.a", "label.=x": "query.label.", "since=1h": "query.since",
		"since=2026-12-01T08:00:00Z&until=2026-12-01T08:00:00Z": "query.until", "error=": "query.error",
	} {
		p := wantProblem(t, call(t, h, http.MethodGet, "/tasks?"+query, ""), 422, kindInvalid)
		if len(p.Errors) != 1 || p.Errors[0].Location != location {
			t.Errorf("%s: %+v", query, p.Errors)
		}
	}
	for _, query := range []string{"", "?queue=default", "?state=queued", "?state=failed", "?error=timeout"} {
		if w := call(t, h, http.MethodGet, "/tasks"+query, ""); w.Code != 200 {
			t.Errorf("%s: %d %s", query, w.Code, w.Body)
		}
	}
	lister.err = fmt.Errorf("list: %w", pelton.ErrUnavailable)
	wantProblem(t, call(t, h, http.MethodGet, "/tasks?state=scheduled", ""), 503, kindUnavailable)
}

func TestTasksByFilter(t *testing.T) {
	t.Parallel()
	lister := &fakeLister{result: pelton.BulkResult{Matched: 3, Done: 2, Failed: 1, NextCursor: "queued:q1.1"}}
	h := serve(t, newFakeTasks(), func(c *Config) { c.Lists = lister })
	body := `{"state":"queued","queue":"emails","kind":"k","priority":"low","labels":{"tenant":"acme"},"error":"boo",
		"since":"2026-12-01T08:00:00Z","until":"2026-12-01T09:00:00Z","dry_run":true,"limit":3,"cursor":"c"}`
	want := pelton.TaskQuery{TaskFilter: pelton.TaskFilter{
		State: pelton.Queued, Queue: "emails", Kind: "k", Priority: pelton.Low, Labels: map[string]string{"tenant": "acme"}, Error: "boo",
		Since: exampleTime(), Until: exampleTime().Add(time.Hour),
	}, Limit: 3, Cursor: "c"}
	for _, verb := range []string{"cancel", "retry"} {
		w := call(t, h, http.MethodPost, "/tasks/"+verb, body)
		if w.Code != 200 || w.Body.String() != `{"matched":3,"done":2,"failed":1,"next_cursor":"queued:q1.1"}`+"\n" {
			t.Errorf("%s: %d %s", verb, w.Code, w.Body)
		}
		if diff := gocmp.Diff(want, lister.asked); diff != "" || lister.verb != verb || !lister.dryRun {
			t.Errorf("%s: %s, dry run %t (-want +got):\n%s", verb, lister.verb, lister.dryRun, diff)
		}
		if w := call(t, h, http.MethodPost, "/tasks/"+verb, "{}"); w.Code != 200 || lister.dryRun {
			t.Errorf("%s {}: %d, dry run %t", verb, w.Code, lister.dryRun)
		}
		for wrong, location := range map[string]string{
			`[]`: "body", `{"queue":""}`: "body.queue", `{"queue":"A"}`: "body.queue", `{"limit":0}`: "body.limit", `{"dry_run":1}`: "body.dry_run",
			`{"labels":{"a":1}}`: "body.labels.a", `{"since":"1h"}`: "body.since", `{"ids":[]}`: "body.ids", `{"state":"waiting"}`: "body.state",
		} {
			p := wantProblem(t, call(t, h, http.MethodPost, "/tasks/"+verb, wrong), 422, kindInvalid)
			if len(p.Errors) != 1 || p.Errors[0].Location != location {
				t.Errorf("%s %s: %+v", verb, wrong, p.Errors)
			}
		}
	}
	lister.err = fmt.Errorf("cancel: %w", pelton.ErrUnavailable)
	wantProblem(t, call(t, h, http.MethodPost, "/tasks/cancel", "{}"), 503, kindUnavailable)
}

func TestRunTask(t *testing.T) {
	t.Parallel()
	tasks := newFakeTasks()
	h := serve(t, tasks, nil)
	task := decodeTask(t, call(t, h, http.MethodPost, "/tasks", `{"kind":"k","delay":"1h"}`))
	path := "/tasks/" + task.ID.String() + "/run"
	for range 2 {
		if got := decodeTask(t, call(t, h, http.MethodPost, path, "")); got.State != pelton.Queued {
			t.Errorf("run = %+v", got)
		}
	}
	tasks.tasks[task.ID].State = pelton.Running
	p := wantProblem(t, call(t, h, http.MethodPost, path, ""), 409, kindConflict)
	if !strings.Contains(p.Detail, "it is running") {
		t.Errorf("detail = %q", p.Detail)
	}
	wantProblem(t, call(t, h, http.MethodPost, "/tasks/"+exampleTask(false).ID.String()+"/run", ""), 404, kindNotFound)
	wantProblem(t, call(t, h, http.MethodPost, "/tasks/x/run", ""), 422, kindInvalid)
	tasks.err = fmt.Errorf("run: %w", pelton.ErrUnknownOutcome)
	wantProblem(t, call(t, h, http.MethodPost, path, ""), 503, kindUnknownOutcome)
}

// What cannot be scheduled is refused with its place.
func TestTimesThatCannotBe(t *testing.T) {
	t.Parallel()
	h := serve(t, newFakeTasks(), nil)
	for body, location := range map[string]string{
		`{"kind":"k","run_at":"2262-01-01T00:00:00Z"}`:                                          "body.run_at",
		`{"kind":"k","run_at":"9999-12-31T23:59:59Z"}`:                                          "body.run_at",
		`{"kind":"k","run_at":"10000-01-01T00:00:00Z"}`:                                         "body.run_at",
		`{"kind":"k","delay":"100000d"}`:                                                        "body.delay",
		`{"kind":"k","delay":"1000000d"}`:                                                       "body.delay",
		`{"kind":"k","run_at":"2200-01-02T00:00:00Z","expires_at":"2200-01-01T00:00:00Z"}`:      "body.expires_at",
		`{"kind":"k","delay":"1h","expires_at":"2026-01-01T00:00:00Z"}`:                         "body.expires_at",
		`{"kind":"k","run_at":"2200-01-01T00:00:00+02:00","expires_at":"2199-12-31T22:00:00Z"}`: "body.expires_at",
	} {
		p := wantProblem(t, call(t, h, http.MethodPost, "/tasks", body), 422, kindInvalid)
		if len(p.Errors) != 1 || p.Errors[0].Location != location {
			t.Errorf("%s: %+v", body, p.Errors)
		}
	}
}

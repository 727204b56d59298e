package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/peltonq/pelton"
)

// fakeDead keeps letters in memory and remembers what it was asked.
type fakeDead struct {
	letters []*pelton.Task
	next    string
	err     error

	asked  pelton.DeadQuery
	dryRun bool
	purged bool
}

func (f *fakeDead) DeadLetters(_ context.Context, q pelton.DeadQuery) (*pelton.DeadPage, error) {
	f.asked = q
	if err := q.Check(); err != nil {
		return nil, err
	}
	return &pelton.DeadPage{Items: f.letters, NextCursor: f.next}, f.err
}

func (f *fakeDead) DeadLetter(_ context.Context, id pelton.ID) (*pelton.Task, error) {
	if f.err != nil {
		return nil, f.err
	}
	for _, letter := range f.letters {
		if letter.ID == id {
			return letter, nil
		}
	}
	return nil, fmt.Errorf("find dead letter of task %s: %w", id, pelton.ErrNotFound)
}

func (f *fakeDead) DeleteDeadLetter(ctx context.Context, id pelton.ID) error {
	_, err := f.DeadLetter(ctx, id)
	f.letters = nil
	return err
}

func (f *fakeDead) RetryDeadLetter(ctx context.Context, id pelton.ID) (*pelton.Task, error) {
	letter, err := f.DeadLetter(ctx, id)
	if err != nil {
		return nil, err
	}
	f.letters = nil
	letter = copyOf(letter)
	letter.State = pelton.Queued
	return letter, nil
}

func (f *fakeDead) RetryDeadLetters(_ context.Context, q pelton.DeadQuery, dryRun bool) (*pelton.BulkResult, error) {
	f.asked, f.dryRun = q, dryRun
	if err := q.Check(); err != nil {
		return nil, err
	}
	return &pelton.BulkResult{Matched: 3, Done: 2, Failed: 1, NextCursor: f.next}, f.err
}

func (f *fakeDead) PurgeDeadLetters(ctx context.Context, q pelton.DeadQuery, dryRun bool) (*pelton.BulkResult, error) {
	f.purged = true
	return f.RetryDeadLetters(ctx, q, dryRun)
}

func serveDead(t *testing.T, dead *fakeDead) http.Handler {
	t.Helper()
	return serve(t, newFakeTasks(), func(c *Config) { c.Dead = dead })
}

func TestListDead(t *testing.T) {
	t.Parallel()
	dead := &fakeDead{}
	h := serveDead(t, dead)
	if w := call(t, h, http.MethodGet, "/dead", ""); w.Code != 200 || w.Body.String() != "{\"items\":[]}\n" {
		t.Errorf("no letters: %d %s", w.Code, w.Body)
	}
	if diff := cmp.Diff(pelton.DeadQuery{Limit: 50}, dead.asked); diff != "" {
		t.Errorf("defaults (-want +got):\n%s", diff)
	}
	letter := exampleDead()
	letter.Payload = json.RawMessage(`{"as": [1.0,  "<é>"]}`)
	dead.letters, dead.next = []*pelton.Task{letter, letter}, `a"b`
	w := call(t, h, http.MethodGet, "/dead?queue=emails&kind=email.send&error=connection%20refused&limit=7&cursor=2s", "")
	if !strings.Contains(w.Body.String(), `"payload":{"as": [1.0,  "<é>"]}}`) || !strings.HasSuffix(w.Body.String(), `,"next_cursor":"a\"b"}`+"\n") {
		t.Errorf("page: %s", w.Body)
	}
	var page struct {
		Items []pelton.Task `json:"items"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &page); err != nil || len(page.Items) != 2 {
		t.Errorf("page: %v, %+v", err, page)
	}
	want := pelton.DeadQuery{DeadFilter: pelton.DeadFilter{Queue: "emails", Kind: "email.send", Error: "connection refused"}, Limit: 7, Cursor: "2s"}
	if diff := cmp.Diff(want, dead.asked); diff != "" {
		t.Errorf("query (-want +got):\n%s", diff)
	}
	for query, location := range map[string]string{
		"queue=B": "query.queue", "limit=0": "query.limit", "limit=501": "query.limit", "limit=x": "query.limit", "state=failed": "query.state",
	} {
		p := wantProblem(t, call(t, h, http.MethodGet, "/dead?"+query, ""), 422, kindInvalid)
		if len(p.Errors) != 1 || p.Errors[0].Location != location {
			t.Errorf("%s: %+v", query, p.Errors)
		}
	}
	dead.err = fmt.Errorf("list: %w", pelton.ErrUnavailable)
	wantProblem(t, call(t, h, http.MethodGet, "/dead", ""), 503, kindUnavailable)
}

func TestOneDeadLetter(t *testing.T) {
	t.Parallel()
	dead := &fakeDead{letters: []*pelton.Task{exampleDead()}}
	h := serveDead(t, dead)
	path := "/dead/" + exampleDead().ID.String()
	if got := decodeTask(t, call(t, h, http.MethodGet, path, "")); got.State != pelton.Failed || len(got.Errors) != 1 {
		t.Errorf("letter = %+v", got)
	}
	if got := decodeTask(t, call(t, h, http.MethodPost, path+"/retry", "")); got.State != pelton.Queued {
		t.Errorf("retried = %+v", got)
	}
	dead.letters = []*pelton.Task{exampleDead()}
	if w := call(t, h, http.MethodDelete, path, ""); w.Code != 204 || w.Body.Len() != 0 {
		t.Errorf("delete: %d %q", w.Code, w.Body)
	}
	for _, request := range []string{"GET " + path, "DELETE " + path, "POST " + path + "/retry"} {
		method, path, _ := strings.Cut(request, " ")
		wantProblem(t, call(t, h, method, path, ""), 404, kindNotFound)
		wantProblem(t, call(t, h, method, strings.Replace(path, "-8", "-4", 1), ""), 422, kindInvalid)
	}
	for request, allow := range map[string]string{
		"GET /dead/purge": "POST", "DELETE /dead/retry": "POST", "PUT " + path: "GET, HEAD, DELETE", "DELETE /dead": "GET, HEAD", "GET " + path + "/retry": "POST",
	} {
		method, path, _ := strings.Cut(request, " ")
		w := call(t, h, method, path, "")
		wantProblem(t, w, 405, kindNotAllowed)
		if got := w.Header().Get("Allow"); got != allow {
			t.Errorf("%s: Allow = %q", request, got)
		}
	}
	dead.err = fmt.Errorf("requeue: %w: the record says queued: %w", pelton.ErrUnknownOutcome, pelton.ErrUnavailable)
	wantProblem(t, call(t, h, http.MethodPost, path+"/retry", ""), 503, kindUnknownOutcome)
}

func TestBulkDead(t *testing.T) {
	t.Parallel()
	dead := &fakeDead{next: "2s"}
	h := serveDead(t, dead)
	for _, path := range []string{"/dead/retry", "/dead/purge"} {
		w := call(t, h, http.MethodPost, path, `{"queue":"q","kind":"k","error":"\u0065rr","dry_run":true,"limit":9,"cursor":"1"}`)
		if w.Code != 200 || w.Body.String() != `{"matched":3,"done":2,"failed":1,"next_cursor":"2s"}`+"\n" {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
		want := pelton.DeadQuery{DeadFilter: pelton.DeadFilter{Queue: "q", Kind: "k", Error: "err"}, Limit: 9, Cursor: "1"}
		if diff := cmp.Diff(want, dead.asked); diff != "" || !dead.dryRun || dead.purged != (path == "/dead/purge") {
			t.Errorf("%s: dry run %v, purge %v, query (-want +got):\n%s", path, dead.dryRun, dead.purged, diff)
		}
		if w := call(t, h, http.MethodPost, path, `{}`); w.Code != 200 || dead.dryRun || dead.asked != (pelton.DeadQuery{}) {
			t.Errorf("%s without a filter: %d, %+v", path, w.Code, dead.asked)
		}
		wantProblem(t, call(t, h, http.MethodPost, path, ``), 400, kindMalformed)
		wantProblem(t, call(t, h, http.MethodPost, path, `{"queue":"q","queue":"r"}`), 400, kindMalformed)
		wantProblem(t, call(t, h, http.MethodPost, path, `{}`, "Content-Type", "text/plain"), 415, kindMediaType)
		for body, location := range map[string]string{
			`[]`: "body", `{"queue":""}`: "body.queue", `{"kind":1}`: "body.kind", `{"error":"\ud800"}`: "body.error", `{"queue":"Q"}`: "body.queue",
			`{"limit":0}`: "body.limit", `{"limit":1.5}`: "body.limit", `{"limit":"9"}`: "body.limit", `{"dry_run":"true"}`: "body.dry_run",
			`{"cursor":null}`: "body.cursor", `{"state":"failed"}`: "body.state",
		} {
			p := wantProblem(t, call(t, h, http.MethodPost, path, body), 422, kindInvalid)
			if len(p.Errors) != 1 || p.Errors[0].Location != location {
				t.Errorf("%s %s: %+v", path, body, p.Errors)
			}
		}
	}
}

func TestDeadQuerySchemaIsWhatIsParsed(t *testing.T) {
	t.Parallel()
	for name := range deadQuerySchema().Properties {
		if _, _, err := parseDeadQuery([]byte(`{"` + name + `":null}`)); err == nil || strings.Contains(err.Error(), "not a known field") {
			t.Errorf("%s is documented: %v", name, err)
		}
	}
}

func TestRetry(t *testing.T) {
	t.Parallel()
	tasks := newFakeTasks()
	h := serve(t, tasks, nil)
	path := call(t, h, http.MethodPost, "/tasks", `{"kind":"a"}`).Header().Get("Location")
	wantProblem(t, call(t, h, http.MethodPost, path+"/retry", ""), 409, kindConflict)
	call(t, h, http.MethodPost, path+"/cancel", "")
	if got := decodeTask(t, call(t, h, http.MethodPost, path+"/retry", "")); got.State != pelton.Queued || got.Revision != 3 {
		t.Errorf("task = %+v", got)
	}
	wantProblem(t, call(t, h, http.MethodPost, "/tasks/"+exampleDead().ID.String()+"/retry", ""), 404, kindNotFound)
	wantProblem(t, call(t, h, http.MethodPost, "/tasks/x/retry", ""), 422, kindInvalid)
}

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

// fakeLocks has locks in memory and remembers what it was asked.
type fakeLocks struct {
	locks []pelton.Lock
	next  string
	err   error

	asked  pelton.LockQuery
	name   string
	tokens []uint64
}

func (f *fakeLocks) Locks(_ context.Context, q pelton.LockQuery) (*pelton.LockPage, error) {
	f.asked = q
	return &pelton.LockPage{Items: f.locks, NextCursor: f.next}, f.err
}

func (f *fakeLocks) ReleaseLock(_ context.Context, name string, tokens ...uint64) (*pelton.Lock, error) {
	f.name, f.tokens = name, tokens
	if f.err != nil {
		return nil, f.err
	}
	for _, lock := range f.locks {
		if lock.Name == name {
			return &lock, nil
		}
	}
	return nil, fmt.Errorf("break lock %q: %w: nobody holds it", name, pelton.ErrNotFound)
}

func serveLocks(t *testing.T, locks *fakeLocks) http.Handler {
	t.Helper()
	return serve(t, newFakeTasks(), func(c *Config) { c.Locks = locks })
}

func TestListLocks(t *testing.T) {
	t.Parallel()
	locks := &fakeLocks{}
	h := serveLocks(t, locks)
	if w := call(t, h, http.MethodGet, "/locks", ""); w.Code != 200 || w.Body.String() != "{\"items\":[]}\n" {
		t.Errorf("no locks: %d %s", w.Code, w.Body)
	}
	if diff := cmp.Diff(pelton.LockQuery{Limit: 50}, locks.asked); diff != "" {
		t.Errorf("defaults (-want +got):\n%s", diff)
	}
	locks.locks, locks.next = []pelton.Lock{*exampleLock()}, "YQ"
	w := call(t, h, http.MethodGet, "/locks?name=a%2Fb&limit=7&cursor=YQ", "")
	wantFits(t, "locks", "LockList", w.Body.Bytes())
	want := `{"items":[{"name":"invoice/42","slots":1,"holders":[{"task_id":"` + exampleTask(false).ID.String() +
		`","kind":"email.send","worker":"host-1-4711","fence":2,"token":4711,"acquired_at":"2026-12-01T08:00:00.005Z","expires_at":"2026-12-01T08:00:30Z"}]}],"next_cursor":"YQ"}` + "\n"
	if w.Code != 200 || w.Body.String() != want {
		t.Errorf("page: %d %s", w.Code, w.Body)
	}
	if diff := cmp.Diff(pelton.LockQuery{Name: "a/b", Limit: 7, Cursor: "YQ"}, locks.asked); diff != "" {
		t.Errorf("query (-want +got):\n%s", diff)
	}
	for query, location := range map[string]string{"limit=0": "query.limit", "limit=501": "query.limit", "queue=q": "query.queue"} {
		p := wantProblem(t, call(t, h, http.MethodGet, "/locks?"+query, ""), 422, kindInvalid)
		if len(p.Errors) != 1 || p.Errors[0].Location != location {
			t.Errorf("%s: %+v", query, p.Errors)
		}
	}
	locks.err = &pelton.ValidationError{Fields: []pelton.FieldError{{Field: "cursor", Message: "is not one of an answer"}}}
	if p := wantProblem(t, call(t, h, http.MethodGet, "/locks?cursor=!", ""), 422, kindInvalid); p.Errors[0].Location != "query.cursor" {
		t.Errorf("errors = %+v", p.Errors)
	}
	locks.err = fmt.Errorf("list locks: %w", pelton.ErrUnavailable)
	wantProblem(t, call(t, h, http.MethodGet, "/locks", ""), 503, kindUnavailable)
}

func TestReleaseLock(t *testing.T) {
	t.Parallel()
	locks := &fakeLocks{locks: []pelton.Lock{*exampleLock()}}
	h := serveLocks(t, locks)
	w := call(t, h, http.MethodDelete, "/locks/invoice%2F42", "")
	var got pelton.Lock
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != 200 {
		t.Fatalf("released: %d %s", w.Code, w.Body)
	}
	if diff := cmp.Diff(*exampleLock(), got); diff != "" || len(locks.tokens) != 0 {
		t.Errorf("tokens %d, released (-want +got):\n%s", locks.tokens, diff)
	}
	call(t, h, http.MethodDelete, "/locks/a%20%3F%23%25?token=4711&token=18446744073709551615", "")
	if diff := cmp.Diff([]uint64{4711, 1<<64 - 1}, locks.tokens); diff != "" || locks.name != "a ?#%" {
		t.Errorf("asked for %q, tokens (-want +got):\n%s", locks.name, diff)
	}
	wantProblem(t, call(t, h, http.MethodDelete, "/locks/other", ""), 404, kindNotFound)
	wantProblem(t, call(t, h, http.MethodDelete, "/locks/", ""), 404, kindNotFound)
	if p := wantProblem(t, call(t, h, http.MethodDelete, "/locks/a%0Ab", ""), 422, kindInvalid); p.Errors[0].Location != "path.name" {
		t.Errorf("errors = %+v", p.Errors)
	}
	for _, query := range []string{"token=x", "token=-1", "token=", "force=1"} {
		wantProblem(t, call(t, h, http.MethodDelete, "/locks/invoice%2F42?"+query, ""), 422, kindInvalid)
	}
	for request, allow := range map[string]string{"GET /locks/x": "DELETE", "POST /locks": "GET, HEAD", "DELETE /locks": "GET, HEAD"} {
		method, path, _ := strings.Cut(request, " ")
		w := call(t, h, method, path, "")
		wantProblem(t, w, 405, kindNotAllowed)
		if got := w.Header().Get("Allow"); got != allow {
			t.Errorf("%s: Allow = %q", request, got)
		}
	}
	locks.err = fmt.Errorf("break: %w", pelton.ErrUnknownOutcome)
	wantProblem(t, call(t, h, http.MethodDelete, "/locks/x", ""), 503, kindUnknownOutcome)
}

package api

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/peltonq/pelton"
)

func TestUniqueArrives(t *testing.T) {
	t.Parallel()
	tasks := newFakeTasks()
	w := call(t, serve(t, tasks, nil), http.MethodPost, "/tasks", `{"kind":"a","unique":{"key":"user-42","until":"started","window":"90m","on_conflict":"replace"}}`)
	want := &pelton.Unique{Key: "user-42", Until: pelton.UntilStarted, Window: 90 * time.Minute, OnConflict: pelton.ConflictReplace}
	if got := tasks.accepted(); len(got) != 1 || !cmp.Equal(got[0].Unique, want) {
		t.Errorf("accepted %+v", got)
	}
	if w.Code != http.StatusAccepted || !strings.Contains(w.Body.String(), `"unique":{"key":"user-42","until":"started","window":"1h30m","on_conflict":"replace"}`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	w = call(t, serve(t, tasks, nil), http.MethodPost, "/tasks", `{"kind":"a","unique":{"key":"k"}}`)
	if !strings.Contains(w.Body.String(), `"unique":{"key":"k","until":"finished","on_conflict":"reject"}`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// A conflict names the task that holds the key, alone and in a batch.
func TestConflictNamesTheHolder(t *testing.T) {
	t.Parallel()
	holder := pelton.NewID(time.Now(), 0)
	tasks := newFakeTasks()
	tasks.err = fmt.Errorf("enqueue a: %w", &pelton.UniqueError{Kind: "a", Key: "k", Holder: holder, State: pelton.Running})
	h := serve(t, tasks, nil)
	w := call(t, h, http.MethodPost, "/tasks", `{"kind":"a","unique":{"key":"k"}}`)
	p := wantProblem(t, w, http.StatusConflict, kindConflict)
	if p.TaskID != holder.String() || !strings.Contains(p.Detail, holder.String()) || !strings.Contains(p.Detail, "running") || w.Header().Get("Retry-After") != "" {
		t.Errorf("problem = %+v", p)
	}
	w = call(t, h, http.MethodPost, "/tasks/batch", `{"tasks":[{"kind":"a","unique":{"key":"k"}}]}`)
	if want := `"task_id":"` + holder.String() + `"`; w.Code != http.StatusOK || !strings.Contains(w.Body.String(), want) {
		t.Errorf("%d %s, want %s", w.Code, w.Body, want)
	}
	w = call(t, h, http.MethodPost, "/tasks/"+holder.String()+"/retry", "")
	if p := wantProblem(t, w, http.StatusConflict, kindConflict); p.TaskID != holder.String() {
		t.Errorf("retry: %+v", p)
	}
}

func TestExistingAndReplayedAnswers(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		outcome  pelton.Enqueued
		status   int
		replayed string
		item     string
	}{
		{pelton.Enqueued{}, 202, "", `{"items":[{"status":202,"task":{"id":`},
		{pelton.Enqueued{Existing: true}, 200, "", `{"items":[{"status":200,"task":{"id":`},
		{pelton.Enqueued{Replayed: true}, 202, "true", `{"items":[{"status":202,"idempotent_replayed":true,"task":{"id":`},
	} {
		tasks := newFakeTasks()
		tasks.outcome = tc.outcome
		h := serve(t, tasks, nil)
		w := call(t, h, http.MethodPost, "/tasks", `{"kind":"a"}`, "Idempotency-Key", "k")
		if w.Code != tc.status || w.Header().Get("Idempotent-Replayed") != tc.replayed || !strings.HasPrefix(w.Header().Get("Location"), "/tasks/") {
			t.Errorf("%+v: status %d, headers %v", tc.outcome, w.Code, w.Header())
		}
		w = call(t, h, http.MethodPost, "/tasks/batch", `{"tasks":[{"kind":"a","idempotency_key":"k"}]}`)
		if !strings.HasPrefix(w.Body.String(), tc.item) {
			t.Errorf("%+v: %s", tc.outcome, w.Body)
		}
	}
}

// A key arrives with the scope of the caller's token, from the header and from each
// task of a batch.
func TestIdempotencyKeyArrives(t *testing.T) {
	t.Parallel()
	scopes := make(map[string]string)
	for _, token := range []string{"", "secret", "other"} {
		tasks := newFakeTasks()
		h := serve(t, tasks, func(c *Config) { c.Token = token })
		call(t, h, http.MethodPost, "/tasks", `{"kind":"a"}`, "Idempotency-Key", "key 1", "Authorization", "Bearer "+token)
		call(t, h, http.MethodPost, "/tasks/batch", `{"tasks":[{"kind":"a","idempotency_key":"key 2"},{"kind":"b"}]}`, "Authorization", "Bearer "+token)
		got := tasks.accepted()
		if len(got) != 3 || got[0].IdempotencyKey != "key 1" || got[1].IdempotencyKey != "key 2" || got[2].IdempotencyKey != "" {
			t.Fatalf("accepted %+v", got)
		}
		scope := got[0].IdempotencyScope
		if scope == "" || scope != got[1].IdempotencyScope || token != "" && strings.Contains(scope, token) {
			t.Errorf("scopes of token %q: %q and %q", token, scope, got[1].IdempotencyScope)
		}
		if other, taken := scopes[scope]; taken {
			t.Errorf("tokens %q and %q share the scope %q", token, other, scope)
		}
		scopes[scope] = token
	}
}

func TestBadIdempotencyKeys(t *testing.T) {
	t.Parallel()
	tasks := newFakeTasks()
	h := serve(t, tasks, nil)
	for _, headers := range [][]string{
		{"Idempotency-Key", ""},
		{"Idempotency-Key", strings.Repeat("x", 257)},
		{"Idempotency-Key", "a\x01"},
		{"Idempotency-Key", "\xff"},
		{"Idempotency-Key", "a", "Idempotency-Key", "a"},
	} {
		p := wantProblem(t, call(t, h, http.MethodPost, "/tasks", `{"kind":"a"}`, headers...), 422, kindInvalid)
		if p.Errors[0].Location != "header.Idempotency-Key" {
			t.Errorf("%q: errors = %+v", headers, p.Errors)
		}
	}
	p := wantProblem(t, call(t, h, http.MethodPost, "/tasks/batch", `{"tasks":[{"kind":"a"}]}`, "Idempotency-Key", "k"), 422, kindInvalid)
	if p.Errors[0].Location != "header.Idempotency-Key" {
		t.Errorf("batch: errors = %+v", p.Errors)
	}
	if got := tasks.accepted(); len(got) > 0 {
		t.Errorf("enqueued %+v", got)
	}
}

// A key that stands for another request is named where it stood; one whose first
// request is under way says when to come back.
func TestIdempotencyKeyOfAnother(t *testing.T) {
	t.Parallel()
	tasks := newFakeTasks()
	h := serve(t, tasks, nil)
	tasks.err = fmt.Errorf("enqueue a: %w", &pelton.ValidationError{Fields: []pelton.FieldError{{Field: "idempotency_key", Message: "was used"}}})
	p := wantProblem(t, call(t, h, http.MethodPost, "/tasks", `{"kind":"a"}`, "Idempotency-Key", "k"), 422, kindInvalid)
	if p.Errors[0].Location != "header.Idempotency-Key" {
		t.Errorf("errors = %+v", p.Errors)
	}
	w := call(t, h, http.MethodPost, "/tasks/batch", `{"tasks":[{"kind":"a","idempotency_key":"k"}]}`)
	if !strings.Contains(w.Body.String(), `"location":"body.tasks[0].idempotency_key"`) {
		t.Errorf("batch: %s", w.Body)
	}
	tasks.err = fmt.Errorf("enqueue a: %w: %w", pelton.ErrConflict, pelton.ErrInFlight)
	w = call(t, h, http.MethodPost, "/tasks", `{"kind":"a"}`, "Idempotency-Key", "k")
	wantProblem(t, w, http.StatusConflict, kindInFlight)
	if w.Header().Get("Retry-After") != "1" {
		t.Errorf("headers %v", w.Header())
	}
}

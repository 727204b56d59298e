package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/peltonq/pelton"
)

func TestTaskFromPostToEnd(t *testing.T) {
	t.Parallel()
	tasks := newFakeTasks()
	h := serve(t, tasks, nil)
	w := call(t, h, http.MethodPost, "/tasks", `{"kind":"a"}`)
	id := decodeTask(t, w).ID
	path := "/tasks/" + id.String()

	w = call(t, h, http.MethodGet, path, "")
	etag := w.Header().Get("ETag")
	if w.Code != http.StatusOK || etag != `W/"1-queued"` || w.Header().Get("Cache-Control") != "private, no-cache" {
		t.Errorf("status = %d, headers %v", w.Code, w.Header())
	}
	for header, status := range map[string]int{
		etag: 304, `"1-queued"`: 304, `W/"0", ` + etag: 304, `*`: 304, `W/"1-running"`: 200, `W/"2-queued"`: 200, `nonsense`: 200,
	} {
		w := call(t, h, http.MethodGet, path, "", "If-None-Match", header)
		if w.Code != status || w.Header().Get("ETag") != etag || (w.Body.Len() == 0) != (status == 304) {
			t.Errorf("If-None-Match %s: status = %d, ETag %s, %d bytes", header, w.Code, w.Header().Get("ETag"), w.Body.Len())
		}
	}
	if w := call(t, h, http.MethodGet, path, "", "If-None-Match", `W/"0"`, "If-None-Match", etag); w.Code != 304 {
		t.Errorf("second line of If-None-Match: status = %d", w.Code)
	}

	tasks.end(id, ` {"n": 1}`)
	w = call(t, h, http.MethodGet, path, "", "If-None-Match", etag)
	if w.Code != 200 || w.Header().Get("ETag") != `W/"2-succeeded"` || !strings.Contains(w.Body.String(), `"result": {"n": 1}`) {
		t.Errorf("status = %d, ETag %s: %s", w.Code, w.Header().Get("ETag"), w.Body)
	}
	wantProblem(t, call(t, h, http.MethodPost, path+"/cancel", ""), 409, kindConflict)
	if w := call(t, h, http.MethodHead, path, ""); w.Code != 200 || w.Header().Get("ETag") == "" {
		t.Errorf("HEAD: status = %d", w.Code)
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	h := serve(t, newFakeTasks(), nil)
	path := call(t, h, http.MethodPost, "/tasks", `{"kind":"a"}`).Header().Get("Location") + "/cancel"
	for range 2 {
		w := call(t, h, http.MethodPost, path, "")
		if got := decodeTask(t, w); w.Code != 200 || got.State != pelton.Cancelled || got.Revision != 2 {
			t.Errorf("status = %d, task %+v", w.Code, got)
		}
	}
}

func TestIDs(t *testing.T) {
	t.Parallel()
	h := serve(t, newFakeTasks(), nil)
	for id, want := range map[string]kind{
		pelton.NewID(time.Now(), 0).String():   kindNotFound,
		"x":                                    kindInvalid,
		"00000000-0000-4000-8000-000000000000": kindInvalid,
		"..%2fhealthz":                         kindInvalid,
	} {
		status, _ := want.describe()
		p := wantProblem(t, call(t, h, http.MethodGet, "/tasks/"+id, ""), status, want)
		wantProblem(t, call(t, h, http.MethodPost, "/tasks/"+id+"/cancel", ""), status, want)
		if want == kindInvalid && p.Errors[0].Location != "path.id" {
			t.Errorf("%s: errors = %+v", id, p.Errors)
		}
	}
}

func TestWaitHoldsUntilTheEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tasks := newFakeTasks()
		h := serve(t, tasks, nil)
		done := make(chan *httptest.ResponseRecorder)
		go func() {
			done <- call(t, h, http.MethodPost, "/tasks", `{"kind":"a"}`, "Prefer", "respond-async", "Prefer", "Wait=20; x=y")
		}()
		synctest.Wait()
		var id pelton.ID
		for id = range tasks.tasks { //nolint:revive // the only one
		}
		tasks.end(id, `1`)
		w := <-done
		if got := decodeTask(t, w); w.Code != 200 || got.State != pelton.Succeeded {
			t.Errorf("status = %d, task %+v", w.Code, got)
		}
		if w.Header().Get("Preference-Applied") != "wait=20" || w.Header().Get("Location") != "/tasks/"+id.String() {
			t.Errorf("headers %v", w.Header())
		}
	})
}

func TestWaitIsClampedAndNoError(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		query, prefer string
		held          time.Duration
		applied       string
	}{
		{"", "", 0, ""},
		{"?wait=20s", "", 20 * time.Second, ""},
		{"?wait=20", "", 20 * time.Second, ""},
		{"?wait=0s", "", 0, ""},
		{"?wait=0", "wait=9", 0, ""},
		{"?wait=7d", "", maxWait, ""},
		{"?wait=99999999999999", "", maxWait, ""},
		{"", "wait=20", 20 * time.Second, "wait=20"},
		{"", `foo, WAIT = "5"`, 5 * time.Second, "wait=5"},
		{"", "wait=18446744073709551615", maxWait, "wait=60"},
		{"", "wait=99999999999999999999", 0, ""},
		{"", "wait=-1", 0, ""},
		{"", "wait", 0, ""},
		{"", "wait=5.5", 0, ""},
		{"?wait=3s", "wait=20", 3 * time.Second, ""},
	} {
		t.Run(tc.query+tc.prefer, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := serve(t, newFakeTasks(), nil)
				began := time.Now()
				w := call(t, h, http.MethodPost, "/tasks"+tc.query, `{"kind":"a"}`, "Prefer", tc.prefer)
				if got := time.Since(began); w.Code != 202 || got != tc.held || w.Header().Get("Preference-Applied") != "" {
					t.Errorf("POST: status = %d after %s, headers %v", w.Code, got, w.Header())
				}
				began = time.Now()
				w = call(t, h, http.MethodGet, w.Header().Get("Location")+tc.query, "", "Prefer", tc.prefer)
				if got := time.Since(began); w.Code != 200 || got != tc.held || w.Header().Get("Preference-Applied") != tc.applied {
					t.Errorf("GET: status = %d after %s, headers %v", w.Code, got, w.Header())
				}
			})
		})
	}
}

func TestBadWaitEnqueuesNothing(t *testing.T) {
	t.Parallel()
	tasks := newFakeTasks()
	h := serve(t, tasks, nil)
	for _, wait := range []string{"soon", "-1s", "-1", "1e3", "1.5"} {
		p := wantProblem(t, call(t, h, http.MethodPost, "/tasks?wait="+wait, `{"kind":"a"}`), 422, kindInvalid)
		if p.Errors[0].Location != "query.wait" {
			t.Errorf("%s: errors = %+v", wait, p.Errors)
		}
		wantProblem(t, call(t, h, http.MethodGet, "/tasks/"+pelton.NewID(time.Now(), 0).String()+"?wait="+wait, ""), 422, kindInvalid)
	}
	for query, location := range map[string]string{"?wiat=1s": "query.wiat", "?wait=1s&x": "query.x", "?a=%zz": "query", "?a;b": "query"} {
		p := wantProblem(t, call(t, h, http.MethodPost, "/tasks"+query, `{"kind":"a"}`), 422, kindInvalid)
		if p.Errors[0].Location != location {
			t.Errorf("%s: errors = %+v", query, p.Errors)
		}
	}
	if got := tasks.accepted(); len(got) > 0 {
		t.Errorf("enqueued %+v", got)
	}
}

// brokenWait loses the broker after a task was accepted.
type brokenWait struct{ *fakeTasks }

func (brokenWait) Wait(context.Context, pelton.ID) (*pelton.Task, error) {
	return nil, pelton.ErrUnavailable
}

func TestTroubleWhileWaitingIsNoError(t *testing.T) {
	t.Parallel()
	h := serve(t, nil, func(c *Config) { c.Tasks = brokenWait{newFakeTasks()} })
	w := call(t, h, http.MethodPost, "/tasks?wait=20s", `{"kind":"a"}`)
	if got := decodeTask(t, w); w.Code != 202 || got.State != pelton.Queued {
		t.Errorf("status = %d, task %+v", w.Code, got)
	}
	w = call(t, h, http.MethodGet, w.Header().Get("Location")+"?wait=20s", "")
	if got := decodeTask(t, w); w.Code != 200 || got.State != pelton.Queued {
		t.Errorf("status = %d, task %+v", w.Code, got)
	}
}

func TestEveryErrorHasItsProblem(t *testing.T) {
	t.Parallel()
	secret := errors.New("password is hunter2")
	for _, tc := range []struct {
		err    error
		read   kind // of GET
		write  kind // of POST, when it differs
		status int
		retry  string
	}{
		{err: pelton.ErrUnavailable, read: kindUnavailable, retry: "1"},
		{err: fmt.Errorf("%w: %w", pelton.ErrUnavailable, context.DeadlineExceeded), read: kindUnavailable, retry: "1"},
		{err: fmt.Errorf("%w: %w", pelton.ErrUnavailable, pelton.ErrUnknownOutcome), read: kindUnknownOutcome, retry: "1"},
		{err: pelton.ErrUnknownOutcome, read: kindUnknownOutcome, retry: "1"},
		{err: context.DeadlineExceeded, read: kindUnavailable, write: kindUnknownOutcome, retry: "1"},
		{err: context.Canceled, read: kindUnavailable, write: kindUnknownOutcome, retry: "1"},
		{err: pelton.ErrClosed, read: kindUnavailable, retry: "1"},
		{err: pelton.ErrNotFound, read: kindNotFound},
		{err: pelton.ErrConflict, read: kindConflict},
		{err: pelton.ErrInvalid, read: kindInvalid},
		{err: pelton.ErrNotSupported, read: kindNotSupported},
		{err: secret, read: kindInternal},
	} {
		t.Run(tc.err.Error(), func(t *testing.T) {
			t.Parallel()
			tasks := newFakeTasks()
			tasks.err = fmt.Errorf("do it: %w", tc.err)
			log, logged := captureLog()
			h := serve(t, tasks, func(c *Config) { c.Logger = log; c.Queues = &fakeQueues{err: tasks.err} })
			write := tc.read
			if tc.write != "" {
				write = tc.write
			}
			id := pelton.NewID(time.Now(), 0).String()
			for call1, k := range map[[2]string]kind{
				{http.MethodPost, "/tasks"}:                   write,
				{http.MethodPost, "/tasks/" + id + "/cancel"}: write,
				{http.MethodGet, "/tasks/" + id}:              tc.read,
				{http.MethodGet, "/queues"}:                   tc.read,
				{http.MethodGet, "/queues/default"}:           tc.read,
			} {
				logged.Reset()
				status, _ := k.describe()
				w := call(t, h, call1[0], call1[1], map[string]string{"/tasks": `{"kind":"a"}`}[call1[1]])
				p := wantProblem(t, w, status, k)
				if got := w.Header().Get("Retry-After"); got != tc.retry {
					t.Errorf("%v: Retry-After = %q", call1, got)
				}
				if strings.Contains(w.Body.String(), "hunter2") || k == kindInternal && len(p.Errors) > 0 {
					t.Errorf("%v: the answer tells too much: %s", call1, w.Body)
				}
				if got := strings.Count(logged.String(), "hunter2"); (got == 1) != (k == kindInternal) {
					t.Errorf("%v: logged %q", call1, logged)
				}
			}
		})
	}
}

// deadlines notes the time that each call was given.
type deadlines struct {
	*fakeTasks
	left map[string]time.Duration
}

func (d deadlines) note(ctx context.Context, call string) {
	at, ok := ctx.Deadline()
	if ok {
		d.left[call] = time.Until(at)
	}
}

func (d deadlines) Submit(ctx context.Context, spec pelton.Spec, opts ...pelton.Option) (pelton.Enqueued, error) {
	d.note(ctx, "enqueue")
	return d.fakeTasks.Submit(ctx, spec, opts...)
}

func (d deadlines) EnqueueMany(ctx context.Context, specs []pelton.Spec) ([]pelton.Enqueued, error) {
	d.note(ctx, "many")
	return d.fakeTasks.EnqueueMany(ctx, specs)
}

func (d deadlines) Get(ctx context.Context, id pelton.ID) (*pelton.Task, error) {
	d.note(ctx, "get")
	return d.fakeTasks.Get(ctx, id)
}

func (d deadlines) Cancel(ctx context.Context, id pelton.ID) (*pelton.Task, error) {
	d.note(ctx, "cancel")
	return d.fakeTasks.Cancel(ctx, id)
}

func TestEveryCallHasADeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tasks := deadlines{newFakeTasks(), make(map[string]time.Duration)}
		h := serve(t, nil, func(c *Config) { c.Tasks = tasks })
		path := call(t, h, http.MethodPost, "/tasks", `{"kind":"a"}`).Header().Get("Location")
		call(t, h, http.MethodPost, "/tasks/batch", `{"tasks":[{"kind":"a"}]}`)
		call(t, h, http.MethodGet, path, "")
		call(t, h, http.MethodPost, path+"/cancel", "")
		want := map[string]time.Duration{"enqueue": callTimeout, "many": batchTimeout, "get": callTimeout, "cancel": callTimeout}
		if diff := cmp.Diff(want, tasks.left); diff != "" {
			t.Errorf("deadlines (-want +got):\n%s", diff)
		}
	})
}

package api

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/peltonq/pelton"
)

// fakeAudit keeps entries in memory.
type fakeAudit struct {
	mu      sync.Mutex
	entries []pelton.AuditEntry
	asked   pelton.AuditQuery
	next    string
	err     error
}

func (f *fakeAudit) Record(e pelton.AuditEntry) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.entries = append(f.entries, e)
}

func (f *fakeAudit) Audit(_ context.Context, q pelton.AuditQuery) (*pelton.AuditPage, error) {
	f.asked = q
	if err := q.Check(); err != nil {
		return nil, err
	}
	return &pelton.AuditPage{Items: f.entries, NextCursor: f.next}, f.err
}

func (f *fakeAudit) take() []pelton.AuditEntry {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := f.entries
	f.entries = nil
	return all
}

func TestChangesAreAudited(t *testing.T) {
	t.Parallel()
	log := &fakeAudit{}
	tasks := newFakeTasks()
	task := exampleTask(false)
	tasks.put(task)
	keys := newFakeKeyring(scoped("ops", pelton.ScopeOperate), scoped("root", pelton.ScopeAdmin))
	with := func(enqueues bool) http.Handler {
		return serve(t, tasks, func(c *Config) {
			c.Keyring, c.Token, c.Audit = keys, "boot", log
			c.Queues = &fakeQueues{queues: []pelton.Queue{{Name: "default"}}}
			c.Auditing = &Auditing{Record: log.Record, Enqueues: enqueues, Server: "host-1"}
		})
	}
	h := with(false)
	const secret = "hunter2"
	began := time.Now().Add(-time.Second)
	for _, tc := range []struct {
		method, path, body, who string
		want                    pelton.AuditEntry // without what is the same in all
	}{
		{"POST", "/queues/default/pause?priority=low", "", "ops", pelton.AuditEntry{Operation: "pauseQueue", Path: "/queues/default/pause", Status: 200}},
		{"PATCH", "/queues/default", `{"lease":"` + secret + `"}`, "ops", pelton.AuditEntry{Operation: "setQueue", Path: "/queues/default", Status: 403}},
		{"PATCH", "/queues/default", `{"lease":"` + secret + `"}`, "root", pelton.AuditEntry{Operation: "setQueue", Path: "/queues/default", Status: 422}},
		{"DELETE", "/locks/a%2Fb", "", "ops", pelton.AuditEntry{Operation: "releaseLock", Path: "/locks/a%2Fb", Status: 404}},
		{"POST", "/tasks/" + task.ID.String() + "/cancel", "", "boot", pelton.AuditEntry{Operation: "cancelTask", Path: "/tasks/" + task.ID.String() + "/cancel", Status: 200}},
		{"POST", "/tokens", `{"name":"` + secret + `","scopes":["read"]}`, "root", pelton.AuditEntry{Operation: "createToken", Path: "/tokens", Status: 201, Location: "/tokens/new-2"}},
	} {
		text := tc.who
		tc.want.Actor = bootstrapID
		if tc.who != "boot" {
			text, tc.want.Actor, tc.want.ActorName = shown(tc.who), tc.who, "the-"+tc.who
		}
		call(t, h, tc.method, tc.path, tc.body, "Authorization", "Bearer "+text)
		got := log.take()
		tc.want.Method, tc.want.Server, tc.want.From = tc.method, "host-1", "192.0.2.1"
		if diff := cmp.Diff([]pelton.AuditEntry{tc.want}, got, cmpopts.IgnoreFields(pelton.AuditEntry{}, "At")); diff != "" {
			t.Errorf("%s %s as %s (-want +got):\n%s", tc.method, tc.path, tc.who, diff)
			continue
		}
		if got[0].At.Before(began) || got[0].At.After(time.Now()) {
			t.Errorf("at %s", got[0].At)
		}
		if line := got[0].Path + got[0].Location + got[0].ActorName; strings.Contains(line, secret) || strings.Contains(line, "priority") {
			t.Errorf("it tells too much: %+v", got[0])
		}
	}

	// What changes nothing, what strangers try, and enqueues.
	boot := []string{"Authorization", "Bearer boot"}
	call(t, h, http.MethodGet, "/queues", "", boot...)
	call(t, h, http.MethodPost, "/queues/default/pause", "")
	call(t, h, http.MethodPost, "/queues/default/pause", "", "Authorization", "Bearer x")
	call(t, h, http.MethodPost, "/nowhere", "", boot...)
	call(t, h, http.MethodPost, "/tasks", `{"kind":"a"}`, boot...)
	call(t, h, http.MethodPost, "/tasks/batch", `{"tasks":[{"kind":"a"}]}`, boot...)
	if got := log.take(); len(got) > 0 {
		t.Errorf("recorded %+v", got)
	}
	h = with(true)
	w := call(t, h, http.MethodPost, "/tasks", `{"kind":"a"}`, boot...)
	call(t, h, http.MethodPost, "/tasks/batch", `{"tasks":[{"kind":"a"},{"kind":"b"}]}`, boot...)
	if got := log.take(); len(got) != 2 || got[0].Location != w.Header().Get("Location") || got[0].Status != 202 || got[1].Operation != opEnqueueBatch || got[1].Status != 200 {
		t.Errorf("recorded %+v", got)
	}
}

// A call that panics is recorded as one that failed.
func TestPanicIsAudited(t *testing.T) {
	t.Parallel()
	log := &fakeAudit{}
	h := serve(t, nil, func(c *Config) {
		c.Tasks, c.Auditing = panicking{newFakeTasks(), "boom"}, &Auditing{Record: log.Record}
	})
	call(t, h, http.MethodPost, "/tasks/"+exampleTask(false).ID.String()+"/cancel", "")
	if got := log.take(); len(got) != 1 || got[0].Status != 500 || got[0].Actor != "anonymous" {
		t.Errorf("recorded %+v", got)
	}
}

func TestListAudit(t *testing.T) {
	t.Parallel()
	log := &fakeAudit{}
	h := serve(t, newFakeTasks(), func(c *Config) { c.Audit = log })
	if w := call(t, h, http.MethodGet, "/audit", ""); w.Code != 200 || w.Body.String() != "{\"items\":[]}\n" {
		t.Errorf("none: %d %s", w.Code, w.Body)
	}
	log.entries, log.next = exampleAuditPage().Items, "4711"
	w := call(t, h, http.MethodGet, "/audit?actor=bootstrap&operation=purgeQueue&outcome=refused&since=2026-12-01T08:00:00Z&until=2026-12-02T08:00:00%2B01:00&limit=7&cursor=9", "")
	wantFits(t, "GET /audit", "AuditPage", w.Body.Bytes())
	if !strings.Contains(w.Body.String(), `"next_cursor":"4711"`) {
		t.Errorf("%s", w.Body)
	}
	want := pelton.AuditQuery{Actor: "bootstrap", Operation: "purgeQueue", Outcome: pelton.OutcomeRefused, Limit: 7, Cursor: "9"}
	if diff := cmp.Diff(want, log.asked, cmpopts.IgnoreFields(pelton.AuditQuery{}, "Since", "Until")); diff != "" || !log.asked.Since.Equal(time.Date(2026, 12, 1, 8, 0, 0, 0, time.UTC)) ||
		!log.asked.Until.Equal(time.Date(2026, 12, 2, 7, 0, 0, 0, time.UTC)) {
		t.Errorf("%+v %s", log.asked, diff)
	}
	for query, at := range map[string]string{
		"actor=": "query.actor", "actor=a%20b": "query.actor", "outcome=good": "query.outcome", "since=yesterday": "query.since", "since=": "query.since",
		"limit=0": "query.limit", "limit=501": "query.limit", "limit=99999999999999999999": "query.limit", "page=2": "query.page",
	} {
		p := wantProblem(t, call(t, h, http.MethodGet, "/audit?"+query, ""), 422, kindInvalid)
		if len(p.Errors) != 1 || p.Errors[0].Location != at {
			t.Errorf("%s: %+v", query, p.Errors)
		}
	}
	wantProblem(t, call(t, serve(t, newFakeTasks(), nil), http.MethodGet, "/audit", ""), 422, kindNotSupported)
}

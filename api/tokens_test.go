package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/peltonq/pelton"
)

// fakeKeyring keeps tokens in memory. A token's secret is its id backwards.
type fakeKeyring struct {
	err error // of Identify, unless what is known will do

	mu     sync.Mutex
	tokens []pelton.Token
	ends   map[string]context.CancelFunc
	lives  map[string]context.Context
}

func newFakeKeyring(tokens ...pelton.Token) *fakeKeyring {
	f := &fakeKeyring{ends: make(map[string]context.CancelFunc), lives: make(map[string]context.Context)}
	for _, t := range tokens {
		f.add(t)
	}
	return f
}

func (f *fakeKeyring) add(t pelton.Token) {
	f.tokens = append(f.tokens, t)
	f.lives[t.ID], f.ends[t.ID] = context.WithCancel(context.Background())
}

func shown(id string) string {
	letters := []byte(id)
	slices.Reverse(letters)
	return id + "." + string(letters)
}

func bearer(id string) []string { return []string{"Authorization", "Bearer " + shown(id)} }

func (f *fakeKeyring) Identify(_ context.Context, text string, remembered bool) (*pelton.Token, context.Context, error) {
	if f.err != nil && !remembered {
		return nil, nil, f.err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, t := range f.tokens {
		if text == shown(t.ID) {
			return &t, f.lives[t.ID], nil
		}
	}
	return nil, nil, pelton.ErrNotFound
}

func (f *fakeKeyring) Any() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.tokens) > 0
}

func (f *fakeKeyring) Tokens(context.Context) ([]pelton.Token, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.tokens), nil
}

func (f *fakeKeyring) CreateToken(_ context.Context, t pelton.Token) (*pelton.Token, string, error) {
	t, err := t.Normalized(time.Now())
	if err != nil {
		return nil, "", err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	t.ID, t.CreatedAt = fmt.Sprintf("new-%d", len(f.tokens)), exampleTime()
	f.add(t)
	return &t, shown(t.ID), nil
}

func (f *fakeKeyring) RevokeToken(_ context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := slices.IndexFunc(f.tokens, func(t pelton.Token) bool { return t.ID == id })
	if i < 0 {
		return pelton.ErrNotFound
	}
	f.tokens = slices.Delete(f.tokens, i, i+1)
	f.ends[id]()
	return nil
}

func scoped(id string, scopes ...pelton.Scope) pelton.Token {
	return pelton.Token{ID: id, Name: "the-" + id, Scopes: scopes}
}

// everyCall is each operation with something that it would answer below 300, or with a
// 404, if it is let in.
func everyCall(id string) map[string]string {
	return map[string]string{
		"POST /tasks": `{"kind":"a","queue":"%s"}`, "POST /tasks/batch": `{"tasks":[{"kind":"a","queue":"%s"}]}`,
		"GET /tasks/" + id: "", "GET /tasks/" + id + "/why": "",
		"POST /tasks/" + id + "/cancel": "", "POST /tasks/" + id + "/retry": "", "POST /tasks/" + id + "/run": "",
		"GET /tasks?state=scheduled&queue=%s": "",
		"POST /tasks/cancel":                  `{"queue":"%s"}`, "POST /tasks/retry": `{"queue":"%s"}`,
		"GET /queues": "", "GET /queues/%s": "", "PATCH /queues/%s": `{}`, "POST /queues/%s/pause": "", "POST /queues/%s/resume": "", "POST /queues/%s/purge": "",
		"GET /dead?queue=%s": "", "GET /dead/" + id: "", "DELETE /dead/" + id: "", "POST /dead/" + id + "/retry": "",
		"POST /dead/retry": `{"queue":"%s"}`, "POST /dead/purge": `{"queue":"%s"}`,
		"GET /schedules": "", "GET /schedules/s": "", "PUT /schedules/s": `{"every":"1h","task":{"kind":"a","queue":"%s"}}`, "DELETE /schedules/s": "",
		"POST /schedules/s/pause": "", "POST /schedules/s/resume": "", "POST /schedules/s/run": "",
		"POST /schedules/s/backfill": `{"from":"2026-12-01T00:00:00Z","to":"2026-12-01T01:00:00Z"}`,
		"POST /schedules/apply":      `{"owner":"o","schedules":[]}`,
		"GET /limits":                "", "PUT /limits/l": `{"kind":"a","max_running":1}`, "DELETE /limits/l": "",
		"GET /locks": "", "DELETE /locks/l": "", "GET /workers": "", "GET /metrics": "", "GET /openapi.json": "", "GET /openapi-3.0.json": "", "GET /docs": "",
		"GET /tokens": "", "POST /tokens": `{"name":"n","scopes":["read"]}`, "DELETE /tokens/x": "", "GET /audit": "",
	}
}

func TestScopes(t *testing.T) {
	t.Parallel()
	who := map[pelton.Scope]string{"": "none"} // a scope that nothing asks for
	keys := newFakeKeyring(scoped("none", "x"))
	for _, s := range pelton.Scopes() {
		keys.add(scoped(string(s), s))
		who[s] = string(s)
	}
	keys.add(scoped("both", pelton.ScopeOperate, pelton.ScopeEnqueue))
	tasks := newFakeTasks()
	task := exampleTask(false)
	tasks.put(task)
	h := serve(t, tasks, func(c *Config) {
		c.Keyring, c.Token = keys, "boot"
		c.Metrics = http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	})
	lets := make(map[string][]string) // call: who is let in
	for target, body := range everyCall(task.ID.String()) {
		method, path, _ := strings.Cut(strings.ReplaceAll(target, "%s", "default"), " ")
		body = strings.ReplaceAll(body, "%s", "default")
		name := strings.ReplaceAll(method+" "+path, task.ID.String(), "{id}")
		if w := call(t, h, method, path, body); w.Code != 401 {
			t.Errorf("%s without a token: %d", name, w.Code)
		}
		for _, id := range []string{"none", "enqueue", "read", "operate", "admin", "both"} {
			w := call(t, h, method, path, body, bearer(id)...)
			if w.Code != http.StatusForbidden {
				lets[name] = append(lets[name], id)
				continue
			}
			p := wantProblem(t, w, 403, kindForbidden)
			if !strings.Contains(p.Detail, "the-"+id) || !strings.Contains(w.Header().Get("WWW-Authenticate"), `error="insufficient_scope"`) {
				t.Errorf("%s as %s: %+v %v", name, id, p, w.Header())
			}
		}
		if w := call(t, h, method, path, body, "Authorization", "Bearer boot"); w.Code == 401 || w.Code == 403 {
			t.Errorf("%s with --token: %d", name, w.Code)
		}
	}
	enqueue, read, operate, admin := []string{"enqueue", "admin", "both"}, []string{"read", "admin"}, []string{"operate", "admin", "both"}, []string{"admin"}
	both, any := []string{"admin", "both"}, []string{"none", "enqueue", "read", "operate", "admin", "both"}
	want := map[string][]string{
		"POST /tasks": enqueue, "POST /tasks/batch": enqueue,
		"GET /tasks/{id}": read, "GET /tasks/{id}/why": read, "GET /tasks?state=scheduled&queue=default": read,
		"POST /tasks/{id}/cancel": operate, "POST /tasks/{id}/retry": operate, "POST /tasks/{id}/run": operate,
		"GET /queues": read, "GET /queues/default": read, "PATCH /queues/default": admin,
		"POST /queues/default/pause": operate, "POST /queues/default/resume": operate, "POST /queues/default/purge": operate,
		"GET /dead?queue=default": read, "GET /dead/{id}": read, "DELETE /dead/{id}": operate, "POST /dead/{id}/retry": operate,
		"POST /dead/retry": operate, "POST /dead/purge": operate,
		"GET /schedules": read, "GET /schedules/s": read, "PUT /schedules/s": both, "DELETE /schedules/s": operate,
		"POST /schedules/s/pause": operate, "POST /schedules/s/resume": operate, "POST /schedules/s/run": operate, "POST /schedules/s/backfill": operate,
		"POST /schedules/apply": both,
		"GET /limits":           read, "PUT /limits/l": admin, "DELETE /limits/l": admin,
		"GET /locks": read, "DELETE /locks/l": operate, "GET /workers": read, "GET /metrics": read,
		"GET /openapi.json": any, "GET /openapi-3.0.json": any, "GET /docs": any,
		"POST /tasks/cancel": operate, "POST /tasks/retry": operate,
		"GET /tokens": admin, "POST /tokens": admin, "DELETE /tokens/x": admin, "GET /audit": admin,
	}
	if diff := cmp.Diff(want, lets); diff != "" {
		t.Errorf("who is let in (-want +got):\n%s", diff)
	}
}

// Every call that is served has a row of its own, here and in the table; a new one is for
// admins until it has.
func TestEveryOperationHasAScope(t *testing.T) {
	t.Parallel()
	doc, _ := document(t, serve(t, newFakeTasks(), nil))
	known := everyCall("{id}")
	for path, methods := range doc.Paths {
		for method := range methods {
			method = strings.ToUpper(method)
			pattern := strings.NewReplacer("{queue}", "%s", "/schedules/{name}", "/schedules/s", "{name}", "l", "/tokens/{id}", "/tokens/x").Replace(path)
			found := false
			for target := range known {
				target, _, _ = strings.Cut(target, "?")
				found = found || target == method+" "+pattern
			}
			if !found && path != pathEvents && path != pathHealth && path != pathReady {
				t.Errorf("%s %s: which scope it needs is not tested", method, path)
			}
		}
	}
	if got := accessTo(http.MethodPost, "/new"); !slices.Equal(got.scopes, []pelton.Scope{pelton.ScopeAdmin}) || got.queues {
		t.Errorf("a call that nobody thought of: %+v", got)
	}
}

func TestTokensAreMadeAndRevoked(t *testing.T) {
	t.Parallel()
	keys := newFakeKeyring()
	h := serve(t, newFakeTasks(), func(c *Config) { c.Keyring = keys })
	create := func(body string, headers ...string) (made struct {
		pelton.Token
		Shown string `json:"token"`
	},
	) {
		t.Helper()
		w := call(t, h, http.MethodPost, "/tokens", body, headers...)
		wantFits(t, "POST /tokens", "NewToken", w.Body.Bytes())
		if err := json.Unmarshal(w.Body.Bytes(), &made); err != nil || w.Code != 201 || w.Header().Get("Location") != "/tokens/"+made.ID || w.Header().Get("Cache-Control") != "no-store" {
			t.Fatalf("%d %v %s", w.Code, w.Header(), w.Body)
		}
		return made
	}

	// The API is open, and the first token must not lock everybody out.
	wantProblem(t, call(t, h, http.MethodPost, "/tokens", `{"name":"n","scopes":["read"]}`), 409, kindConflict)
	wantProblem(t, call(t, h, http.MethodPost, "/tokens", `{"name":"n","scopes":["admin"],"queues":["a"]}`), 409, kindConflict)
	root := create(`{"name":"root","scopes":["admin"]}`)
	if root.Shown != shown(root.ID) || root.CreatedBy != "" {
		t.Errorf("made %+v", root)
	}
	// From now on it is not.
	if w := call(t, h, http.MethodGet, "/queues", ""); w.Code != 401 || w.Header().Get("WWW-Authenticate") == "" {
		t.Errorf("without a token: %d", w.Code)
	}
	as := bearer(root.ID)
	reader := create(`{"name":"reader","scopes":["read"],"queues":["b","a"],"expires_in":"1h"}`, as...)
	if diff := cmp.Diff([]string{"a", "b"}, reader.Queues); diff != "" || reader.CreatedBy != root.ID || time.Until(reader.ExpiresAt) < 59*time.Minute {
		t.Errorf("made %+v %s", reader, diff)
	}
	w := call(t, h, http.MethodGet, "/tokens", "", as...)
	wantFits(t, "GET /tokens", "TokenList", w.Body.Bytes())
	if w.Code != 200 || strings.Contains(w.Body.String(), strings.TrimPrefix(root.Shown, root.ID)) || !strings.Contains(w.Body.String(), `"id":"`+root.ID) {
		t.Errorf("GET /tokens: %d %s", w.Code, w.Body)
	}

	for body, at := range map[string]string{
		`{"scopes":["read"]}`:                                                "body.name",
		`{"name":"n"}`:                                                       "body.scopes",
		`{"name":"n","scopes":["root"]}`:                                     "body.scopes[0]",
		`{"name":"n","scopes":"read"}`:                                       "body.scopes",
		`{"name":"n","scopes":["read"],"queues":[]}`:                         "body.queues",
		`{"name":"n","scopes":["read"],"queues":["A"]}`:                      "body.queues[0]",
		`{"name":"n","scopes":["read"],"queues":[""]}`:                       "body.queues[0]",
		`{"name":"n","scopes":["read"],"expires_in":"0s"}`:                   "body.expires_in",
		`{"name":"n","scopes":["read"],"expires_at":"2020-01-01T00:00:00Z"}`: "body.expires_at",
		`{"name":"n","scopes":["read"],"token":"mine"}`:                      "body.token",
	} {
		p := wantProblem(t, call(t, h, http.MethodPost, "/tokens", body, as...), 422, kindInvalid)
		if len(p.Errors) == 0 || p.Errors[0].Location != at {
			t.Errorf("%s: %+v", body, p.Errors)
		}
	}

	wantProblem(t, call(t, h, http.MethodDelete, "/tokens/"+root.ID, "", as...), 409, kindConflict)
	wantProblem(t, call(t, h, http.MethodDelete, "/tokens/nobody", "", as...), 404, kindNotFound)
	if w := call(t, h, http.MethodDelete, "/tokens/"+reader.ID, "", as...); w.Code != 204 || w.Body.Len() > 0 {
		t.Errorf("revoke: %d %s", w.Code, w.Body)
	}
	wantProblem(t, call(t, h, http.MethodGet, "/queues", "", bearer(reader.ID)...), 401, kindUnauthorized)
	other := create(`{"name":"other","scopes":["admin"]}`, as...)
	if w := call(t, h, http.MethodDelete, "/tokens/"+root.ID, "", bearer(other.ID)...); w.Code != 204 {
		t.Errorf("revoke the first: %d %s", w.Code, w.Body)
	}
}

// The last token may go where --token is another way in; an API that others can reach
// does not become open by it.
func TestClosedApi(t *testing.T) {
	t.Parallel()
	h := serve(t, newFakeTasks(), func(c *Config) { c.Keyring, c.Closed = newFakeKeyring(), true })
	wantProblem(t, call(t, h, http.MethodGet, "/queues", ""), 401, kindUnauthorized)
	wantProblem(t, call(t, h, http.MethodPost, "/tokens", `{"name":"n","scopes":["admin"]}`), 401, kindUnauthorized)

	keys := newFakeKeyring(scoped("root", pelton.ScopeAdmin))
	h = serve(t, newFakeTasks(), func(c *Config) { c.Keyring, c.Token = keys, "boot" })
	if w := call(t, h, http.MethodDelete, "/tokens/root", "", "Authorization", "Bearer boot"); w.Code != 204 {
		t.Errorf("revoke the last: %d %s", w.Code, w.Body)
	}
	wantProblem(t, call(t, h, http.MethodGet, "/queues", ""), 401, kindUnauthorized)
	w := call(t, h, http.MethodPost, "/tokens", `{"name":"n","scopes":["read"]}`, "Authorization", "Bearer boot")
	if w.Code != 201 || !strings.Contains(w.Body.String(), `"created_by":"bootstrap"`) {
		t.Errorf("create: %d %s", w.Code, w.Body)
	}
}

func TestServerWithoutKeyring(t *testing.T) {
	t.Parallel()
	h := serve(t, newFakeTasks(), nil)
	wantProblem(t, call(t, h, http.MethodGet, "/tokens", ""), 422, kindNotSupported)
	wantProblem(t, call(t, h, http.MethodPost, "/tokens", `{"name":"n","scopes":["admin"]}`), 422, kindNotSupported)
}

// Who cannot be checked is let in where the broker has no part in the answer.
func TestTokenThatCannotBeChecked(t *testing.T) {
	t.Parallel()
	keys := newFakeKeyring(scoped("reader", pelton.ScopeRead))
	keys.err = fmt.Errorf("check: %w", pelton.ErrUnavailable)
	h := serve(t, newFakeTasks(), func(c *Config) {
		c.Keyring = keys
		c.Metrics = http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	})
	w := call(t, h, http.MethodGet, "/queues", "", bearer("reader")...)
	if wantProblem(t, w, 503, kindUnavailable); w.Header().Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	for _, path := range []string{"/metrics", "/openapi.json"} {
		if w := call(t, h, http.MethodGet, path, "", bearer("reader")...); w.Code != 200 {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
}

// A revoked token ends what is held for it.
func TestRevokingEndsHeldAnswers(t *testing.T) {
	t.Parallel()
	tasks := newFakeTasks()
	tasks.changes = make(chan *pelton.Task)
	task := exampleTask(false)
	tasks.put(task)
	keys := newFakeKeyring(scoped("reader", pelton.ScopeRead))
	held := NewBudget(10)
	h := serve(t, tasks, func(c *Config) { c.Keyring, c.Held, c.Token = keys, held, "boot" })
	var waiting sync.WaitGroup
	began := time.Now()
	for _, path := range []string{"/tasks/" + task.ID.String() + "?wait=50s", "/tasks/" + task.ID.String() + "/events"} {
		waiting.Go(func() { call(t, h, http.MethodGet, path, "", bearer("reader")...) })
	}
	until(t, func() bool { return held.InUse() == 2 })
	if err := keys.RevokeToken(t.Context(), "reader"); err != nil {
		t.Fatal(err)
	}
	waiting.Wait()
	if took := time.Since(began); took > 40*time.Second {
		t.Errorf("they were held for %s", took)
	}
}

// Keys of idempotency and of rates go by the token's id, not by its text.
func TestCallersAreCountedByTokenID(t *testing.T) {
	t.Parallel()
	tasks := newFakeTasks()
	var counted []string
	limit := &RequestLimit{Rate: pelton.RateLimit{Limit: 1, Per: time.Second}, Take: func(_ context.Context, caller string) Quota {
		counted = append(counted, caller)
		return Quota{Allowed: true}
	}}
	h := serve(t, tasks, func(c *Config) {
		c.Keyring, c.Requests, c.Token = newFakeKeyring(scoped("one", pelton.ScopeEnqueue), scoped("two", pelton.ScopeEnqueue)), limit, "boot"
	})
	for _, text := range []string{shown("one"), shown("two"), "boot"} {
		call(t, h, http.MethodPost, "/tasks", `{"kind":"a"}`, "Idempotency-Key", "k", "Authorization", "Bearer "+text)
	}
	got := tasks.accepted()
	if len(got) != 3 || got[0].IdempotencyScope != "http:one" || got[1].IdempotencyScope != "http:two" || got[2].IdempotencyScope == "http:boot" {
		t.Errorf("accepted %+v", got)
	}
	if len(counted) != 3 || counted[0] != "token:one" || counted[1] != "token:two" {
		t.Errorf("counted %v", counted)
	}
}

package api

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/go-cmp/cmp"

	"github.com/peltonq/pelton"
)

// openAPI is what the tests look at in the document.
type openAPI struct {
	OpenAPI  string `json:"openapi"`
	Info     struct{ Title, Version string }
	Security []map[string][]string
	Paths    map[string]map[string]struct {
		OperationID string `json:"operationId"`
		Security    []map[string][]string
		RequestBody *struct{ Content map[string]mediaType }
		Responses   map[string]struct{ Content map[string]mediaType }
		Parameters  []struct{ Name, In string }
	}
	Components struct {
		Schemas         map[string]json.RawMessage
		SecuritySchemes map[string]json.RawMessage
	}
}

type mediaType struct {
	Schema   json.RawMessage
	Example  json.RawMessage
	Examples map[string]struct{ Value json.RawMessage }
}

func document(t *testing.T, h http.Handler, headers ...string) (openAPI, []byte) {
	t.Helper()
	w := call(t, h, http.MethodGet, "/openapi.json", "", headers...)
	if w.Code != 200 || w.Header().Get("Content-Type") != openAPIMediaType {
		t.Fatalf("status = %d, headers %v", w.Code, w.Header())
	}
	var doc openAPI
	if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	return doc, w.Body.Bytes()
}

func TestDocumentListsEveryRoute(t *testing.T) {
	t.Parallel()
	doc, raw := document(t, serve(t, newFakeTasks(), nil))
	if doc.OpenAPI != "3.1.0" || doc.Info.Title != "Pelton" || doc.Info.Version != "v1.2.3" {
		t.Errorf("openapi %s, info %+v", doc.OpenAPI, doc.Info)
	}
	var got []string
	for path, methods := range doc.Paths {
		for method := range methods {
			got = append(got, strings.ToUpper(method)+" "+path)
		}
	}
	slices.Sort(got)
	want := []string{
		"DELETE /dead/{id}", "DELETE /limits/{name}", "DELETE /locks/{name}", "DELETE /schedules/{name}", "DELETE /tokens/{id}",
		"GET /audit", "GET /dead", "GET /dead/{id}", "GET /docs", "GET /healthz", "GET /limits", "GET /locks", "GET /openapi-3.0.json", "GET /openapi.json", "GET /queues", "GET /queues/{queue}", "GET /readyz",
		"GET /schedules", "GET /schedules/{name}",
		"GET /tasks", "GET /tasks/{id}", "GET /tasks/{id}/events", "GET /tasks/{id}/why", "GET /tokens", "GET /workers",
		"PATCH /queues/{queue}",
		"POST /dead/purge", "POST /dead/retry", "POST /dead/{id}/retry",
		"POST /queues/{queue}/pause", "POST /queues/{queue}/purge", "POST /queues/{queue}/resume",
		"POST /schedules/apply", "POST /schedules/{name}/backfill", "POST /schedules/{name}/pause", "POST /schedules/{name}/resume", "POST /schedules/{name}/run",
		"POST /tasks", "POST /tasks/batch", "POST /tasks/cancel", "POST /tasks/retry", "POST /tasks/{id}/cancel", "POST /tasks/{id}/retry", "POST /tasks/{id}/run", "POST /tokens",
		"PUT /limits/{name}", "PUT /schedules/{name}",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("operations (-want +got):\n%s", diff)
	}
	for name := range doc.Components.Schemas {
		if strings.Contains(name, "Error") {
			t.Errorf("schema %s is not of ours", name)
		}
	}
	for _, ref := range refs(t, raw) {
		if _, ok := doc.Components.Schemas[strings.TrimPrefix(ref, "#/components/schemas/")]; !ok {
			t.Errorf("%s leads nowhere", ref)
		}
	}
}

func refs(t *testing.T, doc []byte) []string {
	t.Helper()
	var tree any
	if err := json.Unmarshal(doc, &tree); err != nil {
		t.Fatal(err)
	}
	var found []string
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if ref, ok := v["$ref"].(string); ok {
				found = append(found, ref)
			}
			for _, child := range v {
				walk(child)
			}
		case []any:
			for _, child := range v {
				walk(child)
			}
		}
	}
	walk(tree)
	return found
}

func TestDocumentSaysWhetherATokenIsNeeded(t *testing.T) {
	t.Parallel()
	doc, _ := document(t, serve(t, newFakeTasks(), nil))
	if len(doc.Security) > 0 || len(doc.Components.SecuritySchemes) > 0 {
		t.Errorf("without a token: security %v", doc.Security)
	}
	doc, raw := document(t, serve(t, newFakeTasks(), func(c *Config) { c.Token = "s3cret" }), "Authorization", "Bearer s3cret")
	if len(doc.Security) != 1 || len(doc.Components.SecuritySchemes) != 1 || bytes.Contains(raw, []byte("s3cret")) {
		t.Errorf("with a token: security %v", doc.Security)
	}
	// Tokens that can be made: the API is open while there is none, unless it is Closed.
	optional, _ := document(t, serve(t, newFakeTasks(), func(c *Config) { c.Keyring = newFakeKeyring() }))
	if len(optional.Security) != 2 || len(optional.Security[1]) != 0 {
		t.Errorf("with a keyring: security %v", optional.Security)
	}
	closed, raw := document(t, serve(t, newFakeTasks(), func(c *Config) { c.Keyring, c.Closed = newFakeKeyring(scoped("any", "x")), true }), bearer("any")...)
	if len(closed.Security) != 1 || !bytes.Contains(raw, []byte("Scope: operate and enqueue.")) || !bytes.Contains(raw, []byte("Not for tokens that are bound to queues.")) {
		t.Errorf("closed: security %v", closed.Security)
	}
	for path, methods := range closed.Paths {
		for method, op := range methods {
			open := path == pathHealth || path == pathReady
			if _, ok := op.Responses["403"]; ok == open {
				t.Errorf("%s %s: documents 403: %v", method, path, ok)
			}
		}
	}
	if health := doc.Paths["/healthz"]["get"].Security; health == nil || len(health) != 0 {
		t.Errorf("/healthz: security %v", health)
	}
	for path, methods := range doc.Paths {
		for method, op := range methods {
			open := path == pathHealth || path == pathReady
			if _, ok := op.Responses["401"]; ok == open {
				t.Errorf("%s %s: documents 401: %v", method, path, ok)
			}
		}
	}
}

// TestExamplesFitTheirSchemas validates every example, and the answers that are
// really given, against the hand-made schemas with all objects closed.
func TestExamplesFitTheirSchemas(t *testing.T) {
	t.Parallel()
	doc, _ := document(t, serve(t, newFakeTasks(), nil))
	check := func(where string, m mediaType) {
		var s struct {
			Ref string `json:"$ref"`
		}
		if err := json.Unmarshal(m.Schema, &s); err != nil {
			t.Fatal(err)
		}
		schema := strings.TrimPrefix(s.Ref, "#/components/schemas/")
		if schema == "" {
			return // text
		}
		if m.Example != nil {
			wantFits(t, where, schema, m.Example)
		}
		for name, example := range m.Examples {
			wantFits(t, where, schema, example.Value)
			var p problem
			if err := json.Unmarshal(example.Value, &p); err != nil {
				t.Fatal(err)
			}
			if !strings.HasSuffix(where, strconv.Itoa(p.Status)) || name != string(p.Type) || p.Detail == "" {
				t.Errorf("%s: example %s is %+v", where, name, p)
			}
		}
	}
	for path, methods := range doc.Paths {
		for method, op := range methods {
			for status, response := range op.Responses {
				for _, m := range response.Content {
					check(method+" "+path+" "+status, m)
				}
			}
			if op.RequestBody != nil {
				check(method+" "+path, op.RequestBody.Content[jsonMediaType])
			}
		}
	}
}

func TestAnswersFitTheirSchemas(t *testing.T) {
	t.Parallel()
	task := fullTask()
	tasks := newFakeTasks()
	tasks.put(task)
	h := serve(t, tasks, func(c *Config) {
		c.Queues = &fakeQueues{queues: []pelton.Queue{*exampleQueue()}, purged: examplePurged()}
		c.Dead = &fakeDead{letters: []*pelton.Task{exampleDead()}, next: "34"}
		c.Locks = &fakeLocks{locks: []pelton.Lock{*exampleLock()}, next: exampleLockList().NextCursor}
		c.Limits = &fakeLimits{limits: []pelton.Limit{exampleLimit()}}
		c.Why = &fakeWhy{why: exampleWhy()}
		c.Schedules = exampleSchedules()
		c.Workers = &fakeWorkers{page: *exampleWorkerList()}
	})
	for _, tc := range []struct{ method, path, body, schema string }{
		{http.MethodGet, "/tasks/" + task.ID.String(), "", "Task"},
		{http.MethodGet, "/tasks/" + task.ID.String() + "/why", "", "Why"},
		{http.MethodPost, "/tasks", string(exampleRequest()), "Task"},
		{http.MethodPost, "/tasks/batch", string(exampleBatchRequest()), "BatchAnswer"},
		{http.MethodPost, "/tasks/cancel", string(exampleTaskFilter(pelton.Queued)), "BulkResult"},
		{http.MethodPost, "/tasks/retry", string(exampleTaskFilter(pelton.Failed)), "BulkResult"},
		{http.MethodGet, "/queues", "", "QueueList"},
		{http.MethodGet, "/queues/default", "", "Queue"},
		{http.MethodPatch, "/queues/default", string(exampleSettingsPatch()), "Queue"},
		{http.MethodPost, "/queues/default/pause?priority=low", "", "Queue"},
		{http.MethodPost, "/queues/default/resume", "", "Queue"},
		{http.MethodPost, "/queues/default/purge", "", "Purged"},
		{http.MethodGet, "/healthz", "", "Health"},
		{http.MethodGet, "/dead", "", "TaskList"},
		{http.MethodGet, "/dead/" + exampleDead().ID.String(), "", "Task"},
		{http.MethodPost, "/dead/retry", string(exampleDeadQuery()), "BulkResult"},
		{http.MethodPost, "/dead/" + exampleDead().ID.String() + "/retry", "", "Task"},
		{http.MethodGet, "/locks", "", "LockList"},
		{http.MethodDelete, "/locks/invoice%2F42", "", "Lock"},
		{http.MethodGet, "/limits", "", "LimitList"},
		{http.MethodGet, "/workers", "", "WorkerList"},
		{http.MethodPut, "/limits/mail", string(exampleLimitRequest()), "Limit"},
		{http.MethodGet, "/schedules", "", "ScheduleList"},
		{http.MethodGet, "/schedules/old", "", "Schedule"},
		{http.MethodPut, "/schedules/nightly", string(exampleScheduleRequest()), "Schedule"},
		{http.MethodPut, "/schedules/nightly?dry_run=true", string(exampleScheduleRequest()), "Schedule"},
		{http.MethodPost, "/schedules/nightly/pause", "", "Schedule"},
		{http.MethodPost, "/schedules/nightly/resume", "", "Schedule"},
		{http.MethodPost, "/schedules/nightly/run", "", "Task"},
		{http.MethodPost, "/schedules/nightly/backfill", string(exampleBackfillRequest()), "BackfillResult"},
		{http.MethodPost, "/schedules/apply", string(exampleApplyRequest()), "Applied"},
		{http.MethodGet, "/tasks/x", "", "Problem"},
		{http.MethodGet, "/nowhere", "", "Problem"},
	} {
		wantFits(t, tc.method+" "+tc.path, tc.schema, call(t, h, tc.method, tc.path, tc.body).Body.Bytes())
	}

	// A task that has everything shows that the schema promises nothing else.
	var served map[string]any
	if err := json.Unmarshal(call(t, h, http.MethodGet, "/tasks/"+task.ID.String(), "").Body.Bytes(), &served); err != nil {
		t.Fatal(err)
	}
	want := slices.Sorted(maps.Keys(taskSchema().Properties))
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(served))); diff != "" {
		t.Errorf("fields of a task (-documented +served):\n%s", diff)
	}
}

// TestExamplesAreServed holds the document's examples against the same values
// from the API.
func TestExamplesAreServed(t *testing.T) {
	t.Parallel()
	tasks := newFakeTasks()
	tasks.put(exampleTask(true))
	h := serve(t, tasks, func(c *Config) {
		c.Queues = &fakeQueues{queues: []pelton.Queue{*exampleQueue()}, purged: examplePurged()}
		c.Dead = &fakeDead{letters: []*pelton.Task{exampleDead()}, next: "34"}
		c.Locks = &fakeLocks{locks: []pelton.Lock{*exampleLock()}, next: exampleLockList().NextCursor}
		c.Limits = &fakeLimits{limits: []pelton.Limit{exampleLimit()}}
		c.Why = &fakeWhy{why: exampleWhy()}
		c.Schedules = exampleSchedules()
		c.Workers = &fakeWorkers{page: *exampleWorkerList()}
	})
	doc, _ := document(t, h)
	for path, pattern := range map[string]string{
		"/tasks/" + exampleTask(true).ID.String():          "/tasks/{id}",
		"/tasks/" + exampleTask(true).ID.String() + "/why": "/tasks/{id}/why",
		"/queues":                            "/queues",
		"/queues/default":                    "/queues/{queue}",
		"/dead":                              "/dead",
		"/locks":                             "/locks",
		"/healthz":                           "/healthz",
		"/schedules":                         "/schedules",
		"/schedules/nightly":                 "/schedules/{name}",
		"/limits":                            "/limits",
		"/workers":                           "/workers",
		"/dead/" + exampleDead().ID.String(): "/dead/{id}",
	} {
		var served, example any
		if err := json.Unmarshal(call(t, h, http.MethodGet, path, "").Body.Bytes(), &served); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(doc.Paths[pattern]["get"].Responses["200"].Content[jsonMediaType].Example, &example); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(example, served); diff != "" {
			t.Errorf("%s (-example +served):\n%s", path, diff)
		}
	}
	if w := call(t, h, http.MethodPost, "/tasks", string(exampleRequest())); w.Code != 202 {
		t.Errorf("the example request: status = %d: %s", w.Code, w.Body)
	}
}

func TestTaskRequestSchemaIsWhatIsParsed(t *testing.T) {
	t.Parallel()
	for name := range taskRequestSchema().Properties {
		_, err := parseTask([]byte(`{"`+name+`":null}`), "body", false)
		if err != nil && (strings.Contains(err.Error(), "not a known field") || strings.Contains(err.Error(), "not supported")) {
			t.Errorf("%s is documented: %v", name, err)
		}
	}
}

// wantFits validates value against a schema of the document, with unknown fields
// refused.
func wantFits(t *testing.T, where, name string, value []byte) {
	t.Helper()
	registry := huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer)
	for name, schema := range schemas() {
		closeAll(schema)
		registry.Map()[name] = schema
	}
	for _, schema := range registry.Map() {
		schema.PrecomputeMessages()
	}
	schema := registry.Map()[name]
	if schema == nil {
		t.Fatalf("%s: no schema %q", where, name)
	}
	var tree any
	if err := json.Unmarshal(value, &tree); err != nil {
		t.Fatalf("%s: %v\n%s", where, err, value)
	}
	result := &huma.ValidateResult{}
	huma.Validate(registry, schema, huma.NewPathBuffer([]byte(where), len(where)), huma.ModeReadFromServer, tree, result)
	for _, err := range result.Errors {
		t.Errorf("%s is no %s: %v\n%s", where, name, err, value)
	}
}

func closeAll(s *huma.Schema) {
	if s == nil {
		return
	}
	if len(s.Properties) > 0 && s.AdditionalProperties == nil {
		s.AdditionalProperties = false
	}
	for _, p := range s.Properties {
		closeAll(p)
	}
	closeAll(s.Items)
	for _, one := range s.OneOf {
		closeAll(one)
	}
}

// fullTask has a value in every field.
func fullTask() *pelton.Task {
	task := exampleTask(true)
	failure := pelton.Failure{Message: "no route", Reason: pelton.ReasonPanic, Attempt: 1, At: exampleTime(), Stack: "main.go:1"}
	task.Progress = &pelton.Progress{Done: 3, Total: 9, Message: "a third"}
	task.Error, task.Errors = &failure, []pelton.Failure{failure}
	task.RunAt, task.ExpiresAt = exampleTime(), exampleTime().Add(time.Hour)
	task.RateKey = "acme"
	task.Schedule = exampleScheduledTask().Schedule
	task.Backoff = pelton.Backoff{Initial: 5 * time.Second, Max: 10 * time.Minute, Factor: 1.5}
	task.Unique = &pelton.Unique{Key: "user-42", Until: pelton.UntilStarted, Window: time.Hour, OnConflict: pelton.ConflictReject}
	return task
}

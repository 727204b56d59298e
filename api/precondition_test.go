package api

import (
	"net/http"
	"sync"
	"testing"
)

func TestSchedulePreconditions(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		path    string // a schedule that is there, of revision 41, or "new"
		headers []string
		body    string // scheduleBody without
		status  int    // of PUT
		deleted int    // status of DELETE; 0 is not tried
	}{
		"match":              {"nightly", []string{"If-Match", `"41"`}, "", 200, 204},
		"weak":               {"nightly", []string{"If-Match", `W/"41"`}, "", 200, 204},
		"bare":               {"nightly", []string{"If-Match", `41`}, "", 200, 204},
		"one of":             {"nightly", []string{"If-Match", `"7", "41"`}, "", 200, 204},
		"lines":              {"nightly", []string{"If-Match", `"7"`, "If-Match", `"41"`}, "", 200, 204},
		"any":                {"nightly", []string{"If-Match", `*`}, "", 200, 204},
		"old":                {"nightly", []string{"If-Match", `"40"`}, "", 412, 412},
		"no revision":        {"nightly", []string{"If-Match", `"abc"`}, "", 412, 412},
		"empty":              {"nightly", []string{"If-Match", ``}, "", 422, 422},
		"match, none there":  {"new", []string{"If-Match", `"41"`}, "", 412, 404},
		"any, none there":    {"new", []string{"If-Match", `*`}, "", 412, 404},
		"create":             {"new", []string{"If-None-Match", `*`}, "", 201, 0},
		"create, there":      {"nightly", []string{"If-None-Match", `*`}, "", 412, 412},
		"none match tag":     {"nightly", []string{"If-None-Match", `"3"`}, "", 422, 422},
		"both":               {"nightly", []string{"If-Match", `*`, "If-None-Match", `*`}, "", 422, 422},
		"body":               {"nightly", nil, `{"revision":41,"every":"1m","task":{"kind":"k"}}`, 200, 0},
		"body, old":          {"nightly", nil, `{"revision":40,"every":"1m","task":{"kind":"k"}}`, 409, 0},
		"body against match": {"nightly", []string{"If-Match", `*`}, `{"revision":40,"every":"1m","task":{"kind":"k"}}`, 409, 0},
	} {
		body := tt.body
		if body == "" {
			body = scheduleBody
		}
		if w := call(t, serveSchedules(t, newFakeSchedules(exampleSchedule())), http.MethodPut, "/schedules/"+tt.path, body, tt.headers...); w.Code != tt.status {
			t.Errorf("%s: PUT %d %s", name, w.Code, w.Body)
		}
		if tt.deleted == 0 {
			continue
		}
		f := newFakeSchedules(exampleSchedule())
		w := call(t, serveSchedules(t, f), http.MethodDelete, "/schedules/"+tt.path, "", tt.headers...)
		if w.Code != tt.deleted || (len(f.all) == 0) != (tt.deleted == 204) {
			t.Errorf("%s: DELETE %d %s, left %d", name, w.Code, w.Body, len(f.all))
		}
	}
}

// Between the look at the revision and the change, another may change it.
func TestSchedulePreconditionRaces(t *testing.T) {
	t.Parallel()
	f := newFakeSchedules(exampleSchedule())
	h := serveSchedules(t, f)
	other := func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		changed := *f.all["nightly"]
		changed.Revision += 100
		f.all["nightly"] = &changed
	}
	once := sync.OnceFunc(other)
	f.before = once
	wantProblem(t, call(t, h, http.MethodPut, "/schedules/nightly", scheduleBody, "If-Match", `"41"`), 412, kindPrecondition)
	f.before = sync.OnceFunc(other)
	if w := call(t, h, http.MethodPut, "/schedules/nightly", scheduleBody, "If-Match", `*`); w.Code != 200 {
		t.Errorf("it exists, changed or not: %d %s", w.Code, w.Body)
	}
	f.before = other
	wantProblem(t, call(t, h, http.MethodPut, "/schedules/nightly", scheduleBody, "If-Match", `*`), 412, kindPrecondition)
}

package api

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/peltonq/pelton"
)

// fakeSchedules keeps schedules in memory.
type fakeSchedules struct {
	err      error // answered by every call when set
	applyErr error // answered by ApplyWith together with what was done
	next     string
	before   func() // called by Put before it looks

	mu       sync.Mutex
	all      map[string]*pelton.Schedule
	revision uint64
	asked    pelton.ScheduleQuery
	backfill pelton.Backfill
	owner    string
	want     []pelton.Schedule
	how      pelton.ApplyOptions
	result   pelton.BackfillResult
	partial  error // of Backfill, with its result
}

func newFakeSchedules(schedules ...*pelton.Schedule) *fakeSchedules {
	f := &fakeSchedules{all: make(map[string]*pelton.Schedule), revision: 41}
	for _, s := range schedules {
		f.all[s.Name] = s
	}
	return f
}

// exampleSchedules serves what the document shows.
func exampleSchedules() *fakeSchedules {
	f := newFakeSchedules(exampleSchedule(), exampleFailingSchedule())
	f.next, f.result = "old", exampleBackfillResult()
	return f
}

func (f *fakeSchedules) Put(_ context.Context, s pelton.Schedule) (*pelton.Schedule, bool, error) {
	if f.before != nil {
		f.before()
	}
	if f.err != nil {
		return nil, false, f.err
	}
	norm, err := normalized(s)
	if err != nil {
		return nil, false, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	old := f.all[s.Name]
	present := uint64(0)
	if old != nil {
		present = old.Revision
	}
	if s.Revision == pelton.NoRevision && old != nil || s.Revision != 0 && s.Revision != pelton.NoRevision && s.Revision != present {
		return nil, false, fmt.Errorf("schedule %s: %w: its revision is not %d", s.Name, pelton.ErrConflict, s.Revision)
	}
	f.revision++
	norm.Revision = f.revision
	f.all[s.Name] = &norm
	return &norm, old == nil, nil
}

// normalized stands for the reading of cron, which package scheduler knows.
func normalized(s pelton.Schedule) (pelton.Schedule, error) {
	norm, err := s.Normalized(time.Now())
	if err == nil && strings.HasPrefix(s.Cron, "61 ") {
		err = &pelton.ValidationError{Fields: []pelton.FieldError{{Field: "cron", Message: "minute: 61 is not between 0 and 59"}}}
	}
	return norm, err
}

func (f *fakeSchedules) Get(_ context.Context, name string) (*pelton.Schedule, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.all[name]; s != nil || f.err != nil {
		return s, f.err
	}
	return nil, fmt.Errorf("schedule %s: %w", name, pelton.ErrNotFound)
}

func (f *fakeSchedules) List(_ context.Context, q pelton.ScheduleQuery) (pelton.SchedulePage, error) {
	f.asked = q
	page := pelton.SchedulePage{NextCursor: f.next}
	for _, name := range slices.Sorted(maps.Keys(f.all)) {
		page.Items = append(page.Items, f.all[name])
	}
	return page, f.err
}

func (f *fakeSchedules) Delete(ctx context.Context, name string, revisions ...uint64) error {
	s, err := f.Get(ctx, name)
	if err != nil {
		return err
	}
	if len(revisions) > 0 && !slices.Contains(revisions, s.Revision) {
		return fmt.Errorf("delete schedule %s: %w: its revision is %d", name, pelton.ErrConflict, s.Revision)
	}
	delete(f.all, name)
	return nil
}

func (f *fakeSchedules) Pause(ctx context.Context, name string) (*pelton.Schedule, error) {
	return f.setPaused(ctx, name, true)
}

func (f *fakeSchedules) Resume(ctx context.Context, name string) (*pelton.Schedule, error) {
	return f.setPaused(ctx, name, false)
}

func (f *fakeSchedules) setPaused(ctx context.Context, name string, paused bool) (*pelton.Schedule, error) {
	s, err := f.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	changed := *s
	changed.Paused = paused
	return &changed, nil
}

func (f *fakeSchedules) RunNow(ctx context.Context, name string) (*pelton.Task, error) {
	if _, err := f.Get(ctx, name); err != nil {
		return nil, err
	}
	return exampleScheduledTask(), nil
}

func (f *fakeSchedules) Backfill(ctx context.Context, name string, ask pelton.Backfill) (*pelton.BackfillResult, error) {
	f.backfill = ask
	if _, err := f.Get(ctx, name); err != nil {
		return nil, err
	}
	return &f.result, f.partial
}

func (f *fakeSchedules) Preview(_ context.Context, s pelton.Schedule, n int) ([]time.Time, error) {
	if _, err := normalized(s); err != nil {
		return nil, err
	}
	next := make([]time.Time, n)
	for i := range next {
		next[i] = exampleTime().AddDate(0, 0, i)
	}
	return next, f.err
}

func (f *fakeSchedules) ApplyWith(_ context.Context, owner string, want []pelton.Schedule, how pelton.ApplyOptions) (*pelton.Applied, error) {
	f.owner, f.want, f.how = owner, want, how
	if f.err != nil {
		return nil, f.err
	}
	for i, s := range want {
		var bad *pelton.ValidationError
		if _, err := normalized(s); errors.As(err, &bad) {
			bad.Fields[0].Field = fmt.Sprintf("schedules[%d].%s", i, bad.Fields[0].Field)
			return nil, bad
		}
	}
	done := exampleApplied()
	return &done, f.applyErr
}

func serveSchedules(t *testing.T, f *fakeSchedules) http.Handler {
	t.Helper()
	return serve(t, newFakeTasks(), func(c *Config) { c.Schedules = f })
}

const scheduleBody = `{"cron":"0 8 * * *","zone":"Europe/Berlin","task":{"kind":"k","payload":{"a" : "<&>", "n":1.0e+1}}}`

func TestSchedules(t *testing.T) {
	t.Parallel()
	f := newFakeSchedules()
	h := serveSchedules(t, f)
	if w := call(t, h, http.MethodGet, "/schedules", ""); w.Code != 200 || w.Body.String() != "{\"items\":[]}\n" {
		t.Errorf("no schedules: %d %s", w.Code, w.Body)
	}
	w := call(t, h, http.MethodPut, "/schedules/nightly", scheduleBody)
	want := `{"name":"nightly","cron":"0 8 * * *","zone":"Europe/Berlin","overlap":"allow","catch_up":"last","catch_up_window":"1h","jitter":"0s","paused":false,"revision":42,"task":{"kind":"k","payload":{"a" : "<&>", "n":1.0e+1}}}` + "\n"
	if w.Code != 201 || w.Body.String() != want || w.Header().Get("ETag") != `"42"` {
		t.Errorf("PUT: %d %v\n%s want\n%s", w.Code, w.Header(), w.Body, want)
	}
	if w := call(t, h, http.MethodGet, "/schedules/nightly", ""); w.Code != 200 || w.Body.String() != want || w.Header().Get("ETag") != `"42"` {
		t.Errorf("GET: %d %s", w.Code, w.Body)
	}
	if w := call(t, h, http.MethodPut, "/schedules/nightly", scheduleBody); w.Code != 200 || w.Header().Get("ETag") != `"43"` {
		t.Errorf("PUT again: %d %s", w.Code, w.Body)
	}
	if w := call(t, h, http.MethodGet, "/schedules?owner=billing&limit=3&cursor=x", ""); w.Code != 200 || !strings.Contains(w.Body.String(), `"payload":{"a" : "<&>", "n":1.0e+1}`) {
		t.Errorf("list: %d %s", w.Code, w.Body)
	}
	if want := (pelton.ScheduleQuery{Owner: "billing", Limit: 3, Cursor: "x"}); f.asked != want {
		t.Errorf("asked %+v", f.asked)
	}
	for _, verb := range []string{"pause", "resume"} {
		w := call(t, h, http.MethodPost, "/schedules/nightly/"+verb, "")
		if w.Code != 200 || !strings.Contains(w.Body.String(), fmt.Sprintf(`"paused":%t`, verb == "pause")) {
			t.Errorf("%s: %d %s", verb, w.Code, w.Body)
		}
	}
	w = call(t, h, http.MethodPost, "/schedules/nightly/run", "")
	if task := decodeTask(t, w); w.Code != 202 || w.Header().Get("Location") != "/tasks/"+task.ID.String() || !task.Schedule.Manual {
		t.Errorf("run: %d %v %s", w.Code, w.Header(), w.Body)
	}
	wantProblem(t, call(t, h, http.MethodPost, "/schedules/nightly/run", "", "Idempotency-Key", "x"), 422, kindNotSupported)
	if w := call(t, h, http.MethodDelete, "/schedules/nightly", ""); w.Code != 204 || w.Body.Len() > 0 {
		t.Errorf("DELETE: %d %s", w.Code, w.Body)
	}
	for _, c := range []string{"GET ", "DELETE ", "POST /pause", "POST /resume", "POST /run"} {
		method, verb, _ := strings.Cut(c, " ")
		wantProblem(t, call(t, h, method, "/schedules/nightly"+verb, ""), 404, kindNotFound)
		p := wantProblem(t, call(t, h, method, "/schedules/Nightly"+verb, ""), 422, kindInvalid)
		if p.Errors[0].Location != "path.name" {
			t.Errorf("%s: %+v", c, p.Errors)
		}
	}
	wantProblem(t, call(t, h, http.MethodPost, "/schedules/nightly/backfill", string(exampleBackfillRequest())), 404, kindNotFound)

	// A schedule may be called as a call is.
	if w := call(t, h, http.MethodPut, "/schedules/apply", scheduleBody); w.Code != 201 {
		t.Errorf("PUT /schedules/apply: %d %s", w.Code, w.Body)
	}
	if w := call(t, h, http.MethodGet, "/schedules/apply", ""); w.Code != 200 {
		t.Errorf("GET /schedules/apply: %d %s", w.Code, w.Body)
	}
	if w := call(t, h, http.MethodDelete, "/schedules/apply", ""); w.Code != 204 {
		t.Errorf("DELETE /schedules/apply: %d %s", w.Code, w.Body)
	}

	f.err = fmt.Errorf("load: %w", pelton.ErrUnavailable)
	wantProblem(t, call(t, h, http.MethodGet, "/schedules", ""), 503, kindUnavailable)
	wantProblem(t, call(t, h, http.MethodPut, "/schedules/x", scheduleBody), 503, kindUnavailable)
	f.err = context.DeadlineExceeded
	wantProblem(t, call(t, h, http.MethodPut, "/schedules/x", scheduleBody), 503, kindUnknownOutcome)
	wantProblem(t, call(t, h, http.MethodPost, "/schedules/x/run", ""), 503, kindUnknownOutcome)
	f.err = &pelton.ValidationError{Fields: []pelton.FieldError{{Field: "owner", Message: "no"}}}
	if p := wantProblem(t, call(t, h, http.MethodGet, "/schedules", ""), 422, kindInvalid); p.Errors[0].Location != "query.owner" {
		t.Errorf("%+v", p.Errors)
	}
}

// Everything that a request may say reaches the definition; what an answer tells
// besides may be put back.
func TestScheduleFields(t *testing.T) {
	t.Parallel()
	f := newFakeSchedules()
	h := serveSchedules(t, f)
	want := *exampleSchedule()
	want.Paused, want.StartsAt, want.EndsAt = true, exampleTime(), exampleTime().AddDate(1, 0, 0)
	want.Failing = exampleFailingSchedule().Failing
	body, err := want.AppendJSON(nil)
	if err != nil {
		t.Fatal(err)
	}
	f.all["nightly"] = exampleSchedule()
	if w := call(t, h, http.MethodPut, "/schedules/nightly", string(body)); w.Code != 200 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	want.Revision, want.CreatedAt, want.UpdatedAt, want.Next, want.Last, want.Failing = 42, time.Time{}, time.Time{}, nil, nil, nil
	if diff := cmp.Diff(&want, f.all["nightly"]); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	wantProblem(t, call(t, h, http.MethodPut, "/schedules/nightly", string(body)), 409, kindConflict) // its revision is old

	for body, check := range map[string]func(*pelton.Schedule) bool{
		`{"every":"90s","task":{"kind":"k"}}`:                  func(s *pelton.Schedule) bool { return s.Every == 90*time.Second },
		`{"at":"2126-12-01T08:00:00Z","task":{"kind":"k"}}`:    func(s *pelton.Schedule) bool { return s.At.Year() == 2126 },
		`{"every":"1m","task":{"kind":"k"},"jitter":"0s"}`:     func(s *pelton.Schedule) bool { return s.Jitter == 0 },
		`{"every":"1m","task":{"kind":"k","delay":"1m"}}`:      func(s *pelton.Schedule) bool { return s.Task.Delay == time.Minute },
		`{"every":"1m","task":{"kind":"k","payload":null}}`:    func(s *pelton.Schedule) bool { return string(s.Task.Payload) == "null" },
		`{"every":"1m","task":{"kind":"k"},"name":"s"}`:        func(s *pelton.Schedule) bool { return s.Name == "s" },
		`{"every":"1m","task":{"kind":"k"},"catch_up":"none"}`: func(s *pelton.Schedule) bool { return s.CatchUp == pelton.CatchUpNone },
	} {
		if w := call(t, h, http.MethodPut, "/schedules/s", body); w.Code >= 300 || !check(f.all["s"]) {
			t.Errorf("%s: %d %s", body, w.Code, w.Body)
		}
	}
}

func TestSchedulesRefuse(t *testing.T) {
	t.Parallel()
	f := newFakeSchedules()
	h := serveSchedules(t, f)
	const task = `"task":{"kind":"k"}`
	big := `"` + strings.Repeat("x", pelton.MaxPayload) + `"`
	for _, tc := range []struct {
		body     string
		status   int
		kind     kind
		location string
	}{
		{`[]`, 422, kindInvalid, "body"},
		{`{`, 400, kindMalformed, "body"},
		{`{"cron":"@daily","cron":"@daily",` + task + `}`, 400, kindMalformed, "body"},
		{`{"cron":"@daily"}`, 422, kindInvalid, "body.task"},
		{`{` + task + `}`, 422, kindInvalid, "body.cron"},
		{`{"cron":"61 * * * *",` + task + `}`, 422, kindInvalid, "body.cron"},
		{`{"cron":"",` + task + `}`, 422, kindInvalid, "body.cron"},
		{`{"cron":5,` + task + `}`, 422, kindInvalid, "body.cron"},
		{`{"cron":"@daily","every":"1m",` + task + `}`, 422, kindInvalid, "body.cron"},
		{`{"every":"0s",` + task + `}`, 422, kindInvalid, "body.every"},
		{`{"every":"999ms",` + task + `}`, 422, kindInvalid, "body.every"},
		{`{"every":"soon",` + task + `}`, 422, kindInvalid, "body.every"},
		{`{"at":"tomorrow",` + task + `}`, 422, kindInvalid, "body.at"},
		{`{"at":"10000-01-01T00:00:00Z",` + task + `}`, 422, kindInvalid, "body.at"},
		{`{"at":"9999-12-31T23:59:59-01:00",` + task + `}`, 422, kindInvalid, "body.at"},
		{`{"at":"0001-01-01T00:00:00Z",` + task + `}`, 422, kindInvalid, "body.at"},
		{`{"cron":"@daily","starts_at":"0001-01-01T00:00:00Z",` + task + `}`, 422, kindInvalid, "body.starts_at"},
		{`{"cron":"@daily","starts_at":"2031-01-01T00:00:00Z","ends_at":"2030-01-01T00:00:00Z",` + task + `}`, 422, kindInvalid, "body.ends_at"},
		{`{"cron":"@daily","zone":"Europe/Atlantis",` + task + `}`, 422, kindInvalid, "body.zone"},
		{`{"cron":"@daily","zone":"",` + task + `}`, 422, kindInvalid, "body.zone"},
		{`{"cron":"@daily","overlap":"maybe",` + task + `}`, 422, kindInvalid, "body.overlap"},
		{`{"cron":"@daily","catch_up":"some",` + task + `}`, 422, kindInvalid, "body.catch_up"},
		{`{"cron":"@daily","catch_up_window":"0s",` + task + `}`, 422, kindInvalid, "body.catch_up_window"},
		{`{"cron":"@daily","catch_up_window":"32d",` + task + `}`, 422, kindInvalid, "body.catch_up_window"},
		{`{"every":"1m","jitter":"1m",` + task + `}`, 422, kindInvalid, "body.jitter"},
		{`{"cron":"@daily","paused":"yes",` + task + `}`, 422, kindInvalid, "body.paused"},
		{`{"cron":"@daily","paused":null,` + task + `}`, 422, kindInvalid, "body.paused"},
		{`{"cron":"@daily","revision":0,` + task + `}`, 422, kindInvalid, "body.revision"},
		{`{"cron":"@daily","revision":18446744073709551615,` + task + `}`, 422, kindInvalid, "body.revision"},
		{`{"cron":"@daily","name":"other",` + task + `}`, 422, kindInvalid, "body.name"},
		{`{"cron":"@daily","speed":1,` + task + `}`, 422, kindInvalid, "body.speed"},
		{`{"cron":"@daily","task":7}`, 422, kindInvalid, "body.task"},
		{`{"cron":"@daily","task":{}}`, 422, kindInvalid, "body.task.kind"},
		{`{"cron":"@daily","task":{"kind":"k","queue":"Bad"}}`, 422, kindInvalid, "body.task.queue"},
		{`{"cron":"@daily","task":{"kind":"k","speed":1}}`, 422, kindInvalid, "body.task.speed"},
		{`{"cron":"@daily","task":{"kind":"k","run_at":"2126-12-01T08:00:00Z"}}`, 422, kindInvalid, "body.task.run_at"},
		{`{"cron":"@daily","task":{"kind":"k","expires_at":"2126-12-01T08:00:00Z"}}`, 422, kindInvalid, "body.task.expires_at"},
		{`{"cron":"@daily","task":{"kind":"k","idempotency_key":"x"}}`, 422, kindInvalid, "body.task.idempotency_key"},
		{`{"cron":"@daily","task":{"kind":"k","payload":` + big + `}}`, 413, kindTooLarge, "body.task.payload"},
	} {
		for _, path := range []string{"/schedules/s", "/schedules/s?dry_run=true"} {
			p := wantProblem(t, call(t, h, http.MethodPut, path, tc.body), tc.status, tc.kind)
			if len(p.Errors) == 0 || p.Errors[0].Location != tc.location {
				t.Errorf("%s: %+v, want an error at %s", clip(tc.body, 120), p.Errors, tc.location)
			}
		}
	}
	if len(f.all) > 0 {
		t.Errorf("a bad schedule was put: %v", f.all)
	}
	// All at once.
	p := wantProblem(t, call(t, h, http.MethodPut, "/schedules/s", `{"cron":1,"paused":2,"task":{"kind":3,"queue":"B"}}`), 422, kindInvalid)
	if len(p.Errors) != 4 {
		t.Errorf("%+v", p.Errors)
	}
	for query, location := range map[string]string{
		"dry_run=": "query.dry_run", "dry_run=maybe": "query.dry_run", "next=3": "query.next", "dry_run=true&next=": "query.next",
		"dry_run=true&next=1001": "query.next", "dry=true": "query.dry",
	} {
		p := wantProblem(t, call(t, h, http.MethodPut, "/schedules/s?"+query, scheduleBody), 422, kindInvalid)
		if p.Errors[0].Location != location {
			t.Errorf("%s: %+v", query, p.Errors)
		}
	}
	if p := wantProblem(t, call(t, h, http.MethodGet, "/schedules?owner=", ""), 422, kindInvalid); p.Errors[0].Location != "query.owner" {
		t.Errorf("%+v", p.Errors)
	}
}

func TestScheduleDryRun(t *testing.T) {
	t.Parallel()
	f := newFakeSchedules(exampleSchedule())
	h := serveSchedules(t, f)
	w := call(t, h, http.MethodPut, "/schedules/new?dry_run=true&next=2", scheduleBody)
	if w.Code != 200 || !strings.Contains(w.Body.String(), `"next":["2026-12-01T08:00:00Z","2026-12-02T08:00:00Z"]`) || w.Header().Get("ETag") != "" {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
	if w := call(t, h, http.MethodPut, "/schedules/new?dry_run=true", scheduleBody); strings.Count(w.Body.String(), "T08:00:00Z") != 5 {
		t.Errorf("%s", w.Body)
	}
	wantProblem(t, call(t, h, http.MethodPut, "/schedules/new?dry_run=true", scheduleBody, "If-Match", `"41"`), 412, kindPrecondition)
	if w := call(t, h, http.MethodPut, "/schedules/nightly?dry_run=true", scheduleBody, "If-Match", `"41"`); w.Code != 200 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if len(f.all) != 1 || f.all["nightly"].Revision != 41 {
		t.Errorf("a dry run changed %v", f.all)
	}
	if w := call(t, h, http.MethodPut, "/schedules/new?dry_run=false", scheduleBody); w.Code != 201 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// Nothing is changed by a request for whose answer there is no memory.
func TestSchedulesKeepWithinMemory(t *testing.T) {
	t.Parallel()
	f := newFakeSchedules(exampleSchedule())
	budget := NewBudget(MinMemory)
	h := serve(t, newFakeTasks(), func(c *Config) { c.Schedules, c.Memory = f, budget })
	const rest = 600 << 10 // enough for a small body, and not for a schedule
	if !budget.take(MinMemory-rest, MinMemory) {
		t.Fatal("the budget is in use")
	}
	for _, c := range []struct{ method, path, body string }{
		{http.MethodGet, "/schedules", ""},
		{http.MethodGet, "/schedules/nightly", ""},
		{http.MethodPut, "/schedules/nightly", scheduleBody},
		{http.MethodPost, "/schedules/nightly/pause", ""},
		{http.MethodPost, "/schedules/nightly/run", ""},
		{http.MethodPost, "/schedules/apply", string(exampleApplyRequest())},
	} {
		w := call(t, h, c.method, c.path, c.body)
		wantProblem(t, w, 503, kindUnavailable)
		if w.Header().Get("Retry-After") == "" {
			t.Errorf("%s %s: no Retry-After", c.method, c.path)
		}
	}
	if f.all["nightly"].Revision != 41 || f.owner != "" {
		t.Error("a request that was refused changed something")
	}
	budget.give(MinMemory - rest)
	if w := call(t, h, http.MethodGet, "/schedules?limit=3", ""); w.Code != 200 || budget.InUse() != 0 {
		t.Errorf("%d, %d bytes in use", w.Code, budget.InUse())
	}
}

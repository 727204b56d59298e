package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/peltonq/pelton"
)

func TestBackfill(t *testing.T) {
	t.Parallel()
	f := exampleSchedules()
	h := serveSchedules(t, f)
	w := call(t, h, http.MethodPost, "/schedules/nightly/backfill", `{"from":"2026-11-01T00:00:00Z","to":"2026-11-08T00:00:00+01:00","limit":2,"dry_run":true}`)
	if w.Code != 200 || !strings.Contains(w.Body.String(), `"enqueued":1,"existing":1,"failed":0,"next_from":"2026-11-03T07:00:00Z"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	day := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	if !f.backfill.From.Equal(day) || !f.backfill.To.Equal(day.Add(167*time.Hour)) || f.backfill.Limit != 2 || !f.backfill.DryRun {
		t.Errorf("asked %+v", f.backfill)
	}

	// An error after some ticks is no error of the call: it says where to go on.
	f.partial = fmt.Errorf("backfill: %w", pelton.ErrUnavailable)
	if w := call(t, h, http.MethodPost, "/schedules/nightly/backfill", string(exampleBackfillRequest())); w.Code != 200 || !strings.Contains(w.Body.String(), "next_from") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	f.result = pelton.BackfillResult{}
	wantProblem(t, call(t, h, http.MethodPost, "/schedules/nightly/backfill", string(exampleBackfillRequest())), 503, kindUnavailable)
	f.partial = context.DeadlineExceeded
	wantProblem(t, call(t, h, http.MethodPost, "/schedules/nightly/backfill", string(exampleBackfillRequest())), 503, kindUnknownOutcome)
	f.partial = nil
	if w := call(t, h, http.MethodPost, "/schedules/nightly/backfill", string(exampleBackfillRequest())); w.Body.String() != `{"ticks":[],"enqueued":0,"existing":0,"failed":0}`+"\n" {
		t.Errorf("%s", w.Body)
	}

	for body, location := range map[string]string{
		`[]`:                              "body",
		`{"from":"now"}`:                  "body.from",
		`{"to":7}`:                        "body.to",
		`{"limit":0}`:                     "body.limit",
		`{"limit":1.5}`:                   "body.limit",
		`{"dry_run":"no"}`:                "body.dry_run",
		`{"until":"now"}`:                 "body.until",
		`{"from":"0001-01-01T00:00:00Z"}`: "body.from",
	} {
		p := wantProblem(t, call(t, h, http.MethodPost, "/schedules/nightly/backfill", body), 422, kindInvalid)
		if p.Errors[0].Location != location {
			t.Errorf("%s: %+v", body, p.Errors)
		}
	}
}

func TestApplySchedules(t *testing.T) {
	t.Parallel()
	f := newFakeSchedules()
	h := serveSchedules(t, f)
	apply := func(body string) string {
		t.Helper()
		w := call(t, h, http.MethodPost, "/schedules/apply", body)
		if w.Code != 200 {
			t.Errorf("%d %s", w.Code, w.Body)
		}
		return w.Body.String()
	}
	got := apply(`{"owner":"app","schedules":[{"name":"a","cron":"@daily","task":{"kind":"k","payload":[1 , 2]}},{"name":"b","every":"1m","task":{"kind":"k"}}]}`)
	if want := `{"created":[],"changed":["nightly"],"unchanged":[],"deleted":["old"]}` + "\n"; got != want {
		t.Errorf("%s", got)
	}
	want := []pelton.Schedule{
		{Name: "a", Cron: "@daily", Task: pelton.Spec{Kind: "k", Payload: []byte(`[1 , 2]`)}},
		{Name: "b", Every: time.Minute, Task: pelton.Spec{Kind: "k"}},
	}
	if diff := cmp.Diff(want, f.want); diff != "" || f.owner != "app" || f.how != (pelton.ApplyOptions{}) {
		t.Errorf("%s %+v (-want +got):\n%s", f.owner, f.how, diff)
	}
	apply(`{"owner":"app","schedules":[],"prune":false,"dry_run":true}`)
	if f.how != (pelton.ApplyOptions{Keep: true, DryRun: true}) || len(f.want) != 0 {
		t.Errorf("%+v %+v", f.how, f.want)
	}
	apply(`{"owner":"app","schedules":[],"prune":true,"dry_run":false}`)
	if f.how != (pelton.ApplyOptions{}) {
		t.Errorf("%+v", f.how)
	}

	f.owner = ""
	const one = `{"name":"a","every":"1m","task":{"kind":"k"}}`
	for body, location := range map[string]string{
		`[]`:                               "body",
		`{"schedules":[]}`:                 "body.owner",
		`{"owner":"","schedules":[]}`:      "body.owner",
		`{"owner":"app"}`:                  "body.schedules", // or everything of it would go
		`{"owner":"app","schedules":null}`: "body.schedules",
		`{"owner":"app","schedules":[7]}`:  "body.schedules[0]",
		`{"owner":"app","schedules":[{"every":"1m","task":{"kind":"k"}}]}`:                                   "body.schedules[0].name",
		`{"owner":"app","schedules":[` + one + `,{"name":"b","every":"1m"}]}`:                                "body.schedules[1].task",
		`{"owner":"app","schedules":[{"name":"b","every":"1m","task":{"kind":"k","speed":1}}]}`:              "body.schedules[0].task.speed",
		`{"owner":"app","schedules":[` + one + `],"prune":"no"}`:                                             "body.prune",
		`{"owner":"app","schedules":[` + one + `],"dry_run":1}`:                                              "body.dry_run",
		`{"owner":"app","schedules":[` + one + `],"force":true}`:                                             "body.force",
		`{"owner":"app","schedules":[` + strings.TrimSuffix(strings.Repeat(one+",", maxApply+1), ",") + `]}`: "body.schedules",
	} {
		p := wantProblem(t, call(t, h, http.MethodPost, "/schedules/apply", body), 422, kindInvalid)
		if p.Errors[0].Location != location {
			t.Errorf("%s: %+v", clip(body, 150), p.Errors)
		}
	}
	big := `"` + strings.Repeat("x", pelton.MaxPayload) + `"`
	wantProblem(t, call(t, h, http.MethodPost, "/schedules/apply", `{"owner":"app","schedules":[{"name":"b","every":"1m","task":{"kind":"k","payload":`+big+`}}]}`), 413, kindTooLarge)
	if f.owner != "" {
		t.Error("a bad list was applied")
	}
	p := wantProblem(t, call(t, h, http.MethodPost, "/schedules/apply", `{"owner":"app","schedules":[`+one+`,{"name":"b","cron":"61 * * * *","task":{"kind":"k"}}]}`), 422, kindInvalid)
	if p.Errors[0].Location != "body.schedules[1].cron" {
		t.Errorf("%+v", p.Errors)
	}

	// After some were applied, "nothing was written" is not what an error says.
	f.applyErr = fmt.Errorf("apply: %w", pelton.ErrUnavailable)
	wantProblem(t, call(t, h, http.MethodPost, "/schedules/apply", `{"owner":"app","schedules":[]}`), 503, kindUnknownOutcome)
	wantProblem(t, call(t, h, http.MethodPost, "/schedules/apply", `{"owner":"app","schedules":[],"dry_run":true}`), 503, kindUnavailable)
	f.applyErr, f.err = nil, fmt.Errorf("apply: %w: it belongs to nobody", pelton.ErrConflict)
	wantProblem(t, call(t, h, http.MethodPost, "/schedules/apply", `{"owner":"app","schedules":[]}`), 409, kindConflict)
}

func TestScheduleRequestSchemaIsWhatIsParsed(t *testing.T) {
	t.Parallel()
	for name := range scheduleRequestSchema().Properties {
		_, err := parseSchedule([]byte(`{"`+name+`":null}`), "body", "x")
		if err != nil && strings.Contains(err.Error(), "not a known field") {
			t.Errorf("%s is documented: %v", name, err)
		}
	}
}

// FuzzParseSchedule looks for JSON that is taken and cannot be written, or that breaks
// what checks it.
func FuzzParseSchedule(f *testing.F) {
	for _, seed := range []string{
		scheduleBody, string(exampleScheduleRequest()), `{"every":"90s","at":"2126-12-01T08:00:00Z","task":{"kind":"k","labels":{"a":"b"}},"paused":true}`,
		`{"task":{"payload":"\ud800"},"jitter":"-1s","catch_up_window":"1e9d","revision":1,"next":[1]}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if checkJSON(body) != nil {
			return
		}
		s, err := parseSchedule(body, "body", "s")
		if err != nil {
			return
		}
		norm, err := s.Normalized(exampleTime())
		if err != nil {
			return
		}
		out, err := norm.AppendJSON(nil)
		if err != nil || !json.Valid(out) {
			t.Fatalf("%s became %s, %v", body, out, err)
		}
		again, err := parseSchedule(out, "body", "s")
		if err != nil {
			t.Fatalf("%s became %s, which is refused: %v", body, out, err)
		}
		if second, err := again.AppendJSON(nil); err != nil || string(second) != string(out) {
			t.Errorf("%s became %s, then %s: %v", body, out, second, err)
		}
	})
}

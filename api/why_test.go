package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/peltonq/pelton"
)

// fakeWhy has one answer for all tasks.
type fakeWhy struct {
	why *pelton.Why
	err error

	asked pelton.ID
}

func (f *fakeWhy) Why(_ context.Context, id pelton.ID) (*pelton.Why, error) {
	f.asked = id
	return f.why, f.err
}

func TestWhy(t *testing.T) {
	t.Parallel()
	why := &fakeWhy{why: exampleWhy()}
	h := serve(t, newFakeTasks(), func(c *Config) { c.Why = why })
	path := "/tasks/" + why.why.TaskID.String() + "/why"
	w := call(t, h, http.MethodGet, path, "")
	var got pelton.Why
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != 200 {
		t.Fatalf("%d %s: %v", w.Code, w.Body, err)
	}
	if diff := cmp.Diff(exampleWhy(), &got); diff != "" || why.asked != why.why.TaskID {
		t.Errorf("asked for %s, answer (-want +got):\n%s", why.asked, diff)
	}

	// A reason with everything shows that the schema leaves nothing out.
	why.why.Estimate = exampleTime()
	why.why.Reasons[0] = pelton.WhyReason{
		Code: pelton.WhyReady, Message: "m", Until: exampleTime(), LookAt: exampleTime(), Since: exampleTime(), Attempt: 1, MaxAttempts: 2, Deferrals: 3,
		Queue: "q", Priority: pelton.Low, Kind: "k", Key: "key", Limit: "l", Worker: "w", Rate: &pelton.RateLimit{Limit: 1, Per: time.Second},
		Running: 1, MaxRunning: 2, Holders: []pelton.ID{why.asked}, Ahead: &pelton.Between{AtLeast: 0, AtMost: 7}, Workers: 4,
	}
	body := call(t, h, http.MethodGet, path, "").Body.Bytes()
	wantFits(t, "why", "Why", body)
	var served struct {
		Reasons []map[string]any `json:"reasons"`
	}
	if err := json.Unmarshal(body, &served); err != nil {
		t.Fatal(err)
	}
	for name := range whyReasonSchema().Properties {
		if _, ok := served.Reasons[0][name]; !ok {
			t.Errorf("%s is documented and not served", name)
		}
	}

	if p := wantProblem(t, call(t, h, http.MethodGet, "/tasks/x/why", ""), 422, kindInvalid); p.Errors[0].Location != "path.id" {
		t.Errorf("errors = %+v", p.Errors)
	}
	wantProblem(t, call(t, h, http.MethodGet, path+"?x=1", ""), 422, kindInvalid)
	wantProblem(t, call(t, h, http.MethodPost, path, ""), 405, kindNotAllowed)
	why.err = fmt.Errorf("why: %w", pelton.ErrNotFound)
	wantProblem(t, call(t, h, http.MethodGet, path, ""), 404, kindNotFound)
	why.err = fmt.Errorf("why: %w", pelton.ErrUnavailable)
	wantProblem(t, call(t, h, http.MethodGet, path, ""), 503, kindUnavailable)
}

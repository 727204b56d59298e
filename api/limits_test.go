package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/peltonq/pelton"
)

// fakeLimits keeps limits in memory.
type fakeLimits struct {
	limits []pelton.Limit
	err    error
}

func (f *fakeLimits) Limits(context.Context) ([]pelton.Limit, error) { return f.limits, f.err }

func (f *fakeLimits) SetLimit(_ context.Context, l pelton.Limit) (*pelton.Limit, error) {
	l, err := l.Normalized()
	if err == nil {
		err = f.err
	}
	if err != nil {
		return nil, err
	}
	f.limits = append(f.limits, l)
	return &l, nil
}

func (f *fakeLimits) DeleteLimit(_ context.Context, name string) error {
	before := len(f.limits)
	f.limits = slices.DeleteFunc(f.limits, func(l pelton.Limit) bool { return l.Name == name })
	if f.err == nil && len(f.limits) == before {
		return fmt.Errorf("delete limit %s: %w", name, pelton.ErrNotFound)
	}
	return f.err
}

func serveLimits(t *testing.T, limits *fakeLimits) http.Handler {
	t.Helper()
	return serve(t, newFakeTasks(), func(c *Config) { c.Limits = limits })
}

func TestLimits(t *testing.T) {
	t.Parallel()
	limits := &fakeLimits{}
	h := serveLimits(t, limits)
	if w := call(t, h, http.MethodGet, "/limits", ""); w.Code != 200 || w.Body.String() != "{\"items\":[]}\n" {
		t.Errorf("no limits: %d %s", w.Code, w.Body)
	}
	w := call(t, h, http.MethodPut, "/limits/mail", `{"kind":"email.send","rate":{"limit":100}}`)
	if want := `{"name":"mail","kind":"email.send","cost":1,"rate":{"limit":100,"per":"1s","burst":100,"on_error":"local"}}` + "\n"; w.Code != 200 || w.Body.String() != want {
		t.Errorf("PUT: %d %s, want %s", w.Code, w.Body, want)
	}
	w = call(t, h, http.MethodPut, "/limits/tenants", `{"name":"tenants","kind":"k","rate_key":"acme*","cost":2,"rate":{"limit":5,"per":"1m","burst":3,"on_error":"closed"}}`)
	if w.Code != 200 {
		t.Errorf("PUT: %d %s", w.Code, w.Body)
	}
	want := pelton.Limit{Name: "tenants", Kind: "k", RateKey: "acme*", Cost: 2, Rate: pelton.RateLimit{Limit: 5, Per: time.Minute, Burst: 3, OnError: "closed"}}
	if diff := cmp.Diff(want, limits.limits[1]); diff != "" {
		t.Errorf("limit (-want +got):\n%s", diff)
	}
	w = call(t, h, http.MethodPut, "/limits/big", `{"concurrency_key":"acme*","max_running":3}`)
	if want := `{"name":"big","concurrency_key":"acme*","max_running":3}` + "\n"; w.Code != 200 || w.Body.String() != want {
		t.Errorf("PUT: %d %s, want %s", w.Code, w.Body, want)
	}
	if w := call(t, h, http.MethodGet, "/limits", ""); strings.Count(w.Body.String(), `"name"`) != 3 {
		t.Errorf("three limits: %s", w.Body)
	}
	if w := call(t, h, http.MethodDelete, "/limits/mail", ""); w.Code != 204 || w.Body.Len() != 0 {
		t.Errorf("DELETE: %d %s", w.Code, w.Body)
	}
	wantProblem(t, call(t, h, http.MethodDelete, "/limits/mail", ""), 404, kindNotFound)
	limits.err = fmt.Errorf("list: %w", pelton.ErrUnavailable)
	wantProblem(t, call(t, h, http.MethodGet, "/limits", ""), 503, kindUnavailable)
	wantProblem(t, call(t, h, http.MethodDelete, "/limits/tenants", ""), 503, kindUnavailable)
	limits.err = context.DeadlineExceeded
	wantProblem(t, call(t, h, http.MethodPut, "/limits/mail", `{"kind":"k","rate":{"limit":1}}`), 503, kindUnknownOutcome)
}

func TestLimitsRefuse(t *testing.T) {
	t.Parallel()
	limits := &fakeLimits{err: errors.New("must not be called")}
	h := serveLimits(t, limits)
	for _, tc := range []struct {
		path, body string
		status     int
		kind       kind
		location   string
	}{
		{"/limits/Mail", `{"kind":"k","rate":{"limit":1}}`, 422, kindInvalid, "path.name"},
		{"/limits/mail", `[]`, 422, kindInvalid, "body"},
		{"/limits/mail", `{"rate":{"limit":1}}`, 422, kindInvalid, "body.kind"},
		{"/limits/mail", `{"kind":"k"}`, 422, kindInvalid, "body.rate"},
		{"/limits/mail", `{"kind":"k","max_running":3,"rate":{}}`, 422, kindInvalid, "body.rate.limit"},
		{"/limits/mail", `{"kind":"","rate":{"limit":1}}`, 422, kindInvalid, "body.kind"},
		{"/limits/mail", `{"kind":3,"rate":{"limit":1}}`, 422, kindInvalid, "body.kind"},
		{"/limits/mail", `{"kind":"\ud800","rate":{"limit":1}}`, 422, kindInvalid, "body.kind"},
		{"/limits/mail", `{"name":"post","kind":"k","rate":{"limit":1}}`, 422, kindInvalid, "body.name"},
		{"/limits/mail", `{"rate_key":"[","rate":{"limit":1}}`, 422, kindInvalid, "body.rate_key"},
		{"/limits/mail", `{"kind":"k","cost":0,"rate":{"limit":1}}`, 422, kindInvalid, "body.cost"},
		{"/limits/mail", `{"kind":"k","cost":2,"rate":{"limit":1}}`, 422, kindInvalid, "body.cost"},
		{"/limits/mail", `{"kind":"k","rate":7}`, 422, kindInvalid, "body.rate"},
		{"/limits/mail", `{"kind":"k","rate":{"limit":1.5}}`, 422, kindInvalid, "body.rate.limit"},
		{"/limits/mail", `{"kind":"k","rate":{"limit":1,"per":"0s"}}`, 422, kindInvalid, "body.rate.per"},
		{"/limits/mail", `{"kind":"k","rate":{"limit":1,"per":"soon"}}`, 422, kindInvalid, "body.rate.per"},
		{"/limits/mail", `{"kind":"k","rate":{"limit":1,"burst":0}}`, 422, kindInvalid, "body.rate.burst"},
		{"/limits/mail", `{"kind":"k","rate":{"limit":1,"on_error":"shut"}}`, 422, kindInvalid, "body.rate.on_error"},
		{"/limits/mail", `{"kind":"k","rate":{"limit":1,"speed":1}}`, 422, kindInvalid, "body.rate.speed"},
		{"/limits/mail", `{"kind":"k","rate":{"limit":1},"speed":1}`, 422, kindInvalid, "body.speed"},
		{"/limits/mail", `{"kind":"k","max_running":0}`, 422, kindInvalid, "body.max_running"},
		{"/limits/mail", `{"concurrency_key":"","max_running":1}`, 422, kindInvalid, "body.concurrency_key"},
		{"/limits/mail", `{"max_running":1}`, 422, kindInvalid, "body.max_running"},
		{"/limits/mail", `{`, 400, kindMalformed, "body"},
	} {
		p := wantProblem(t, call(t, h, http.MethodPut, tc.path, tc.body), tc.status, tc.kind)
		if len(p.Errors) == 0 || p.Errors[0].Location != tc.location {
			t.Errorf("%s: %+v, want an error at %s", tc.body, p.Errors, tc.location)
		}
	}
	wantProblem(t, call(t, h, http.MethodDelete, "/limits/Mail", ""), 422, kindInvalid)
	w := call(t, h, http.MethodGet, "/limits/mail", "")
	wantProblem(t, w, 405, kindNotAllowed)
	if got := w.Header().Get("Allow"); got != "PUT, DELETE" {
		t.Errorf("Allow = %q", got)
	}
}

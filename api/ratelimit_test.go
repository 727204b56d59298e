package api

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/peltonq/pelton"
)

func TestRequestsAreLimited(t *testing.T) {
	t.Parallel()
	var quota Quota
	var callers []string
	limit := &RequestLimit{
		Rate: pelton.RateLimit{Limit: 100, Per: time.Minute, Burst: 10},
		Take: func(_ context.Context, caller string) Quota {
			callers = append(callers, caller)
			return quota
		},
	}
	h := serve(t, newFakeTasks(), func(c *Config) { c.Requests, c.Token = limit, "s3cret" })
	get := func(path, token string) *httptest.ResponseRecorder {
		t.Helper()
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}

	quota = Quota{Allowed: true, Remaining: 7, ResetAfter: 1200 * time.Millisecond}
	w := get("/queues", "s3cret")
	if w.Code != 200 || w.Header().Get("RateLimit-Policy") != `"requests";q=100;w=60` || w.Header().Get("RateLimit") != `"requests";r=7;t=2` || w.Header().Get("Retry-After") != "" {
		t.Errorf("allowed: %d %v", w.Code, w.Header())
	}
	quota = Quota{RetryAfter: 600 * time.Millisecond, ResetAfter: time.Minute}
	w = get("/queues", "s3cret")
	p := wantProblem(t, w, 429, kindRateLimited)
	if p.Detail != "more than 100 requests in 1m" || w.Header().Get("Retry-After") != "1" || w.Header().Get("RateLimit") != `"requests";r=0;t=60` {
		t.Errorf("refused: %q %v", p.Detail, w.Header())
	}
	quota.RetryAfter = 61 * time.Second
	if w = get("/nowhere", "s3cret"); w.Code != 429 || w.Header().Get("Retry-After") != "61" {
		t.Errorf("refused for longer: %d %v", w.Code, w.Header())
	}
	const key = "token:1ec1c26b50d5d3c5"
	if diff := cmp.Diff([]string{key, key, key}, callers); diff != "" {
		t.Errorf("callers (-want +got):\n%s", diff)
	}
	// Probes are not counted, nor is who has no token.
	if w := get("/healthz", ""); w.Code != 200 || w.Header().Get("RateLimit") != "" {
		t.Errorf("a probe: %d %v", w.Code, w.Header())
	}
	if w := get("/queues", "wrong"); w.Code != 401 {
		t.Errorf("a wrong token: %d", w.Code)
	}
	if len(callers) != 3 {
		t.Errorf("callers: %v", callers)
	}
	// Windows that are no whole seconds are not in the draft.
	limit.Rate.Per = 500 * time.Millisecond
	h = serve(t, newFakeTasks(), func(c *Config) { c.Requests = limit })
	if got := get("/queues", "").Header().Get("RateLimit-Policy"); got != `"requests";q=100` {
		t.Errorf("policy %s", got)
	}
}

func TestCallersWithoutTokens(t *testing.T) {
	t.Parallel()
	for remote, want := range map[string]string{
		"192.0.2.7:1234":                 "ip:192.0.2.7",
		"[::ffff:192.0.2.7]:1":           "ip:192.0.2.7",
		"[2001:db8:1:2:3:4:5:6]:1":       "ip:2001:db8:1:2::/64",
		"[fe80::1%eth0]:1":               "ip:fe80::/64",
		"@":                              "ip:@",
		"[2001:db8:1:2:ffff:4:5:6]:8080": "ip:2001:db8:1:2::/64",
	} {
		if got := countedAs(&http.Request{RemoteAddr: remote}); got != want {
			t.Errorf("%s is %s, want %s", remote, got, want)
		}
	}
}

func TestDocumentSaysThatRequestsAreLimited(t *testing.T) {
	t.Parallel()
	limit := &RequestLimit{Rate: pelton.RateLimit{Limit: 1, Per: time.Second}, Take: func(context.Context, string) Quota { return Quota{Allowed: true} }}
	doc, _ := document(t, serve(t, newFakeTasks(), func(c *Config) { c.Requests = limit }))
	for path, methods := range doc.Paths {
		for method, op := range methods {
			probe := path == pathHealth || path == pathReady
			if _, ok := op.Responses["429"]; ok == probe {
				t.Errorf("%s %s: documents 429: %v", method, path, ok)
			}
		}
	}
}

package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/peltonq/pelton"
)

// service answers by path: /status/503, /bytes/1000, /redirects/3, /to?URL, /hang.
func service(t *testing.T) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("/status/{code}", func(w http.ResponseWriter, r *http.Request) {
		var code int
		_, _ = fmt.Sscan(r.PathValue("code"), &code)
		if wait := r.FormValue("wait"); wait != "" {
			w.Header().Set("Retry-After", wait)
		}
		w.WriteHeader(code)
		_, _ = w.Write([]byte("four"))
	})
	mux.HandleFunc("/bytes/{n}", func(w http.ResponseWriter, r *http.Request) {
		var n int
		_, _ = fmt.Sscan(r.PathValue("n"), &n)
		_, _ = w.Write(make([]byte, n))
	})
	mux.HandleFunc("/redirects/{n}", func(w http.ResponseWriter, r *http.Request) {
		var n int
		_, _ = fmt.Sscan(r.PathValue("n"), &n)
		target := "/status/200"
		if n > 1 {
			target = fmt.Sprintf("/redirects/%d", n-1)
		}
		http.Redirect(w, r, target, http.StatusFound)
	})
	mux.HandleFunc("/to", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, r.URL.RawQuery, http.StatusFound)
	})
	mux.HandleFunc("/hang", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	mux.HandleFunc("/cut", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = w.Write([]byte("short"))
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL
}

func TestFetch(t *testing.T) {
	t.Parallel()
	base := service(t)
	f := newFetcher(time.Minute)
	for path, want := range map[string]fetchResult{
		"/status/200":                          {Status: 200, Bytes: 4},
		"/status/404":                          {Status: 404, Bytes: 4},
		"/status/403":                          {Status: 403, Bytes: 4},
		"/status/204":                          {Status: 204},
		"/bytes/100000":                        {Status: 200, Bytes: 100_000},
		fmt.Sprint("/bytes/", maxFetchBytes):   {Status: 200, Bytes: maxFetchBytes},
		fmt.Sprint("/bytes/", maxFetchBytes+5): {Status: 200, Bytes: maxFetchBytes, Truncated: true},
		"/redirects/5":                         {Status: 200, Bytes: 4},
	} {
		got, err := f.fetch(t.Context(), fetchArgs{URL: base + path})
		if err != nil {
			t.Errorf("%s: %v", path, err)
		} else if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
	}
}

func TestFetchRetries(t *testing.T) {
	t.Parallel()
	base := service(t)
	closed, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := closed.Addr().String()
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	f := newFetcher(time.Minute)
	for _, address := range []string{base + "/status/500", base + "/status/503", base + "/status/429", base + "/cut", "http://" + nobody} {
		_, err := f.fetch(t.Context(), fetchArgs{URL: address})
		requireRetry(t, err)
	}
	for _, status := range []string{"429", "503"} {
		_, err := f.fetch(t.Context(), fetchArgs{URL: base + "/status/" + status + "?wait=7"})
		var directive *pelton.Directive
		if !errors.As(err, &directive) || directive.Verb != pelton.DirectiveRetryAfter || directive.Delay != 7*time.Second {
			t.Errorf("%s with Retry-After: %v", status, err)
		}
	}
}

func TestFetchRefuses(t *testing.T) {
	t.Parallel()
	base := service(t)
	f := newFetcher(5 * time.Second)
	for _, target := range []string{
		"", "not a url", "http://", "ftp://127.0.0.1/x", "file:///etc/passwd", "//127.0.0.1/", "http://[::1", "http:///path",
		"http://10.0.0.1/", "http://192.168.1.1:8080/", "http://172.16.0.1/", "http://169.254.169.254/latest/meta-data/",
		"http://100.64.0.1/", "http://0.0.0.0/", "http://[fe80::1]/", "http://[fd00::1]/", "http://[::ffff:10.0.0.1]/", "http://[::]/",
		base + "/to?http://10.0.0.1/", base + "/to?http://169.254.169.254/", base + "/to?file:///etc/passwd", base + "/redirects/6",
	} {
		_, err := f.fetch(t.Context(), fetchArgs{URL: target})
		if err == nil {
			t.Errorf("%q was not refused", target)
			continue
		}
		requireDiscard(t, err)
	}
}

func TestFetchEndsWithItsContext(t *testing.T) {
	t.Parallel()
	base := service(t)
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, pelton.ErrTimeout)
	defer cancel()
	if _, err := newFetcher(time.Minute).fetch(ctx, fetchArgs{URL: base + "/hang"}); !errors.Is(err, pelton.ErrTimeout) {
		t.Errorf("%v, want the cause of ctx", err)
	}
	_, err := newFetcher(50*time.Millisecond).fetch(t.Context(), fetchArgs{URL: base + "/hang"})
	requireRetry(t, err)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want the fetcher's own timeout", err)
	}
}

func TestFetchHidesPasswords(t *testing.T) {
	t.Parallel()
	base := service(t)
	address := strings.Replace(base, "http://", "http://user:secret@", 1)
	for _, target := range []string{address + "/status/500", address + "/cut", address + "/to?http://10.0.0.1/", "http://user:secret@10.0.0.1/"} {
		_, err := newFetcher(time.Minute).fetch(t.Context(), fetchArgs{URL: target})
		if err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", target, err)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"0": 0, "120": 2 * time.Minute, "99999999": maxRetryAfter,
		now.Add(time.Minute).Format(http.TimeFormat): time.Minute, now.Add(-time.Hour).Format(http.TimeFormat): 0,
		now.AddDate(9, 0, 0).Format(http.TimeFormat): maxRetryAfter,
	} {
		if got, ok := retryAfter(value, now); !ok || got != want {
			t.Errorf("retryAfter(%q) = %s, %t, want %s", value, got, ok, want)
		}
	}
	for _, value := range []string{"", "soon", "-1", "1.5"} {
		if got, ok := retryAfter(value, now); ok {
			t.Errorf("retryAfter(%q) = %s", value, got)
		}
	}
}

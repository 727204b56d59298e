package api

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"runtime/debug"
	"strings"
	"time"
)

// guard stands before every route: what may come in, and what a panic looks like
// from outside.
func (s *server) guard(next http.Handler) http.Handler {
	crossOrigin := http.NewCrossOriginProtection()
	crossOrigin.SetDenyHandler(newProblem(kindForbidden, "a page of another origin must not change anything here"))

	if s.Auditing != nil {
		next = s.audit(next)
	}
	next = s.account(strictQuery(next))
	if s.Requests != nil {
		next = s.limitRequests(next)
	}
	next = crossOrigin.Handler(s.authenticate(next))
	if s.CheckHost {
		next = s.requireHost(next)
	}
	return s.catch(next)
}

// catch answers a panic with a problem, or cuts the connection when an answer has
// begun: half of one must not look like a whole. It also sets the headers that
// every answer has.
func (s *server) catch(next http.Handler) http.Handler {
	headers := http.Header{ // unless the answer says otherwise; shared: nobody changes a value in place
		"X-Content-Type-Options":       {"nosniff"},
		"Cache-Control":                {"no-store"},
		"Content-Security-Policy":      {"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"},
		"Cross-Origin-Resource-Policy": {"same-origin"},
		"Referrer-Policy":              {"no-referrer"},
		"X-Frame-Options":              {"DENY"},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		maps.Copy(w.Header(), headers)
		boundBody(w, r)
		tracked := &responseTracker{ResponseWriter: w}
		defer func() {
			if v := recover(); v != nil {
				s.panicked(tracked, r, v)
			}
		}()
		next.ServeHTTP(tracked, r)
	})
}

// boundBody bounds the time for a body that nobody may read: net/http reads what is left of
// it before it answers, without a bound of its own, and a sender that stops in the middle
// would keep its connection for ever.
func boundBody(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength != 0 {
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout)) // as in readBody
	}
}

func (s *server) panicked(w *responseTracker, r *http.Request, v any) {
	if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(v)
	}
	s.Logger.ErrorContext(r.Context(), "request panicked", slog.String("method", r.Method), slog.String("path", r.URL.Path),
		slog.String("panic", fmt.Sprint(v)), slog.String("stack", string(debug.Stack())))
	if w.begun {
		panic(http.ErrAbortHandler)
	}
	newInternal().ServeHTTP(w, r)
}

// responseTracker knows whether an answer has begun.
type responseTracker struct {
	http.ResponseWriter

	begun bool
}

// WriteHeader notes the final status; 1xx are only hints.
func (t *responseTracker) WriteHeader(status int) {
	t.begun = t.begun || status >= http.StatusOK
	t.ResponseWriter.WriteHeader(status)
}

func (t *responseTracker) Write(p []byte) (int, error) {
	t.begun = true
	return t.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController.
func (t *responseTracker) Unwrap() http.ResponseWriter { return t.ResponseWriter }

// requireHost answers, while the API is open, only requests for loopback or one of
// AllowedHosts.
func (s *server) requireHost(next http.Handler) http.Handler {
	names := make(map[string]bool, len(s.AllowedHosts))
	for _, name := range s.AllowedHosts {
		names[strings.ToLower(name)] = true
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := strings.ToLower(r.Host)
		name := hostname(host)
		if s.closed() || isLoopback(name) || names[name] || names[host] {
			next.ServeHTTP(w, r)
			return
		}
		newProblem(kindMisdirected, "Host %q is not served here: use localhost, or name it in --allowed-hosts", clip(r.Host, 100)).ServeHTTP(w, r)
	})
}

// hostname is a Host without its port, its brackets and a final dot.
func hostname(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	} else {
		host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	}
	return strings.TrimSuffix(host, ".")
}

func isLoopback(name string) bool {
	addr, err := netip.ParseAddr(name)
	return name == "localhost" || err == nil && addr.IsLoopback()
}

// strictQuery refuses a query of which net/url would silently drop a part, and
// parameters without a value.
func strictQuery(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RawQuery == "" {
			next.ServeHTTP(w, r)
			return
		}
		query, err := url.ParseQuery(r.URL.RawQuery)
		if err != nil {
			fieldProblem(kindInvalid, fieldError{"query", clip(err.Error(), 100)}).ServeHTTP(w, r)
			return
		}
		if bad := emptyParams(query); len(bad) > 0 {
			fieldProblem(kindInvalid, bad...).ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

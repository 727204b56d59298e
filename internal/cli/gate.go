package cli

import (
	"encoding/json"
	"net/http"
	"sync/atomic"
)

// gate stands for the API until there is a broker behind it: the process lives,
// and everything else is answered "try again" at once.
type gate struct {
	next atomic.Pointer[http.Handler]
}

// open lets requests through to next from now on.
func (g *gate) open(next http.Handler) { g.next.Store(&next) }

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if next := g.next.Load(); next != nil {
		(*next).ServeHTTP(w, r)
		return
	}
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	status, mediaType, body := http.StatusServiceUnavailable, "application/problem+json", any(problemError{
		Type: "unavailable", Title: "Unavailable", Status: http.StatusServiceUnavailable,
		Detail: "the broker cannot be reached yet; nothing was done",
	})
	if r.URL.Path == "/healthz" && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		status, mediaType, body = http.StatusOK, "application/json", map[string]string{"status": "ok"}
	} else {
		header.Set("Retry-After", "1")
	}
	header.Set("Content-Type", mediaType)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // fails only if the caller has gone
}

package cli

import (
	"encoding/json"
	"net/http"
	"sync/atomic"
)

// gate stands for the API until there is a broker behind it: the process lives,
// and everything else is answered "try again" at once.
type gate struct {
	next     atomic.Pointer[http.Handler]
	draining atomic.Bool // each answer is the last on its connection
}

// open lets requests through to next from now on.
func (g *gate) open(next http.Handler) { g.next.Store(&next) }

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if g.draining.Load() {
		w.Header().Set("Connection", "close")
	}
	if next := g.next.Load(); next != nil {
		(*next).ServeHTTP(w, r)
		return
	}
	if r.URL.Path == "/healthz" && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		answerJSON(w, http.StatusOK, "application/json", map[string]string{"status": "ok"})
		return
	}
	answerUnavailable(w, "the broker cannot be reached yet; nothing was done")
}

// answerUnavailable is a problem of the API's, outside of it.
func answerUnavailable(w http.ResponseWriter, detail string) {
	w.Header().Set("Retry-After", "1")
	w.Header().Set("Connection", "close") // unread bodies are not waited for
	answerJSON(w, http.StatusServiceUnavailable, "application/problem+json", problemError{
		Type: "unavailable", Title: "Unavailable", Status: http.StatusServiceUnavailable, Detail: detail,
	})
}

func answerJSON(w http.ResponseWriter, status int, mediaType string, body any) {
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Content-Type", mediaType)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // fails only if the caller has gone
}

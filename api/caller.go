package api

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"net/http"
	"strings"

	"github.com/peltonq/pelton"
)

// bootstrapID is who calls with the token of --token.
const bootstrapID = "bootstrap"

// caller is who makes a request.
type caller struct {
	id    string        // of the token; bootstrapID; empty where the API is open
	token *pelton.Token // nil may do everything
	// key is whose requests, and idempotency keys, are counted as one's. It is made of
	// the token's id, or of a hash where the token has none, and is empty where the API
	// is open.
	key string
}

type callerKey struct{}

// callerOf is who makes the request that ctx is of.
func callerOf(ctx context.Context) *caller {
	if c, ok := ctx.Value(callerKey{}).(*caller); ok {
		return c
	}
	return &caller{}
}

// hashKey is a caller's key where its token has no id. The token itself must not be
// found in the broker.
func hashKey(sum [sha256.Size]byte) string { return hex.EncodeToString(sum[:16]) }

// closed reports whether callers must show a token.
func (s *server) closed() bool { return s.Token != "" || s.Closed || s.Keyring.Any() }

// asks reports whether callers may be asked for a token.
func (s *server) asks() bool {
	_, never := s.Keyring.(noKeyring)
	return s.Token != "" || s.Closed || !never
}

// authenticate lets calls with a token through, and those which probes make; and all of
// them while the API is open.
func (s *server) authenticate(next http.Handler) http.Handler {
	bootstrap := sha256.Sum256([]byte(s.Token))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.closed() || r.URL.Path == pathHealth || r.URL.Path == pathReady {
			next.ServeHTTP(w, r)
			return
		}
		scheme, shown, found := strings.Cut(r.Header.Get("Authorization"), " ")
		if !found || !strings.EqualFold(scheme, "Bearer") {
			newProblem(kindUnauthorized, "a token is needed: Authorization: Bearer TOKEN").
				withHeader("WWW-Authenticate", `Bearer realm="pelton"`).ServeHTTP(w, r)
			return
		}
		shown = strings.TrimSpace(shown)
		// Hashes are compared, so that neither content nor length shows in the time that
		// it takes.
		if sum := sha256.Sum256([]byte(shown)); s.Token != "" && subtle.ConstantTimeCompare(bootstrap[:], sum[:]) == 1 {
			s.serveAs(next, w, r, &caller{id: bootstrapID, key: hashKey(sum)})
			return
		}
		token, live, err := s.Keyring.Identify(r.Context(), shown, remembered(r.URL.Path))
		switch {
		case errors.Is(err, pelton.ErrNotFound):
			newProblem(kindUnauthorized, "the token is not valid").
				withHeader("WWW-Authenticate", `Bearer realm="pelton", error="invalid_token"`).ServeHTTP(w, r)
		case err != nil:
			s.problem(r.Context(), "authenticate", "header", err).ServeHTTP(w, r)
		default:
			// A revoked token ends what is held for it. Writes that have begun go on.
			ctx, cancel := context.WithCancelCause(r.Context())
			stop := context.AfterFunc(live, func() { cancel(context.Cause(live)) })
			defer cancel(nil)
			defer stop()
			s.serveAs(next, w, r.WithContext(ctx), &caller{id: token.ID, token: token, key: token.ID})
		}
	})
}

func (s *server) serveAs(next http.Handler, w http.ResponseWriter, r *http.Request, c *caller) {
	next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, c)))
}

// remembered reports whether a call is answered from memory alone, and so also to a token
// that cannot be checked while the broker is out of reach: metrics are wanted then.
func remembered(path string) bool {
	return path == pathMetrics || path == pathOpenAPI || path == "/openapi-3.0.json" || path == "/docs"
}

package api

import (
	"context"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"github.com/peltonq/pelton"
)

// RequestLimit bounds the requests of each token, or of each address when the API
// asks for no token.
type RequestLimit struct {
	// Rate is what a caller may send, its defaults filled in.
	Rate pelton.RateLimit
	// Take counts one request of a caller. It must answer soon, whatever it counts in.
	Take func(ctx context.Context, caller string) Quota
}

// Quota is what a caller may send.
type Quota struct {
	Allowed    bool          // the request may come in
	Remaining  int           // how many more could at once
	RetryAfter time.Duration // when one could, if it may not
	ResetAfter time.Duration // when the caller will have all again
}

// policyName names the one policy there is in RateLimit and RateLimit-Policy.
const policyName = `"requests"`

// limitRequests answers 429 to who sends too much. Every answer says how much is
// left, in the fields of draft-ietf-httpapi-ratelimit-headers-10: RateLimit-Policy
// with quota q and window w, RateLimit with remaining r and time to reset t. Probes
// are not counted.
func (s *server) limitRequests(next http.Handler) http.Handler {
	rate := s.Requests.Rate
	policy := fmt.Sprintf("%s;q=%d", policyName, rate.Limit)
	if rate.Per%time.Second == 0 { // the draft has whole seconds
		policy += fmt.Sprintf(";w=%d", rate.Per/time.Second)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == pathHealth || r.URL.Path == pathReady {
			next.ServeHTTP(w, r)
			return
		}
		quota := s.Requests.Take(r.Context(), countedAs(r))
		header := w.Header()
		header.Set("RateLimit-Policy", policy)
		header.Set("RateLimit", fmt.Sprintf("%s;r=%d;t=%d", policyName, max(quota.Remaining, 0), wholeSeconds(quota.ResetAfter)))
		if quota.Allowed {
			next.ServeHTTP(w, r)
			return
		}
		newProblem(kindRateLimited, "more than %d requests in %s", rate.Limit, pelton.FormatDuration(rate.Per)).
			withHeader("Retry-After", strconv.Itoa(max(1, wholeSeconds(quota.RetryAfter)))).ServeHTTP(w, r)
	})
}

// wholeSeconds rounds up, so that nobody comes too early.
func wholeSeconds(d time.Duration) int { return int(math.Ceil(max(0, d).Seconds())) }

// hostOf is an address without its port.
func hostOf(remote string) string {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return remote
	}
	return host
}

// countedAs is whose requests are counted together: those with the token, which does
// not leave the process, or those from an address. One customer often has a whole
// /64 of IPv6.
func countedAs(r *http.Request) string {
	if c := callerOf(r.Context()); c.key != "" {
		return "token:" + c.key[:min(len(c.key), 16)]
	}
	host := hostOf(r.RemoteAddr)
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return "ip:" + clip(host, 64)
	}
	if addr = addr.Unmap().WithZone(""); addr.Is6() {
		if prefix, err := addr.Prefix(64); err == nil {
			return "ip:" + prefix.String()
		}
	}
	return "ip:" + addr.String()
}

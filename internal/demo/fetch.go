package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"time"

	"code.dny.dev/ssrf"
	"github.com/peltonq/pelton"
)

const (
	maxFetchBytes = 10 << 20
	maxRedirects  = 5
	maxRetryAfter = 24 * time.Hour // a server may ask for no longer a wait
)

type fetchArgs struct {
	URL string `json:"url"`
}

type fetchResult struct {
	Status int   `json:"status"`
	Bytes  int64 `json:"bytes"` // of the body, as it came over the wire
	// Truncated says that the body went on after maxFetchBytes.
	Truncated bool `json:"truncated,omitempty"`
}

// fetcher calls HTTP services on behalf of tasks, which means: of whoever may
// enqueue. So it connects to the public internet and to loopback only (a demo
// runs on a developer's machine), and neither to private networks nor to a
// cloud's metadata service. The check is made on the address of each
// connection, after the name was resolved, so neither DNS nor a redirect gets
// around it.
type fetcher struct {
	client  *http.Client
	timeout time.Duration
}

func newFetcher(timeout time.Duration) *fetcher {
	guard := ssrf.New(
		ssrf.WithAnyPort(),
		ssrf.WithAllowedV4Prefixes(netip.MustParsePrefix("127.0.0.0/8")),
		ssrf.WithAllowedV6Prefixes(netip.MustParsePrefix("::1/128")),
	)
	dialer := &net.Dialer{Timeout: 10 * time.Second, Control: guard.Safe}
	return &fetcher{timeout: timeout, client: &http.Client{
		CheckRedirect: checkRedirect,
		// No Proxy: the guard would see the proxy's address and not the target's.
		Transport: &http.Transport{
			DialContext:            dialer.DialContext,
			TLSHandshakeTimeout:    10 * time.Second,
			MaxResponseHeaderBytes: 64 << 10,
			DisableCompression:     true,
			DisableKeepAlives:      true, // no connection outlives its task
		},
	}}
}

// errRefused is a URL that no retry will make acceptable.
var errRefused = errors.New("refused")

// fetch gets the URL and counts the bytes of the answer. A status below 500 is a
// result, whatever it says; 5xx, 429 and a failed connection are errors, and
// Retry-After says when to try again. What the guard refuses is discarded.
func (f *fetcher) fetch(ctx context.Context, args fetchArgs) (fetchResult, error) {
	target, err := url.Parse(args.URL)
	if err == nil {
		err = checkURL(target)
	}
	if err != nil {
		return fetchResult{}, pelton.Discard(fmt.Errorf("%w: url: %w", pelton.ErrInvalid, err))
	}
	timed, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	result, err := f.get(timed, target)
	if err != nil && ctx.Err() != nil {
		return fetchResult{}, fmt.Errorf("fetch %s: %w", target.Redacted(), context.Cause(ctx))
	}
	return result, err
}

func (f *fetcher) get(ctx context.Context, target *url.URL) (fetchResult, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), http.NoBody)
	if err != nil {
		return fetchResult{}, pelton.Discard(fmt.Errorf("fetch %s: %w", target.Redacted(), err))
	}
	req.Header.Set("User-Agent", "pelton-demo")
	resp, err := f.client.Do(req)
	if err != nil {
		err = fmt.Errorf("fetch: %w", err) // it names method and URL
		if refused(err) {
			return fetchResult{}, pelton.Discard(err)
		}
		return fetchResult{}, err
	}
	defer resp.Body.Close()

	if resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests {
		err := fmt.Errorf("fetch %s: answered %s", target.Redacted(), resp.Status)
		if wait, ok := retryAfter(resp.Header.Get("Retry-After"), time.Now()); ok {
			return fetchResult{}, pelton.RetryAfter(wait, err)
		}
		return fetchResult{}, err
	}
	// One byte more than allowed tells a body that ends there from one that goes on.
	n, err := io.Copy(io.Discard, io.LimitReader(resp.Body, maxFetchBytes+1))
	if err != nil {
		return fetchResult{}, fmt.Errorf("fetch %s: read the body: %w", target.Redacted(), err)
	}
	return fetchResult{Status: resp.StatusCode, Bytes: min(n, maxFetchBytes), Truncated: n > maxFetchBytes}, nil
}

// checkURL accepts http and https with a host.
func checkURL(u *url.URL) error {
	if u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("%w: the scheme %q is not http or https", errRefused, u.Scheme)
	}
	if u.Hostname() == "" {
		return fmt.Errorf("%w: %q has no host", errRefused, u.Redacted())
	}
	return nil
}

func checkRedirect(next *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return fmt.Errorf("%w: more than %d redirects", errRefused, maxRedirects)
	}
	return checkURL(next.URL)
}

// refused reports whether the guard or a check stopped the call.
func refused(err error) bool {
	for _, target := range []error{errRefused, ssrf.ErrProhibitedIP, ssrf.ErrProhibitedNetwork, ssrf.ErrProhibitedPort, ssrf.ErrInvalidHostPort} {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

// retryAfter reads the header of that name: seconds, or a date (RFC 9110, 10.2.3).
func retryAfter(value string, now time.Time) (time.Duration, bool) {
	if seconds, err := strconv.ParseUint(value, 10, 32); err == nil {
		return min(time.Duration(seconds)*time.Second, maxRetryAfter), true
	}
	if at, err := http.ParseTime(value); err == nil {
		return min(max(at.Sub(now), 0), maxRetryAfter), true
	}
	return 0, false
}

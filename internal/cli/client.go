package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/peltonq/pelton"
)

const (
	defaultURL     = "http://127.0.0.1:7420"
	dialTimeout    = 5 * time.Second
	requestTimeout = 30 * time.Second // of one request, without the time it asks to be held
	batchTimeout   = 90 * time.Second
	maxAnswer      = 128 << 20 // bytes; a batch's answer repeats 16 MiB of payloads
)

// errUnreachable is an API that did not answer, where nothing was changed by the
// request or sending it again does no harm.
var errUnreachable = errors.New("cannot reach the server")

// clientFlags say where the API is.
type clientFlags struct {
	url   string
	token string
	tls   clientTLSFlags
}

func (f *clientFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.url, "url", defaultURL, "where the API is")
	secretVar(flags, &f.token, "token", "bearer token of the API")
	f.tls.register(flags)
}

// client calls the HTTP API.
type client struct {
	base  *url.URL
	token string
	http  *http.Client
	log   *slog.Logger
}

func (a *app) client(f clientFlags) (*client, error) {
	base, err := url.Parse(f.url)
	if err != nil || base.Host == "" || (base.Scheme != "http" && base.Scheme != "https") {
		return nil, usagef("--url %q (PELTON_URL) is not a URL such as %s", clip(f.url, 200), defaultURL)
	}
	secure, err := f.tls.config()
	if err != nil {
		return nil, err
	}
	base.RawQuery, base.Fragment = "", ""
	return &client{
		base:  base,
		token: f.token,
		log:   a.logger(),
		http: &http.Client{
			Transport: &http.Transport{
				Proxy:               http.ProxyFromEnvironment,
				DialContext:         (&net.Dialer{Timeout: dialTimeout}).DialContext,
				TLSHandshakeTimeout: dialTimeout,
				TLSClientConfig:     secure,
				ForceAttemptHTTP2:   true,
			},
			// A redirected POST would lose its body; the user shall know the right URL.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// withClient runs fn with a client that is closed after it.
func (a *app) withClient(f *clientFlags, fn func(cmd *cobra.Command, c *client, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		c, err := a.client(*f)
		if err != nil {
			return err
		}
		defer c.http.CloseIdleConnections()
		return fn(cmd, c, args)
	}
}

// request is one call of the API.
type request struct {
	method  string
	path    []string // unescaped segments
	query   url.Values
	header  http.Header
	body    []byte
	timeout time.Duration // zero means requestTimeout
	once    bool          // sending it twice does it twice
}

// do sends the request and gives the body of an answer below 300. Errors are a
// *problemError, errUnreachable, pelton.ErrUnknownOutcome for a request that was
// sent, must not be repeated and got no answer, and ctx's.
func (c *client) do(ctx context.Context, r request) ([]byte, error) {
	if r.timeout == 0 {
		r.timeout = requestTimeout
	}
	whole := ctx
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	var sent atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteHeaders: func() { sent.Store(true) }})

	req, err := c.newRequest(ctx, r)
	if err != nil {
		return nil, err
	}

	start := time.Now()
	status, body, err := c.roundTrip(req)
	c.log.DebugContext(ctx, "request", slog.String("method", r.method), slog.String("url", req.URL.Redacted()),
		slog.Int("status", status), slog.Duration("took", time.Since(start)), slog.Any("error", err))
	switch {
	case err == nil:
		return body, nil
	case status != 0 && status < 300 || status == 0:
		return nil, c.lost(whole, r, sent.Load(), err)
	default:
		return nil, err
	}
}

// newRequest is r as HTTP has it.
func (c *client) newRequest(ctx context.Context, r request) (*http.Request, error) {
	segments := make([]string, len(r.path))
	for i, s := range r.path {
		segments[i] = url.PathEscape(s)
	}
	target := c.base.JoinPath(segments...)
	target.RawQuery = r.query.Encode()
	req, err := http.NewRequestWithContext(ctx, r.method, target.String(), bytes.NewReader(r.body))
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", r.method, target.Redacted(), err)
	}
	if r.header != nil {
		req.Header = r.header.Clone()
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "pelton/"+readBuild().Version)
	if len(r.body) > 0 {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	return req, nil
}

// roundTrip gives the status, or 0 if there was no answer.
func (c *client) roundTrip(req *http.Request) (int, []byte, error) {
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = resp.Body.Close() }() // read to its end, or given up
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case resp.StatusCode >= 300:
		return resp.StatusCode, nil, readProblem(resp, body)
	case err != nil:
		return resp.StatusCode, nil, fmt.Errorf("read the answer: %w", err)
	case len(body) > maxAnswer:
		return resp.StatusCode, nil, fmt.Errorf("read the answer: longer than %d bytes", maxAnswer)
	default:
		return resp.StatusCode, body, nil
	}
}

// lost says what a request without an answer means.
func (c *client) lost(ctx context.Context, r request, sent bool, err error) error {
	var inner *url.Error
	if errors.As(err, &inner) {
		err = inner.Err // without the method and URL, which stand in front already
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("no answer within %s", pelton.FormatDuration(r.timeout))
	}
	switch {
	case r.once && sent:
		return fmt.Errorf("%w: the request was sent to %s and not answered, it may or may not have been carried out: %w",
			pelton.ErrUnknownOutcome, c.base.Redacted(), err)
	case ctx.Err() != nil:
		return fmt.Errorf("interrupted: %w", context.Cause(ctx))
	default:
		return fmt.Errorf("%w at %s: %w", errUnreachable, c.base.Redacted(), err)
	}
}

package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"github.com/peltonq/pelton"
)

func TestExitCode(t *testing.T) {
	t.Parallel()
	problem := func(kind string, status int) error { return &problemError{Type: kind, Status: status} }
	for _, tc := range []struct {
		name string
		err  error
		want int
	}{
		{"nil", nil, exitOK},
		{"anything", errors.New("boom"), exitFailure},
		{"usage", usagef("no"), exitUsage},
		{"wrapped code", fmt.Errorf("x: %w", told(exitConflict)), exitConflict},
		{"malformed", problem("malformed-json", http.StatusBadRequest), exitUsage},
		{"invalid", problem("invalid", http.StatusUnprocessableEntity), exitUsage},
		{"too large", problem("too-large", http.StatusRequestEntityTooLarge), exitUsage},
		{"not supported call", problem("not-supported", http.StatusNotFound), exitUsage},
		{"not found", problem("not-found", http.StatusNotFound), exitNotFound},
		{"404 of something else", problem("", http.StatusNotFound), exitFailure},
		{"unauthorized", problem("unauthorized", http.StatusUnauthorized), exitAuth},
		{"401 of a proxy", problem("", http.StatusUnauthorized), exitAuth},
		{"forbidden", problem("forbidden", http.StatusForbidden), exitAuth},
		{"misdirected", problem("misdirected", http.StatusMisdirectedRequest), exitAuth},
		{"conflict", problem("conflict", http.StatusConflict), exitConflict},
		{"rate limited", problem("rate-limited", http.StatusTooManyRequests), exitRateLimited},
		{"unavailable", problem("unavailable", http.StatusServiceUnavailable), exitUnreachable},
		{"unknown outcome", problem("unknown-outcome", http.StatusServiceUnavailable), exitFailure},
		{"bad gateway", problem("", http.StatusBadGateway), exitUnreachable},
		{"internal", problem("internal", http.StatusInternalServerError), exitFailure},
		{"redirect", problem("", http.StatusFound), exitFailure},
		{"unreachable", fmt.Errorf("%w: refused", errUnreachable), exitUnreachable},
		{"lost answer", fmt.Errorf("%w: %w", pelton.ErrUnknownOutcome, context.DeadlineExceeded), exitFailure},
		{"broker", fmt.Errorf("open: %w", pelton.ErrUnavailable), exitUnreachable},
		{"failed", &pelton.TaskError{State: pelton.Failed}, exitTaskFailed},
		{"cancelled", &pelton.TaskError{State: pelton.Cancelled}, exitTaskGone},
		{"expired", &pelton.TaskError{State: pelton.Expired}, exitTaskGone},
		{"grace", pelton.ErrGraceExceeded, exitFailure},
		{"interrupted", context.Canceled, exitFailure},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if got := exitCode(tc.err); got != tc.want {
				t.Errorf("exitCode(%v) = %d, want %d", tc.err, got, tc.want)
			}
		})
	}
}

func TestTally(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		codes []int
		want  int
	}{
		{nil, exitOK},
		{[]int{exitOK, exitOK}, exitOK},
		{[]int{exitNotFound, exitNotFound}, exitNotFound},
		{[]int{exitOK, exitNotFound}, exitPartly},
		{[]int{exitTaskFailed, exitTaskGone}, exitPartly},
	} {
		var codes tally
		for _, code := range tc.codes {
			codes.add(code, 1)
		}
		if got := codes.code(); got != tc.want {
			t.Errorf("%v: %d, want %d", tc.codes, got, tc.want)
		}
	}
}

// brokenPipe is a reader that has gone away.
type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, fmt.Errorf("write |1: %w", syscall.EPIPE) }

func TestBrokenPipeIsQuiet(t *testing.T) {
	t.Parallel()
	for _, format := range []string{formatTable, formatJSON, formatJSONL} {
		var stderr bytes.Buffer
		code := Main(t.Context(), []string{"version", "-o", format}, strings.NewReader(""), brokenPipe{}, &stderr, nil)
		if code != exitFailure || stderr.Len() > 0 {
			t.Errorf("-o %s: code %d, stderr %q", format, code, &stderr)
		}
	}
}

// runMain runs a command line with stdin and a URL, and gives what came out.
func runMain(t *testing.T, url, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = Main(t.Context(), args, io.Reader(strings.NewReader(stdin)), &out, &errs, []string{"PELTON_URL=" + url})
	return code, out.String(), errs.String()
}

package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"
)

// dialed is a connection to w on which nothing was sent.
func dialed(t *testing.T, w *web) net.Conn {
	t.Helper()
	conn, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(t.Context(), "tcp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// asked is an answer without its body, and the problem that it was.
type asked struct {
	problemError
	*http.Response
}

func ask(t *testing.T, conn net.Conn, path string) asked {
	t.Helper()
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", path); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var p problemError
	_ = json.NewDecoder(resp.Body).Decode(&p) // not all answers have one
	return asked{p, resp}
}

func TestConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	const most = 8
	w, err := startWeb(t.Context(), "127.0.0.1:0", most, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.stop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	w.gate.open(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))

	open := make([]net.Conn, most)
	for i := range open {
		open[i] = dialed(t, w)
		if resp := ask(t, open[i], "/queues"); resp.StatusCode != http.StatusNoContent {
			t.Fatalf("connection %d: %d", i, resp.StatusCode)
		}
	}
	resp := ask(t, dialed(t, w), "/queues")
	if p := resp.problemError; resp.StatusCode != http.StatusServiceUnavailable || p.Type != "unavailable" || p.Status != 503 || resp.Header.Get("Retry-After") != "1" || !resp.Close ||
		resp.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("beyond the bound: %+v %v", resp.problemError, resp.Header)
	}
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		if resp := ask(t, dialed(t, w), path); resp.StatusCode != http.StatusNoContent || !resp.Close {
			t.Errorf("%s beyond the bound: %d, close %t", path, resp.StatusCode, resp.Close)
		}
	}
	if w.conns.Refused() != 1 || w.conns.Most() != most {
		t.Errorf("%d refused", w.conns.Refused())
	}
	if resp := ask(t, open[0], "/queues"); resp.StatusCode != http.StatusNoContent {
		t.Errorf("a connection within the bound: %d", resp.StatusCode)
	}

	// Beyond the spare ones nobody is heard.
	for range 3 * spareConnections {
		dialed(t, w)
	}
	last := dialed(t, w)
	if n, err := io.Copy(io.Discard, last); n > 0 || err != nil && isTimeout(err) {
		t.Errorf("beyond the spare connections: %d bytes, %v; want it closed", n, err)
	}
	if open, spare := w.conns.InUse(), w.conns.spare.Load(); open != most || spare != spareConnections {
		t.Errorf("%d and %d connections are open", open, spare)
	}

	// Room comes back with those who go, although the spare ones stay.
	_ = open[0].Close()
	_ = open[1].Close()
	for deadline := time.Now().Add(20 * time.Second); ; {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", w.addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		_, err = fmt.Fprint(conn, "GET /queues HTTP/1.1\r\nHost: localhost\r\n\r\n")
		var resp *http.Response
		if err == nil {
			resp, err = http.ReadResponse(bufio.NewReader(conn), nil)
		}
		if err == nil {
			_ = resp.Body.Close()
		}
		_ = conn.Close()
		if err == nil && resp.StatusCode == http.StatusNoContent {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("no room after connections were closed: %d in use", w.conns.InUse())
		}
	}
}

func isTimeout(err error) bool {
	timeout, ok := err.(net.Error) //nolint:errorlint // as it comes from a connection
	return ok && timeout.Timeout()
}

func TestBytes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]struct {
		n    int64
		back string
	}{
		"1048577": {1048577, "1048577"}, "1048576": {1 << 20, "1MiB"}, "256MiB": {256 << 20, "256MiB"},
		"1024KiB": {1 << 20, "1MiB"}, "3GiB": {3 << 30, "3GiB"}, "0": {0, "0"},
	} {
		var v bytesValue
		if err := v.Set(text); err != nil || int64(v) != want.n || v.String() != want.back {
			t.Errorf("%s: %d %s %v", text, int64(v), v, err)
		}
	}
	for _, text := range []string{"", "MiB", "-1", "1.5MiB", "16MB", "1 MiB", "9223372036854775808", "8589934592GiB"} {
		var v bytesValue
		if err := v.Set(text); err == nil {
			t.Errorf("%q is %d", text, int64(v))
		}
	}
}

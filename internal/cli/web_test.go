package cli

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/peltonq/pelton/internal/certs"
	"github.com/peltonq/pelton/internal/certs/certstest"
)

// startedWeb is an HTTP server that answers 204, over TLS if there is a configuration.
func startedWeb(t *testing.T, most int, secure *tls.Config) *web {
	t.Helper()
	w, err := startWeb(t.Context(), "127.0.0.1:0", most, secure, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.stop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	w.gate.open(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	return w
}

// The bound of connections holds over TLS, too, and who is beyond it is told so.
func TestConnectionsAreBoundedOverTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca := certstest.New(t, dir, "ca")
	files := certs.Files{Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}
	ca.Issue(t, files.Cert, files.Key, "server")
	secure, err := (&apiTLSFlags{files}).config(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	w := startedWeb(t, 2, secure)
	for i, want := range []int{204, 204, 503} {
		conn := tls.Client(dialed(t, w), func() *tls.Config {
			c := ca.Client(t, "", "")
			c.ServerName = "localhost"
			return c
		}())
		if resp := ask(t, conn, "/queues"); resp.StatusCode != want {
			t.Errorf("connection %d: %d, want %d", i, resp.StatusCode, want)
		}
	}

	client := &http.Client{Transport: &http.Transport{TLSClientConfig: ca.Client(t, "", ""), ForceAttemptHTTP2: true}}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+w.addr+"/healthz", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.ProtoMajor != 2 || resp.StatusCode != http.StatusNoContent {
		t.Errorf("%s %s", resp.Proto, resp.Status)
	}
}

// Who sends headers slowly, or none, is cut off; a server that waits for its callers to
// end does not stand still.
func TestSlowHeadersAreCutOff(t *testing.T) {
	t.Parallel()
	w := startedWeb(t, 8, nil)
	began := time.Now()
	for name, text := range map[string]string{"none": "", "half": "GET /queues HTTP/1.1\r\nHost: localhost\r\nX-Slow: "} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", w.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(3 * headerTimeout))
			if _, err := conn.Write([]byte(text)); err != nil {
				t.Fatal(err)
			}
			answer := make([]byte, 1000)
			n, err := conn.Read(answer)
			for err == nil {
				n, err = conn.Read(answer)
			}
			if isTimeout(err) {
				t.Errorf("still open after %s: %d %v", time.Since(began), n, err)
			}
		})
	}
}

// Headers are bounded.
func TestLargeHeadersAreRefused(t *testing.T) {
	t.Parallel()
	w := startedWeb(t, 8, nil)
	conn := dialed(t, w)
	// The server reads its bound and some slack, then answers without waiting for the rest.
	text := "GET /queues HTTP/1.1\r\nHost: localhost\r\nX-Large: " + strings.Repeat("x", 2*maxHeaderSize) + "\r\n\r\n"
	go func() { _, _ = conn.Write([]byte(text)) }() // it may be cut off
	answer := make([]byte, 12)
	if _, err := conn.Read(answer); err != nil || string(answer) != "HTTP/1.1 431" {
		t.Errorf("%q %v", answer, err)
	}
}

// What strangers can make the HTTP server say is not for a log that somebody reads.
func TestServerLog(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	log := serverLog(slog.New(slog.NewTextHandler(&out, nil)))
	log.Print("http: TLS handshake error from 192.0.2.1:1: EOF")
	if out.Len() > 0 {
		t.Errorf("logged %s", &out)
	}
	log.Print("http: Accept error: too many open files")
	if !strings.Contains(out.String(), "level=WARN") || !strings.Contains(out.String(), "too many open files") {
		t.Errorf("logged %s", &out)
	}
}

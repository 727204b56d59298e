package cli

import (
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

func TestDrain(t *testing.T) {
	t.Parallel()
	w, err := startWeb(t.Context(), "127.0.0.1:0", minConnections, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	w.gate.open(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	closes := func() bool {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+w.addr, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		return resp.Close
	}
	w.drain(0, nil)
	if closes() {
		t.Error("no delay, and the connection is not kept")
	}
	gone, drained := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(drained)
		w.drain(time.Hour, gone)
	}()
	for !w.gate.draining.Load() {
		runtime.Gosched()
	}
	if !closes() {
		t.Error("an answer of a server that drains is not the last on its connection")
	}
	close(gone)
	<-drained
	if err := w.stop(t.Context()); err != nil {
		t.Error(err)
	}
	w.drain(time.Hour, nil) // the server has ended: returns at once
}

func TestNotify(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "s")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	to := func(socket string) *serving {
		return &serving{log: slog.New(slog.DiscardHandler), app: &app{environ: environment{"NOTIFY_SOCKET=" + socket}}}
	}
	to("").notify(t.Context(), "READY=1")
	to(socket+"x").notify(t.Context(), "READY=1") // nobody there
	to(socket).notify(t.Context(), "STOPPING=1")
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64)
	n, err := conn.Read(buf)
	if err != nil || string(buf[:n]) != "STOPPING=1" {
		t.Errorf("%q %v", buf[:n], err)
	}
}

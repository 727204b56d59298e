package cli

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
	"github.com/peltonq/pelton/internal/embed"
	"github.com/peltonq/pelton/internal/metrics"
	"github.com/peltonq/pelton/worker"
)

func TestServeAccess(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		flags     serveFlags
		refused   string
		checkHost bool
	}{
		{flags: serveFlags{addr: "127.0.0.1:7420"}, checkHost: true},
		{flags: serveFlags{addr: "[::1]:7420"}, checkHost: true},
		{flags: serveFlags{addr: "localhost:7420"}, checkHost: true},
		{flags: serveFlags{addr: "127.0.0.1:7420", token: "t"}},
		{flags: serveFlags{addr: "0.0.0.0:7420", token: "t"}},
		{flags: serveFlags{addr: "0.0.0.0:7420", insecure: true}},
		{flags: serveFlags{addr: "0.0.0.0:7420", insecure: true, allowedHosts: []string{"pelton"}}, checkHost: true},
		{flags: serveFlags{addr: ":7420"}, refused: "PELTON_TOKEN"},
		{flags: serveFlags{addr: "0.0.0.0:7420"}, refused: "PELTON_TOKEN"},
		{flags: serveFlags{addr: "192.168.0.1:7420"}, refused: "PELTON_TOKEN"},
		{flags: serveFlags{addr: "localhost.example:7420"}, refused: "PELTON_TOKEN"},
		{flags: serveFlags{addr: "7420"}, refused: "HOST:PORT"},
		{flags: serveFlags{addr: "127.0.0.1:1", natsListen: ":4222"}, refused: "PELTON_NATS_TOKEN"},
		{flags: serveFlags{addr: "127.0.0.1:1", natsListen: ":4222", token: "t"}, refused: "PELTON_NATS_TOKEN"},
		{flags: serveFlags{addr: "127.0.0.1:1", natsListen: ":4222", nats: natsFlags{token: "t"}}, checkHost: true},
		{flags: serveFlags{addr: "127.0.0.1:1", natsListen: "127.0.0.1:4222"}, checkHost: true},
		{flags: serveFlags{addr: "127.0.0.1:1", natsListen: "127.0.0.1:4222", nats: natsFlags{url: "x"}}, refused: "exclude each other"},
		{flags: serveFlags{addr: "127.0.0.1:1", allowedHosts: []string{""}}, refused: "--allowed-hosts"},
		{flags: serveFlags{addr: "127.0.0.1:1", drainDelay: -1}, refused: "--drain-delay"},
		{flags: serveFlags{addr: "127.0.0.1:1", drainDelay: durationValue(time.Hour)}, refused: "--drain-delay"},
	} {
		tc.flags.shards = 1
		err := tc.flags.check()
		if tc.refused != "" {
			if err == nil || exitCode(err) != exitUsage || !strings.Contains(err.Error(), tc.refused) {
				t.Errorf("%+v: %v, want a refusal that names %s", tc.flags, err, tc.refused)
			}
			continue
		}
		if err != nil || tc.flags.checkHost() != tc.checkHost {
			t.Errorf("%+v: %v, check host %v", tc.flags, err, tc.flags.checkHost())
		}
	}
}

func TestAPIURL(t *testing.T) {
	t.Parallel()
	for addr, want := range map[string]string{
		"127.0.0.1:7420": "http://127.0.0.1:7420",
		"[::]:7420":      "http://127.0.0.1:7420",
		"0.0.0.0:1":      "http://127.0.0.1:1",
		"[::1]:7420":     "http://[::1]:7420",
	} {
		if got := apiURL("http", addr); got != want {
			t.Errorf("%s: %s, want %s", addr, got, want)
		}
	}
}

func TestRedactURLs(t *testing.T) {
	t.Parallel()
	for urls, want := range map[string]string{
		"nats://h:4222":                        "nats://h:4222",
		"nats://tok@h:1, tls://u:p@ss@g:2,x@h": "nats://h:1,tls://g:2,nats://h",
	} {
		if got := redactURLs(urls); got != want {
			t.Errorf("%s: %s, want %s", urls, got, want)
		}
	}
}

func TestGate(t *testing.T) {
	t.Parallel()
	var g gate
	ask := func(method, path string) *http.Response {
		w := httptest.NewRecorder()
		g.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, path, http.NoBody))
		return w.Result()
	}
	closed := ask(http.MethodPost, "/tasks")
	defer closed.Body.Close()
	if closed.StatusCode != http.StatusServiceUnavailable || closed.Header.Get("Retry-After") == "" ||
		closed.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("closed: %s %v", closed.Status, closed.Header)
	}
	alive := ask(http.MethodGet, "/healthz")
	defer alive.Body.Close()
	if alive.StatusCode != http.StatusOK {
		t.Errorf("/healthz: %s", alive.Status)
	}
	g.open(http.NotFoundHandler())
	open := ask(http.MethodGet, "/healthz")
	defer open.Body.Close()
	if open.StatusCode != http.StatusNotFound {
		t.Errorf("open: %s", open.Status)
	}
}

func TestReadiness(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var up atomic.Bool
		announced := 0
		r := newReadiness(func(context.Context) error {
			if !up.Load() {
				return errors.New("down")
			}
			return nil
		}, slog.New(slog.DiscardHandler), func() { announced++ })
		expect := func(when string, ready bool) {
			t.Helper()
			synctest.Wait()
			if err := r.ready(); (err == nil) != ready {
				t.Errorf("%s: %v", when, err)
			}
		}
		expect("before the first probe", false)

		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			r.run(ctx)
		}()
		expect("down at the start", false)
		up.Store(true)
		sleep(2 * probeAgain)
		expect("up", true)
		up.Store(false)
		sleep(2 * probeEvery)
		expect("down for less than 15 s", true)
		sleep(2 * probeEvery)
		expect("down for more", false)
		up.Store(true)
		sleep(2 * probeAgain)
		expect("up again", true)
		cancel()
		<-ended
		expect("stopping", false)
		if announced != 1 {
			t.Errorf("announced %d times", announced)
		}
	})
}

// sleep lets time pass in a synctest bubble.
func sleep(d time.Duration) { <-time.After(d) }

func TestWorkerWithoutBroker(t *testing.T) {
	t.Parallel()
	log := slog.New(slog.DiscardHandler)
	mux, err := (&handlerFlags{demo: true}).mux(log)
	if err != nil {
		t.Fatal(err)
	}
	l, err := dialLink(log, natsFlags{url: "nats://127.0.0.1:1"}, party{broker.DefaultNamespace, broker.RoleWorker})
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	err = runWorker(t.Context(), l, mux, worker.Config{}, metrics.New(""), 100*time.Millisecond)
	if exitCode(err) != exitUnreachable || !errors.Is(err, pelton.ErrUnavailable) {
		t.Errorf("unreachable: %v", err)
	}
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	if err := runWorker(stopped, l, mux, worker.Config{}, metrics.New(""), time.Minute); err != nil {
		t.Errorf("stopped before it had begun: %v", err)
	}
}

func TestBrokerRefusesToken(t *testing.T) {
	t.Parallel()
	server, err := embed.Start(t.Context(), embed.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0", Token: "right"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Shutdown(context.Background()) })
	log := slog.New(slog.DiscardHandler)
	l, err := dialLink(log, natsFlags{url: server.ClientURL(), token: "wrong"}, party{broker.DefaultNamespace, broker.RoleWorker})
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	mux, err := (&handlerFlags{demo: true}).mux(log)
	if err != nil {
		t.Fatal(err)
	}
	err = runWorker(t.Context(), l, mux, worker.Config{}, metrics.New(""), time.Minute)
	if exitCode(err) != exitAuth || !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("wrong token: %v", err)
	}
}

func TestIsTerminal(t *testing.T) {
	t.Parallel()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if isTerminal(null) || isTerminal(new(strings.Builder)) {
		t.Error("neither is a terminal")
	}
}

func TestWelcome(t *testing.T) {
	t.Parallel()
	mux, err := (&handlerFlags{demo: true}).mux(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	s := &serving{
		app: &app{stderr: &out}, flags: &serveFlags{token: "s3cret", handlers: handlerFlags{demo: true}},
		mux: mux, web: &web{addr: "127.0.0.1:8000"}, slots: worker.Config{Queues: []string{"default"}, Concurrency: 16},
	}
	s.welcome("/data")
	for _, want := range []string{"http://127.0.0.1:8000", "/data", "demo.echo", "Bearer $PELTON_TOKEN", "--url http://127.0.0.1:8000"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in:\n%s", want, &out)
		}
	}
	if strings.Contains(out.String(), "s3cret") {
		t.Error("the token is shown")
	}
}

package embed

import (
	"context"
	"errors"
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
)

func TestStartsWithoutPortAndServes(t *testing.T) {
	t.Parallel()
	began := time.Now()
	srv := start(t, Config{})
	nc := connect(t, srv)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("took %s to start", took)
	}
	if got := srv.ClientURL(); got != "" {
		t.Errorf("ClientURL = %q without a listener", got)
	}
	if addr := srv.nats.Addr(); addr != nil {
		t.Errorf("listens on %s", addr)
	}
	if err := store(testCtx(t), nc, "one"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"one"}, stored(t, nc)); diff != "" {
		t.Error(diff)
	}
	if got := nc.MaxPayload(); got < 2*256<<10+64<<10 {
		t.Errorf("MaxPayload = %d: a record with payload and result does not fit", got)
	}
}

func TestListensWhereAsked(t *testing.T) {
	t.Parallel()
	srv := start(t, Config{Listen: "127.0.0.1:0"})
	u, err := url.Parse(srv.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	if u.Hostname() != "127.0.0.1" || u.Port() == "" || u.Port() == "0" || u.Port() == "4222" {
		t.Fatalf("ClientURL = %q", srv.ClientURL())
	}
	nc, err := nats.Connect(srv.ClientURL(), nats.Timeout(5*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if err := store(testCtx(t), nc, "one"); err != nil {
		t.Fatal(err)
	}

	// The port is taken: an error, and the folder is free again.
	dir := t.TempDir()
	if _, err := Start(testCtx(t), Config{Dir: dir, Listen: u.Host}); err == nil || !strings.Contains(err.Error(), u.Host) {
		t.Fatalf("start on a taken port: %v", err)
	}
	if again := start(t, Config{Dir: dir}); again.UncleanStart() {
		t.Error("a start that failed was taken for an unclean stop")
	}
}

func TestToken(t *testing.T) {
	t.Parallel()
	// The second looks like a bcrypt hash and is a token all the same.
	for _, token := range []string{"secret", "$2a$11$aaaaaaaaaaaaaaaaaaaaaa"} {
		srv := start(t, Config{Listen: "127.0.0.1:0", Token: token})
		if err := store(testCtx(t), connect(t, srv), "in process"); err != nil {
			t.Errorf("in process: %v", err)
		}
		nc, err := nats.Connect(srv.ClientURL(), nats.Token(token))
		if err != nil {
			t.Fatalf("with the token: %v", err)
		}
		if err := store(testCtx(t), nc, "over the network"); err != nil {
			t.Errorf("with the token: %v", err)
		}
		nc.Close()
		for _, wrong := range []string{"", token + "x", "SECRET"} {
			if nc, err := nats.Connect(srv.ClientURL(), nats.Token(wrong)); !errors.Is(err, nats.ErrAuthorization) {
				t.Errorf("with token %q: %v", wrong, err)
				nc.Close()
			}
		}
	}
}

func TestShutdownKeepsDataAndFreesFolder(t *testing.T) {
	t.Parallel()
	for _, sync := range []Sync{{}, {Always: true}, {Interval: 50 * time.Millisecond}} {
		dir := t.TempDir()
		want := []string{}
		for _, text := range []string{"one", "two", "three"} {
			srv := start(t, Config{Dir: dir, Sync: sync})
			if srv.UncleanStart() {
				t.Errorf("sync %s: unclean before %q", sync, text)
			}
			nc := connect(t, srv)
			if err := store(testCtx(t), nc, text); err != nil {
				t.Fatal(err)
			}
			want = append(want, text)
			if diff := cmp.Diff(want, stored(t, nc)); diff != "" {
				t.Errorf("sync %s: %s", sync, diff)
			}
			nc.Close()
			stop(t, srv)
		}
	}
}

func TestShutdownIsIdempotentAndHonoursContext(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	srv := start(t, Config{Dir: dir})
	gone := errors.New("gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	// Either the server was faster or the context was.
	if err := srv.Shutdown(ctx); err != nil && !errors.Is(err, gone) {
		t.Errorf("shut down with an ended context: %v", err)
	}
	for range 3 {
		stop(t, srv)
	}
	if nc, err := srv.Connect(); !errors.Is(err, ErrClosed) {
		t.Errorf("connect after shutdown: %v", err)
		nc.Close()
	}
	start(t, Config{Dir: dir})
}

func TestStartHonoursContext(t *testing.T) {
	t.Parallel()
	gone := errors.New("gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	if _, err := Start(ctx, Config{Dir: t.TempDir()}); !errors.Is(err, gone) {
		t.Errorf("start with an ended context: %v", err)
	}
}

func TestLogsThroughSlog(t *testing.T) {
	t.Parallel()
	var info, debug logBuffer
	stop(t, start(t, Config{Logger: info.logger(slog.LevelInfo)}))
	for line := range strings.Lines(info.String()) {
		if !strings.Contains(line, "embedded broker st") {
			t.Errorf("a quiet start logs %s", line)
		}
	}
	if n := strings.Count(info.String(), "\n"); n != 2 {
		t.Errorf("%d lines, want one of the start and one of the stop:\n%s", n, info.String())
	}

	srv := start(t, Config{Logger: debug.logger(slog.LevelDebug)})
	nc := connect(t, srv)
	if err := store(testCtx(t), nc, "payload-marker"); err != nil {
		t.Fatal(err)
	}
	nc.Close()
	stop(t, srv)
	if got := debug.String(); !strings.Contains(got, "Server is ready") || !strings.Contains(got, "Server Exiting") {
		t.Errorf("the server's own lines are missing:\n%s", got)
	}
	if strings.Contains(debug.String(), "payload-marker") {
		t.Error("a payload was logged")
	}
}

func TestServerLogLevels(t *testing.T) {
	t.Parallel()
	var out logBuffer
	log := &serverLog{logger: out.logger(slog.LevelDebug)}
	log.Noticef("notice %d", 1)
	log.Warnf("  warning %d", 2)
	log.Errorf("Client parser ERROR, state=0, i=0: proto='%s...'", "secret")
	log.Debugf("debug %d", 3)
	log.Tracef("trace %d", 4)
	log.Fatalf("fatal %d", 5)
	log.Fatalf("fatal %d", 6)
	for _, want := range []string{
		`level=DEBUG msg=nats-server detail="notice 1"`,
		`level=WARN msg=nats-server detail="warning 2"`,
		`level=ERROR msg=nats-server detail="Client parser ERROR, state=0, i=0"`,
	} {
		if !strings.Contains(out.String(), want+"\n") {
			t.Errorf("no line %s in\n%s", want, out.String())
		}
	}
	if n := strings.Count(out.String(), "\n"); n != 3 {
		t.Errorf("%d lines, want 3:\n%s", n, out.String())
	}
	if got := log.firstFatal(); got != "fatal 5" {
		t.Errorf("firstFatal = %q", got)
	}
}

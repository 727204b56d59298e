// Package brokertest gives tests a real broker: a server inside the test's
// process, on a folder of its own, ready in milliseconds and gone with the test.
package brokertest

import (
	"context"
	"hash/fnv"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton/internal/embed"
)

const timeout = 10 * time.Second

// Start is a connection to a broker of this test alone. Both end with the test.
func Start(t testing.TB) *nats.Conn {
	t.Helper()
	return Connect(t, StartServer(t))
}

// StartServer is a broker of this test alone, for tests that need several
// connections, a port, or a restart on the same folder. Options change its
// configuration. It is shut down with the test, unless the test did it.
func StartServer(t testing.TB, opts ...func(*embed.Config)) *embed.Server {
	t.Helper()
	cfg := embed.Config{Logger: slog.New(slog.DiscardHandler)}
	for _, opt := range opts {
		opt(&cfg)
	}
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	srv, err := embed.Start(ctx, cfg)
	if err != nil {
		t.Fatalf("start a broker: %v", err)
	}
	t.Cleanup(func() { Stop(t, srv) })
	return srv
}

// Stop shuts srv down and waits for it. Connections to it should be closed by
// then. Stopping twice is fine.
func Stop(t testing.TB, srv *embed.Server) {
	t.Helper()
	// t.Context has ended when cleanups run.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), timeout)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil {
		t.Errorf("stop the broker: %v", err)
	}
}

// Connect is a connection inside the process, closed with the test.
func Connect(t testing.TB, srv *embed.Server, opts ...nats.Option) *nats.Conn {
	t.Helper()
	nc, err := srv.Connect(opts...)
	if err != nil {
		t.Fatalf("connect to the broker: %v", err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// Dial is a connection over TCP to a server that is Listening, closed with the test.
func Dial(t testing.TB, srv *embed.Server, opts ...nats.Option) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(srv.ClientURL(), opts...)
	if err != nil {
		t.Fatalf("connect to the broker: %v", err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// Listening opens a port of the system's choice on loopback.
func Listening(cfg *embed.Config) { cfg.Listen = "127.0.0.1:0" }

// In puts the data into dir instead of a new folder.
func In(dir string) func(*embed.Config) {
	return func(cfg *embed.Config) { cfg.Dir = dir }
}

// WithToken makes every client show token.
func WithToken(token string) func(*embed.Config) {
	return func(cfg *embed.Config) { cfg.Token = token }
}

// Namespace is a namespace for the test's streams and subjects, derived from its
// name: lower-case letters, digits and underscores, at most 32 characters.
func Namespace(t testing.TB) string {
	t.Helper()
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		default:
			return '_'
		}
	}, strings.TrimPrefix(t.Name(), "Test"))
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(t.Name())) // never fails
	suffix := strconv.FormatUint(uint64(hash.Sum32()), 36)
	return "t_" + name[:min(len(name), 22)] + "_" + suffix
}

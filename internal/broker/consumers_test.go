package broker

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
)

// A server's default bound of consumers does not count for our streams, which every
// worker watches; that of an account does, and is told as what it is.
func TestBoundsOfConsumers(t *testing.T) {
	t.Parallel()
	const few = 6
	start := func(t *testing.T) *server.Server {
		t.Helper()
		s, err := server.NewServer(&server.Options{
			Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true, JetStream: true, StoreDir: t.TempDir(),
			JetStreamLimits: server.JSLimitOpts{DefaultMaxConsumers: few},
		})
		if err != nil {
			t.Fatal(err)
		}
		s.Start()
		t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
		if !s.ReadyForConnections(20 * time.Second) {
			t.Fatal("the broker takes no connections")
		}
		return s
	}
	watch := func(t *testing.T, s *server.Server, n int) error {
		t.Helper()
		b, err := Open(t.Context(), brokertest.ConnectTo(t, s.ClientURL()), Config{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(b.Close)
		for range n {
			_, stop, err := b.WatchRules(t.Context())
			if err != nil {
				return err
			}
			t.Cleanup(stop)
		}
		return nil
	}
	t.Run("server", func(t *testing.T) {
		t.Parallel()
		if err := watch(t, start(t), 2*few); err != nil {
			t.Error(err)
		}
	})
	t.Run("account", func(t *testing.T) {
		t.Parallel()
		s := start(t)
		limits := server.JetStreamAccountLimits{MaxStore: -1, MaxMemory: -1, MaxStreams: -1, MaxConsumers: few, MaxAckPending: -1}
		if err := s.GlobalAccount().UpdateJetStreamLimits(map[string]server.JetStreamAccountLimits{"": limits}); err != nil {
			t.Fatal(err)
		}
		err := watch(t, s, 2*few)
		if err == nil || errors.Is(err, pelton.ErrUnavailable) || !strings.Contains(err.Error(), "max_consumers") {
			t.Errorf("beyond the account's bound: %v", err)
		}
	})
}

package embed

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// The server that runs has the bounds that docs/memory.md names: not all zero
// values of its options are what they seem.
func TestBoundsOfTheServer(t *testing.T) {
	t.Parallel()
	s, err := Start(t.Context(), Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 20*time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	})
	got, err := s.nats.Varz(&server.VarzOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got.MaxConn != 4096 || got.MaxPending != 64<<20 || got.MaxPayload != 1<<20 || got.WriteDeadline != 10*time.Second {
		t.Errorf("%d connections, %d bytes pending for %s, %d bytes a message", got.MaxConn, got.MaxPending, got.WriteDeadline, got.MaxPayload)
	}
}

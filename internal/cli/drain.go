package cli

import (
	"context"
	"log/slog"
	"net"
	"time"
)

const (
	maxDrainDelay = 10 * time.Minute
	notifyTimeout = time.Second
)

// drain goes on serving for d, so that balancers see that /readyz says no before
// connections are refused. Each answer meanwhile is the last on its connection: a
// proxy that keeps connections then does not send into one that is being closed.
// It ends early when the server does, or gone is closed.
func (w *web) drain(d time.Duration, gone <-chan struct{}) {
	if d <= 0 {
		return
	}
	w.gate.draining.Store(true)
	over := time.NewTimer(d)
	defer over.Stop()
	select {
	case <-over.C:
	case <-w.done:
	case <-gone:
	}
}

// notify tells systemd of the state of a unit of Type=notify: sd_notify(3). Without a
// NOTIFY_SOCKET there is nobody to tell; that nobody listens there is no error of ours.
func (s *serving) notify(ctx context.Context, state string) {
	socket := s.app.environ.get("NOTIFY_SOCKET")
	if socket == "" {
		return
	}
	if socket[0] == '@' { // of Linux's abstract names
		socket = "\x00" + socket[1:]
	}
	err := func() error {
		conn, err := (&net.Dialer{Timeout: notifyTimeout}).DialContext(context.WithoutCancel(ctx), "unixgram", socket)
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := conn.SetWriteDeadline(time.Now().Add(notifyTimeout)); err != nil {
			return err
		}
		_, err = conn.Write([]byte(state))
		return err
	}()
	if err != nil {
		s.log.WarnContext(ctx, "systemd cannot be told", slog.String("state", state), slog.Any("error", err))
	}
}

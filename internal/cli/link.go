package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
)

const (
	natsTimeout = 2 * time.Second        // of one attempt to connect
	natsWait    = 250 * time.Millisecond // between attempts
	natsPing    = 5 * time.Second        // a silent broker is noticed after two of these
	openTimeout = 10 * time.Second       // of one attempt to open the installation
	openPause   = 250 * time.Millisecond // between attempts
)

// link is this process's connection to the broker. It comes back by itself for as
// long as the process lives.
type link struct {
	nc     *nats.Conn
	closed chan struct{} // closed when the connection is over for good
}

// party is who connects, and to which installation.
type party struct {
	namespace namespaceFlag
	role      broker.Role
}

// inboxes are those that the permissions of the role name.
func (p party) inboxes() nats.Option {
	if _, err := broker.PermissionsOf(string(p.namespace), 1, p.role); err != nil {
		return func(*nats.Options) error { return nil } // opening the installation will say what is wrong
	}
	return nats.CustomInboxPrefix(broker.InboxPrefix(string(p.namespace), p.role))
}

// newLink makes a connection with connect, which gets the options and must not
// wait for a broker that is not there.
func newLink(log *slog.Logger, as party, connect func(...nats.Option) (*nats.Conn, error)) (*link, error) {
	l := &link{closed: make(chan struct{})}
	nc, err := connect(
		nats.Name("pelton"),
		as.inboxes(),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.ReconnectBufSize(-1), // what cannot be sent now is an error now
		nats.ReconnectWait(natsWait),
		nats.Timeout(natsTimeout),
		nats.PingInterval(natsPing),
		nats.MaxPingsOutstanding(2),
		nats.DisconnectErrHandler(func(nc *nats.Conn, err error) {
			if !nc.IsClosed() {
				log.Warn("broker connection lost", slog.Any("error", err))
			}
		}),
		nats.ConnectHandler(func(*nats.Conn) { log.Debug("broker connected") }),
		nats.ReconnectHandler(func(*nats.Conn) { log.Info("broker connection is back") }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			log.Warn("broker reports an error", slog.Any("error", err))
		}),
		nats.ClosedHandler(func(*nats.Conn) { close(l.closed) }),
	)
	if err != nil {
		return nil, err
	}
	l.nc = nc
	if !nc.IsConnected() {
		log.Warn("broker is not reachable, trying again", slog.Any("error", nc.LastError()))
	}
	return l, nil
}

// dialLink connects to an external broker. A URL that cannot be one is a usage
// error, and so are files that cannot be used; a broker that is down is none.
func dialLink(log *slog.Logger, f natsFlags, as party) (*link, error) {
	own, err := f.options()
	if err != nil {
		return nil, err
	}
	l, err := newLink(log, as, func(opts ...nats.Option) (*nats.Conn, error) {
		return nats.Connect(f.url, append(opts, own...)...)
	})
	if err != nil {
		return nil, usagef("--nats %s (PELTON_NATS): %w", redactURLs(f.url), err)
	}
	return l, nil
}

// err is why the connection is over.
func (l *link) err() error {
	err := l.nc.LastError()
	if isRefusal(err) {
		return &codeError{exitAuth, fmt.Errorf("the broker refuses us: %w; --nats-token (PELTON_NATS_TOKEN) is its token, --nats-creds (PELTON_NATS_CREDS) a file of credentials", err)}
	}
	return fmt.Errorf("%w: the connection to the broker is over: %w", pelton.ErrUnavailable, err)
}

// isRefusal reports whether a broker does not take who connects, or not any more.
func isRefusal(err error) bool {
	return errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthExpired) || errors.Is(err, nats.ErrAuthRevoked) ||
		errors.Is(err, nats.ErrAccountAuthExpired)
}

// close ends the connection and waits until its handlers have run.
func (l *link) close() {
	l.nc.Close()
	<-l.closed
}

// retry does something that needs the broker, again and again while that is out
// of reach: until patience is over (zero is never), ctx ends or the connection is
// over. The error is then the last one.
func (l *link) retry(ctx context.Context, patience time.Duration, do func(context.Context) error) error {
	begin := time.Now()
	pause := time.NewTicker(openPause)
	defer pause.Stop()
	for {
		err := do(ctx)
		if !errors.Is(err, pelton.ErrUnavailable) {
			return err
		}
		if patience > 0 && time.Since(begin) > patience {
			return fmt.Errorf("gave up after %s: %w", pelton.FormatDuration(patience), err)
		}
		select {
		case <-pause.C:
		case <-l.closed:
			return l.err()
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
	}
}

// redactURLs is a comma-separated list of NATS URLs without user names, passwords
// and tokens.
func redactURLs(urls string) string {
	parts := strings.Split(urls, ",")
	for i, part := range parts {
		scheme, rest, found := strings.Cut(strings.TrimSpace(part), "://")
		if !found {
			scheme, rest = "nats", scheme
		}
		parts[i] = scheme + "://" + rest[strings.LastIndexByte(rest, '@')+1:]
	}
	return strings.Join(parts, ",")
}

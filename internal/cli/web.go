package cli

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"
)

const (
	headerTimeout = 10 * time.Second
	idleTimeout   = 2 * time.Minute
	// writeTimeout is from the end of a request's headers to the end of its answer.
	// The longest is a held one: 30 s for a body, 60 s of holding, two calls of the
	// broker of 5 s each.
	writeTimeout  = 2 * time.Minute
	webStop       = 10 * time.Second // for requests that are under way when the server stops
	maxHeaderSize = 64 << 10
	maxStreams    = 100 // requests of one HTTP/2 connection at a time
)

// web is the HTTP server. It is up before the broker is, behind a gate.
type web struct {
	gate   gate
	conns  *connections
	addr   string // with the port that the system chose
	server *http.Server
	secure bool               // it speaks TLS
	cut    context.CancelFunc // lets held answers go
	done   chan struct{}
	err    error // set before done is closed
}

// startWeb listens and serves at most that many connections, with TLS if there is a
// configuration. Stop it with stop.
func startWeb(ctx context.Context, addr string, most int, secure *tls.Config, logger *slog.Logger) (*web, error) {
	conns := newConnections(most)
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for HTTP: %w", err)
	}
	// Requests under way when ctx ends are finished; stop decides about them.
	requests, cut := context.WithCancel(context.WithoutCancel(ctx))
	w := &web{conns: conns, addr: ln.Addr().String(), secure: secure != nil, cut: cut, done: make(chan struct{})}
	// No ReadTimeout: net/http would cut a held GET with it. The API bounds the
	// reading of bodies by itself.
	w.server = &http.Server{
		Handler:           conns.guard(&w.gate),
		ConnContext:       markSpare,
		ReadHeaderTimeout: headerTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderSize,
		ErrorLog:          serverLog(logger),
		BaseContext:       func(net.Listener) context.Context { return requests },
		TLSConfig:         secure,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
	}
	go func() {
		defer close(w.done)
		serve := w.server.Serve
		if w.secure {
			serve = func(ln net.Listener) error { return w.server.ServeTLS(ln, "", "") }
		}
		if err := serve(conns.listen(ln)); !errors.Is(err, http.ErrServerClosed) {
			w.err = fmt.Errorf("serve HTTP: %w", err)
		}
	}()
	return w, nil
}

// boundBodies bounds the time for bodies of requests that have no use for one: net/http
// reads what is left of a body before it answers, without a bound of its own.
func boundBodies(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(headerTimeout)) // a connection can have one
		}
		next.ServeHTTP(w, r)
	})
}

// serverLog is for what http.Server has to say. What any stranger can make it say by not
// speaking TLS is for Debug.
func serverLog(to *slog.Logger) *log.Logger { return log.New(serverLines{to}, "", 0) }

type serverLines struct{ log *slog.Logger }

// Write takes one line.
func (l serverLines) Write(line []byte) (int, error) {
	level := slog.LevelWarn
	if bytes.HasPrefix(line, []byte("http: TLS handshake error")) {
		level = slog.LevelDebug
	}
	ctx := context.Background() //nolint:forbidigo // the server's log calls carry no context
	l.log.Log(ctx, level, "http server", slog.String("detail", strings.TrimSpace(string(line))))
	return len(line), nil
}

// stop takes no more requests, answers those under way, held ones at once, and
// returns when that is done or webStop is over. Repeating it does no harm.
func (w *web) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), webStop)
	defer cancel()
	w.cut()
	err := w.server.Shutdown(ctx)
	if err != nil {
		err = errors.Join(fmt.Errorf("stop HTTP server: %w", err), w.server.Close())
	}
	<-w.done
	return err
}

package cli

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
)

// spareConnections are taken beyond the bound, to tell who comes that it is
// reached, and for probes and scrapers.
const spareConnections = 64

// connections bounds those of an HTTP server. Those beyond the bound are answered
// 503 and closed, and those beyond the spare ones closed unheard: what a connection
// costs (some 20 KiB, up to 64 KiB of headers) is then no longer the caller's to say.
type connections struct {
	most    int64
	open    atomic.Int64 // within the bound
	spare   atomic.Int64 // beyond it
	refused atomic.Int64
}

func newConnections(most int) *connections { return &connections{most: int64(most)} }

// Most, InUse and Refused are for metrics.
func (c *connections) Most() int64    { return c.most }
func (c *connections) InUse() int64   { return c.open.Load() }
func (c *connections) Refused() int64 { return c.refused.Load() }

func (c *connections) listen(ln net.Listener) net.Listener { return &boundedListener{ln, c} }

// boundedListener counts what it accepts.
type boundedListener struct {
	net.Listener

	conns *connections
}

// Accept closes connections beyond the spare ones and goes on. It is called by one
// goroutine, the server's.
func (l *boundedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if in := l.conns.open.Add(1); in <= l.conns.most {
			return &countedConn{Conn: conn, in: &l.conns.open}, nil
		}
		l.conns.open.Add(-1)
		if l.conns.spare.Add(1) <= spareConnections {
			return &countedConn{Conn: conn, in: &l.conns.spare, spare: true}, nil
		}
		l.conns.spare.Add(-1)
		l.conns.refused.Add(1)
		_ = conn.Close() // nobody is left to tell
	}
}

// countedConn is counted until it is closed.
type countedConn struct {
	net.Conn

	in    *atomic.Int64
	spare bool
	once  sync.Once
}

func (c *countedConn) Close() error {
	c.once.Do(func() { c.in.Add(-1) })
	return c.Conn.Close()
}

type spareKey struct{}

// markSpare is http.Server.ConnContext.
func markSpare(ctx context.Context, conn net.Conn) context.Context {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	if counted, ok := conn.(*countedConn); ok && counted.spare {
		return context.WithValue(ctx, spareKey{}, true)
	}
	return ctx
}

// guard answers 503 on spare connections, except to probes and scrapers, and closes
// each after one answer.
func (c *connections) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Context().Value(spareKey{}) == nil {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Connection", "close")
		switch r.URL.Path {
		case "/healthz", "/readyz", "/metrics":
			next.ServeHTTP(w, r)
			return
		}
		c.refused.Add(1)
		answerUnavailable(w, "the server has as many connections as it takes: try again")
	})
}

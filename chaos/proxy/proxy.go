// Package proxy is a TCP proxy whose network can be broken while it runs.
package proxy

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"
)

// Mode is what the proxy does to its connections.
type Mode string

// The modes. What Drop and the half-open modes hold back flows on when they end,
// as TCP would send it again; connections that were given up meanwhile are gone.
const (
	Pass     Mode = "pass"
	Drop     Mode = "drop"      // nothing passes, nothing is refused: a pulled cable
	Delay    Mode = "delay"     // every read is passed on later by DelayBy
	Reset    Mode = "reset"     // connections are reset, new ones too
	HalfUp   Mode = "half-up"   // nothing passes from the client to the server
	HalfDown Mode = "half-down" // nothing passes from the server to the client
	Tear     Mode = "tear"      // half of what the client sends next passes, then nothing in either direction
)

// Modes lists the ways to break the network for a while. Tear is not among them: it
// is for the moment before a death.
func Modes() []Mode { return []Mode{Drop, Delay, Reset, HalfUp, HalfDown} }

// DelayBy is what Delay adds in each direction.
const DelayBy = 150 * time.Millisecond

// dialTimeout bounds the connection to the target.
const dialTimeout = 2 * time.Second

// Proxy passes TCP connections on to one target. Make it with Listen.
type Proxy struct {
	listener net.Listener
	target   string
	dial     Dial
	end      context.CancelFunc
	running  sync.WaitGroup

	mu      sync.Mutex
	mode    Mode
	changed chan struct{} // closed and replaced when mode changes
	conns   map[net.Conn]bool
}

// Dial connects to a target.
type Dial func(ctx context.Context, target string) (net.Conn, error)

// Listen opens a proxy to target on a loopback port that the system chooses. It
// passes until Set says otherwise, and ends with Close.
func Listen(ctx context.Context, target string) (*Proxy, error) {
	return ListenVia(ctx, target, func(ctx context.Context, target string) (net.Conn, error) {
		return (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", target)
	})
}

// ListenVia is Listen to a target that only dial reaches.
func ListenVia(ctx context.Context, target string, dial Dial) (*Proxy, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("open proxy to %s: %w", target, err)
	}
	ctx, end := context.WithCancel(ctx)
	p := &Proxy{
		listener: listener, target: target, dial: dial, end: end,
		mode: Pass, changed: make(chan struct{}), conns: make(map[net.Conn]bool),
	}
	p.running.Go(func() { p.accept(ctx) })
	return p, nil
}

// Addr is the host:port that stands for the target.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Set changes the mode for new and for open connections.
func (p *Proxy) Set(m Mode) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if m == p.mode {
		return
	}
	p.mode = m
	close(p.changed)
	p.changed = make(chan struct{})
	if m == Reset {
		for conn := range p.conns {
			reset(conn)
		}
	}
}

// Close ends all connections and waits until everything has stopped.
func (p *Proxy) Close() {
	p.end()
	_ = p.listener.Close()
	p.mu.Lock()
	for conn := range p.conns {
		_ = conn.Close()
	}
	p.mu.Unlock()
	p.running.Wait()
}

func (p *Proxy) accept(ctx context.Context) {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return // closed
		}
		p.running.Go(func() { p.serve(ctx, client) })
	}
}

// serve passes one connection until either side ends it.
func (p *Proxy) serve(ctx context.Context, client net.Conn) {
	if !p.add(ctx, client) {
		return
	}
	defer p.remove(client)
	// A pulled cable lets no handshake through either.
	if !p.wait(ctx, true) || !p.wait(ctx, false) {
		return
	}
	server, err := p.dial(ctx, p.target)
	if err != nil {
		reset(client)
		return
	}
	if !p.add(ctx, server) {
		return
	}
	defer p.remove(server)
	var pipes sync.WaitGroup
	pipes.Go(func() { p.pipe(ctx, server, client, true) })
	pipes.Go(func() { p.pipe(ctx, client, server, false) })
	pipes.Wait()
}

// add keeps a connection for Set and Close; false means that it must not be, and
// was ended.
func (p *Proxy) add(ctx context.Context, conn net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mode == Reset || ctx.Err() != nil {
		reset(conn)
		return false
	}
	p.conns[conn] = true
	return true
}

func (p *Proxy) remove(conn net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, conn)
	_ = conn.Close()
}

// pipe copies one direction until it ends, then ends the other one too.
func (p *Proxy) pipe(ctx context.Context, to, from net.Conn, up bool) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			chunk := buf[:n]
			if up && p.torn() {
				if _, err := to.Write(chunk[:n/2]); err != nil {
					return
				}
				chunk = chunk[n/2:]
			}
			if !p.wait(ctx, up) {
				return
			}
			if _, err := to.Write(chunk); err != nil {
				return
			}
		}
		if err != nil {
			// The end travels like any byte: behind a pulled cable nobody hears of it.
			p.wait(ctx, up)
			return
		}
	}
}

func (p *Proxy) torn() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mode == Tear
}

// wait blocks for as long as the mode holds a direction back; false means that
// the proxy is closed.
func (p *Proxy) wait(ctx context.Context, up bool) bool {
	delayed := false
	for {
		p.mu.Lock()
		mode, changed := p.mode, p.changed
		p.mu.Unlock()
		var later <-chan time.Time
		switch held := mode == Drop || mode == Tear || mode == HalfUp && up || mode == HalfDown && !up; {
		case held:
		case mode == Delay && !delayed:
			later = time.After(DelayBy)
		default:
			return ctx.Err() == nil
		}
		select {
		case <-changed:
		case <-later:
			delayed = true
		case <-ctx.Done():
			return false
		}
	}
}

// reset ends a connection with RST, so that the other side notices at once.
func reset(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // fails on a connection that is closed already
	}
	_ = conn.Close()
}

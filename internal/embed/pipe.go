package embed

import (
	"net"
	"sync/atomic"
	"time"
)

// pipe is the client's end of a connection inside this process. nats.go sets a deadline before each
// write and takes it back after it, which costs a timer each time (net.Pipe): a twentieth of
// what a call takes that is alone. So a deadline stays, and is put off when half of it is over: a write
// that is stuck ends between half of nats.go's FlusherTimeout, which is a minute, and all of it.
type pipe struct {
	net.Conn

	until atomic.Int64 // of writes, in unix nanoseconds; 0: none
}

func (p *pipe) SetDeadline(t time.Time) error {
	p.until.Store(0)             // the next one is set in any case
	return p.Conn.SetDeadline(t) //nolint:wrapcheck // nats.go's own call
}

func (p *pipe) SetWriteDeadline(t time.Time) error {
	if t.IsZero() {
		return nil
	}
	now, until := time.Now(), time.Unix(0, p.until.Load())
	if !until.After(t) && until.Sub(now) > t.Sub(now)/2 {
		return nil
	}
	p.until.Store(t.UnixNano())
	return p.Conn.SetWriteDeadline(t) //nolint:wrapcheck // nats.go's own call
}

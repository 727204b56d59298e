package broker

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
)

const (
	// callTimeout bounds one call to the broker whose caller set no sooner deadline.
	callTimeout = 5 * time.Second
	// window bounds the calls under way on one conn, and with them its memory.
	window = 4096
)

var (
	// errSent marks a call that was sent and not answered.
	errSent = errors.New("no answer from the broker")
	// errNoResponder marks a call that nobody was there to take: nothing happened.
	errNoResponder = errors.New("no responder")
)

// conn makes calls on a NATS connection: publishes whose acknowledgement is
// awaited, and requests. All replies come through one subscription, so callers
// share a pipeline, and a lost connection ends every open call at once instead
// of letting it run into its deadline.
type conn struct {
	nc     *nats.Conn
	prefix string
	sub    *nats.Subscription
	slots  chan struct{}

	mu     sync.Mutex
	next   uint64
	open   map[uint64]func(*nats.Msg, error)
	closed bool

	status   chan nats.Status
	watching sync.WaitGroup
	upMu     sync.Mutex
	up       []chan struct{} // told when the connection is back
}

func newConn(nc *nats.Conn) (*conn, error) {
	c := &conn{
		nc:     nc,
		prefix: nc.NewInbox() + ".",
		slots:  make(chan struct{}, window),
		open:   make(map[uint64]func(*nats.Msg, error)),
		status: nc.StatusChanged(nats.RECONNECTING, nats.DISCONNECTED, nats.CLOSED, nats.CONNECTED),
	}
	sub, err := nc.Subscribe(c.prefix+"*", c.reply)
	if err == nil {
		err = sub.SetPendingLimits(-1, -1) // bounded by the window
	}
	if err != nil {
		nc.RemoveStatusListener(c.status)
		return nil, fmt.Errorf("%w: subscribe to replies: %w", pelton.ErrUnavailable, err)
	}
	c.sub = sub
	c.watching.Go(c.watch)
	return c, nil
}

// watch ends open calls when the connection is lost and tells listeners when it
// is back. It ends when close closes the status channel.
func (c *conn) watch() {
	for status := range c.status {
		switch status {
		case nats.RECONNECTING, nats.DISCONNECTED, nats.CLOSED:
			c.abort(fmt.Errorf("%w: connection lost", errSent))
		case nats.CONNECTED:
			c.upMu.Lock()
			for _, ch := range c.up {
				select {
				case ch <- struct{}{}:
				default:
				}
			}
			c.upMu.Unlock()
		case nats.CONNECTING, nats.DRAINING_PUBS, nats.DRAINING_SUBS:
		}
	}
}

// reconnected gives a channel that receives after each reconnection. stop ends it.
func (c *conn) reconnected() (ch <-chan struct{}, stop func()) {
	up := make(chan struct{}, 1)
	c.upMu.Lock()
	defer c.upMu.Unlock()
	c.up = append(c.up, up)
	return up, func() {
		c.upMu.Lock()
		defer c.upMu.Unlock()
		for i, other := range c.up {
			if other == up {
				c.up = append(c.up[:i], c.up[i+1:]...)
				return
			}
		}
	}
}

func (c *conn) reply(msg *nats.Msg) {
	n, err := strconv.ParseUint(msg.Subject[len(c.prefix):], 36, 64)
	if err != nil {
		return
	}
	if done, ok := c.take(n); ok {
		if len(msg.Data) == 0 && msg.Header.Get("Status") == "503" {
			done(nil, errNoResponder)
			return
		}
		done(msg, nil)
	}
}

func (c *conn) take(n uint64) (func(*nats.Msg, error), bool) {
	c.mu.Lock()
	done, ok := c.open[n]
	delete(c.open, n)
	c.mu.Unlock()
	if ok {
		<-c.slots
	}
	return done, ok
}

func (c *conn) abort(cause error) {
	c.mu.Lock()
	open := c.open
	c.open = make(map[uint64]func(*nats.Msg, error))
	c.mu.Unlock()
	for range open {
		<-c.slots
	}
	for _, done := range open {
		done(nil, cause)
	}
}

// send publishes msg with a reply subject and calls done once: with the reply, or
// with an error. done runs on the connection's reader and must not block. The
// answered error means that nothing was sent, and done will not be called.
// forget ends the call early; it reports whether done will never be called.
func (c *conn) send(ctx context.Context, msg *nats.Msg, done func(*nats.Msg, error)) (forget func() bool, err error) {
	if ctx.Err() != nil { // select would not always notice
		return nil, fmt.Errorf("%w: %w", pelton.ErrUnavailable, context.Cause(ctx))
	}
	select {
	case c.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", pelton.ErrUnavailable, context.Cause(ctx))
	}
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		<-c.slots
		return nil, pelton.ErrClosed
	}
	c.next++
	n := c.next
	c.open[n] = done
	c.mu.Unlock()

	msg.Reply = c.prefix + strconv.FormatUint(n, 36)
	forget = func() bool { _, ok := c.take(n); return ok }
	// The look comes after the registration: a connection that is lost after it
	// ends the call through abort. Without it, the message would wait in the
	// client for the next connection.
	err = nats.ErrDisconnected
	if c.nc.IsConnected() {
		err = c.nc.PublishMsg(msg)
	}
	if err == nil || !forget() { // not forgotten: abort was faster, done has been called
		return forget, nil
	}
	if errors.Is(err, nats.ErrMaxPayload) {
		return nil, fmt.Errorf("%w: %d bytes are more than the NATS server takes", pelton.ErrInvalid, msg.Size())
	}
	return nil, fmt.Errorf("%w: %w", pelton.ErrUnavailable, err)
}

// post makes a call of the JetStream API whose answer nobody waits for.
func (c *conn) post(subject string, body []byte) error {
	if !c.nc.IsConnected() { // it would wait in the client for the next connection
		return pelton.ErrUnavailable
	}
	// Nobody is subscribed to the reply, which the server wants to have.
	return c.nc.PublishRequest("$JS.API."+subject, c.prefix+"no.one", body) //nolint:wrapcheck // the caller knows what it posted
}

// call is send and wait. Its errors: pelton.ErrUnavailable (not sent),
// errNoResponder, errSent (sent, unanswered).
func (c *conn) call(ctx context.Context, msg *nats.Msg) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	type answer struct {
		msg *nats.Msg
		err error
	}
	answers := make(chan answer, 1)
	forget, err := c.send(ctx, msg, func(m *nats.Msg, err error) { answers <- answer{m, err} })
	if err != nil {
		return nil, err
	}
	select {
	case a := <-answers:
		return a.msg, a.err
	case <-ctx.Done():
		if forget() {
			return nil, fmt.Errorf("%w: %w", errSent, context.Cause(ctx))
		}
		a := <-answers
		return a.msg, a.err
	}
}

func (c *conn) close() {
	c.mu.Lock()
	already := c.closed
	c.closed = true
	c.mu.Unlock()
	if already {
		return
	}
	_ = c.sub.Unsubscribe() // fails only where the connection is gone already
	c.abort(fmt.Errorf("%w: %w", errSent, pelton.ErrClosed))
	c.nc.RemoveStatusListener(c.status)
	c.watching.Wait()
}

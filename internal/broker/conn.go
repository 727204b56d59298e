package broker

import (
	"context"
	"errors"
	"fmt"
	"runtime"
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
// awaited, and requests. All replies come through one subscription and all that
// concurrent callers send goes out together, so callers share a pipeline, and a
// lost connection ends every open call at once instead of letting it run into its
// deadline.
type conn struct {
	nc       *nats.Conn
	prefix   string // of reply subjects
	sub      *nats.Subscription
	waiters  sync.Pool // of *waiter
	messages sync.Pool // of *nats.Msg
	table

	lost    func()         // called when the connection is lost, before open calls end
	running sync.WaitGroup // watch and write
	status  chan nats.Status
	upMu    sync.Mutex
	up      []chan struct{} // told when the connection is back
}

func newConn(nc *nats.Conn, lost func()) (*conn, error) {
	c := &conn{
		nc:       nc,
		lost:     lost,
		prefix:   nc.NewInbox() + ".",
		waiters:  sync.Pool{New: func() any { return newWaiter() }},
		messages: sync.Pool{New: func() any { return &nats.Msg{} }},
		table:    newTable(),
		status:   nc.StatusChanged(nats.RECONNECTING, nats.DISCONNECTED, nats.CLOSED, nats.CONNECTED),
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
	c.running.Go(c.watch)
	c.running.Go(c.write)
	return c, nil
}

// watch ends open calls when the connection is lost or their time is over, and tells
// listeners when the connection is back. It ends when close closes the status channel.
func (c *conn) watch() {
	tick := time.NewTicker(callTick)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			c.expire()
		case status, more := <-c.status:
			if !more {
				return
			}
			c.changed(status)
		}
	}
}

func (c *conn) changed(status nats.Status) {
	switch status {
	case nats.RECONNECTING, nats.DISCONNECTED, nats.CLOSED:
		c.lost()
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

// reconnected gives a channel that receives after each reconnection. stop ends it.
func (c *conn) reconnected() (ch <-chan struct{}, stop func()) {
	up := make(chan struct{}, 1)
	return up, c.tellReconnected(up)
}

// tellReconnected is reconnected with a channel of the caller's, which has room for one.
func (c *conn) tellReconnected(up chan struct{}) (stop func()) {
	c.upMu.Lock()
	defer c.upMu.Unlock()
	c.up = append(c.up, up)
	return func() {
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
	if done, ok := c.take(n, msg); ok {
		if len(msg.Data) == 0 && msg.Header.Get("Status") == "503" {
			done(nil, errNoResponder)
			return
		}
		done(msg, nil)
	}
}

// begin sends msg, which belongs to the conn from then on, with a reply subject,
// and calls done once: with the reply, or with an error, as call answers them. done
// runs on the connection's reader, or where else the call ends, possibly before begin
// returns, and must not block. An error of begin itself means that nothing was sent, and
// done will not be called. The call ends when within is over, or half a second later; ctx
// bounds only the wait for a place among the open calls. forget ends it early.
//
// msg.Data may be used again when there was a reply: without one, it may not have been
// sent yet.
func (c *conn) begin(ctx context.Context, msg *nats.Msg, within time.Duration, done func(*nats.Msg, error)) (call uint64, err error) {
	return c.beginParts(ctx, msg, within, false, done)
}

// beginParts is begin. With parts, done is called for each message of the answer, the last of
// which is an empty one with a status.
func (c *conn) beginParts(ctx context.Context, msg *nats.Msg, within time.Duration, parts bool, done func(*nats.Msg, error)) (call uint64, err error) {
	if ctx.Err() != nil { // select would not always notice
		return 0, fmt.Errorf("%w: %w", pelton.ErrUnavailable, context.Cause(ctx))
	}
	until := c.after(within)
	select {
	case c.slots <- struct{}{}:
	default:
		ctx, cancel := context.WithTimeout(ctx, within)
		defer cancel()
		select {
		case c.slots <- struct{}{}:
		case <-ctx.Done():
			return 0, fmt.Errorf("%w: %w", pelton.ErrUnavailable, context.Cause(ctx))
		}
	}
	out, queued, err := c.enter(msg, until, parts, done)
	if err != nil {
		<-c.slots
		return 0, err
	}
	if !queued {
		c.publish(out)
	}
	return out.call, nil
}

// forget ends a call; it reports whether its done will never be called.
func (c *conn) forget(call uint64) bool {
	_, ok := c.take(call, nil)
	return ok
}

// send is begin with callTimeout.
func (c *conn) send(ctx context.Context, msg *nats.Msg, done func(*nats.Msg, error)) (forget func() bool, err error) {
	call, err := c.begin(ctx, msg, callTimeout, done)
	if err != nil {
		return nil, err
	}
	return func() bool { return c.forget(call) }, nil
}

// write sends what callers have queued, until close.
func (c *conn) write() {
	var batch []outgoing
	for range c.wake {
		for {
			c.yield()
			if batch = c.collect(batch); len(batch) == 0 {
				break
			}
			for _, out := range batch {
				c.publish(out)
			}
		}
	}
}

// yield lets the callers go first that are about to send. They come together, because
// the answers that wake them do, and packets are most of what a write costs: to wait
// for all of them makes one packet of what would be many (64 callers over TCP: +40 %).
// Where handlers keep the processors busy, a turn of all goroutines takes tens of
// milliseconds, and waiting for it would cost more than the packets (eight such
// handlers: −70 %): then callers send for themselves for a while.
func (c *conn) yield() {
	if c.rushed() {
		return
	}
	began := time.Now()
	runtime.Gosched()
	if time.Since(began) > maxYield {
		c.rush(rushTime)
	}
}

// publish sends a message unless its call has ended, and ends the call if it could not be sent.
func (c *conn) publish(out outgoing) {
	// The look at the connection comes after the registration: one that is lost after it
	// ends the call through abort. Without it, the message would wait in the
	// client for the next connection.
	err := nats.ErrDisconnected
	if c.nc.IsConnected() {
		if !c.sends(out.call) {
			return
		}
		var buf [96]byte
		reply := string(strconv.AppendUint(append(buf[:0], c.prefix...), out.call, 36))
		if len(out.msg.Header) == 0 {
			err = c.nc.PublishRequest(out.msg.Subject, reply, out.msg.Data)
		} else {
			out.msg.Reply = reply
			err = c.nc.PublishMsg(out.msg)
		}
	}
	switch {
	case err == nil:
	case errors.Is(err, nats.ErrMaxPayload):
		err = fmt.Errorf("%w: %d bytes are more than the NATS server takes", pelton.ErrInvalid, out.msg.Size())
	default:
		err = fmt.Errorf("%w: %w", pelton.ErrUnavailable, err)
	}
	clear(out.msg.Header)
	out.msg.Data = nil
	c.messages.Put(out.msg)
	if err == nil {
		return
	}
	if done, ok := c.take(out.call, nil); ok { // abort may have been faster
		done(nil, err)
	}
}

// blank is a message to fill, for begin or call.
func (c *conn) blank() *nats.Msg {
	msg, _ := c.messages.Get().(*nats.Msg)
	return msg
}

// post makes a call of the JetStream API whose answer nobody waits for.
func (c *conn) post(subject string, body []byte) error {
	if !c.nc.IsConnected() { // it would wait in the client for the next connection
		return pelton.ErrUnavailable
	}
	return c.nc.Publish("$JS.API."+subject, body) //nolint:wrapcheck // the caller knows what it posted
}

// waiter waits for the end of one call after the other.
type waiter struct {
	answers chan answer
	done    func(*nats.Msg, error)
}

type answer struct {
	msg *nats.Msg
	err error
}

func newWaiter() *waiter {
	answers := make(chan answer, 1)
	return &waiter{answers, func(msg *nats.Msg, err error) { answers <- answer{msg, err} }}
}

// call is begin and wait, with callTimeout and as long as ctx lasts. Its errors:
// pelton.ErrUnavailable (not sent), pelton.ErrInvalid (too large, not sent),
// errNoResponder, errSent (sent, unanswered).
func (c *conn) call(ctx context.Context, msg *nats.Msg) (*nats.Msg, error) {
	w, _ := c.waiters.Get().(*waiter)
	defer c.waiters.Put(w) // whichever way the call ended, no more comes
	call, err := c.begin(ctx, msg, callTimeout, w.done)
	if err != nil {
		return nil, err
	}
	select {
	case a := <-w.answers:
		return a.msg, a.err
	case <-ctx.Done():
		if c.forget(call) {
			return nil, fmt.Errorf("%w: %w", errSent, context.Cause(ctx))
		}
		a := <-w.answers
		return a.msg, a.err
	}
}

func (c *conn) close() {
	if !c.shut() {
		return
	}
	_ = c.sub.Unsubscribe() // fails only where the connection is gone already
	c.abort(fmt.Errorf("%w: %w", errSent, pelton.ErrClosed))
	c.nc.RemoveStatusListener(c.status)
	c.running.Wait()
}

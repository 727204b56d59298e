package broker

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
)

// callTick is how exactly the time of calls is kept: one ticker for all of them costs
// less than a timer for each.
const callTick = callTimeout / 10

const (
	// maxYield is how long goroutines that only come to send take at most, all of them:
	// one that computes runs for 10 ms before others get its place.
	maxYield = 5 * time.Millisecond
	// rushTime is how long callers send for themselves after one that took longer.
	rushTime = 5 * time.Second
)

// table holds the open calls of a conn, and what of them is still to be sent.
type table struct {
	slots chan struct{} // one for each open call, window at most
	now   atomic.Int64  // in ticks
	calm  atomic.Int64  // the tick at which callers leave sending to the writer again

	mu     sync.Mutex
	open   []entry    // grows up to window
	free   []uint64   // indices of entries that are not in use
	serial uint64     // of the last call
	queue  []outgoing // what the writer is to send
	wake   chan struct{}
	awake  bool // the writer is, or has been woken
	closed bool
}

// entry is one open call, or a free place for one.
type entry struct {
	call  uint64 // 0: none. Its number: serial*window + the entry's index
	until int64
	sent  bool // or about to be
	parts bool // its answer has several messages; done is called for each
	done  func(*nats.Msg, error)
}

// outgoing is a message of an open call.
type outgoing struct {
	call uint64
	msg  *nats.Msg
}

func newTable() table {
	return table{slots: make(chan struct{}, window), wake: make(chan struct{}, 1)}
}

// after is the first tick at which d is over for sure.
func (t *table) after(d time.Duration) int64 { return t.now.Load() + int64(d/callTick) + 1 }

func (t *table) rush(d time.Duration) { t.calm.Store(t.after(d)) }

func (t *table) rushed() bool { return t.now.Load() < t.calm.Load() }

// enter opens a call, for which the caller has a slot. The message is queued for
// the writer, unless there is no other call open that it could go together with, or no
// time to wait for it. What the writer has is never overtaken.
func (t *table) enter(msg *nats.Msg, until int64, parts bool, done func(*nats.Msg, error)) (out outgoing, queued bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return outgoing{}, false, pelton.ErrClosed
	}
	var i uint64
	if last := len(t.free) - 1; last >= 0 {
		i, t.free = t.free[last], t.free[:last]
	} else {
		i = uint64(len(t.open))
		t.open = append(t.open, entry{})
	}
	t.serial++
	out = outgoing{t.serial*window + i, msg}
	t.open[i] = entry{call: out.call, until: until, parts: parts, done: done}
	if alone := len(t.open)-len(t.free) == 1; (alone || t.rushed()) && !t.awake {
		return out, false, nil
	}
	t.queue = append(t.queue, out)
	if !t.awake {
		t.awake = true
		t.wake <- struct{}{} // never blocks: who sleeps has taken the last one
	}
	return out, true, nil
}

// collect gives the writer what is queued, in exchange for what it has sent. Without
// anything, the writer goes to sleep.
func (t *table) collect(sent []outgoing) []outgoing {
	clear(sent)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.awake = len(t.queue) > 0
	queue := t.queue
	t.queue = sent[:0]
	return queue
}

// sends notes that the call's message is about to be sent, and reports whether the call
// has not ended.
func (t *table) sends(call uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := &t.open[call%window]
	if e.call != call {
		return false
	}
	e.sent = true
	return true
}

// take ends a call, unless it has ended, or msg is a part of its answer and not the last
// one. The caller calls done.
func (t *table) take(call uint64, msg *nats.Msg) (done func(*nats.Msg, error), ok bool) {
	t.mu.Lock()
	ended := false
	if i := call % window; i < uint64(len(t.open)) && t.open[i].call == call && call != 0 {
		if ok = true; t.open[i].parts && msg != nil && msg.Header.Get("Status") == "" {
			done = t.open[i].done
		} else {
			done, ended = t.remove(i), true
		}
	}
	t.mu.Unlock()
	if ended {
		<-t.slots
	}
	return done, ok
}

func (t *table) remove(i uint64) (done func(*nats.Msg, error)) {
	done = t.open[i].done
	t.open[i] = entry{}
	t.free = append(t.free, i)
	return done
}

// abort ends all open calls. The cause is of those that were sent: of the others it is known that
// nothing happened.
func (t *table) abort(cause error) {
	t.end(func(*entry) bool { return true }, cause)
}

// expire is the ticker's tick: it ends the calls whose time is over.
func (t *table) expire() {
	now := t.now.Add(1)
	t.end(func(e *entry) bool { return e.until <= now }, fmt.Errorf("%w: %w", errSent, context.DeadlineExceeded))
}

func (t *table) end(which func(*entry) bool, cause error) {
	var sent, unsent []func(*nats.Msg, error)
	t.mu.Lock()
	for i := range t.open {
		switch e := &t.open[i]; {
		case e.call == 0 || !which(e):
		case e.sent:
			sent = append(sent, t.remove(uint64(i)))
		default:
			unsent = append(unsent, t.remove(uint64(i)))
		}
	}
	t.mu.Unlock()
	for range len(sent) + len(unsent) {
		<-t.slots
	}
	for _, done := range sent {
		done(nil, cause)
	}
	for _, done := range unsent {
		done(nil, fmt.Errorf("%w: not sent", pelton.ErrUnavailable))
	}
}

// shut lets no more calls in and ends the writer. It reports whether that had not been done.
func (t *table) shut() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.closed = true
	close(t.wake)
	return true
}

package broker

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
)

// flight is writes that are sent without waiting in between, and whose answers are waited for
// together. It belongs to one goroutine.
type flight struct {
	b      *Broker
	ctx    context.Context //nolint:containedctx // of the one who called; bounded
	cancel context.CancelFunc

	sent     []flown // never grows: the answers go into it
	left     atomic.Int64
	answered chan struct{} // closed when all are
}

// flown is one write of a flight.
type flown struct {
	of   *flight
	i    int // by which whoever sent it knows it
	call uint64
	seq  uint64
	err  error
}

// newFlight is for at most n writes. It is to be landed.
func (b *Broker) newFlight(ctx context.Context, n int) *flight {
	f := &flight{b: b, sent: make([]flown, 0, n), answered: make(chan struct{})}
	f.ctx, f.cancel = context.WithTimeout(ctx, 2*callTimeout)
	f.left.Store(1) // the sending itself
	return f
}

// send sends a write. An error means that nothing was written, and that the write is not among
// those that land.
func (f *flight) send(i int, w write) (err error) {
	f.sent = append(f.sent, flown{of: f, i: i})
	p := &f.sent[len(f.sent)-1]
	f.left.Add(1)
	if g := f.b.groups.of(f.b, &w); g != nil {
		err = g.add(f.ctx, w, p.land) // it has its own deadline
	} else {
		p.call, err = f.b.conn.begin(f.ctx, f.b.message(w), 2*callTimeout, p.reply)
	}
	if err != nil { // no call
		f.sent = f.sent[:len(f.sent)-1]
		f.left.Add(-1)
	}
	return err
}

func (p *flown) reply(msg *nats.Msg, err error) { p.land(outcome(msg, err)) }

func (p *flown) land(seq uint64, err error) {
	p.seq, p.err = seq, err
	p.of.over()
}

func (f *flight) over() {
	if f.left.Add(-1) == 0 {
		close(f.answered)
	}
}

// land waits until all writes that were sent have their answer, or ctx ends.
func (f *flight) land() []flown {
	defer f.cancel()
	f.over()
	select {
	case <-f.answered:
	case <-f.ctx.Done():
		for i := range f.sent {
			if p := &f.sent[i]; f.b.conn.forget(p.call) {
				p.land(0, fmt.Errorf("%w: %w", pelton.ErrUnknownOutcome, context.Cause(f.ctx)))
			}
		}
		<-f.answered // the rest has been answered already
	}
	return f.sent
}

// pipeline sends the writes of all i in [0,n) for which include(i) holds without
// waiting in between, then waits for their answers. done is called once for each
// included i, never for two at a time.
func (b *Broker) pipeline(ctx context.Context, n int, include func(int) bool, build func(int) (write, error), done func(i int, seq uint64, err error)) {
	f := b.newFlight(ctx, n)
	for i := range n {
		if !include(i) {
			continue
		}
		w, err := build(i)
		if err == nil {
			err = f.send(i, w)
		}
		if err != nil {
			done(i, 0, err)
		}
	}
	for _, p := range f.land() {
		done(p.i, p.seq, p.err)
	}
}

package broker

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
)

// pipelined is one write of a pipeline.
type pipelined struct {
	i    int
	call uint64
	seq  uint64
	err  error
}

// pipeline sends the writes of all i in [0,n) for which include(i) holds without
// waiting in between, then waits for their answers. done is called once for each
// included i, never for two at a time.
func (b *Broker) pipeline(ctx context.Context, n int, include func(int) bool, build func(int) (write, error), done func(i int, seq uint64, err error)) {
	ctx, cancel := context.WithTimeout(ctx, 2*callTimeout)
	defer cancel()
	sent := make([]pipelined, 0, n) // never grows: the answers go into it
	var left atomic.Int64
	left.Store(1) // the sending itself
	answered := make(chan struct{})
	finish := func() {
		if left.Add(-1) == 0 {
			close(answered)
		}
	}
	for i := range n {
		if !include(i) {
			continue
		}
		w, err := build(i)
		if err != nil {
			done(i, 0, err)
			continue
		}
		sent = append(sent, pipelined{i: i})
		p := &sent[len(sent)-1]
		left.Add(1)
		if g := b.groups.of(b, &w); g != nil {
			err = g.add(ctx, w, func(seq uint64, err error) { // it has its own deadline
				p.seq, p.err = seq, err
				finish()
			})
		} else {
			p.call, err = b.conn.begin(ctx, b.message(w), 2*callTimeout, func(reply *nats.Msg, err error) {
				p.seq, p.err = outcome(reply, err)
				finish()
			})
		}
		if err != nil { // no call
			sent = sent[:len(sent)-1]
			left.Add(-1)
			done(i, 0, err)
		}
	}
	finish()
	select {
	case <-answered:
	case <-ctx.Done():
		for i := range sent {
			if p := &sent[i]; b.conn.forget(p.call) {
				p.err = fmt.Errorf("%w: %w", pelton.ErrUnknownOutcome, context.Cause(ctx))
				finish()
			}
		}
		<-answered // the rest has been answered already
	}
	for i := range sent {
		done(sent[i].i, sent[i].seq, sent[i].err)
	}
}

package broker

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
)

// fullFor is how long one word of a full disk counts. It is repeated well within
// that, and the end of it is told.
const fullFor = 3 * time.Second

const roomAgain = "room"

// room is what this process was told of the broker's disk. The word is passed on
// outside the streams, which take nothing then: a subject that is not stored.
type room struct {
	full atomic.Pointer[time.Time] // when it was last said to be full; nil: it is not
	sub  *nats.Subscription
}

func (r *room) listen(nc *nats.Conn, subject string) error {
	sub, err := nc.Subscribe(subject, func(msg *nats.Msg) {
		if string(msg.Data) == roomAgain {
			r.full.Store(nil)
			return
		}
		now := time.Now()
		r.full.Store(&now)
	})
	if err != nil {
		return fmt.Errorf("%w: listen for the broker's disk: %w", pelton.ErrUnavailable, err)
	}
	r.sub = sub
	return nil
}

func (r *room) close() { _ = r.sub.Unsubscribe() } // fails only where the connection is gone

// check is nil unless the disk is full. New tasks are refused then, and what is
// left is for those that were accepted.
func (r *room) check() error {
	if at := r.full.Load(); at != nil && time.Since(*at) < fullFor {
		return fmt.Errorf("%w: the broker's disk is full", pelton.ErrUnavailable)
	}
	return nil
}

// TellFull tells every process of the installation whether the broker's disk is too
// full for new tasks. Whoever knows that it is says so at least every second.
func (b *Broker) TellFull(full bool) error {
	word := roomAgain
	if full {
		word = "full"
	}
	if err := b.conn.nc.Publish(b.diskSignal(), []byte(word)); err != nil {
		return fmt.Errorf("%w: tell of the broker's disk: %w", pelton.ErrUnavailable, err)
	}
	return nil
}

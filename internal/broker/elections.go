package broker

import (
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
)

// In a cluster the requests for messages that wait lie with the leader of their consumer, and are
// gone with it: nothing comes then, not even their end, until their time is over at whoever made them. The
// server tells of each election (nats-server 2.15, an advisory that is not stored), which costs
// nothing in the meantime, unlike heartbeats for thousands of requests. Where that got lost, the
// time of the request repairs it, some 30 s later.

const elections = "$JS.EVENT.ADVISORY.CONSUMER.LEADER_ELECTED."

// Elections calls moved with each lane whose consumer has a new leader, until stop is called. moved
// must not block. Errors: pelton.ErrUnavailable.
func (b *Broker) Elections(moved func(Lane)) (stop func(), err error) {
	prefix := elections + b.tasks(0) + "."
	sub, err := b.conn.nc.Subscribe(prefix+"*", func(msg *nats.Msg) {
		if queue, p, ok := parseLaneConsumer(strings.TrimPrefix(msg.Subject, prefix)); ok {
			moved(Lane{Queue: queue, Priority: p})
		}
	})
	if err != nil {
		return nil, fmt.Errorf("%w: listen for elections: %w", pelton.ErrUnavailable, err)
	}
	return func() { _ = sub.Unsubscribe() }, nil // fails only where the connection is gone
}

// interrupted gives a channel that receives when open requests to a consumer may be lost: after
// each reconnection, and when it has a new leader. stop ends it.
func (b *Broker) interrupted(stream, consumer string) (ch <-chan struct{}, stop func(), err error) {
	lost := make(chan struct{}, 1)
	sub, err := b.conn.nc.Subscribe(elections+stream+"."+consumer, func(*nats.Msg) {
		select {
		case lost <- struct{}{}:
		default:
		}
	})
	if err != nil {
		return nil, nil, fmt.Errorf("%w: listen for elections: %w", pelton.ErrUnavailable, err)
	}
	forget := b.conn.tellReconnected(lost)
	return lost, func() {
		forget()
		_ = sub.Unsubscribe() // fails only where the connection is gone
	}, nil
}

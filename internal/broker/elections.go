package broker

import (
	"fmt"
	"strings"
	"sync"

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
	e := electionsOf{b: b, moved: moved}
	grown, forget := b.Growth()
	if err := e.listen(); err != nil {
		forget()
		e.close()
		return nil, err
	}
	end := make(chan struct{})
	var following sync.WaitGroup
	following.Go(func() {
		for {
			select {
			case <-grown:
				if err := e.listen(); err != nil { // the time of each request repairs what is lost
					b.cfg.Logger.Debug("elections of new shards are not heard of", "error", err)
				}
			case <-end:
				return
			}
		}
	})
	return func() {
		forget()
		close(end)
		following.Wait()
		e.close()
	}, nil
}

// electionsOf hears of elections in shards.
type electionsOf struct {
	b     *Broker
	moved func(Lane)
	subs  []*nats.Subscription // by shard
}

// listen begins to do so in those that it does not hear of yet.
func (e *electionsOf) listen() error {
	for shard := uint8(len(e.subs)); int(shard) < e.b.Shards(); shard++ {
		prefix := elections + e.b.tasks(shard) + "."
		sub, err := e.b.conn.nc.Subscribe(prefix+"*", func(msg *nats.Msg) {
			if queue, p, ok := parseLaneConsumer(strings.TrimPrefix(msg.Subject, prefix)); ok {
				e.moved(Lane{queue, p, shard})
			}
		})
		if err != nil {
			return fmt.Errorf("%w: listen for elections: %w", pelton.ErrUnavailable, err)
		}
		e.subs = append(e.subs, sub)
	}
	return nil
}

func (e *electionsOf) close() {
	for _, sub := range e.subs {
		_ = sub.Unsubscribe() // fails only where the connection is gone
	}
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

package broker

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/peltonq/pelton"
)

const (
	forwardsBatch = 1000             // messages asked for at a time
	forwardsBytes = 32 << 20         // of them; one message may have less
	forwardsIdle  = 10 * time.Second // after which the broker drops a consumer that nobody reads
)

// forwards reads messages of a stream in order by a consumer that is dropped afterwards: a
// request for each 1,000 messages.
type forwards struct {
	nc           *nats.Conn
	js           jetstream.JetStream
	stream, name string
	sub          *nats.Subscription
	pending      uint64 // messages there were at the beginning
}

// readForwards begins at a sequence. The filter is one of subjects.
func readForwards(ctx context.Context, nc *nats.Conn, js jetstream.JetStream, stream, filter string, from uint64) (*forwards, error) {
	consumer, err := js.CreateConsumer(ctx, stream, jetstream.ConsumerConfig{
		FilterSubject: filter, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: from,
		AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, Replicas: 1, InactiveThreshold: forwardsIdle,
	})
	if err != nil {
		return nil, translate("read stream "+stream, err)
	}
	f := &forwards{nc: nc, js: js, stream: stream, name: consumer.CachedInfo().Name, pending: consumer.CachedInfo().NumPending}
	if f.sub, err = nc.SubscribeSync(nc.NewInbox()); err != nil {
		f.close(ctx)
		return nil, fmt.Errorf("%w: read stream %s: %w", pelton.ErrUnavailable, stream, err)
	}
	if err := f.sub.SetPendingLimits(-1, 2*forwardsBytes); err != nil {
		f.close(ctx)
		return nil, fmt.Errorf("bound what is under way: %w", err)
	}
	return f, nil
}

// batch yields the next messages, up to 1,000. over means that there were no more after
// them when the broker answered. An error of yield ends it.
func (f *forwards) batch(ctx context.Context, yield func(*nats.Msg, *nats.MsgMetadata) error) (over bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	request, err := json.Marshal(map[string]any{"batch": forwardsBatch, "max_bytes": forwardsBytes, "no_wait": true})
	if err != nil {
		return false, fmt.Errorf("encode request: %w", err)
	}
	if err := f.nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT."+f.stream+"."+f.name, f.sub.Subject, request); err != nil {
		return false, fmt.Errorf("%w: read stream %s: %w", pelton.ErrUnavailable, f.stream, err)
	}
	for got := 0; ; got++ { // until a status, with which every request with a bound in bytes ends
		msg, err := f.sub.NextMsgWithContext(ctx)
		if err != nil {
			return false, fmt.Errorf("%w: read stream %s: %w", pelton.ErrUnavailable, f.stream, err)
		}
		switch status := msg.Header.Get("Status"); {
		case status == "":
		case status == "404", status == "408":
			return true, nil
		case status == "409" && got > 0: // as many messages or bytes as were asked for
			return false, nil
		default:
			return false, fmt.Errorf("%w: read stream %s: %s %s", pelton.ErrUnavailable, f.stream, status, msg.Header.Get("Description"))
		}
		meta, err := msg.Metadata()
		if err != nil {
			return false, fmt.Errorf("read stream %s: %w", f.stream, err)
		}
		if err := yield(msg, meta); err != nil {
			return false, err
		}
	}
}

// close drops the consumer; if that fails, the broker does it when it was idle for a while.
func (f *forwards) close(ctx context.Context) {
	if f.sub != nil {
		_ = f.sub.Unsubscribe() // fails only where the connection is gone
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = f.js.DeleteConsumer(ctx, f.stream, f.name)
}

package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/peltonq/pelton"
)

// Inspection is what Inspect found. Nothing was written for it.
type Inspection struct {
	ServerVersion string
	// Skew is by how much the server's clock is ahead of ours, and SkewError how wrong
	// that can be at most. Both are zero when there was no stream to ask about.
	Skew, SkewError time.Duration
	// MaxPayload is the server's bound on messages in bytes, and MinPayload what Pelton
	// needs of it.
	MaxPayload, MinPayload int64
	Storage                Quota // of files, in bytes
	StreamCount            Quota // of the account, those of others included
	Consumers              Quota
	Shards                 int // as its settings say
	Streams                []InspectedStream
}

// Quota is what an account uses, and may use; a Limit below zero is none.
type Quota struct{ Used, Limit int64 }

// InspectedStream is a stream that the installation has, or should have.
type InspectedStream struct {
	Name    string
	Missing bool
	Misfits []string // settings that Pelton cannot live with, as sentences
	Leader  bool     // somebody leads it; always so without a cluster
	// Unsettled says which of its copies are missing or behind; "" for none.
	Unsettled string
	Messages  uint64
	Bytes     uint64
}

// Inspect looks at an installation without opening or creating anything. Errors are
// pelton.ErrUnavailable for a server that does not answer, and pelton.ErrNotSupported
// for one without JetStream, or with none for this account.
func Inspect(ctx context.Context, nc *nats.Conn, namespace string) (*Inspection, error) {
	if !namespaceName.MatchString(namespace) {
		return nil, fmt.Errorf("%w: namespace %q", pelton.ErrInvalid, namespace)
	}
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(callTimeout))
	if err != nil {
		return nil, fmt.Errorf("open JetStream: %w", err)
	}
	found := &Inspection{ServerVersion: nc.ConnectedServerVersion(), MaxPayload: nc.MaxPayload(), MinPayload: minMessageSize}
	account, err := js.AccountInfo(ctx)
	if errors.Is(err, jetstream.ErrJetStreamNotEnabled) || errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount) {
		return nil, fmt.Errorf("%w: %w", pelton.ErrNotSupported, err)
	}
	if err != nil {
		return nil, translate("ask for the account", err)
	}
	tier := account.Tier
	found.Storage = Quota{int64(min(tier.Store, 1<<62)), tier.Limits.MaxStore}
	found.StreamCount = Quota{int64(tier.Streams), int64(tier.Limits.MaxStreams)}
	found.Consumers = Quota{int64(tier.Consumers), int64(tier.Limits.MaxConsumers)}
	n := names{namespace}
	if found.Shards, err = shardsWritten(ctx, js, n); err != nil {
		return nil, err
	}
	for _, want := range n.withShards(n.streams(0), found.Shards, 0) {
		s, err := found.stream(ctx, js, want)
		if err != nil {
			return nil, err
		}
		found.Streams = append(found.Streams, s)
	}
	return found, nil
}

// stream looks at one stream, and at the clock that its answer has.
func (found *Inspection) stream(ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig) (InspectedStream, error) {
	s := InspectedStream{Name: want.Name}
	asked := time.Now()
	stream, err := js.Stream(ctx, want.Name)
	took := time.Since(asked)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		s.Missing = true
		return s, nil
	}
	if err != nil {
		return s, translate("look at stream "+want.Name, err)
	}
	info := stream.CachedInfo()
	s.Misfits = misfits(want, info.Config)
	s.Leader = info.Cluster == nil || info.Cluster.Leader != ""
	s.Unsettled = unsettled(info)
	s.Messages, s.Bytes = info.State.Msgs, info.State.Bytes
	// The server read its clock somewhere between question and answer. The quickest
	// answer knows it best.
	if !info.TimeStamp.IsZero() && (found.SkewError == 0 || took/2 < found.SkewError) {
		found.Skew, found.SkewError = info.TimeStamp.Sub(asked.Add(took/2)).Round(time.Microsecond), max(took/2, 1)
	}
	return s, nil
}

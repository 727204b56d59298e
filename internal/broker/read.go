package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/peltonq/pelton"
)

// stored is a message as a stream holds it.
type stored struct {
	subject string
	seq     uint64
	header  nats.Header
	data    []byte
	time    time.Time
}

// deleted reports a KV delete marker: of a delete, a purge, or an expired TTL.
func (s *stored) deleted() bool {
	return s.header.Get("KV-Operation") != "" || s.header.Get("Nats-Marker-Reason") != ""
}

// getRequest is the body of a get: by sequence, by last of a subject, or the next
// of a subject from a sequence on.
type getRequest struct {
	Seq     uint64 `json:"seq,omitempty"`
	LastFor string `json:"last_by_subj,omitempty"`
	NextFor string `json:"next_by_subj,omitempty"`
	// From begins at a moment instead of a sequence. Direct gets alone know it.
	From *time.Time `json:"start_time,omitempty"`
}

// get reads one message from the leader of a stream. A stream with one replica
// answers direct gets from its leader; with more, a direct get may come from a
// follower that is behind, and stale allows that.
func (b *Broker) get(ctx context.Context, stream string, req getRequest, stale bool) (*stored, error) {
	body, err := json.Marshal(req)
	if err != nil {
		return nil, fmt.Errorf("encode get: %w", err)
	}
	if stale || !b.replication.many.Load() {
		return b.getDirect(ctx, stream, body)
	}
	return b.getLeader(ctx, stream, body)
}

func (b *Broker) getDirect(ctx context.Context, stream string, body []byte) (*stored, error) {
	reply, err := b.conn.call(ctx, &nats.Msg{Subject: directGet + stream, Data: body})
	if err != nil {
		return nil, readError(err)
	}
	return directAnswer(stream, reply)
}

const (
	directGet = "$JS.API.DIRECT.GET."
	leaderGet = "$JS.API.STREAM.MSG.GET."
)

func directAnswer(stream string, reply *nats.Msg) (*stored, error) {
	switch status := reply.Header.Get("Status"); status {
	case "":
	case "404":
		return nil, pelton.ErrNotFound
	default:
		return nil, fmt.Errorf("%w: get from %s: %s %s", pelton.ErrUnavailable, stream, status, reply.Header.Get("Description"))
	}
	seq, err := strconv.ParseUint(reply.Header.Get("Nats-Sequence"), 10, 64)
	if err != nil {
		return nil, fmt.Errorf("%w: get from %s: sequence: %w", ErrMalformed, stream, err)
	}
	at, err := time.Parse(time.RFC3339Nano, reply.Header.Get("Nats-Time-Stamp"))
	if err != nil {
		return nil, fmt.Errorf("%w: get from %s: time: %w", ErrMalformed, stream, err)
	}
	return &stored{subject: reply.Header.Get("Nats-Subject"), seq: seq, header: reply.Header, data: reply.Data, time: at}, nil
}

func (b *Broker) getLeader(ctx context.Context, stream string, body []byte) (*stored, error) {
	reply, err := b.conn.call(ctx, &nats.Msg{Subject: leaderGet + stream, Data: body})
	if err != nil {
		return nil, readError(err)
	}
	return leaderAnswer(stream, reply)
}

func leaderAnswer(stream string, reply *nats.Msg) (_ *stored, err error) {
	var answer struct {
		Message *struct {
			Subject string    `json:"subject"`
			Seq     uint64    `json:"seq"`
			Header  []byte    `json:"hdrs"`
			Data    []byte    `json:"data"`
			Time    time.Time `json:"time"`
		} `json:"message"`
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return nil, fmt.Errorf("%w: get from %s: %w", ErrMalformed, stream, err)
	}
	switch {
	case answer.Error != nil && answer.Error.Code == 404:
		return nil, pelton.ErrNotFound
	case answer.Error != nil:
		return nil, fmt.Errorf("%w: get from %s: %w", pelton.ErrUnavailable, stream, answer.Error)
	case answer.Message == nil:
		return nil, fmt.Errorf("%w: get from %s: empty answer", ErrMalformed, stream)
	}
	m := answer.Message
	header := nats.Header{}
	if len(m.Header) > 0 {
		if header, err = nats.DecodeHeadersMsg(m.Header); err != nil {
			return nil, fmt.Errorf("%w: get from %s: headers: %w", ErrMalformed, stream, err)
		}
	}
	return &stored{subject: m.Subject, seq: m.Seq, header: header, data: m.Data, time: m.Time}, nil
}

// readError turns what went wrong with a call that changes nothing into
// ErrUnavailable: it can be made again.
func readError(err error) error {
	if errors.Is(err, pelton.ErrUnavailable) || errors.Is(err, pelton.ErrClosed) {
		return err
	}
	return fmt.Errorf("%w: %w", pelton.ErrUnavailable, err)
}

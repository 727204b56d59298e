package broker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/peltonq/pelton"
)

// Headers of JetStream that Pelton sets. Metadata of tasks travels in the body:
// three small headers cost 12 to 43 % of the publish rate.
const (
	headerExpectSubjectSeq = "Nats-Expected-Last-Subject-Sequence"
	headerExpectSubject    = "Nats-Expected-Last-Subject-Sequence-Subject"
	headerTTL              = "Nats-TTL"
	headerSchedule         = "Nats-Schedule"
	headerScheduleTarget   = "Nats-Schedule-Target"
)

// anyRevision is a write that expects nothing.
const anyRevision = ^uint64(0)

// write is one message to a stream. expect is the last sequence of its subject
// for which the write is valid: 0 for none yet, anyRevision for whatever. data must not be
// changed once the write is under way, nor after one that ended without an answer: it may
// not have been sent yet.
type write struct {
	subject  string
	data     []byte
	expect   uint64
	expectOn string        // of what expect is the last sequence, wildcards allowed; empty: subject
	ttl      time.Duration // 0: none
	header   nats.Header   // further headers
}

// mostBuffered bounds the slices that are kept, in bytes.
const mostBuffered = 16 << 10

// bufferPool has slices for the data of writes, to be used again once the broker has answered.
type bufferPool struct{ pool sync.Pool }

// get gives a slice to write into, which may be too small: then the data is in another one.
func (p *bufferPool) get() *[]byte {
	if buf, ok := p.pool.Get().(*[]byte); ok {
		return buf
	}
	return new([]byte)
}

// put gives back the data that came of it.
func (p *bufferPool) put(buf *[]byte, data []byte) {
	if cap(data) > mostBuffered {
		return
	}
	*buf = data
	p.pool.Put(buf)
}

func (w write) msg() *nats.Msg {
	msg := &nats.Msg{}
	w.into(msg)
	return msg
}

// into fills msg, which is blank. Without headers it is cheaper on both sides.
func (w write) into(msg *nats.Msg) {
	msg.Subject, msg.Data = w.subject, w.data
	if w.expect == anyRevision && w.ttl <= 0 && len(w.header) == 0 {
		return
	}
	if msg.Header == nil {
		msg.Header = nats.Header{}
	}
	maps.Copy(msg.Header, w.header)
	if w.expect != anyRevision {
		msg.Header[headerExpectSubjectSeq] = []string{formatSeq(w.expect)}
		if w.expectOn != "" {
			msg.Header[headerExpectSubject] = []string{w.expectOn}
		}
	}
	if w.ttl > 0 {
		// Whole seconds, rounded up: the broker's finest TTL is a second.
		msg.Header[headerTTL] = []string{formatSeq(uint64((w.ttl + time.Second - 1) / time.Second))}
	}
}

// message is the write's message, in one that the connection can use again.
func (b *Broker) message(w write) *nats.Msg {
	msg := b.conn.blank()
	w.into(msg)
	return msg
}

// do sends the write and returns its stream sequence. Errors: ErrStale (another
// revision), pelton.ErrUnavailable (nothing was written) and
// pelton.ErrUnknownOutcome (it may have been).
func (b *Broker) do(ctx context.Context, w write) (seq uint64, err error) {
	if g := b.groups.of(b, &w); g != nil {
		return g.write(ctx, w)
	}
	reply, err := b.conn.call(ctx, b.message(w))
	return outcome(reply, err)
}

// start is do for callers that do not wait: it calls done once, with what do would
// have answered. An error of start itself means that nothing was sent and that done will
// not be called: pelton.ErrUnavailable, pelton.ErrClosed.
//
// It blocks only while too many calls are open, and ctx bounds no more than that: the
// write then has the time that do has, whatever becomes of ctx. done runs on the
// goroutine that reads all answers, or on the caller's before start returns, or on
// another one of the connection's: it must not block, nor call start or do.
func (b *Broker) start(ctx context.Context, w write, done func(seq uint64, err error)) error {
	if g := b.groups.of(b, &w); g != nil {
		return g.add(ctx, w, done)
	}
	return b.startAlone(ctx, w, done)
}

// startAlone is start for a write that goes by itself.
func (b *Broker) startAlone(ctx context.Context, w write, done func(seq uint64, err error)) error {
	_, err := b.conn.begin(ctx, b.message(w), callTimeout, func(reply *nats.Msg, err error) { done(outcome(reply, err)) })
	return err
}

// errAccountFull is JSAccountResourcesExceededErr of the server's errors.json: the
// account's limit of storage. Its code is 400, but it passes.
const errAccountFull jetstream.ErrorCode = 10002

// wrongLast reports the two codes of a lost compare-and-swap: the second is for
// a write that met another one under way.
func wrongLast(code jetstream.ErrorCode) bool {
	return code == jetstream.JSErrCodeStreamWrongLastSequence || code == jetstream.JSErrCodeStreamWrongLastSequenceConstant
}

// errMet is the ErrStale of a write whose expectation a cluster did not look at, because another write under way
// touches the same subject, or expects something of it.
var errMet = fmt.Errorf("%w: it met another write", ErrStale)

// outcome reads a publish acknowledgement.
func outcome(reply *nats.Msg, err error) (uint64, error) {
	switch {
	case errors.Is(err, errNoResponder):
		return 0, fmt.Errorf("%w: no stream takes the write", pelton.ErrUnavailable)
	case errors.Is(err, errSent):
		return 0, fmt.Errorf("%w: %w", pelton.ErrUnknownOutcome, err)
	case err != nil:
		return 0, err
	}
	if seq, ok := plainAck(reply.Data); ok {
		return seq, nil
	}
	var ack struct {
		Seq   uint64              `json:"seq"`
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(reply.Data, &ack); err != nil {
		return 0, fmt.Errorf("%w: unreadable acknowledgement: %w", pelton.ErrUnknownOutcome, err)
	}
	switch {
	case ack.Error == nil && ack.Seq > 0:
		return ack.Seq, nil
	case ack.Error == nil:
		return 0, fmt.Errorf("%w: acknowledgement without a sequence", pelton.ErrUnknownOutcome)
	case ack.Error.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant:
		return 0, errMet
	case wrongLast(ack.Error.ErrorCode):
		return 0, ErrStale
	case ack.Error.Code >= 500, ack.Error.ErrorCode == errAccountFull:
		return 0, fmt.Errorf("%w: %w", pelton.ErrUnavailable, ack.Error)
	default:
		return 0, fmt.Errorf("broker refused the write: %w", ack.Error)
	}
}

// plainAck reads the acknowledgement of a write that succeeded, as the server
// writes it: {"stream":"S","seq":17}, with "domain" and "duplicate" behind that. Other
// texts are for the JSON decoder, which takes ten times as long.
func plainAck(data []byte) (seq uint64, ok bool) {
	rest, ok := bytes.CutPrefix(data, []byte(`{"stream":"`))
	if !ok {
		return 0, false
	}
	end := bytes.IndexByte(rest, '"')
	if end < 0 || bytes.IndexByte(rest[:end], 0x5c) >= 0 {
		return 0, false
	}
	if rest, ok = bytes.CutPrefix(rest[end:], []byte(`","seq":`)); !ok {
		return 0, false
	}
	digits := 0
	for digits < len(rest) && digits < 18 && rest[digits] >= '0' && rest[digits] <= '9' {
		seq = 10*seq + uint64(rest[digits]-'0')
		digits++
	}
	behind := rest[digits:]
	return seq, seq > 0 && len(behind) > 0 && (behind[0] == ',' || behind[0] == '}') && !bytes.Contains(behind, []byte(`"error"`))
}

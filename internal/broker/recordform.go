package broker

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/peltonq/pelton"
)

func encodeEnvelope(e *Envelope) ([]byte, error) { return envelopeInto(nil, e) }

// envelopeInto is encodeEnvelope into a slice that it overwrites, if it is large enough.
func envelopeInto(out []byte, e *Envelope) ([]byte, error) {
	e.Version = version
	m := e.lean()
	if line, ok := metaLine(out, &m, len(e.Payload)); ok {
		return append(line, e.Payload...), nil
	}
	return join(m, len(e.Payload), e.Payload)
}

func decodeEnvelope(data []byte) (*Envelope, error) {
	var e Envelope
	line, payload, err := cut(data)
	if err != nil {
		return nil, err
	}
	if err := readMeta(line, &e.Meta); err != nil {
		return nil, err
	}
	if err := checkMeta(&e.Meta); err != nil {
		return nil, err
	}
	e.fill()
	if len(payload) > 0 {
		e.Payload = payload
	}
	return &e, nil
}

// decodeMessage reads the envelope of a message that a stream holds under seq, and
// completes a located id by it.
func decodeMessage(data []byte, seq uint64) (*Envelope, error) {
	e, err := decodeEnvelope(data)
	if err == nil && !e.ID.Minted() && e.ID.Sequence() == 0 {
		e.ID = e.ID.At(seq)
	}
	return e, err
}

func encodeRecord(r *Record) ([]byte, error) { return recordInto(nil, r) }

// recordInto is encodeRecord into a slice that it overwrites, if it is large enough.
func recordInto(out []byte, r *Record) ([]byte, error) {
	r.Version = version
	m, extra := r.line(), len(r.Payload)+len(r.Result)
	if line, ok := recordLine(out, &m, extra); ok {
		return append(append(line, r.Payload...), r.Result...), nil
	}
	return join(m, extra, r.Payload, r.Result)
}

// line is the record's first line.
func (r *Record) line() recordMeta {
	progress := r.Progress
	if progress != nil && len(progress.Message) > maxMessage { // a handler may say anything
		clipped := *progress
		clipped.Message = truncate(clipped.Message, maxMessage)
		progress = &clipped
	}
	return recordMeta{
		Meta: r.lean(), State: r.State, PayloadLen: len(r.Payload), ResultLen: len(r.Result),
		RunAt: r.RunAt, StartedAt: r.StartedAt, FinishedAt: r.FinishedAt,
		Attempt: r.Attempt, Ended: r.Ended, Crashes: r.Crashes, Owner: r.Owner, Carrier: r.Carrier, Released: r.Released, Dropped: r.LetterDropped,
		Deferrals: r.Deferrals, DeferredAt: r.DeferredAt, Limited: r.Limited, Progress: progress, Errors: r.Errors,
		Unique: r.Unique, KeyRevision: r.KeyRevision, KeySpent: r.KeySpent, Replaced: r.Replaced, KeepUntil: r.KeepUntil,
		Places: r.Places, InLine: r.InLine, Former: r.Former, Lone: r.Lone,
	}
}

func decodeRecord(data []byte, revision uint64) (*Record, error) {
	line, body, err := cut(data)
	if err != nil {
		return nil, err
	}
	var m recordMeta
	if err := readRecordMeta(line, &m); err != nil {
		return nil, err
	}
	if err := checkMeta(&m.Meta); err != nil {
		return nil, err
	}
	m.fill()
	if !m.State.Valid() {
		return nil, fmt.Errorf("%w: unknown state %q", ErrMalformed, m.State)
	}
	if m.InLine && len(m.Places) == 0 {
		return nil, fmt.Errorf("%w: in line without a place", ErrMalformed)
	}
	if m.PayloadLen < 0 || m.ResultLen < 0 || m.PayloadLen > len(body) || m.ResultLen != len(body)-m.PayloadLen {
		return nil, fmt.Errorf("%w: payload of %d and result of %d in a body of %d bytes", ErrMalformed, m.PayloadLen, m.ResultLen, len(body))
	}
	r := &Record{
		Meta: m.Meta, State: m.State, RunAt: m.RunAt, StartedAt: m.StartedAt, FinishedAt: m.FinishedAt,
		Attempt: m.Attempt, Ended: m.Ended, Crashes: m.Crashes, Owner: m.Owner, Carrier: m.Carrier, Released: m.Released, LetterDropped: m.Dropped,
		Deferrals: m.Deferrals, DeferredAt: m.DeferredAt, Limited: m.Limited, Progress: m.Progress, Errors: m.Errors, Revision: revision,
		Unique: m.Unique, KeyRevision: m.KeyRevision, KeySpent: m.KeySpent, Replaced: m.Replaced, KeepUntil: m.KeepUntil,
		Places: m.Places, InLine: m.InLine, Former: m.Former, Lone: m.Lone,
	}
	if m.PayloadLen > 0 {
		r.Payload = body[:m.PayloadLen:m.PayloadLen]
	}
	if m.ResultLen > 0 {
		r.Result = body[m.PayloadLen:]
	}
	return r, nil
}

// join writes meta as one line and the parts after it.
func join(meta any, extra int, parts ...[]byte) ([]byte, error) {
	const usual = 512 // bytes of metadata
	var out bytes.Buffer
	out.Grow(usual + extra)
	if err := newLineEncoder(&out).Encode(meta); err != nil {
		return nil, fmt.Errorf("encode metadata: %w", err)
	}
	for _, part := range parts {
		out.Write(part)
	}
	return out.Bytes(), nil
}

// split reads the line into meta and returns what follows.
func split(data []byte, meta any) ([]byte, error) {
	line, body, err := cut(data)
	if err != nil {
		return nil, err
	}
	if err := unmarshalLine(line, meta); err != nil {
		return nil, err
	}
	return body, nil
}

// cut parts the line from what follows.
func cut(data []byte) (line, body []byte, err error) {
	if len(data) > maxBody {
		return nil, nil, fmt.Errorf("%w: %d bytes", ErrMalformed, len(data))
	}
	line, body, found := bytes.Cut(data, []byte{'\n'})
	if !found {
		return nil, nil, fmt.Errorf("%w: no metadata line", ErrMalformed)
	}
	return line, body, nil
}

func unmarshalLine(line []byte, meta any) error {
	if err := json.Unmarshal(line, meta); err != nil {
		// A newer version may have other types for what this one knows.
		var v struct {
			Version int `json:"v"`
		}
		if json.Unmarshal(line, &v) == nil && v.Version > version {
			return newer(v.Version)
		}
		return fmt.Errorf("%w: metadata: %w", ErrMalformed, err)
	}
	return nil
}

func newer(v int) error { return fmt.Errorf("%w: version %d, this is %d", ErrNewer, v, version) }

// checkMeta refuses names that must not become subjects.
func checkMeta(m *Meta) error {
	if err := checkWay(m.Version, m.ID, m.Queue, m.Priority); err != nil {
		return err
	}
	if err := pelton.ValidateKind(m.Kind); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return nil
}

// checkWay checks what says where a task goes.
func checkWay(v int, id pelton.ID, queue string, p pelton.Priority) error {
	if v > version {
		return newer(v)
	}
	if v != version || id.IsZero() || p == "" || p.Rank() < 0 {
		return fmt.Errorf("%w: version %d, id %s, priority %q", ErrMalformed, v, id, p)
	}
	if err := pelton.ValidateQueue(queue); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return nil
}

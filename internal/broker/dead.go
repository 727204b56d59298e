package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/peltonq/pelton"
)

// PublishDead keeps a copy of a failed task as a dead letter. Doing so again
// changes nothing; a letter of an earlier epoch is replaced, and one that was
// deleted on purpose stays so.
func (b *Broker) PublishDead(ctx context.Context, r *Record) error {
	if r.LetterDropped {
		return nil
	}
	if err := b.ensureCounter(ctx, b.dead(), counter(deadConsumer(r.Queue), b.deadIn(r.Queue))); err != nil {
		return err
	}
	data, err := encodeRecord(r)
	if err != nil {
		return fmt.Errorf("dead letter of task %s: %w", r.ID, err)
	}
	w := write{subject: b.deadLetter(r.Queue, r.ID), data: data}
	for range createTries {
		_, err = b.do(ctx, w)
		if !errors.Is(err, ErrStale) {
			return wrapDead(r.ID, err)
		}
		old, err := b.get(ctx, b.dead(), getRequest{LastFor: w.subject}, false)
		switch {
		case errors.Is(err, pelton.ErrNotFound):
			w.expect = 0 // the requeue that made this epoch has just deleted the letter of the last one
			continue
		case err != nil:
			return wrapDead(r.ID, err)
		}
		if letter, err := decodeRecord(old.data, old.seq); err == nil && letter.Epoch >= r.Epoch {
			return nil
		}
		w.expect = old.seq
	}
	return wrapDead(r.ID, fmt.Errorf("%w: it keeps changing", pelton.ErrUnavailable))
}

func wrapDead(id pelton.ID, err error) error {
	if err != nil {
		return fmt.Errorf("dead letter of task %s: %w", id, err)
	}
	return nil
}

// LoadDead reads a dead letter: the record as it was when the task failed. Its
// Revision is the letter's stream sequence.
func (b *Broker) LoadDead(ctx context.Context, queue string, id pelton.ID) (*Record, error) {
	msg, err := b.get(ctx, b.dead(), getRequest{LastFor: b.deadLetter(queue, id)}, false)
	if err != nil {
		return nil, fmt.Errorf("load dead letter of task %s: %w", id, err)
	}
	r, err := decodeRecord(msg.data, msg.seq)
	if err != nil {
		return nil, fmt.Errorf("load dead letter of task %s: %w", id, err)
	}
	return r, nil
}

// api calls the JetStream API and reads its error. Calls that come here are
// idempotent, so an unanswered one is pelton.ErrUnavailable.
func (b *Broker) api(ctx context.Context, subject string, body []byte) error {
	return b.apiInto(ctx, subject, body, nil)
}

// apiInto is api that decodes the answer into into.
func (b *Broker) apiInto(ctx context.Context, subject string, body []byte, into any) error {
	reply, err := b.conn.call(ctx, &nats.Msg{Subject: "$JS.API." + subject, Data: body})
	if err != nil {
		return fmt.Errorf("%s: %w", subject, readError(err))
	}
	var answer struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return fmt.Errorf("%s: %w: %w", subject, ErrMalformed, err)
	}
	switch {
	case answer.Error == nil && into == nil:
		return nil
	case answer.Error == nil:
		if err := json.Unmarshal(reply.Data, into); err != nil {
			return fmt.Errorf("%s: %w: %w", subject, ErrMalformed, err)
		}
		return nil
	case answer.Error.Code == 404 || answer.Error.ErrorCode == errSequenceNotFound:
		return fmt.Errorf("%s: %w", subject, pelton.ErrNotFound)
	case answer.Error.Code >= 500:
		return fmt.Errorf("%s: %w: %w", subject, pelton.ErrUnavailable, answer.Error)
	default:
		return fmt.Errorf("%s: %w", subject, answer.Error)
	}
}

// errSequenceNotFound is JSSequenceNotFoundErrF of the server's errors.json.
const errSequenceNotFound jetstream.ErrorCode = 10043

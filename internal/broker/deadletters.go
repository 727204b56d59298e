package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/peltonq/pelton"
)

// maxDeadLooks and maxDeadReading bound one EachDead: the messages that it looks
// at, and the time that it spends on finding them.
const (
	maxDeadLooks   = 1000
	maxDeadReading = 2 * time.Second
)

// deadAnywhere covers a task's dead letter in any queue. The server finds it in
// its tree of subjects, without a walk over the letters.
func (n names) deadAnywhere(id pelton.ID) string { return fmt.Sprintf("%s.d.*.%s", n.ns, id) }

// FindDead reads a task's dead letter when its queue is not known. Its Revision
// is the letter's stream sequence. pelton.ErrNotFound means that there is none.
func (b *Broker) FindDead(ctx context.Context, id pelton.ID) (*Record, error) {
	msg, err := b.get(ctx, b.dead(), getRequest{LastFor: b.deadAnywhere(id)}, false)
	if err != nil {
		return nil, fmt.Errorf("find dead letter of task %s: %w", id, err)
	}
	r, err := decodeRecord(msg.data, msg.seq)
	if err != nil {
		return nil, fmt.Errorf("find dead letter of task %s: %w", id, err)
	}
	return r, nil
}

// DropDead deletes a letter that was read, because somebody wants that: the record
// says so first, or the sweep would put the letter back. The record lives as long
// as it would have. A letter that is gone already is pelton.ErrNotFound.
func (b *Broker) DropDead(ctx context.Context, letter *Record) error {
	ctx, cancel := context.WithTimeout(ctx, 2*callTimeout)
	defer cancel()
	for {
		marked, err := b.markDropped(ctx, letter)
		if err != nil {
			return wrapDead(letter.ID, err)
		}
		if marked {
			return b.DeleteDead(ctx, letter)
		}
	}
}

// markDropped is false when the record changed in between, or may have.
func (b *Broker) markDropped(ctx context.Context, letter *Record) (marked bool, err error) {
	r, err := b.LoadRecord(ctx, letter.ID)
	switch {
	case errors.Is(err, pelton.ErrNotFound):
		return true, nil
	case err != nil:
		return false, err
	case r.State != pelton.Failed, r.Epoch != letter.Epoch, r.LetterDropped:
		return true, nil // the letter is not this record's, or it was said already
	}
	r.LetterDropped = true
	w, err := b.recordWrite(r)
	if err != nil {
		return false, err
	}
	w.ttl = max(w.ttl-time.Since(r.FinishedAt), time.Second)
	r.Revision, err = b.do(ctx, w)
	switch {
	case err == nil:
		b.announce(r)
		return true, nil
	case errors.Is(err, ErrStale), errors.Is(err, pelton.ErrUnknownOutcome) && ctx.Err() == nil:
		return false, nil
	default:
		return false, err
	}
}

// DeleteDead deletes a letter that was read. It goes by the letter's sequence, so
// a newer letter of the same task stays. One that is gone already is
// pelton.ErrNotFound.
func (b *Broker) DeleteDead(ctx context.Context, letter *Record) error {
	body, err := json.Marshal(map[string]any{"seq": letter.Revision, "no_erase": true})
	if err != nil {
		return fmt.Errorf("encode delete: %w", err)
	}
	err = b.api(ctx, "STREAM.MSG.DELETE."+b.dead(), body)
	if err != nil && !errors.Is(err, pelton.ErrNotFound) {
		// To the server, a sequence that is gone is a deletion that failed.
		if _, getErr := b.get(ctx, b.dead(), getRequest{Seq: letter.Revision}, false); errors.Is(getErr, pelton.ErrNotFound) {
			err = getErr
		}
	}
	return wrapDead(letter.ID, err)
}

// EachDead calls visit for the dead letters below the stream sequence before,
// newest first; 0 starts with the newest of all. It ends when visit returns false
// (that letter counts as not visited), after 1,000 messages or 2 s of reading, or
// when there are no more. next is the before to go on with, 0 at the end. Messages
// that are no letter of this version are passed over.
//
// The stream can only be read forwards, so the letter before a sequence is
// searched for: one read where letters lie side by side, and about 2·log2(n)
// where n sequences in between are gone, because letters were retried or, every
// few seconds, a probe took a sequence. (With 200,000 messages: 21 µs a letter, or
// 340 µs where 1,000 sequences lie between two.) A filter by subject would not
// help: to find that nothing matches, the server walks over its blocks.
func (b *Broker) EachDead(ctx context.Context, before uint64, visit func(*Record) bool) (next uint64, err error) {
	first, end, err := b.streamBounds(ctx, b.dead())
	if err != nil {
		return before, err
	}
	if before == 0 || before > end {
		before = end
	}
	var reading time.Duration
	for looks := 0; looks < maxDeadLooks && reading < b.deadReads; looks++ {
		began := time.Now()
		msg, err := b.lastBefore(ctx, b.dead(), ">", before, first)
		reading += time.Since(began)
		if err != nil {
			return before, fmt.Errorf("list dead letters: %w", err)
		}
		if msg == nil {
			return 0, nil
		}
		// Not ErrMalformed: somebody wrote here by hand; nor ErrNewer: not for us.
		if letter, err := decodeRecord(msg.data, msg.seq); err == nil && !visit(letter) {
			return before, nil
		}
		before = msg.seq
	}
	return before, nil
}

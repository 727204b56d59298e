package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/peltonq/pelton"
)

// voidsAtOnce bounds the void places that are passed before a turn that was given
// back is written down.
const voidsAtOnce = 256

// over decides whether a task with a turn is to lose it.
type over func(ctx context.Context, g grant) (bool, error)

// settleLine takes the turns of tasks that are over, nil for none, and calls the next
// in line while there is room. It returns the document as it is at its end, and
// may be repeated at any time. A process settles a line once at a time, so that
// its tasks do not compete with each other. Errors: pelton.ErrUnavailable.
func (b *Broker) settleLine(ctx context.Context, line Line, over over) (*lineDoc, error) {
	if err := b.LoadLimits(ctx); err != nil {
		return nil, err
	}
	leave, err := b.lineDoors.enter(ctx, line)
	if err != nil {
		return nil, fmt.Errorf("settle line: %w: %w", pelton.ErrUnavailable, err)
	}
	defer leave()
	doc, err := b.loadLine(ctx, line)
	for err == nil {
		var taken, called bool
		if taken, err = doc.take(ctx, over); err != nil {
			break
		}
		var done []uint64
		if done, called, err = b.callNext(ctx, doc, taken); err != nil {
			break
		}
		if !taken && !called {
			b.deletePlaces(ctx, done)
			return doc, nil
		}
		switch err = b.saveLine(ctx, doc); {
		case err == nil:
			b.deletePlaces(ctx, done)
		case errors.Is(err, ErrStale) && ctx.Err() == nil:
			// Somebody else settles it too. The messages of those who were not called
			// after all find that out (Called).
			doc, err = b.loadLine(ctx, line)
		}
	}
	if errors.Is(err, ErrStale) { // not the record's: its holder must not look at that again
		err = fmt.Errorf("%w: %w", pelton.ErrUnavailable, context.Cause(ctx))
	}
	return nil, fmt.Errorf("settle line: %w", err)
}

// callNext adds turns to the document for those next in line, as long as there is
// room, after it has published them to their lanes. done are the places of those
// who have a turn by then, to be deleted once the document is written; void places
// are deleted at once. It ends early when a turn was taken and many places are void:
// those who wait for room must not wait for that.
func (b *Broker) callNext(ctx context.Context, doc *lineDoc, taken bool) (done []uint64, called bool, err error) {
	limit := b.limits.of(doc.Line)
	voids := 0
	for next := uint64(1); len(doc.Granted) < limit && (!taken || voids < voidsAtOnce); {
		msg, err := b.get(ctx, b.keyed(0), getRequest{Seq: next, NextFor: b.placesIn(0, doc.Line)}, false)
		if errors.Is(err, pelton.ErrNotFound) {
			break
		}
		if err != nil {
			return nil, false, err
		}
		next = msg.seq + 1
		what, record, err := b.placeOf(ctx, doc, msg)
		switch {
		case err != nil:
			return nil, false, err
		case what == placeVoid:
			voids++
			b.deletePlaces(ctx, []uint64{msg.seq})
		case what == placeCalled:
			done = append(done, msg.seq)
		case what == placeWaits:
			at := time.Now().UTC()
			if _, err := b.PublishReady(ctx, record.Envelope()); err != nil && !errors.Is(err, pelton.ErrUnknownOutcome) {
				return nil, false, err
			} else if err != nil {
				return nil, false, fmt.Errorf("%w: %w", pelton.ErrUnavailable, err) // a second copy does no harm
			}
			doc.Granted = append(doc.Granted, grant{record.ID, record.Epoch, at})
			done, called = append(done, msg.seq), true
		case what == placeUnread:
		}
	}
	return done, called, nil
}

// placeState is what a place turns out to be.
type placeState int

const (
	placeWaits  placeState = iota + 1 // its task is to be called
	placeCalled                       // its task has its turn
	placeVoid                         // nobody waits there any more
	placeUnread                       // of a newer version: left to a newer process
)

func (b *Broker) placeOf(ctx context.Context, doc *lineDoc, msg *stored) (placeState, *Record, error) {
	env, err := decodeEnvelope(msg.data)
	switch {
	case errors.Is(err, ErrNewer):
		return placeUnread, nil, nil
	case err != nil:
		b.cfg.Logger.Error("message in a line that is no place dropped", "seq", msg.seq, "error", err)
		return placeVoid, nil, nil
	case doc.has(env.ID, env.Epoch):
		return placeCalled, nil, nil
	}
	r, err := b.LoadRecord(ctx, env.ID)
	switch {
	case errors.Is(err, pelton.ErrNotFound): // the record came before the place, so it is over and forgotten
		return placeVoid, nil, nil
	case errors.Is(err, ErrNewer), errors.Is(err, ErrMalformed):
		return placeUnread, nil, nil
	case err != nil:
		return 0, nil, err
	case !r.waitsAt(doc.Line, env.Epoch):
		return placeVoid, nil, nil
	default:
		return placeWaits, r, nil
	}
}

// deletePlaces deletes messages of lines. One that stays is deleted by whoever
// finds it next.
func (b *Broker) deletePlaces(ctx context.Context, seqs []uint64) {
	for _, seq := range seqs {
		if err := b.deleteFrom(ctx, b.keyed(0), seq); err != nil {
			b.cfg.Logger.Debug("place not deleted", "seq", seq, "error", err)
			return
		}
	}
}

// doors lets one goroutine at a time into each line.
type doors struct {
	mu   sync.Mutex
	open map[Line]*door
}

type door struct {
	key   chan struct{}
	users int
}

func (d *doors) enter(ctx context.Context, line Line) (leave func(), err error) {
	d.mu.Lock()
	if d.open == nil {
		d.open = map[Line]*door{}
	}
	at := d.open[line]
	if at == nil {
		at = &door{key: make(chan struct{}, 1)}
		d.open[line] = at
	}
	at.users++
	d.mu.Unlock()
	done := func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if at.users--; at.users == 0 {
			delete(d.open, line)
		}
	}
	select {
	case at.key <- struct{}{}:
		return func() { <-at.key; done() }, nil
	case <-ctx.Done():
		done()
		return nil, context.Cause(ctx)
	}
}

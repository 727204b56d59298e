package broker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/failpoint"
)

// voidsAtOnce bounds the void places that are passed before a turn that was given
// back is written down.
const voidsAtOnce = 256

// over decides whether a task with a turn is to lose it.
type over func(ctx context.Context, g grant) (bool, error)

// lineSettling is what a line is settled for.
type lineSettling struct {
	over over // takes turns; nil takes none
	// seen lets it begin from the document as this process last saw it, if somebody
	// in that is over: the compare-and-swap fails where it has changed.
	seen bool
	// fence writes the document even if nothing changes in it, so that a call that was
	// decided before, and counts on a message that the caller is about to drop, fails.
	fence bool
	// front begins at the first place that is there, and looks at the record of each:
	// some have left.
	front bool
	// relay gives back the turn that it has, if any, and takes what it can.
	relay *Relay
	// by is the message that the caller holds, and task what it gives the turn back of: if that
	// is in a relay by that message, the relay ends.
	by   uint64
	task pelton.ID
}

// settleLine takes the turns of tasks that are over, and calls the next in line
// while there is room. It returns the document as it is at its end, and may be
// repeated at any time. A process settles a line once at a time, so that its tasks
// do not compete with each other. Errors: pelton.ErrUnavailable.
func (b *Broker) settleLine(ctx context.Context, line Line, s lineSettling) (*lineDoc, error) {
	if err := b.LoadLimits(ctx); err != nil {
		return nil, err
	}
	leave, err := b.lineDoors.enter(ctx, line)
	if err != nil {
		return nil, fmt.Errorf("settle line: %w: %w", pelton.ErrUnavailable, err)
	}
	defer leave()
	arrivals := b.parked.take(line)
	doc, err := b.settleAlone(ctx, line, s)
	b.dealtWithArrivals(arrivals, err)
	return doc, err
}

// settleAlone is settleLine for whoever is the only one in this process.
func (b *Broker) settleAlone(ctx context.Context, line Line, s lineSettling) (doc *lineDoc, err error) {
	var taken bool
	if s.seen {
		if doc = b.seen.of(line); doc != nil {
			taken, err = doc.take(ctx, s)
		}
	}
	if err == nil && !taken {
		if doc, err = b.loadLine(ctx, line); err == nil {
			taken, err = doc.take(ctx, s)
		}
	}
	for err == nil {
		if !taken && s.relay.landed(doc) {
			return doc, nil
		}
		var called bool
		if taken && failpoint.Broken(failpoint.NoHandOn) {
			if err = b.saveLine(ctx, doc); err == nil {
				return doc, nil
			}
			break
		}
		var done []uint64
		if done, called, err = b.callNext(ctx, doc, taken, s); err != nil {
			break
		}
		if !taken && !called && (!s.fence || len(doc.Granted) == 0) {
			b.deletePlaces(done)
			failpoint.At(failpoint.LineSettled)
			return doc, nil
		}
		if err = b.saveLine(ctx, doc); err == nil {
			if called {
				failpoint.At(failpoint.LineGranted)
			}
			if taken {
				failpoint.At(failpoint.LineReleased)
			}
			b.deletePlaces(s.relay.saved(done))
			s.fence, taken = false, false
			continue
		}
		if errors.Is(err, ErrStale) && ctx.Err() == nil {
			// Somebody else settles it too. The messages of those who were not called
			// after all find that out (Called).
			if doc, err = b.loadLine(ctx, line); err == nil {
				taken, err = doc.take(ctx, s)
			}
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
//
// Behind the place that the document has Reached, a place is taken for what it is
// without a look at its record. If its task has left the line meanwhile, the
// message of the call finds that out, and gives the turn back (LeaveLines).
func (b *Broker) callNext(ctx context.Context, doc *lineDoc, taken bool, s lineSettling) (done []uint64, called bool, err error) {
	limit := b.limits.of(doc.Line)
	trusted := doc.Reached > 0 && !s.front
	next, voids, unread := uint64(1), 0, false
	var mark lineMark // of the document as it was written
	if trusted {
		mark = lineMark{doc.Reached, doc.Back, doc.relaying()}
	}
	s.relay.begin(taken, limit)
	places := placeReader{b: b, line: doc.Line, again: taken}
	for len(doc.Granted) < limit || s.relay.wants() {
		if taken && voids >= voidsAtOnce {
			break
		}
		if unread {
			mark = lineMark{}
		}
		msg, err := places.next(ctx, next, mark, len(doc.Granted) < limit, s.relay.room())
		if errors.Is(err, pelton.ErrNotFound) {
			break
		}
		if err != nil {
			return nil, false, err
		}
		next = msg.seq + 1
		if trusted && msg.seq <= doc.Reached { // called; its deletion is under way, or was lost
			if !doc.relaysPlace(msg) {
				done = append(done, msg.seq)
			}
			continue
		}
		what, head, err := b.placeOf(ctx, doc, msg, trusted && !unread)
		switch {
		case err != nil:
			return nil, false, err
		case what == placeVoid:
			voids++
			b.deletePlaces([]uint64{msg.seq})
		case what == placeCalled:
			done = append(done, msg.seq)
		case what == placeRelayed: // its place stays until it is over
		case what == placeWaits && s.relay.takes(doc, msg):
			called = true
		case what == placeWaits && len(doc.Granted) >= limit:
			return done, called, nil
		case what == placeWaits:
			at := time.Now().UTC()
			if err := b.publishCall(ctx, head, msg); err != nil {
				return nil, false, err
			}
			failpoint.At(failpoint.LinePublished)
			doc.Granted = append(doc.Granted, grant{ID: head.ID, Epoch: head.Epoch, At: at})
			done, called = append(done, msg.seq), true
		case what == placeUnread:
			unread = true // those behind it cannot be told from it by their place
		}
		if !unread {
			doc.Reached = max(doc.Reached, msg.seq)
		}
	}
	return done, called, nil
}

// placeState is what a place turns out to be.
type placeState int

const (
	placeWaits   placeState = iota + 1 // its task is to be called
	placeCalled                        // its task has its turn
	placeRelayed                       // its task runs in a relay, or is to
	placeVoid                          // nobody waits there any more
	placeUnread                        // of a newer version: left to a newer process
)

// placeHead is what has to be known of a place to call its task. To read the whole
// envelope takes several times as long.
type placeHead struct {
	Version  int             `json:"v"`
	ID       pelton.ID       `json:"id"`
	Queue    string          `json:"queue"`
	Priority pelton.Priority `json:"priority"`
	Epoch    uint32          `json:"epoch"`
}

func decodePlace(data []byte) (*placeHead, error) {
	head, ok := plainHead(data)
	if !ok {
		if _, err := split(data, &head); err != nil {
			return nil, err
		}
	}
	return &head, checkWay(head.Version, head.ID, head.Queue, head.Priority)
}

// plainHead reads what this version writes, in the order in which it does: see
// Meta. Everything else is for the JSON decoder.
func plainHead(data []byte) (head placeHead, ok bool) {
	line, _, ok := bytes.Cut(data, []byte{'\n'})
	c := cursor{line: line}
	if !ok {
		return head, false
	}
	for more := c.open('{', '}'); more; more = c.more('}') {
		switch string(c.key()) {
		case "v":
			c.once(0)
			head.Version = c.integer()
		case "id":
			c.once(1)
			c.id(&head.ID)
		case "kind":
			c.once(2)
			c.bytes()
		case "queue":
			c.once(3)
			head.Queue = c.queue()
		case "priority":
			c.once(4)
			head.Priority = oneOf(c.bytes(), pelton.Priorities())
			c.foreign = c.foreign || c.seen != 1<<5-1
		case "epoch":
			c.once(5)
			head.Epoch = c.count32()
		default: // what is of interest came before it
			return head, !c.foreign && c.seen&(1<<4) != 0
		}
	}
	return head, c.done() && c.seen&(1<<4) != 0
}

// placeOf reads a place. trusted takes it for one that waits without a look at the
// record, unless its task has a turn.
func (b *Broker) placeOf(ctx context.Context, doc *lineDoc, msg *stored, trusted bool) (placeState, *placeHead, error) {
	head, err := decodePlace(msg.data)
	switch {
	case errors.Is(err, ErrNewer):
		return placeUnread, nil, nil
	case err != nil:
		b.cfg.Logger.Error("message in a line that is no place dropped", "seq", msg.seq, "error", err)
		return placeVoid, nil, nil
	case doc.has(head.ID, head.Epoch):
		return placeCalled, head, nil
	case doc.relays(head.ID, head.Epoch):
		return placeRelayed, head, nil
	case trusted:
		return placeWaits, head, nil
	}
	r, err := b.LoadRecord(ctx, head.ID)
	switch {
	case errors.Is(err, pelton.ErrNotFound): // the record came before the place, so it is over and forgotten
		return placeVoid, nil, nil
	case errors.Is(err, ErrNewer), errors.Is(err, ErrMalformed):
		return placeUnread, nil, nil
	case err != nil:
		return 0, nil, err
	case !r.waitsAt(doc.Line, head.Epoch):
		return placeVoid, nil, nil
	default:
		return placeWaits, head, nil
	}
}

// publishCall publishes the task of a place to its lane, as it stands there: without
// the payload, which the record has.
func (b *Broker) publishCall(ctx context.Context, head *placeHead, place *stored) error {
	_, err := b.do(ctx, write{subject: b.ready(head.ID.Shard(), head.Queue, head.Priority), data: place.data, expect: anyRevision})
	if errors.Is(err, pelton.ErrUnknownOutcome) {
		err = fmt.Errorf("%w: %w", pelton.ErrUnavailable, err) // a second copy does no harm
	}
	if err != nil {
		return fmt.Errorf("call task %s: %w", head.ID, err)
	}
	return nil
}

// deletePlaces deletes messages of lines, without waiting for it. One that stays is
// deleted by whoever finds it next.
func (b *Broker) deletePlaces(seqs []uint64) {
	b.known.over(b.connections(), seqs)
	for _, seq := range seqs {
		if err := b.conn.post(deletion(b.keyed(0), seq)); err != nil {
			b.cfg.Logger.Debug("place not deleted", "seq", seq, "error", err)
			return
		}
	}
}

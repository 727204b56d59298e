package broker

import (
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

// calling adds turns to the document of a line for those next in it, as long as there is
// room, after it has published them to their lanes.
//
// Behind the place that the document has Reached, a place is taken for what it is
// without a look at its record. If its task has left the line meanwhile, the
// message of the call finds that out, and gives the turn back (LeaveLines).
type calling struct {
	b        *Broker
	doc      *lineDoc
	limit    int
	reserved int // of it are for runs that ask: see askers
	relay    *Relay
	places   placeReader
	taken    bool                    // the document gives turns back, which is to be written soon
	redone   bool                    // see lineSettling
	hands    func(place uint64) bool // see lineSettling.handsOver
	trusted  bool                    // the document says what was called
	unread   bool                    // a place could not be read: those behind it cannot be told from it
	mark     lineMark                // of the document as it was written
	voids    int

	calls  []call   // to be published
	called bool     // the document has new turns
	done   []uint64 // places of those who have a turn, to be deleted once that is written
}

func (b *Broker) newCalling(doc *lineDoc, taken bool, s lineSettling) *calling {
	front, limit := s.front || s.redone, b.limits.of(doc.Line)
	c := &calling{
		b: b, doc: doc, limit: limit, reserved: s.asking.reserve(doc, limit), relay: s.relay, places: placeReader{b: b, line: doc.Line, again: taken},
		taken: taken, redone: s.redone, hands: s.handsOver, trusted: doc.Reached > 0 && !front,
	}
	switch {
	case c.trusted:
		c.mark = lineMark{reached: doc.Reached, back: doc.Back, relays: doc.relaying()}
	case doc.absent && !front:
		c.mark.nobody = true
	}
	c.relay.begin(taken, c.limit, func() int { return b.known.waiting(b.connections(), doc.Line, doc.Reached) })
	return c
}

// room reports whether another task may be called.
func (c *calling) room() bool { return len(c.doc.Granted) < c.limit-c.reserved }

// run looks for those who are next, and publishes those who are called.
func (c *calling) run(ctx context.Context) error {
	if err := c.look(ctx); err != nil || len(c.calls) == 0 {
		return err
	}
	return c.publish(ctx)
}

// look ends early when many places are void and a turn is to be given back: those who wait for
// room must not wait for that.
func (c *calling) look(ctx context.Context) error {
	next := uint64(1)
	for (c.redone || c.room() || c.relay.wants()) && (!c.taken || c.voids < voidsAtOnce) {
		place, err := c.places.next(ctx, next, c.mark, c.redone || c.room(), c.relay.room())
		if errors.Is(err, pelton.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		next = place.seq + 1
		if dealt, err := c.deal(ctx, place); err != nil || !dealt {
			return err
		}
		if !c.unread {
			c.doc.Reached = max(c.doc.Reached, place.seq)
		}
	}
	return nil
}

// deal does with a place what it is there for; false means that its task has to wait.
func (c *calling) deal(ctx context.Context, place *stored) (dealt bool, err error) {
	trusted := c.trusted || c.mark.nobody && (c.places.own || c.hands(place.seq))
	what, head, err := c.b.placeOf(ctx, c.doc, place, trusted && !c.unread)
	if err != nil {
		return false, err
	}
	switch what {
	case placeVoid:
		c.voids++
		c.b.deletePlaces([]uint64{place.seq})
	case placeCalled:
		c.done = append(c.done, place.seq)
	case placeRelayed: // its place stays until it is over
	case placeUnread:
		c.unread, c.mark = true, lineMark{}
	case placeWaits:
		switch {
		case c.relay.takes(c.doc, place):
		case !c.room():
			return false, nil
		default:
			c.calls = append(c.calls, call{head, place})
			c.doc.Granted = append(c.doc.Granted, grant{ID: head.ID, Epoch: head.Epoch, At: time.Now().UTC()})
			c.done = append(c.done, place.seq)
		}
		c.called = true
	}
	return true, nil
}

// call is a task that gets its turn, by its place.
type call struct {
	head  *placeHead
	place *stored
}

// publish publishes the tasks that are called to their lanes, as they stand in their places: most without
// a payload, which the record has. Once all are there, the document may say that they have a turn.
func (c *calling) publish(ctx context.Context) (failed error) {
	all := func(int) bool { return true }
	c.b.pipeline(ctx, len(c.calls), all, func(i int) (write, error) {
		head := c.calls[i].head
		return write{subject: c.b.ready(head.ID.Shard(), head.Queue, head.Priority), data: c.calls[i].place.data, expect: anyRevision}, nil
	}, func(i int, _ uint64, err error) {
		if errors.Is(err, pelton.ErrUnknownOutcome) {
			err = fmt.Errorf("%w: %w", pelton.ErrUnavailable, err) // a second copy does no harm
		}
		if err == nil {
			failpoint.At(failpoint.LinePublished)
		} else if failed == nil {
			failed = fmt.Errorf("call task %s: %w", c.calls[i].head.ID, err)
		}
	})
	return failed
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

package broker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/failpoint"
)

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
	// redone is front, room or not, up to the first that waits: somebody else may have died before
	// the deletion of a place was sent.
	redone bool
	// came are the arrivals that it is for.
	came []*Delivery
	// relay gives back the turn that it has, if any, and takes what it can.
	relay *Relay
	// leavers give their turns back.
	leavers []*leaver
	// asking are runs that take what room is left.
	asking *askers
}

func (s *lineSettling) leaves(g *grant) bool {
	return slices.ContainsFunc(s.leavers, func(l *leaver) bool { return l.leaves(g) })
}

// handsOver reports whether a place was handed out for the first time just now.
func (s *lineSettling) handsOver(seq uint64) bool {
	return slices.ContainsFunc(s.came, func(d *Delivery) bool { return d.Seq == seq && d.First() })
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
	return b.settleInside(ctx, line, s)
}

// settleInside is settleLine for whoever has the line's door.
func (b *Broker) settleInside(ctx context.Context, line Line, s lineSettling) (*lineDoc, error) {
	arrivals := b.parked.take(line)
	doc, err := b.settleAlone(ctx, line, s)
	b.dealtWithArrivals(arrivals, err)
	return doc, err
}

// settleAlone is settleLine for whoever is the only one in this process.
func (b *Broker) settleAlone(ctx context.Context, line Line, s lineSettling) (doc *lineDoc, err error) {
	var taken, remembered bool
	if s.seen {
		if doc = b.seen.of(line); doc != nil {
			taken, err = doc.take(ctx, s)
			remembered = taken || s.asking.fit(doc, b.limits.of(line))
		}
	}
	if err == nil && !remembered {
		if doc, err = b.loadLine(ctx, line); err == nil {
			taken, err = doc.take(ctx, s)
		}
	}
	for err == nil {
		if !taken && s.relay.landed(doc) {
			return doc, nil
		}
		if taken && failpoint.Broken(failpoint.NoHandOn) {
			if err = b.saveLine(ctx, doc); err == nil {
				return doc, nil
			}
			break
		}
		c := b.newCalling(doc, taken, s)
		if err = c.run(ctx); err != nil {
			break
		}
		seats := c.seat(s.asking)
		if !taken && !c.called && (remembered || c.reserved > 0) { // nothing else would tell that it is as it was; and who is in line may have all room
			s.asking.shut, remembered = !remembered, false
			if doc, err = b.loadLine(ctx, line); err == nil {
				taken, err = doc.take(ctx, s)
			}
			continue
		}
		if !taken && !c.called && (!s.fence || len(doc.Granted) == 0) {
			s.asking.have(seats)
			b.deletePlaces(c.done)
			failpoint.At(failpoint.LineSettled)
			return doc, nil
		}
		if err = b.saveLine(ctx, doc); err == nil {
			if c.called {
				failpoint.At(failpoint.LineGranted)
			}
			if taken {
				failpoint.At(failpoint.LineReleased)
			}
			s.asking.have(seats)
			b.deletePlaces(s.relay.saved(c.done))
			s.fence, taken, remembered = false, false, false
			continue
		}
		if errors.Is(err, ErrStale) && ctx.Err() == nil {
			// Somebody else settles it too. The messages of those who were not called
			// after all find that out (Called).
			remembered = false
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

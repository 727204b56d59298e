package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/peltonq/pelton"
)

// nearPlaces is the distance up to which the next place of a line is found quickly: the broker
// looks at each message between them.
const nearPlaces = 64

// mostQueues bounds the queues of a line whose last places are asked for.
const mostQueues = 16

// placeReader reads the places of a line in order, while it is settled.
type placeReader struct {
	b     *Broker
	line  Line
	ahead []*stored // came with the one before
	near  bool      // the last one was found quickly
	own   bool      // those ahead were known to this process
	lasts []*stored // the line's last places, if they were asked for
	old   bool      // before: there may be others behind them by now
	// again says that the line is read once more whatever is found, after a write.
	again bool
}

// next is the line's first place from a sequence on; pelton.ErrNotFound means that there is none.
// mark is that of the line's document as it was written, if what is up to there does
// not matter; none makes it ask the broker. sure is false where it is enough that none can be
// found quickly. At most so many will be read one after the other.
func (p *placeReader) next(ctx context.Context, from uint64, mark lineMark, sure bool, most int) (*stored, error) {
	if len(p.ahead) == 0 {
		if err := p.read(ctx, from, mark, sure, most); err != nil {
			return nil, err
		}
	}
	msg := p.ahead[0]
	p.ahead = p.ahead[1:]
	return msg, nil
}

func (p *placeReader) read(ctx context.Context, from uint64, mark lineMark, sure bool, most int) (err error) {
	from = max(from, mark.reached+1) // what is before it is being deleted; if that was lost, see lineSettling.redone
	p.own = false
	var known knownNext
	end := false
	if mark.reached > 0 || mark.nobody {
		if known, end, err = p.look(ctx, &from, mark, sure && mark.reached > 0, most); err != nil {
			return err
		}
	}
	switch {
	case len(p.ahead) > 0:
		return nil
	case end && known.short && known.none > known.to: // it was read up to its end just now
		return pelton.ErrNotFound
	case known.all && mark.nobody: // whoever gets a later arrival does not find the line full
		return pelton.ErrNotFound
	case known.all && p.again && p.b.known.alone(): // most likely there is none
		return pelton.ErrNotFound
	case !sure && (!p.near || most == 0):
		return pelton.ErrNotFound
	case from > 1:
		return p.ask(ctx, from)
	}
	conn, gone := p.b.connections(), p.b.known.end()
	if err = p.ask(ctx, from); err == nil {
		gone = p.ahead[0].seq - 1
	}
	if err == nil || errors.Is(err, pelton.ErrNotFound) {
		p.b.known.gone(conn, p.line, gone)
	}
	return err
}

// look looks among the places that are known, and reads on once if that may help: end says that it was up to the end
// of the stream. Who is not known can only be from a later sequence on, which is put into from.
func (p *placeReader) look(ctx context.Context, from *uint64, mark lineMark, reads bool, most int) (known knownNext, end bool, err error) {
	for {
		known = p.b.known.next(p.b.connections(), p.line, mark, *from-1, most)
		switch {
		case known.found:
			p.ahead, p.own = []*stored{{subject: known.subject, seq: known.seq, data: known.data}}, true
			return known, end, nil
		case reads && known.short:
			reads, end = false, p.b.readOn(ctx, *from-1, known.to)
			continue
		case len(known.bare) == 0:
			*from = max(*from, known.none)
			return known, end, nil
		}
		if p.ahead, err = p.b.placesAt(ctx, p.line, known.bare); err != nil || len(p.ahead) > 0 {
			return known, end, err
		}
		*from = known.bare[len(known.bare)-1] + 1
	}
}

// ask finds the next place in the broker. That takes it long where others lie between, or where there
// is none. So it is asked once for what it has an index for, the last places of the line: if all are
// of one queue, to look for that one's subject takes half as long as to look for all subjects.
func (p *placeReader) ask(ctx context.Context, from uint64) (err error) {
	b := p.b
	if from > 1 && !b.replication.many.Load() { // else a follower that is behind may answer
		if err = p.findLasts(ctx, from); err != nil {
			return err
		}
	}
	all := b.placesIn(0, p.line)
	subject := all
	if n := len(p.lasts); n > 0 && n < mostQueues {
		if from > p.lasts[n-1].seq {
			return pelton.ErrNotFound
		}
		if n == 1 {
			subject = p.lasts[0].subject
		}
	}
	msg, err := b.get(ctx, b.keyed(0), getRequest{Seq: from, NextFor: subject}, false)
	if subject != all && (errors.Is(err, pelton.ErrNotFound) || err == nil && msg.seq > p.lasts[0].seq) {
		// It has gone meanwhile, and what came since may be of any queue.
		msg, err = b.get(ctx, b.keyed(0), getRequest{Seq: from, NextFor: all}, false)
	}
	if err == nil {
		p.ahead, p.near = []*stored{msg}, msg.seq-from < nearPlaces
	}
	return err
}

// findLasts asks for the line's last places, unless it has done so, or knows that it has not passed those
// that it once was told.
func (p *placeReader) findLasts(ctx context.Context, from uint64) (err error) {
	if p.lasts != nil && (!p.old || from <= p.lasts[0].seq) {
		return nil
	}
	conn := p.b.connections()
	if last := p.b.lasts.of(conn, p.line, from); last != nil {
		p.lasts, p.old = []*stored{last}, true
		return nil
	}
	if p.lasts, err = p.b.lastPlaces(ctx, p.line, from); err == nil {
		p.b.lasts.keep(conn, p.line, from, p.lasts)
	}
	p.old = false
	return err
}

// oneQueue remembers of lines that their places from a sequence up to another one are all of one queue:
// until that is reached, their last places need not be asked for again.
type oneQueue struct{ lines *lru.Cache[Line, onePart] }

type onePart struct {
	conn uint64 // how often the connection was made anew
	from uint64
	last *stored
}

func newOneQueue() (oneQueue, error) {
	lines, err := lru.New[Line, onePart](seenLines)
	return oneQueue{lines}, err //nolint:wrapcheck // of a constant
}

func (q oneQueue) keep(conn uint64, line Line, from uint64, lasts []*stored) {
	if len(lasts) != 1 {
		q.lines.Remove(line)
		return
	}
	q.lines.Add(line, onePart{conn, from, &stored{subject: lasts[0].subject, seq: lasts[0].seq}})
}

// of is the last one of the places that it remembers, if a sequence is among them; else nil.
func (q oneQueue) of(conn uint64, line Line, from uint64) *stored {
	part, ok := q.lines.Get(line)
	if ok && part.conn == conn && part.from <= from && from <= part.last.seq {
		return part.last
	}
	return nil
}

// lastPlaces are the last places of a line from a sequence on, one of each queue, in order, at most
// mostQueues; pelton.ErrNotFound means that there are none.
func (b *Broker) lastPlaces(ctx context.Context, line Line, from uint64) ([]*stored, error) {
	body, err := json.Marshal(map[string]any{"multi_last": []string{b.placesIn(0, line)}, "seq": from, "batch": mostQueues})
	if err != nil {
		return nil, fmt.Errorf("encode get: %w", err)
	}
	places, err := b.getMany(ctx, b.keyed(0), body, mostQueues)
	if err == nil && len(places) == 0 {
		err = pelton.ErrNotFound
	}
	return places, err
}

// placesAt are the places of a line at these sequences, those that are there.
func (b *Broker) placesAt(ctx context.Context, line Line, seqs []uint64) ([]*stored, error) {
	requests := make([]getRequest, len(seqs))
	for i, seq := range seqs {
		requests[i] = getRequest{Seq: seq}
	}
	found, err := b.getEach(ctx, b.keyed(0), requests)
	if err != nil {
		return nil, err
	}
	in := strings.TrimSuffix(b.placesIn(0, line), "*")
	return slices.DeleteFunc(found, func(msg *stored) bool { return msg == nil || !strings.HasPrefix(msg.subject, in) }), nil
}

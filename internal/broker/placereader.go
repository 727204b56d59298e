package broker

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/peltonq/pelton"
)

// nearPlaces is the distance up to which the next place of a line is found quickly: the broker
// looks at each message between them.
const nearPlaces = 64

// placeReader reads the places of a line in order, while it is settled.
type placeReader struct {
	b     *Broker
	line  Line
	ahead []*stored // came with the one before
	near  bool      // the last one was found quickly
}

// next is the line's first place from a sequence on; pelton.ErrNotFound means that there is none.
// reached is that of the line's document as it was written, if what is up to there does
// not matter; 0 makes it ask the broker. sure is false where it is enough that none can be
// found quickly. At most so many will be read one after the other.
func (p *placeReader) next(ctx context.Context, from, reached uint64, sure bool, most int) (*stored, error) {
	if len(p.ahead) == 0 {
		if err := p.read(ctx, from, reached, sure, most); err != nil {
			return nil, err
		}
	}
	msg := p.ahead[0]
	p.ahead = p.ahead[1:]
	return msg, nil
}

func (p *placeReader) read(ctx context.Context, from, reached uint64, sure bool, most int) (err error) {
	b := p.b
	if reached > 0 {
		place, found, none := b.known.next(b.connections(), p.line, reached, max(reached, from-1))
		if found {
			p.ahead = []*stored{{subject: place.subject, seq: place.seq, data: place.data}}
			return nil
		}
		from = max(from, none)
	}
	together := p.near && !b.replication.many.Load() // else a follower that is behind may answer
	switch {
	case together && (most > 1 || most > 0 && !sure):
		p.ahead, err = b.placesFrom(ctx, p.line, from, most)
	case sure:
		var msg *stored
		if msg, err = b.get(ctx, b.keyed(0), getRequest{Seq: from, NextFor: b.placesIn(0, p.line)}, false); err == nil {
			p.ahead, p.near = []*stored{msg}, msg.seq-from < nearPlaces
		}
	default:
		err = pelton.ErrNotFound
	}
	return err
}

// placesFrom are at most n places of a line, at least one.
func (b *Broker) placesFrom(ctx context.Context, line Line, from uint64, n int) ([]*stored, error) {
	body, err := json.Marshal(map[string]any{"seq": from, "next_by_subj": b.placesIn(0, line), "batch": n})
	if err != nil {
		return nil, fmt.Errorf("encode get: %w", err)
	}
	places, err := b.getMany(ctx, b.keyed(0), body, n)
	if err == nil && len(places) == 0 {
		err = pelton.ErrNotFound
	}
	return places, err
}

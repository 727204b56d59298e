package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/peltonq/pelton"
)

// How lines work. A task with a concurrency key takes a place: a message in the
// KEYED stream, on the subject of its line. The line's document says who has a
// turn, and is changed by compare-and-swap only. Whoever changes anything about a
// line calls settleLine, which calls the next in line as long as there is room.
//
// What holds, and why:
//
//   - No more than the limit have a turn: it is counted in the document that the
//     compare-and-swap replaces. Views of the limit may differ for a moment; each
//     write keeps to its writer's.
//   - Nobody starts without a turn: a record that is InLine starts only after it was
//     read in the document (Called). One that is not has started before, and keeps
//     its turn until it is over: while it retries, is snoozed, deferred or released.
//   - A task with a turn has a message in its lane: that is published before the
//     document says so. A worker may so see a message before the turn; it then
//     settles the line itself. If the task still has no turn, the document is written
//     again before the message is dropped, so that a grant that was decided before,
//     and counts on that message, loses its compare-and-swap.
//   - A turn is given back when the task is over and nobody runs it: by whoever holds
//     the message that it ran from, before that is acknowledged. A crash leaves that
//     message to the next worker.
//   - No wake-up is lost. A place that was taken is handed to workers until one has
//     settled its line after it: it saw the line full, or called everybody in it. Room
//     comes from a write to the document, whose writer reads the line after it, if there
//     is room still. So whoever took a place while the line was full is seen by the one
//     who makes room, or by whoever gets the message of the task that is over, if that
//     one died between the two.
//   - A place is deleted when its task has a turn, or is void. Nothing is known from
//     its absence.

// loadLine reads a line's document from the leader. One that is not there, or was
// deleted, is empty.
func (b *Broker) loadLine(ctx context.Context, line Line) (*lineDoc, error) {
	doc, conn := &lineDoc{Line: line}, b.connections()
	msg, err := b.get(ctx, bucketStream(b.keys()), getRequest{LastFor: b.line(line)}, false)
	switch {
	case errors.Is(err, pelton.ErrNotFound):
		doc.absent = true
		return doc, nil
	case err != nil:
		return nil, fmt.Errorf("load line: %w", err)
	case msg.deleted():
		doc.absent = true
	default:
		if doc, err = decodeLine(msg); err != nil {
			return nil, fmt.Errorf("load line: %w", err)
		}
	}
	doc.revision, doc.written, doc.conn = msg.seq, msg.time, conn
	b.seen.keep(doc)
	return doc, nil
}

func decodeLine(msg *stored) (*lineDoc, error) {
	var doc lineDoc
	if err := json.Unmarshal(msg.data, &doc); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if doc.Version > versionRelay {
		return nil, newer(doc.Version)
	}
	doc.revision, doc.written = msg.seq, msg.time
	return &doc, nil
}

// saveLine writes the document if it still has its revision: ErrStale if not. An
// unknown outcome is ErrStale too: what it is now, only a read can tell. An empty
// document is a delete marker, which goes after a minute.
func (b *Broker) saveLine(ctx context.Context, doc *lineDoc) error {
	w := write{subject: b.line(doc.Line), expect: doc.revision}
	if len(doc.Granted) == 0 {
		w.ttl, w.header = markerTTL, deleteMarker()
	} else {
		data, err := doc.encode()
		if err != nil {
			return fmt.Errorf("save line: %w", err)
		}
		w.data = data
	}
	conn := b.connections()
	seq, err := b.do(ctx, w)
	if errors.Is(err, pelton.ErrUnknownOutcome) {
		err = errors.Join(ErrStale, err)
	}
	if err != nil {
		b.seen.forget(doc.Line)
		return fmt.Errorf("save line: %w", err)
	}
	doc.revision, doc.conn, doc.absent = seq, conn, false
	b.seen.keep(doc)
	return nil
}

// encode is what json.Marshal would write, in a quarter of the time: a line is
// written for each task that ends in it.
func (d *lineDoc) encode() ([]byte, error) {
	v := version
	if d.Back <= d.Reached {
		d.Back = 0
	}
	if d.Back > 0 || d.relaying() {
		v = versionRelay
	}
	head, err := json.Marshal(struct {
		Version int `json:"v"`
		Line
		Reached uint64 `json:"reached,omitempty"`
		Back    uint64 `json:"back,omitempty"`
	}{v, d.Line, d.Reached, d.Back})
	if err != nil {
		return nil, fmt.Errorf("encode line: %w", err)
	}
	data := append(head[:len(head)-1], `,"granted":[`...)
	for i, g := range d.Granted {
		if i > 0 {
			data = append(data, ',')
		}
		data = append(data, `{"id":"`...)
		data = append(data, g.ID.String()...)
		if g.Epoch > 0 {
			data = strconv.AppendUint(append(data, `","epoch":`...), uint64(g.Epoch), 10)
			data = append(data, `,"at":"`...)
		} else {
			data = append(data, `","at":"`...)
		}
		data = append(g.At.UTC().AppendFormat(data, time.RFC3339Nano), '"')
		data = append(g.appendRelay(data), '}')
	}
	return append(data, "]}"...), nil
}

func (g *grant) appendRelay(data []byte) []byte {
	if g.By == 0 {
		return data
	}
	data = strconv.AppendUint(append(data, `,"by":`...), g.By, 10)
	data = append(append(append(data, `,"worker":"`...), g.Worker...), '"') // made of what needs no escape
	for i, id := range g.Then {
		if i == 0 {
			data = append(data, `,"then":[`...)
		} else {
			data = append(data, ',')
		}
		data = append(append(append(data, '"'), id.String()...), '"')
	}
	if len(g.Then) > 0 {
		data = append(data, ']')
	}
	return data
}

// take removes the turns that are given back, and from that of a relay those who are. taken means that
// there were any.
func (d *lineDoc) take(ctx context.Context, s lineSettling) (taken bool, err error) {
	keep := make([]grant, 0, len(d.Granted))
	for _, g := range d.Granted {
		gone := false
		switch {
		case s.relay.gives(&g):
			back := s.relay.left
			if gone = s.relay.keeps == 0; !gone {
				back = s.relay.shorten(&g)
			}
			if back { // who has not started is called again
				taken = true
				d.goBack(max(s.relay.from, 1) - 1)
			}
		case s.leaves(&g):
			if gone = true; g.By > 0 && d.Kind == "" { // a relay, whose other tasks are called again
				d.goBack(0)
			}
		case g.By > 0:
		case s.over != nil:
			if gone, err = s.over(ctx, g); err != nil {
				return false, err
			}
		}
		if !gone {
			keep = append(keep, g)
		}
	}
	taken = taken || len(keep) < len(d.Granted)
	d.Granted = keep
	return taken, nil
}

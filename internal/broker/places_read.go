package broker

import (
	"context"
	"encoding/json"
	"strings"
)

const (
	readAtOnce   = 512     // messages of the stream of places that are read at a time
	readBytes    = 1 << 20 // of them, at most
	fewProcesses = 16      // that take arrivals: each of them reads everything
)

// readOn lets this process know more places, if several take arrivals, so that it misses
// many whose turn it is: it reads what comes next in the stream, of all lines. To look for a single
// one takes the broker as long as to pass a few dozen, and where those are of other lines,
// they will be missed next.
//
// behind is the sequence behind which somebody is missed, and to the end of the run that did not have
// it. end is true if it was read up to the end of the stream.
func (b *Broker) readOn(ctx context.Context, behind, to uint64) (end bool) {
	if b.replication.many.Load() { // a follower that is behind may answer
		return false
	}
	select {
	case b.reading <- struct{}{}:
		defer func() { <-b.reading }()
	default: // somebody else reads on: that may be enough
		select {
		case b.reading <- struct{}{}:
			<-b.reading
		case <-ctx.Done():
		}
		return false
	}
	conn := b.connections()
	from, reads := b.known.readsOn(conn, behind, to)
	if !reads {
		return false
	}
	body, err := json.Marshal(map[string]any{"seq": from, "batch": readAtOnce, "max_bytes": readBytes})
	if err != nil {
		return false
	}
	found, err := b.getMany(ctx, b.keyed(0), body, readAtOnce)
	if err != nil {
		return false
	}
	places, size := make([]readPlace, len(found)), 0
	for i, msg := range found {
		places[i] = b.readPlace(msg)
		size += len(msg.data)
	}
	return b.known.readUpTo(conn, from, places) && len(found) < readAtOnce && size < readBytes/2
}

// readPlace is a message of the stream of places: one without a line is no place.
type readPlace struct {
	knownPlace
	line   Line
	unread bool // of which line it is cannot be told
}

func (b *Broker) readPlace(msg *stored) readPlace {
	p := readPlace{knownPlace: knownPlace{msg.subject, msg.seq, msg.data}}
	if b.isNoPlace(msg.subject) {
		return p
	}
	line, known := b.lineOf(msg.subject, func() (*Envelope, error) { return decodeMessage(msg.data, msg.seq) })
	p.line, p.unread = line, !known
	return p
}

// isNoPlace reports whether a subject of the stream of places is that of something else.
func (b *Broker) isNoPlace(subject string) bool {
	return strings.HasPrefix(subject, b.laterPlacePrefix(0)) || subject == b.keyedProbe(0)
}

// lineOf is the line in which a task took a place on this subject. What is there is only decoded where the line
// is not remembered.
func (b *Broker) lineOf(subject string, decode func() (*Envelope, error)) (Line, bool) {
	if line, known := b.lineNames.Get(subject); known {
		return line, true
	}
	e, err := decode()
	if err != nil {
		return Line{}, false
	}
	for _, line := range []Line{e.Line(OfKey), e.Line(OfKind)} {
		if subject == b.place(0, line, e.Queue) {
			b.lineNames.Add(subject, line)
			return line, true
		}
	}
	return Line{}, false
}

// readsOn says from which sequence on the stream is to be read, if somebody is missed behind one, who is not
// known up to another.
func (k *knownPlaces) readsOn(conn, behind, to uint64) (from uint64, reads bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.conn != conn || !k.came.shared() || !k.came.among(fewProcesses):
		return 0, false
	case !k.read: // what came to this process has gaps
		return behind + 1, true
	case k.from > behind+1: // its turn will come behind that
		return 0, false
	case k.to > to: // somebody else has read on
		return 0, false
	default:
		return k.to + 1, true
	}
}

// readUpTo takes note of what was read in the stream from a sequence on.
func (k *knownPlaces) readUpTo(conn, from uint64, places []readPlace) (ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.conn != conn:
		return false
	case !k.read:
		k.begin(from)
		k.read = true
	case k.from > from || k.to+1 < from: // another run began meanwhile
		return false
	}
	if k.places > mostKnown/2 || k.bytes > mostKnownData/2 {
		k.forgetHalf()
	}
	for _, p := range places {
		switch {
		case p.seq <= k.to:
		case p.unread:
			k.begin(p.seq + 1)
			k.read = true
		default:
			k.to = p.seq
			k.add(p.line, p.knownPlace)
		}
	}
	return true
}

// forgetHalf forgets the first half of the run: most of what is in it are places that others have dealt
// with.
func (k *knownPlaces) forgetHalf() {
	half := k.from + (k.to-k.from)/2
	for line, at := range k.lines {
		k.prune(line, at, half)
	}
	k.from, k.whole = half+1, false
}

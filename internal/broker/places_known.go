package broker

import (
	"cmp"
	"slices"
	"sync"
)

const (
	mostKnown     = 1 << 16  // places that a process knows ahead with what is in them
	mostKnownData = 16 << 20 // bytes of that
	mostKnownOf   = 256      // those of one line, where little room is left
	mostBare      = 1 << 19  // places of which it knows the sequence only
	keptBehind    = 1 << 10  // those of a line that were reached and may be gone back to

	aloneAfter = 2 * arrivalsAtOnce // messages that came without a gap
)

// knownPlaces are the places that this process knows and that nobody was called from yet, as
// far as it has seen: so whoever settles a line need not ask the broker who is next, which looks
// through the places of all other lines for that. Where many wait, only the sequence is
// kept of those who are far from their turn.
//
// What is known is a run: everything in the stream between two sequences, none missing. A process
// that takes all arrivals knows it from those. Where several do, each reads on in the stream when
// it misses somebody, many places at a time: see readOn. Within a run the first place of a
// line behind another is certain. That there is none is not: whoever needs that asks the
// broker, from the end of the run on, because another process may have dealt with an
// arrival behind it, and have found the line full. A place that was deleted meanwhile is
// called all the same: its task has left the line, and the message of the call finds that
// out.
//
// If all places before a run are gone, the first place of a line in it is the first
// of all. That is looked for by a process that seems to be the only one that takes arrivals.
//
// A run ends with the connection: a broker that lost power may give out sequences anew.
type knownPlaces struct {
	aloneAfter uint64
	keptBehind int

	mu       sync.Mutex
	conn     uint64 // how often the connection was made anew, when the run began
	from, to uint64 // the run: sequences of the stream; 0: there is none
	whole    bool   // no place before it is left
	read     bool   // it was read in the stream: later arrivals may have come
	lines    map[Line]*knownLine
	places   int
	bytes    int
	bare     int
	refused  int // places that there was no room for since one was used

	came arrivalRun
}

type knownLine struct {
	places []knownPlace // in order
	bare   []uint64     // the sequences of those behind them
	pruned uint64       // what was known up to here may be forgotten
	// Places that there was no room for: the first and the last of them. 0 is none.
	gapFrom, gapTo uint64
}

type knownPlace struct {
	subject string
	seq     uint64
	data    []byte
}

// arrived takes note of a delivery; what is not in a line has none.
func (k *knownPlaces) arrived(conn uint64, d *Delivery, line Line, data []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.on(conn)
	before := k.came.to
	gapless := k.came.add(d.Seq)
	switch {
	case k.to > 0 && d.Seq <= k.to: // once more
		return
	case k.to > 0 && (gapless && k.to >= before || d.Seq == k.to+1):
	case k.to > 0 && k.read && !k.isAlone(): // it will be read if it is needed
		return
	default:
		k.begin(d.Seq)
	}
	k.to = d.Seq
	if k.isAlone() && k.to == k.came.to {
		k.read = false
	}
	k.add(line, knownPlace{d.subject, d.Seq, data})
}

// add takes note of a place at the end of the run.
func (k *knownPlaces) add(line Line, place knownPlace) {
	if line == (Line{}) {
		return
	}
	at := k.lines[line]
	if at == nil {
		at = &knownLine{pruned: place.seq - 1}
		k.lines[line] = at
	}
	switch {
	case at.gapFrom > 0 || k.bare >= mostBare:
		if at.gapFrom == 0 {
			at.gapFrom = place.seq
		}
		at.gapTo = place.seq
		k.refused++
	case len(at.bare) > 0 || k.full(at, len(place.data)):
		if len(at.places)+len(at.bare) == 0 { // the line itself takes more
			k.refused++
		}
		at.bare = append(at.bare, place.seq)
		k.bare++
	default:
		at.places = append(at.places, place)
		k.places++
		k.bytes += len(place.data)
	}
	if k.refused > mostKnown { // what is known is of lines that others settle
		read := k.read
		k.begin(place.seq + 1)
		k.read = read
	}
}

// full reports whether there is no room for what is in another place of a line. One line may take an
// eighth of the room that is left, so that those with many who wait leave some to others.
func (k *knownPlaces) full(at *knownLine, size int) bool {
	return k.places >= mostKnown || k.bytes+size > mostKnownData || len(at.places) >= max(mostKnownOf, (mostKnown-k.places)/8)
}

// over takes note of places that are dealt with.
func (k *knownPlaces) over(conn uint64, seqs []uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.conn == conn {
		k.came.without(seqs)
	}
}

// on forgets what is known of another connection.
func (k *knownPlaces) on(conn uint64) {
	if k.conn != conn {
		k.conn, k.came = conn, arrivalRun{}
		k.begin(0)
	}
}

// begin forgets what is known: a new run begins at a sequence; 0 is none.
func (k *knownPlaces) begin(from uint64) {
	k.from, k.to, k.whole, k.read = from, max(from, 1)-1, false, false
	k.lines, k.places, k.bytes, k.bare, k.refused = make(map[Line]*knownLine), 0, 0, 0, 0
}

// unreadable takes note of a place whose line is not known: nothing before it can be told.
func (k *knownPlaces) unreadable(conn uint64, d *Delivery) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.on(conn)
	k.came.add(d.Seq)
	if d.Seq >= k.from {
		k.begin(d.Seq + 1)
	}
}

// lineMark is how far a line was, by its document.
type lineMark struct {
	reached, back uint64
	relays        bool // somebody may go back behind reached
	nobody        bool // there is no document: nobody has a turn
}

// knownNext is what is known of the place of a line behind a sequence.
type knownNext struct {
	knownPlace
	found bool     // that is it
	bare  []uint64 // or the first of these, in order, of which no more is known
	none  uint64   // else there is none before this one; 0 is not known either
	all   bool     // nor one that has come to this process
	short bool     // what is known ends before that one, or begins behind it
	to    uint64   // where it ends
}

// next is the line's first place behind a sequence, or the sequences of at most so many. What is up
// to what is reached by the mark is not needed again, unless somebody goes back.
func (k *knownPlaces) next(conn uint64, line Line, mark lineMark, behind uint64, most int) knownNext {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.to == 0 || k.conn != conn {
		return knownNext{}
	}
	at := k.lines[line]
	short := mark.back > mark.reached && (at == nil || at.pruned > mark.reached)
	if at != nil {
		k.pruneReached(line, at, mark)
	}
	switch {
	case short:
		return knownNext{}
	case k.from > behind+1 && !k.whole:
		return knownNext{short: true, to: k.to}
	case at == nil || k.to <= behind:
		return knownNext{none: k.to + 1, all: k.to > behind && !k.read, short: true, to: k.to}
	}
	i, n := at.behind(behind)
	switch {
	case i < len(at.places):
		return knownNext{knownPlace: at.places[i], found: true}
	case n < len(at.bare): // a gap is behind them all
		return knownNext{bare: slices.Clone(at.bare[n:min(n+max(most, 1), len(at.bare))])}
	case at.gapTo > behind:
		return knownNext{none: max(at.gapFrom, behind+1)}
	default:
		return knownNext{none: k.to + 1, all: !k.read, short: true, to: k.to}
	}
}

// waiting is how many places of a line are known behind a sequence. There may be more.
func (k *knownPlaces) waiting(conn uint64, line Line, behind uint64) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	at := k.lines[line]
	if at == nil || k.conn != conn {
		return 0
	}
	i, n := at.behind(behind)
	return len(at.places) - i + len(at.bare) - n
}

// behind are the indices of the first place behind a sequence, and of the first bare one.
func (at *knownLine) behind(seq uint64) (place, bare int) {
	place, _ = slices.BinarySearchFunc(at.places, seq+1, func(p knownPlace, seq uint64) int { return cmp.Compare(p.seq, seq) })
	bare, _ = slices.BinarySearch(at.bare, seq+1)
	return place, bare
}

// pruneReached forgets the places that are reached by the mark, but for the last ones if somebody may go back
// behind them.
func (k *knownPlaces) pruneReached(line Line, at *knownLine, mark lineMark) {
	place, bare := at.behind(mark.reached)
	switch {
	case !mark.relays:
		k.prune(line, at, mark.reached)
	case bare > k.keptBehind:
		k.prune(line, at, at.bare[bare-k.keptBehind-1])
	case place > k.keptBehind:
		k.prune(line, at, at.places[place-k.keptBehind-1].seq)
	}
}

// prune forgets the places up to a sequence.
func (k *knownPlaces) prune(line Line, at *knownLine, reached uint64) {
	at.pruned = max(at.pruned, reached)
	for len(at.places) > 0 && at.places[0].seq <= reached {
		k.places--
		k.bytes -= len(at.places[0].data)
		k.refused = 0
		at.places[0] = knownPlace{} // its data
		at.places = at.places[1:]
	}
	for len(at.bare) > 0 && at.bare[0] <= reached {
		at.bare = at.bare[1:]
		k.bare--
		k.refused = 0
	}
	if at.gapTo <= reached {
		at.gapFrom, at.gapTo = 0, 0
	}
	if len(at.places) == 0 && len(at.bare) == 0 && at.gapFrom == 0 {
		delete(k.lines, line)
	}
}

// end is the end of the run.
func (k *knownPlaces) end() uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.to
}

// gone takes note of a line's first place, up to before which all others are gone.
func (k *knownPlaces) gone(conn uint64, line Line, upTo uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if at := k.lines[line]; at != nil && k.conn == conn {
		k.prune(line, at, upTo)
	}
}

// alone reports whether so many messages have come without a gap that this is most likely the only
// process that takes arrivals.
func (k *knownPlaces) alone() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.isAlone()
}

func (k *knownPlaces) isAlone() bool {
	return k.came.to > 0 && k.came.to+1-k.came.from >= k.aloneAfter && !k.came.shared()
}

// asksBefore reports whether it is worth to look for places before the run, which ends at to now.
func (k *knownPlaces) asksBefore() (to uint64, asks bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.to, !k.whole && k.isAlone()
}

// begins takes note of the first place that was left, by a look on the connection, and reports whether
// it is in the run or behind it.
func (k *knownPlaces) begins(conn, first uint64) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.whole = k.whole || k.to > 0 && k.conn == conn && first >= k.from
	return k.whole
}

// connections is how often the connection was made anew.
func (b *Broker) connections() uint64 { return b.conn.nc.Stats().Reconnects }

package broker

import (
	"cmp"
	"maps"
	"slices"
	"sync"
)

const (
	mostKnown     = 1 << 16  // places that a process knows ahead
	mostKnownData = 16 << 20 // bytes of them
	mostKnownOf   = 256      // those of one line
)

// knownPlaces are the places that came to this process as arrivals and that nobody was
// called from yet, as far as it has seen: so whoever settles a line need not ask the
// broker who is next, which looks through the places of all other lines for that.
//
// What is known is a run: every message of the stream between two sequences came to this
// process, one behind the other without a sequence missing. Where several workers take
// arrivals, runs are short, and the broker is asked. Within a run the first place of a
// line behind another is certain. That there is none is not: whoever needs that asks the
// broker, from the end of the run on, because another process may have dealt with an
// arrival behind it, and have found the line full. A place that was deleted meanwhile is
// called all the same: its task has left the line, and the message of the call finds that
// out.
//
// A run ends with the connection: a broker that lost power may give out sequences anew.
type knownPlaces struct {
	mu       sync.Mutex
	conn     uint64 // how often the connection was made anew, when the run began
	from, to uint64 // the run: sequences of the stream; 0: there is none
	lines    map[Line]*knownLine
	places   int
	bytes    int
	refused  int // places that there was no room for since one was used
	// ahead are places behind the run that are dealt with: if they are deleted before they
	// arrive, nothing is missing.
	ahead map[uint64]struct{}
}

type knownLine struct {
	places []knownPlace // in order
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
	switch {
	case k.to == 0 || k.conn != conn || !k.nothingBefore(d.Seq):
		k.begin(conn, d.Seq)
	case d.Seq <= k.to: // once more
		return
	}
	k.to = d.Seq
	if line == (Line{}) {
		return
	}
	at := k.lines[line]
	if at == nil {
		at = &knownLine{}
		k.lines[line] = at
	}
	if at.gapFrom > 0 || len(at.places) >= mostKnownOf || k.places >= mostKnown || k.bytes+len(data) > mostKnownData {
		if k.refused++; k.refused > mostKnown { // what is known is of lines that others settle
			k.begin(conn, d.Seq+1)
			return
		}
		if at.gapFrom == 0 {
			at.gapFrom = d.Seq
		}
		at.gapTo = d.Seq
		return
	}
	at.places = append(at.places, knownPlace{d.subject, d.Seq, data})
	k.places++
	k.bytes += len(data)
}

// nothingBefore reports whether nothing that waits is between the run and a sequence.
func (k *knownPlaces) nothingBefore(seq uint64) bool {
	if seq > k.to+1+uint64(len(k.ahead)) {
		return false
	}
	for at := k.to + 1; at < seq; at++ {
		if _, over := k.ahead[at]; !over {
			return false
		}
	}
	for at := k.to + 1; at <= seq; at++ {
		delete(k.ahead, at)
	}
	return true
}

// over takes note of places that are dealt with.
func (k *knownPlaces) over(conn uint64, seqs []uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.conn != conn {
		return
	}
	for _, seq := range seqs {
		if k.to == 0 || seq <= k.to {
			continue
		}
		if k.ahead == nil {
			k.ahead = make(map[uint64]struct{})
		} else if len(k.ahead) >= mostKnown { // arrivals go elsewhere
			clear(k.ahead)
		}
		k.ahead[seq] = struct{}{}
	}
}

// begin forgets what is known: a new run begins at a sequence.
func (k *knownPlaces) begin(conn, from uint64) {
	if k.conn != conn {
		k.ahead = nil
	}
	k.conn, k.from, k.to = conn, from, from-1
	k.lines, k.places, k.bytes, k.refused = make(map[Line]*knownLine), 0, 0, 0
	maps.DeleteFunc(k.ahead, func(seq uint64, _ struct{}) bool { return seq <= k.to })
}

// unreadable takes note of a place whose line is not known: nothing before it can be told.
func (k *knownPlaces) unreadable(conn uint64, d *Delivery) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if d.Seq >= k.from || k.conn != conn {
		k.begin(conn, d.Seq+1)
	}
}

// next is the line's first place behind a sequence, if that is known. If not, there is none
// before the sequence that it returns instead; 0 is not known either. reached is that of
// the line's document, as it was written: what is up to there is not needed again.
func (k *knownPlaces) next(conn uint64, line Line, reached, behind uint64) (place knownPlace, found bool, none uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.to == 0 || k.conn != conn {
		return knownPlace{}, false, 0
	}
	at := k.lines[line]
	if at != nil {
		k.prune(line, at, reached)
	}
	switch {
	case k.from > behind+1 || k.to <= behind:
		return knownPlace{}, false, 0
	case at == nil:
		return knownPlace{}, false, k.to + 1
	}
	i, _ := slices.BinarySearchFunc(at.places, behind+1, func(p knownPlace, seq uint64) int { return cmp.Compare(p.seq, seq) })
	switch {
	case i < len(at.places): // a gap is behind them all
		return at.places[i], true, 0
	case at.gapTo > behind:
		return knownPlace{}, false, max(at.gapFrom, behind+1)
	default:
		return knownPlace{}, false, k.to + 1
	}
}

// prune forgets the places up to a sequence.
func (k *knownPlaces) prune(line Line, at *knownLine, reached uint64) {
	for len(at.places) > 0 && at.places[0].seq <= reached {
		k.places--
		k.bytes -= len(at.places[0].data)
		k.refused = 0
		at.places[0] = knownPlace{} // its data
		at.places = at.places[1:]
	}
	if at.gapTo <= reached {
		at.gapFrom, at.gapTo = 0, 0
	}
	if len(at.places) == 0 && at.gapFrom == 0 {
		delete(k.lines, line)
	}
}

// length is how many messages have come without a gap.
func (k *knownPlaces) length() uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.to == 0 {
		return 0
	}
	return k.to + 1 - k.from
}

// connections is how often the connection was made anew.
func (b *Broker) connections() uint64 { return b.conn.nc.Stats().Reconnects }

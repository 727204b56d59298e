package broker

import (
	"slices"
	"strings"
	"testing"

	"github.com/peltonq/pelton"
)

// reads counts the reads of streams whose name has a part from now on.
func reads(t *testing.T, b *Broker, of string) func() (n int) {
	t.Helper()
	nc := b.conn.nc
	sub, err := nc.SubscribeSync(directGet + ">")
	must(t, err)
	must(t, nc.Flush())
	return func() (n int) {
		t.Helper()
		must(t, nc.Flush()) // then all are here
		for left, _, _ := sub.Pending(); left > 0; left-- {
			msg, err := sub.NextMsgWithContext(t.Context())
			must(t, err)
			if strings.Contains(msg.Subject, of) {
				n++
			}
		}
		return n
	}
}

// among lets the process take itself for one of several that take arrivals, and has come to it those of
// these tasks whose number is even.
func among(t *testing.T, b *Broker, records []*Record) {
	t.Helper()
	for i, r := range records {
		place, err := b.get(t.Context(), b.keyed(0), getRequest{Seq: uint64(i) + 1, NextFor: b.places()}, false)
		must(t, err)
		if i%2 == 0 {
			b.known.arrived(b.connections(), &Delivery{Seq: place.seq, subject: place.subject}, r.Line(OfKey), place.data)
		}
	}
}

// beside takes so many places in another line, behind those of records, that half of what comes makes the process
// one of several.
func beside(t *testing.T, b *Broker, records []*Record) (others []*Record) {
	t.Helper()
	others = inLineOf(t, b, "other", 2*shareOf+2)
	among(t, b, slices.Concat(records, others))
	return others
}

// Of several processes each reads on in the stream when it misses somebody, and knows from then on who is
// next in all lines.
func TestSeveralReadOn(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	var records []*Record
	const keys, each = 5, 40
	for range each {
		for i := range keys {
			records = append(records, inLineOf(t, b, string(rune('a'+i)), 1)...)
		}
	}
	among(t, b, records)
	if b.known.alone() || !b.known.came.shared() {
		t.Fatalf("half of all came, it says %+v", &b.known.came)
	}
	taken := make([]*Relay, keys)
	for i := range keys {
		settled(t, b, string(rune('a'+i)))
		runs(t, b, records[i], uint64(i)+1)
		taken[i] = NewRelay(records[i], uint64(i)+1, "w", anyTask)
	}
	must(t, b.PassOn(t.Context(), records[0], taken[0], 8)) // misses somebody
	n := reads(t, b, "KEYED")
	for i := 1; i < keys; i++ {
		must(t, b.PassOn(t.Context(), records[i], taken[i], 8))
	}
	for i, relay := range taken {
		if len(relay.Tasks) != 8 {
			t.Errorf("%d are taken from line %d, want 8", len(relay.Tasks), i)
		}
		for n, id := range relay.Tasks {
			if want := records[(n+1)*keys+i].ID; id != want {
				t.Errorf("number %d of line %d is %s, want %s", n, i, id, want)
			}
		}
	}
	if n := n(); n != 0 {
		t.Errorf("who is next is read %d times, and is known", n)
	}
}

// Whoever read on to the end of the stream knows that nobody is next, and whoever has another connection
// since knows nothing.
func TestReadOnEnds(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	records := inLineOf(t, b, "k", 2)
	beside(t, b, records)
	settled(t, b, "k")
	runs(t, b, records[0], 1)
	must(t, b.LeaveLines(t.Context(), records[0], 1))
	runs(t, b, records[1], 2)
	n := reads(t, b, "KEYED")
	must(t, b.LeaveLines(t.Context(), records[1], 2))
	haveTurns(t, b, "k")
	if n := n(); n != 2 { // before the write and after it
		t.Errorf("a line that ends was read %d times, want 2", n)
	}
	more := inLineOf(t, b, "k", 1)
	settled(t, b, "k")
	haveTurns(t, b, "k", more...)
	if from, reads := b.known.readsOn(b.connections()+1, 0, 0); reads {
		t.Errorf("another connection reads on from %d", from)
	}
}

// Places that there is no room for are asked for, also when all was read.
func TestReadOnWithoutRoom(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	records := inLineOf(t, b, "k", 1)
	others := beside(t, b, records)
	inLineOf(t, b, "k", 1)
	b.known.bare = mostBare
	b.known.read, b.known.from = true, 1 // so that this is not forgotten
	places := placeReader{b: b, line: Line{Key: "k"}}
	place, err := places.next(t.Context(), 2, lineMark{reached: 1}, true, 1)
	must(t, err)
	if place.seq != uint64(len(others))+2 {
		t.Errorf("behind the first comes %d", place.seq)
	}
}

// What was read behind a run that has ended meanwhile is not what comes next.
func TestReadOnIsTooLate(t *testing.T) {
	t.Parallel()
	var known knownPlaces
	known.came = arrivalRun{from: 1, to: 1, n: shareOf, of: 2 * shareOf}
	place := func(seq uint64) []readPlace { return []readPlace{{knownPlace{seq: seq}, Line{Key: "k"}, false}} }
	if !known.readUpTo(0, 10, place(10)) {
		t.Fatal("a first run does not begin")
	}
	from, _ := known.readsOn(0, 10, 10)
	known.begin(3)
	known.read = true
	if known.readUpTo(0, from, place(from)) {
		t.Errorf("what comes behind %d is known now, and nothing before it: %+v", from, &known)
	}
	if got := known.next(0, Line{Key: "k"}, lineMark{reached: 1}, 4, 1); got.found {
		t.Errorf("behind 4 comes %d", got.seq)
	}
	if known.readUpTo(1, from, place(from)) {
		t.Error("what another connection read is known")
	}
}

// Of a run that was read, the older half is forgotten when there is little room.
func TestReadOnIsBounded(t *testing.T) {
	t.Parallel()
	var known knownPlaces
	known.came = arrivalRun{from: 1, to: 1, n: shareOf, of: 2 * shareOf}
	line := Line{Key: "k"}
	for seq := uint64(1); seq <= 3*mostKnown; seq += readAtOnce {
		places := make([]readPlace, readAtOnce)
		for i := range places {
			places[i] = readPlace{knownPlace: knownPlace{seq: seq + uint64(i), data: make([]byte, 100)}, line: Line{Key: string(rune(i))}}
		}
		places[7].line = line
		from, reads := known.readsOn(0, seq-1, seq-1)
		if !reads || from != seq || !known.readUpTo(0, from, places) {
			t.Fatalf("from %d on is read: %t, want from %d on", from, reads, seq)
		}
		if known.places > mostKnown || known.bytes > mostKnownData || known.bare > 0 {
			t.Fatalf("%d places of %d bytes and %d sequences are known", known.places, known.bytes, known.bare)
		}
	}
	if got := known.next(0, line, lineMark{reached: 1}, known.from, 1); !got.found || got.seq > known.from+readAtOnce+7 {
		t.Errorf("the first that is known behind %d: %+v", known.from, got)
	}
	if got := known.next(0, line, lineMark{reached: 1}, known.from-2, 1); got.found || got.none != 0 || !got.short {
		t.Errorf("what was forgotten: %+v", got)
	}
}

// A process that knows all places there are knows who is the first of a line that has no document: it reads
// neither the line nor the task's record.
func TestFirstOfAllIsKnown(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	b.known.aloneAfter = 1
	inLineOf(t, b, "gone", 2)
	records := inLineOf(t, b, "k", 2)
	look := func() { (&caller{b: b, conn: b.connections()}).lookBefore(t.Context()) }
	for i, r := range records {
		place, err := b.get(t.Context(), b.keyed(0), getRequest{Seq: uint64(i) + 3}, false)
		must(t, err)
		b.known.arrived(b.connections(), &Delivery{Seq: place.seq, subject: place.subject}, r.Line(OfKey), place.data)
	}
	if look(); b.known.whole {
		t.Fatalf("a place is left before %d", b.known.from)
	}
	vanish(t, b, 1, 2)
	if look(); !b.known.whole {
		t.Fatalf("no place is left before %d", b.known.from)
	}
	places, states := reads(t, b, "KEYED"), reads(t, b, "STATE")
	settled(t, b, "k")
	if p, s := places(), states(); p != 0 || s != 0 {
		t.Errorf("a line was read %d times, and records %d times", p, s)
	}
	haveTurns(t, b, "k", records[0])
	settled(t, b, "gone") // of which nothing came
	haveTurns(t, b, "gone")
	if p := places(); p != 0 {
		t.Errorf("a line in which nobody came was read %d times", p)
	}
}

// A place of somebody who is over, which a process knows still, does no harm to a line that begins anew.
func TestFirstOfAllMayBeOver(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	b.known.aloneAfter = 1
	records := inLineOf(t, b, "k", 3)
	arrive(t, b, records)
	b.known.begins(b.connections(), 1)
	records[0].State = pelton.Cancelled
	must(t, b.SaveRecord(t.Context(), records[0]))
	vanish(t, b, 1)
	settled(t, b, "k")
	haveTurns(t, b, "k", records[0]) // its message will say that it is over
	must(t, b.LeaveDropped(t.Context(), records[0], records[0].Envelope(), 1))
	haveTurns(t, b, "k", records[1])
}

// Nor is it called more than once: whoever drops its message looks at the line from the front.
func TestWhoIsOverIsForgotten(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	b.known.aloneAfter = 1
	records := inLineOf(t, b, "k", 3)
	arrive(t, b, records)
	b.known.begins(b.connections(), 1)
	for i, r := range records {
		r.State = pelton.Cancelled
		must(t, b.SaveRecord(t.Context(), r))
		vanish(t, b, uint64(i)+1)
	}
	settled(t, b, "k")
	haveTurns(t, b, "k", records[0])
	must(t, b.LeaveDropped(t.Context(), records[0], records[0].Envelope(), 1))
	settled(t, b, "k")
	haveTurns(t, b, "k")
	if at := b.known.lines[Line{Key: "k"}]; at != nil {
		t.Errorf("of a line that is empty is known: %+v", at)
	}
}

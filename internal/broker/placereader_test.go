package broker

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/peltonq/pelton"
)

// arrive makes the process know the places of tasks that are in the line of their key, as the first
// ones of the stream.
func arrive(t *testing.T, b *Broker, records []*Record) {
	t.Helper()
	for i, r := range records {
		place, err := b.get(t.Context(), b.keyed(0), getRequest{Seq: uint64(i) + 1, NextFor: b.places()}, false)
		must(t, err)
		b.known.arrived(b.connections(), &Delivery{Seq: place.seq, subject: place.subject}, r.Line(OfKey), place.data)
	}
}

// vanish deletes places, so that only a process that knows them can tell who is there.
func vanish(t *testing.T, b *Broker, seqs ...uint64) {
	t.Helper()
	for _, seq := range seqs {
		must(t, b.deleteFrom(t.Context(), b.keyed(0), seq))
	}
}

// A process that had taken some into a relay, and puts them back, knows their places still.
func TestWhoGoesBackIsKnown(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	records := inLineOf(t, b, "k", 6)
	arrive(t, b, records)
	relay := relayOf(t, b, records, 4)
	hasTasks(t, relay, records[1:5]...)
	succeeded(t, b, records[1])
	vanish(t, b, 3, 4, 5, 6)
	relay.Over(1)
	must(t, b.GoOn(t.Context(), relay, 4))
	for i, r := range records[2:] {
		haveTurns(t, b, "k", r)
		runs(t, b, r, uint64(i)+2)
		must(t, b.LeaveLines(t.Context(), r, uint64(i)+2))
	}
	haveTurns(t, b, "k")
}

// So does one that has called others meanwhile.
func TestWhoGoesBackBehindOthersIsKnown(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	must(t, b.LoadLimits(t.Context()))
	b.limits.set([]pelton.Limit{{Name: "k", ConcurrencyKey: "k", MaxRunning: 2}})
	records := inLineOf(t, b, "k", 5)
	arrive(t, b, records)
	settled(t, b, "k")
	for i, r := range records[:2] {
		runs(t, b, r, uint64(i)+1)
	}
	relay := NewRelay(records[0], 1, "w", anyTask)
	must(t, b.PassOn(t.Context(), records[0], relay, 4))
	hasTasks(t, relay, records[2])
	must(t, b.LeaveLines(t.Context(), records[1], 2))
	haveTurns(t, b, "k", records[2], records[3])
	vanish(t, b, 3, 5)
	relay.Over(0)
	must(t, b.GoOn(t.Context(), relay, 0))
	haveTurns(t, b, "k", records[3], records[2])
}

// Of whom only the sequence is known is read by that, several at once; who is not there any
// more is passed.
func TestPlacesAreReadBySequence(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	records := inLineOf(t, b, "k", 8)
	arrive(t, b, records[:1])
	b.known.places = mostKnown // of others
	arrive(t, b, records)
	if want := len(records) - 1; b.known.bare != want {
		t.Fatalf("%d sequences are known, want %d", b.known.bare, want)
	}
	vanish(t, b, 3, 4)
	relay := relayOf(t, b, records, 3)
	hasTasks(t, relay, records[1], records[4], records[5])
	for _, r := range records[4:6] {
		succeeded(t, b, r)
	}
	succeeded(t, b, records[1])
	vanish(t, b, 7, 8)
	more := inLineOf(t, b, "k", 1)
	relay.Over(3)
	must(t, b.GoOn(t.Context(), relay, 3))
	hasTasks(t, relay, more...)
}

// undeleted brings back the place of the first of these tasks, which has its turn, as if that had never
// been deleted; the others wait behind it. It returns the place.
func undeleted(t *testing.T, b *Broker, records []*Record) (place *stored) {
	t.Helper()
	must(t, b.purge(t.Context(), b.keyed(0), ">"))
	for _, r := range records {
		data, err := encodeEnvelope(r.Envelope())
		must(t, err)
		w := write{subject: b.place(0, r.Line(OfKey), r.Queue), data: data, expect: anyRevision}
		seq, err := b.do(t.Context(), w)
		must(t, err)
		if place == nil {
			place = &stored{subject: w.subject, seq: seq, data: data}
		}
	}
	doc, err := b.loadLine(t.Context(), records[0].Line(OfKey))
	must(t, err)
	doc.Reached = place.seq
	must(t, b.saveLine(t.Context(), doc))
	havePlaces(t, b, records...)
	return place
}

func havePlaces(t *testing.T, b *Broker, want ...*Record) {
	t.Helper()
	reaches(t, "the places are those of who waits", func() bool { return slices.Equal(placesLeft(t, b), idsOf(want...)) })
}

// A place whose deletion was lost is deleted by whoever gets what the one who died over that has not
// acknowledged, though there is room for nobody.
func TestLostDeletionIsMadeUpFor(t *testing.T) {
	t.Parallel()
	for name, get := range map[string]func(b *Broker, first *Record, place *stored) error{
		"a message that is dropped": func(b *Broker, first *Record, _ *stored) error {
			return b.LeaveDropped(t.Context(), nil, &Envelope{Meta: Meta{ID: pelton.NewID(time.Now(), 0), Kind: first.Kind, ConcurrencyKey: "k"}}, 99)
		},
		"an arrival that comes again": func(b *Broker, first *Record, place *stored) error {
			c := &caller{b: b, conn: b.connections(), waiting: map[Line][]*Delivery{}, room: make(chan struct{}, 1), held: make(chan struct{}, 1)}
			c.serve(t.Context(), &Delivery{conn: b.conn, ack: "nobody", Seq: place.seq, subject: place.subject, data: place.data, times: 2})
			c.settling.Wait()
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := openNew(t)
			records := inLineOf(t, b, "k", 3)
			settled(t, b, "k")
			havePlaces(t, b, records[1:]...)
			place := undeleted(t, b, records)
			must(t, get(b, records[0], place))
			havePlaces(t, b, records[1:]...)
			haveTurns(t, b, "k", records[0])
		})
	}
}

// placesOf takes places in the line of k, one after the other, by tasks of these queues.
func placesOf(t *testing.T, b *Broker, queues ...string) {
	t.Helper()
	for _, queue := range queues {
		r := keyed("k")
		r.Queue = queue
		must(t, b.EnsureLane(t.Context(), Lane{Queue: queue, Priority: pelton.Low}))
		must(t, b.Enqueue(t.Context(), r))
	}
}

func TestLastPlaces(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	lasts := func(from uint64, want ...uint64) {
		t.Helper()
		got, err := b.lastPlaces(t.Context(), Line{Key: "k"}, from)
		if errors.Is(err, pelton.ErrNotFound) != (len(want) == 0) {
			t.Errorf("last places from %d on: %v", from, err)
		}
		var seqs []uint64
		for _, place := range got {
			seqs = append(seqs, place.seq)
		}
		if !slices.Equal(seqs, want) {
			t.Errorf("last places from %d on: %d, want %d", from, seqs, want)
		}
	}
	lasts(1)
	inLineOf(t, b, "other", 1)
	lasts(1)
	placesOf(t, b, "q", "q", "a", "b", "q")
	inLineOf(t, b, "other", 1)
	lasts(1, 4, 5, 6)
	lasts(5, 5, 6)
	lasts(6, 6)
	lasts(7)
	vanish(t, b, 2, 3, 4, 5, 6)
	lasts(1)
	for i := range mostQueues + 3 {
		placesOf(t, b, fmt.Sprint("q", i))
	}
	lasts(9, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24)
}

// Who is next behind a place that is not known here is found whatever queues the line goes through,
// and nobody behind the last one is.
func TestNextIsAskedFor(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		queues []string
		want   []uint64
	}{
		{"one queue", []string{"q", "q", "q"}, []uint64{2, 3, 4}},
		{"several", []string{"q", "a", "q", "b"}, []uint64{2, 3, 4, 5}},
		{"nobody", nil, nil},
		{"many", slices.Concat([]string{"q"}, lots(mostQueues+1), []string{"q"}), counted(2, mostQueues+4)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := openNew(t)
			placesOf(t, b, "q")
			placesOf(t, b, tt.queues...)
			inLineOf(t, b, "other", 1)
			places := placeReader{b: b, line: Line{Key: "k"}}
			var got []uint64
			for from := uint64(2); ; {
				place, err := places.next(t.Context(), from, lineMark{}, true, 9)
				if errors.Is(err, pelton.ErrNotFound) {
					break
				}
				must(t, err)
				got, from = append(got, place.seq), place.seq+1
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("behind the first one are %d, want %d", got, tt.want)
			}
		})
	}
}

// The line may change after its last places were asked for.
func TestNextAfterAChange(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	placesOf(t, b, "q", "q", "q")
	places := placeReader{b: b, line: Line{Key: "k"}}
	next := func(from, want uint64) {
		t.Helper()
		place, err := places.next(t.Context(), from, lineMark{}, true, 9)
		must(t, err)
		if place.seq != want {
			t.Errorf("from %d on comes %d, want %d", from, place.seq, want)
		}
	}
	next(2, 2)
	vanish(t, b, 3)
	placesOf(t, b, "a", "q")
	next(3, 4)
	next(3, 4) // again, by the last places of before
}

// What is remembered of a line's last places holds for none before those that were looked at then.
func TestNextBeforeWhatIsRemembered(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	placesOf(t, b, "q", "a", "q", "q")
	for _, tt := range []struct{ from, want uint64 }{{3, 3}, {4, 4}, {2, 2}, {3, 3}} {
		places := placeReader{b: b, line: Line{Key: "k"}}
		place, err := places.next(t.Context(), tt.from, lineMark{}, true, 9)
		must(t, err)
		if place.seq != tt.want {
			t.Errorf("from %d on comes %d, want %d", tt.from, place.seq, tt.want)
		}
	}
	if last := b.lasts.of(b.connections()+1, Line{Key: "k"}, 4); last != nil {
		t.Errorf("on another connection: %+v", last)
	}
}

// lots are n queues.
func lots(n int) []string {
	queues := make([]string, n)
	for i := range queues {
		queues[i] = fmt.Sprint("q", i)
	}
	return queues
}

// counted are the numbers from a first to a last one.
func counted(first, last uint64) []uint64 {
	var numbers []uint64
	for n := first; n <= last; n++ {
		numbers = append(numbers, n)
	}
	return numbers
}

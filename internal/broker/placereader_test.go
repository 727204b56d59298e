package broker

import (
	"testing"

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
	settled(t, b, "k")
	runs(t, b, records[0], 1)
	relay := NewRelay(records[0], 1, "w", anyTask)
	must(t, b.PassOn(t.Context(), records[0], relay, 4))
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
	settled(t, b, "k")
	runs(t, b, records[0], 1)
	vanish(t, b, 3, 4)
	relay := NewRelay(records[0], 1, "w", anyTask)
	must(t, b.PassOn(t.Context(), records[0], relay, 3))
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

func TestWaitsFrom(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	line := Line{Key: "k"}
	waits := func(from uint64, want bool) {
		t.Helper()
		got, err := b.waitsFrom(t.Context(), line, from)
		must(t, err)
		if got != want {
			t.Errorf("somebody waits from %d on: %t", from, got)
		}
	}
	waits(1, false)
	inLineOf(t, b, "other", 1)
	waits(1, false)
	inLineOf(t, b, "k", 2)
	for _, queue := range []string{"a", "b", "c"} { // a line may go through several
		r := keyed("k")
		r.Queue = queue
		must(t, b.EnsureLane(t.Context(), Lane{Queue: queue, Priority: pelton.Low}))
		must(t, b.Enqueue(t.Context(), r))
	}
	inLineOf(t, b, "other", 1)
	for from := uint64(1); from <= 6; from++ {
		waits(from, true)
	}
	waits(7, false)
	waits(100, false)
	vanish(t, b, 2, 3, 4, 5, 6)
	waits(1, false)
}

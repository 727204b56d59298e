package broker

import (
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/peltonq/pelton"
)

func anyTask(*Envelope) bool { return true }

// relayed is a line of n tasks, of which the first has ended under the message of sequence 1,
// and the relay that its worker has begun with as many as most of the others.
func relayed(t *testing.T, b *Broker, n, most int) ([]*Record, *Relay) {
	t.Helper()
	records := inLineOf(t, b, "k", n)
	return records, relayOf(t, b, records, most)
}

// relayOf is relayed for a line that is there.
func relayOf(t *testing.T, b *Broker, records []*Record, most int) *Relay {
	t.Helper()
	settled(t, b, "k")
	runs(t, b, records[0], 1)
	relay := NewRelay(records[0], 1, "w", anyTask)
	must(t, b.PassOn(t.Context(), records[0], relay, most))
	return relay
}

// succeeded is what a worker writes of a task of a relay.
func succeeded(t *testing.T, b *Broker, r *Record) {
	t.Helper()
	r.State, r.Carrier, r.InLine = pelton.Succeeded, 1, false
	must(t, b.SaveRecord(t.Context(), r))
}

// runs is a task with a turn that runs by a message of its own, up to its end.
func runs(t *testing.T, b *Broker, r *Record, by uint64) {
	t.Helper()
	start(t, b, r, by)
	r.State = pelton.Succeeded
	must(t, b.SaveRecord(t.Context(), r))
}

func hasTasks(t *testing.T, relay *Relay, want ...*Record) {
	t.Helper()
	if diff := cmp.Diff(idsOf(want...), append([]pelton.ID{}, relay.Tasks...)); diff != "" {
		t.Fatalf("tasks of the relay (-want +got):\n%s", diff)
	}
}

// placesLeft are the tasks whose places are there.
func placesLeft(t *testing.T, b *Broker) []pelton.ID {
	t.Helper()
	ids := []pelton.ID{}
	for next := uint64(1); ; {
		msg, err := b.get(t.Context(), b.keyed(0), getRequest{Seq: next, NextFor: b.places()}, false)
		if errors.Is(err, pelton.ErrNotFound) {
			return ids
		}
		must(t, err)
		e, err := decodeEnvelope(msg.data)
		must(t, err)
		ids, next = append(ids, e.ID), msg.seq+1
	}
}

// A relay takes those who are next, without messages, and goes on with the following ones; the
// places of those that are over go.
func TestRelayGoesOn(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	records, relay := relayed(t, b, 7, 3)
	hasTasks(t, relay, records[1:4]...)
	messages := streamState(t, b, b.tasks(0)).State.LastSeq
	for _, r := range records[1:4] {
		succeeded(t, b, r)
	}
	relay.Over(3)
	must(t, b.GoOn(t.Context(), relay, 2))
	hasTasks(t, relay, records[4:6]...)
	reaches(t, "places of those that are over are gone", func() bool { return slices.Equal(placesLeft(t, b), idsOf(records[4:]...)) })
	if last := streamState(t, b, b.tasks(0)).State.LastSeq; last != messages {
		t.Errorf("%d messages were published", last-messages)
	}
	for _, r := range records[4:6] {
		succeeded(t, b, r)
	}
	relay.Over(2)
	must(t, b.GoOn(t.Context(), relay, 0))
	hasTasks(t, relay)
	haveTurns(t, b, "k", records[6]) // by a message
	if last := streamState(t, b, b.tasks(0)).State.LastSeq; last != messages+1 {
		t.Errorf("%d messages were published, want one", last-messages)
	}
}

// Who has not started goes back, and is called in order, also by a process that knows the places
// and has seen that they were reached.
func TestRelayPutsBack(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	records := inLineOf(t, b, "k", 6)
	arrive(t, b, records)
	relay := relayOf(t, b, records, 4)
	hasTasks(t, relay, records[1:5]...)
	b.known.next(b.connections(), Line{Key: "k"}, lineMark{reached: b.seen.of(Line{Key: "k"}).Reached}, 6, 1) // forgets what was reached
	succeeded(t, b, records[1])
	relay.Over(1)
	must(t, b.GoOn(t.Context(), relay, 4))
	hasTasks(t, relay) // who puts back takes nothing
	for _, r := range records[2:] {
		haveTurns(t, b, "k", r)
		runs(t, b, r, 9)
		must(t, b.LeaveLines(t.Context(), r, 9))
	}
	haveTurns(t, b, "k")
}

// A task that is to run again keeps the turn, and the others follow when it is over.
func TestRelayKeepsTheTurn(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	records, relay := relayed(t, b, 4, 3)
	hasTasks(t, relay, records[1:]...)
	again := records[1]
	again.State, again.InLine, again.Carrier, again.Epoch = pelton.Retrying, false, 1, 1
	must(t, b.SaveRecord(t.Context(), again))
	for range 2 {
		must(t, b.KeepTurn(t.Context(), again, 1))
		haveTurns(t, b, "k", again)
	}
	for i, r := range records[1:] {
		haveTurns(t, b, "k", r)
		runs(t, b, r, 9)
		if i == 0 { // it was over before its turn was its own
			must(t, b.KeepTurn(t.Context(), r, 1))
		}
		must(t, b.LeaveLines(t.Context(), r, 9))
	}
	haveTurns(t, b, "k")
}

// A task whose next message was quick is over when the turn becomes its own: then it is given
// back.
func TestRelayKeepsNoTurnOfWhatIsOver(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	records, relay := relayed(t, b, 3, 2)
	hasTasks(t, relay, records[1:]...)
	quick := records[1]
	quick.State, quick.InLine, quick.Epoch = pelton.Succeeded, false, 1
	must(t, b.SaveRecord(t.Context(), quick))
	must(t, b.LeaveLines(t.Context(), quick, 9)) // by its own message: it has no turn there
	haveTurns(t, b, "k", quick)
	must(t, b.KeepTurn(t.Context(), quick, 1))
	haveTurns(t, b, "k", records[2])
}

// A write whose answer was lost is found: the relay has what it took.
func TestRelayFindsItsOwnWrite(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	records, relay := relayed(t, b, 5, 2)
	again := NewRelay(records[0], 1, "w", anyTask)
	must(t, b.PassOn(t.Context(), records[0], again, 3))
	hasTasks(t, again, records[1:3]...)
	relay.Over(2)
	succeeded(t, b, records[1])
	succeeded(t, b, records[2])
	twice := *relay
	must(t, b.GoOn(t.Context(), relay, 2))
	must(t, b.GoOn(t.Context(), &twice, 2))
	hasTasks(t, relay, records[3:]...)
	hasTasks(t, &twice, records[3:]...)
}

// Nobody but its worker ends a relay; a relay whose message is gone is ended by the sweep.
func TestSweepEndsARelay(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		first func(t *testing.T, b *Broker, r *Record)
		want  func(records []*Record) *Record
	}{
		"nobody has started": {func(*testing.T, *Broker, *Record) {}, func(records []*Record) *Record { return records[1] }},
		"the first is over":  {succeeded, func(records []*Record) *Record { return records[2] }},
		"the first is to run again": {func(t *testing.T, b *Broker, r *Record) {
			t.Helper()
			r.State, r.InLine, r.Carrier, r.Epoch = pelton.Retrying, false, 1, 1
			must(t, b.SaveRecord(t.Context(), r))
		}, func(records []*Record) *Record { return records[1] }},
		"the first was requeued, and runs again": {func(t *testing.T, b *Broker, r *Record) {
			t.Helper()
			succeeded(t, b, r)
			again, err := b.Requeue(t.Context(), r.ID)
			must(t, err)
			again.State, again.InLine, again.Carrier = pelton.Running, false, 1
			must(t, b.SaveRecord(t.Context(), again))
		}, func(records []*Record) *Record { return records[2] }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := openNew(t)
			records, relay := relayed(t, b, 4, 2)
			hasTasks(t, relay, records[1:3]...)
			tc.first(t, b, records[1])
			settled(t, b, "k")
			if sweep(t, aged(b)); b.Shards() != 1 {
				t.Fatal("more than one shard")
			}
			if doc, err := b.loadLine(t.Context(), Line{Key: "k"}); err != nil || len(doc.Granted) != 1 || doc.Granted[0].By != 1 || doc.Granted[0].Worker != "w" {
				t.Fatalf("a relay with a message was ended: %+v, %v", doc, err)
			}
			must(t, b.DeleteMessage(t.Context(), 0, 1))
			sweep(t, aged(b))
			haveTurns(t, b, "k", tc.want(records))
			if doc, err := b.loadLine(t.Context(), Line{Key: "k"}); err != nil || doc.Granted[0].By != 0 {
				t.Errorf("turn after the sweep: %+v, %v", doc, err)
			}
		})
	}
}

// What a relay may not have ends it: the others are called.
func TestRelayTakesWhatFits(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	records := inLineOf(t, b, "k", 3)
	other := keyed("k")
	other.Priority = pelton.High
	must(t, b.Enqueue(t.Context(), other))
	settled(t, b, "k")
	start(t, b, records[0], 1)
	succeeded(t, b, records[0])
	picky := NewRelay(records[0], 1, "w", func(e *Envelope) bool { return e.ID != records[1].ID })
	must(t, b.PassOn(t.Context(), records[0], picky, 9))
	hasTasks(t, picky)
	haveTurns(t, b, "k", records[1])
	runs(t, b, records[1], 2)
	relay := NewRelay(records[1], 2, "w", anyTask)
	must(t, b.PassOn(t.Context(), records[1], relay, 9))
	hasTasks(t, relay, records[2]) // not that of another lane
}

// Where a key may have several turns, a relay takes one task of a short line, and others are called beside it. The
// places of a relay's tasks stay meanwhile.
func TestRelayBesideOthers(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	records, relay := relayed(t, b, 5, 2)
	hasTasks(t, relay, records[1:3]...)
	must(t, b.LoadLimits(t.Context()))
	b.limits.set([]pelton.Limit{{Name: "k", ConcurrencyKey: "k", MaxRunning: 2}})
	settled(t, b, "k")
	haveTurns(t, b, "k", records[1], records[3])
	reaches(t, "the place of the one that was called is gone", func() bool {
		return slices.Equal(placesLeft(t, b), idsOf(records[1], records[2], records[4]))
	})
	relay.Over(0)
	must(t, b.GoOn(t.Context(), relay, 2))
	haveTurns(t, b, "k", records[3], records[1])

	runs(t, b, records[3], 2)
	one := NewRelay(records[3], 2, "w", anyTask)
	must(t, b.PassOn(t.Context(), records[3], one, 2))
	hasTasks(t, one, records[2])
}

// In a long line it takes its part of those who wait, up to a bound.
func TestRelayTakesItsPart(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ limit, waiting, want int }{{1, 40, 32}, {2, 2, 1}, {2, 7, 3}, {3, 7, 2}, {10, 40, 4}, {2, 40, sharedRelay}} {
		b := openNew(t)
		records := inLineOf(t, b, "k", 1+tt.waiting)
		arrive(t, b, records)
		must(t, b.LoadLimits(t.Context()))
		settled(t, b, "k")
		runs(t, b, records[0], 1)
		b.limits.set([]pelton.Limit{{Name: "k", ConcurrencyKey: "k", MaxRunning: tt.limit}})
		relay := NewRelay(records[0], 1, "w", anyTask)
		must(t, b.PassOn(t.Context(), records[0], relay, 32))
		hasTasks(t, relay, records[1:1+tt.want]...)
		if doc := b.seen.of(Line{Key: "k"}); len(doc.Granted) != min(tt.limit, 1+tt.waiting-tt.want) {
			t.Errorf("%d of %d turns are taken", len(doc.Granted), tt.limit)
		}
	}
}

// Who waits behind a long task of a relay goes back, and is called in order where there is room. The
// relay keeps its turn, and goes on with others afterwards.
func TestRelayIsShortened(t *testing.T) {
	t.Parallel()
	for _, known := range []bool{false, true} {
		b := openNew(t)
		records := inLineOf(t, b, "k", 7)
		if known {
			arrive(t, b, records)
		}
		relay := relayOf(t, b, records, 4)
		hasTasks(t, relay, records[1:5]...)
		succeeded(t, b, records[1])
		long := *relay // what does not know that it was written
		must(t, b.Shorten(t.Context(), relay, 2))
		hasTasks(t, relay, records[1:3]...)
		haveTurns(t, b, "k", records[1])
		must(t, b.Shorten(t.Context(), &long, 2))
		b.limits.set([]pelton.Limit{{Name: "k", ConcurrencyKey: "k", MaxRunning: 3}})
		settled(t, b, "k")
		haveTurns(t, b, "k", records[1], records[3], records[4])
		succeeded(t, b, records[2])
		relay.Over(2)
		must(t, b.GoOn(t.Context(), relay, 1))
		hasTasks(t, relay, records[5])
		haveTurns(t, b, "k", records[3], records[4], records[5])
		reaches(t, "places of those that have turns of their own are gone", func() bool { return slices.Equal(placesLeft(t, b), idsOf(records[5:]...)) })
	}
}

// Room that is there already is used by whoever goes back.
func TestShortenedRelayCalls(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	records, relay := relayed(t, b, 4, 3)
	hasTasks(t, relay, records[1:]...)
	must(t, b.LoadLimits(t.Context()))
	b.limits.set([]pelton.Limit{{Name: "k", ConcurrencyKey: "k", MaxRunning: 2}})
	must(t, b.Shorten(t.Context(), relay, 1))
	haveTurns(t, b, "k", records[1], records[2])
}

// Whoever cancels a task that was given back, and that a relay has the turn for, ends the relay.
func TestCancelEndsARelay(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	records, relay := relayed(t, b, 4, 3)
	hasTasks(t, relay, records[1:]...)
	if _, err := b.Cancel(t.Context(), records[2].ID); err != nil { // its place is passed later
		t.Fatal(err)
	}
	haveTurns(t, b, "k", records[1])
	r := records[1]
	r.State, r.Released, r.Carrier, r.InLine, r.Owner = pelton.Queued, true, 1, false, "w"
	must(t, b.SaveRecord(t.Context(), r))
	if _, err := b.Cancel(t.Context(), r.ID); err != nil {
		t.Fatal(err)
	}
	haveTurns(t, b, "k", records[3])
	relay.Over(1)
	must(t, b.GoOn(t.Context(), relay, 2)) // it has been ended
	hasTasks(t, relay)
	runs(t, b, records[3], 2)
	must(t, b.LeaveLines(t.Context(), records[3], 2))
	next := inLineOf(t, b, "k", 1)
	must(t, b.GoOn(t.Context(), relay, 2)) // who gives nothing back takes nothing
	hasTasks(t, relay)
	haveTurns(t, b, "k", next...)
}

// Records that are read together are as those that are read one by one.
func TestLoadRecords(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	records := inLineOf(t, b, "k", 3)
	gone := keyed("k")
	must(t, b.CreateRecord(t.Context(), gone))
	must(t, b.DropRecord(t.Context(), gone))
	ids := append(idsOf(records...), gone.ID, keyed("k").ID)
	for _, copies := range []bool{false, true} {
		b.replication.many.Store(copies)
		got, err := b.LoadRecords(t.Context(), ids)
		must(t, err)
		for i, id := range ids {
			want, err := b.LoadRecord(t.Context(), id)
			if err != nil && !errors.Is(err, pelton.ErrNotFound) {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got[i]); diff != "" {
				t.Errorf("record %d, several copies: %v (-want +got):\n%s", i, copies, diff)
			}
		}
	}
	if _, err := b.LoadRecords(t.Context(), nil); err != nil {
		t.Errorf("load no records = %v", err)
	}
}

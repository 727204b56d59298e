package broker

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/peltonq/pelton"
)

// What a sweep finds in lines, each made by hand.
func TestSweepHealsLines(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		wound func(t *testing.T, b *Broker) *Record
		want  Swept
	}{
		"a record without its place": {func(t *testing.T, b *Broker) *Record {
			r := keyed("k")
			must(t, b.EnsurePlaces(t.Context(), "q"))
			must(t, b.CreateRecord(t.Context(), r))
			return r
		}, Swept{Orphans: 1}},
		"a call whose message is lost": {func(t *testing.T, b *Broker) *Record {
			r := inLineOf(t, b, "k", 1)[0]
			settled(t, b, "k")
			must(t, b.purge(t.Context(), b.tasks(0), b.ready(0, "q", pelton.Low)))
			return r
		}, Swept{Orphans: 1}},
		"a turn that nobody gave back": {func(t *testing.T, b *Broker) *Record {
			r := inLineOf(t, b, "k", 2)
			settled(t, b, "k")
			r[0].State = pelton.Succeeded
			must(t, b.SaveRecord(t.Context(), r[0]))
			must(t, b.purge(t.Context(), b.tasks(0), b.ready(0, "q", pelton.Low)))
			return r[1]
		}, Swept{Turns: 1}},
		"a turn of a task whose record is gone": {func(t *testing.T, b *Broker) *Record {
			r := inLineOf(t, b, "k", 2)
			settled(t, b, "k")
			must(t, b.DropRecord(t.Context(), r[0]))
			must(t, b.purge(t.Context(), b.tasks(0), b.ready(0, "q", pelton.Low)))
			return r[1]
		}, Swept{Turns: 1}},
		"a turn from before a requeue": {func(t *testing.T, b *Broker) *Record {
			r := inLineOf(t, b, "k", 1)[0]
			settled(t, b, "k")
			start(t, b, r, 4711)
			r.State = pelton.Cancelled
			must(t, b.SaveRecord(t.Context(), r))
			must(t, b.purge(t.Context(), b.tasks(0), b.ready(0, "q", pelton.Low)))
			again, err := b.Requeue(t.Context(), r.ID)
			must(t, err)
			return again
		}, Swept{Turns: 1}},
		"a line in which nobody was called": {func(t *testing.T, b *Broker) *Record {
			r := inLineOf(t, b, "k", 1)[0]
			must(t, b.createConsumer(t.Context(), b.keyed(0), b.arrivals(time.Second)))
			p, err := b.openPuller(Lane{}, b.keyed(0), arrivalsConsumer, func(d *Delivery) { answered(t, d, "+ACK") }, func(PullEnd) {})
			must(t, err)
			must(t, p.Pull(1, 5*time.Second))
			reaches(t, "the arrival is acknowledged", func() bool {
				info, err := b.consumer(t.Context(), b.keyed(0), arrivalsConsumer)
				must(t, err)
				return info.AckFloor.Stream > 0
			})
			p.Close(t.Context())
			return r
		}, Swept{Turns: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := openNew(t)
			must(t, b.EnsureLane(t.Context(), Lane{Queue: "q", Priority: pelton.Low}))
			r := tc.wound(t, b)
			if swept := sweep(t, b.NewSweeper()); swept.Repaired() != 0 {
				t.Errorf("young damage was repaired: %+v", swept)
			}
			s := aged(b)
			swept := sweep(t, s)
			swept.Looked = 0
			if diff := cmp.Diff(tc.want, swept); diff != "" {
				t.Errorf("swept (-want +got):\n%s", diff)
			}
			callLines(t, b)
			d := wait(t, deliveries(t, b, "q", pelton.Low, 1), "called task")
			if d.Err != nil || d.Envelope.ID != r.ID {
				t.Errorf("called %+v, %v, want %s", d.Envelope, d.Err, r.ID)
			}
			haveTurns(t, b, "k", r)
			if swept := sweep(t, aged(b)); swept.Repaired() != 0 {
				t.Errorf("repaired again: %+v", swept)
			}
		})
	}
}

// A delayed task that has lost its schedule gets a new one.
func TestSweepHealsALaterPlace(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	r := keyed("k")
	r.State, r.RunAt = pelton.Scheduled, time.Now().Add(time.Hour).UTC()
	must(t, b.CreateRecord(t.Context(), r))
	s := aged(b)
	if swept := sweep(t, s); swept.Orphans != 1 || swept.Repaired() != 1 {
		t.Errorf("swept %+v, want one orphan", swept)
	}
	if gone(t, b, b.keyed(0), b.laterPlace(0, "q", r.ID, 0)) {
		t.Error("the delayed task has no schedule")
	}
	if swept := sweep(t, s); swept.Repaired() != 0 {
		t.Errorf("repaired again: %+v", swept)
	}
}

// Healthy lines are left alone, however old: those that wait behind a task that
// runs, those that no worker has called yet, and delayed ones.
func TestSweepLeavesHealthyLinesAlone(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	busy := inLineOf(t, b, "busy", 3)
	inLineOf(t, b, "uncalled", 2)
	settled(t, b, "busy")
	d := wait(t, deliveries(t, b, "q", pelton.Low, 1), "called task")
	start(t, b, busy[0], d.Seq)
	called := inLineOf(t, b, "called", 2)
	settled(t, b, "called")
	retrying := inLineOf(t, b, "retrying", 2)
	settled(t, b, "retrying")
	retrying[0].State, retrying[0].RunAt, retrying[0].InLine = pelton.Retrying, time.Now().Add(time.Hour).UTC(), false
	retrying[0].Epoch++
	must(t, b.SaveRecord(t.Context(), retrying[0]))
	must(t, b.Publish(t.Context(), retrying[0]))
	cancelled := inLineOf(t, b, "cancelled", 1)[0] // and its handler has not returned
	settled(t, b, "cancelled")
	start(t, b, cancelled, d.Seq)
	cancelled.State = pelton.Cancelled
	must(t, b.SaveRecord(t.Context(), cancelled))
	delayed := keyed("delayed")
	delayed.State, delayed.RunAt = pelton.Scheduled, time.Now().Add(time.Hour).UTC()
	must(t, b.Enqueue(t.Context(), delayed))
	seqs := func() (all []uint64) {
		for _, stream := range []string{b.tasks(0), b.keyed(0), bucketStream(b.state(0)), bucketStream(b.keys())} {
			all = append(all, streamState(t, b, stream).State.LastSeq)
		}
		return all
	}
	before := seqs()
	s := aged(b)
	for range 3 {
		if swept := sweep(t, s); swept.Repaired() != 0 {
			t.Errorf("healthy lines were repaired: %+v", swept)
		}
	}
	if diff := cmp.Diff(before, seqs()); diff != "" {
		t.Errorf("the sweep wrote (-before +after):\n%s", diff)
	}
	haveTurns(t, b, "called", called[0])
	haveTurns(t, b, "uncalled")
}

// A raised limit lets in more at the next sweep, where nobody comes or goes.
func TestSweepSeesARaisedLimit(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	records := inLineOf(t, b, "k", 3)
	settled(t, b, "k")
	haveTurns(t, b, "k", records[0])
	setLimit(t, b, pelton.Limit{Name: "k", ConcurrencyKey: "k", MaxRunning: 2})
	if swept := sweep(t, aged(b)); swept.Repaired() != 0 {
		t.Errorf("a raised limit counts as damage: %+v", swept)
	}
	haveTurns(t, b, "k", records[:2]...)
}

package broker

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/peltonq/pelton"
)

// purgeAll purges to the end, in calls of one chunk each.
func purgeAll(t *testing.T, b *Broker, queue string, p pelton.Priority) (purged, calls int) {
	t.Helper()
	for cursor := ""; ; {
		n, next, err := b.PurgeQueue(t.Context(), queue, p, cursor, -1)
		must(t, err)
		purged += n
		calls++
		if next == "" {
			return purged, calls
		}
		if next == cursor {
			t.Fatalf("stuck at %s", cursor)
		}
		cursor = next
	}
}

// messages counts those of a filter.
func messages(t *testing.T, b *Broker, filter string) (n int) {
	t.Helper()
	for next := uint64(1); ; n++ {
		msg, err := b.get(t.Context(), b.tasks(0), getRequest{Seq: next, NextFor: b.ns + ".t.0." + filter}, false)
		if errors.Is(err, pelton.ErrNotFound) {
			return n
		}
		must(t, err)
		next = msg.seq + 1
	}
}

func TestPurgeGoesByTheRecord(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	// put stores a record, and a message that may be of another epoch.
	put := func(change func(r *Record, seq uint64)) (id pelton.ID) {
		t.Helper()
		r := aRecord("q", pelton.Low)
		must(t, b.Enqueue(t.Context(), r))
		last, err := b.streamEnd(t.Context(), b.tasks(0))
		must(t, err)
		change(r, last-1)
		must(t, b.SaveRecord(t.Context(), r))
		return r.ID
	}
	cases := []struct {
		name   string
		change func(r *Record, seq uint64)
		purged bool         // counted
		state  pelton.State // after it
		left   bool         // the message stays
	}{
		{"ready", func(*Record, uint64) {}, true, pelton.Cancelled, false},
		{"fired", func(r *Record, _ uint64) { r.State = pelton.Retrying }, true, pelton.Cancelled, false},
		{"released", func(r *Record, seq uint64) { r.Owner, r.Carrier, r.Released = "w", seq, true }, true, pelton.Cancelled, false},
		{"put back, its next message missing", func(r *Record, _ uint64) { r.State, r.Epoch, r.RunAt = pelton.Retrying, 1, time.Now() }, true, pelton.Cancelled, false},
		{"running", func(r *Record, seq uint64) { r.State, r.Owner, r.Carrier = pelton.Running, "w", seq }, false, pelton.Running, true},
		{"a copy of what runs", func(r *Record, seq uint64) { r.State, r.Owner, r.Carrier = pelton.Running, "w", seq+100 }, false, pelton.Running, true},
		{"cancelled while it waited", func(r *Record, _ uint64) { r.State = pelton.Cancelled }, false, pelton.Cancelled, false},
		{"cancelled while it ran", func(r *Record, seq uint64) { r.State, r.Owner, r.Carrier = pelton.Cancelled, "w", seq }, false, pelton.Cancelled, true},
		{"failed, its letter missing", func(r *Record, _ uint64) { r.State = pelton.Failed }, false, pelton.Failed, true},
		{"succeeded", func(r *Record, _ uint64) { r.State = pelton.Succeeded }, false, pelton.Succeeded, true},
	}
	ids := map[string]pelton.ID{}
	want, left := 0, 0
	for _, tc := range cases {
		ids[tc.name] = put(tc.change)
		if tc.purged {
			want++
		}
		if tc.left {
			left++
		}
	}
	// No task, and tasks that are over and forgotten or of a newer version.
	_, err := b.do(t.Context(), write{subject: b.ready(0, "q", pelton.Low), data: []byte("rubbish"), expect: anyRevision})
	must(t, err)
	_, err = b.PublishReady(t.Context(), aRecord("q", pelton.Low).Envelope())
	must(t, err)
	_, err = b.do(t.Context(), write{subject: b.ready(0, "q", pelton.Low), data: []byte(`{"v":99}` + "\n"), expect: anyRevision})
	must(t, err)
	left++

	if purged, _ := purgeAll(t, b, "q", ""); purged != want {
		t.Errorf("%d purged, want %d", purged, want)
	}
	for _, tc := range cases {
		r, err := b.LoadRecord(t.Context(), ids[tc.name])
		must(t, err)
		if r.State != tc.state || tc.purged && r.FinishedAt.IsZero() {
			t.Errorf("%s is %s, want %s", tc.name, r.State, tc.state)
		}
	}
	if n := messages(t, b, "r.q.low"); n != left {
		t.Errorf("%d messages left, want %d", n, left)
	}
	if purged, _ := purgeAll(t, b, "q", pelton.Low); purged != 0 { // again is fine
		t.Errorf("%d purged again", purged)
	}
}

func TestPurgeByPriorityAndInPieces(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	var records []*Record
	for i := range 3*purgeAtOnce + 5 {
		r := aRecord("q", pelton.Priorities()[i%2])
		if i%3 == 0 {
			r.State, r.RunAt = pelton.Scheduled, time.Now().Add(time.Hour)
		}
		records = append(records, r)
	}
	records = append(records, aRecord("other", pelton.Critical))
	must(t, errors.Join(b.EnqueueMany(t.Context(), records)...))
	if purged, _ := purgeAll(t, b, "q", pelton.High); purged != (3*purgeAtOnce+5)/2 {
		t.Errorf("%d of high purged", purged)
	}
	if n := messages(t, b, "r.q.high") + messages(t, b, "s.q.high.>"); n != 0 {
		t.Errorf("%d messages left of high", n)
	}
	if purged, calls := purgeAll(t, b, "q", ""); purged != 3*purgeAtOnce+5-(3*purgeAtOnce+5)/2 || calls < 2 {
		t.Errorf("%d of the rest purged in %d calls", purged, calls)
	}
	for _, r := range records {
		now, err := b.LoadRecord(t.Context(), r.ID)
		must(t, err)
		if (now.State == pelton.Cancelled) != (r.Queue == "q") {
			t.Errorf("task of queue %s is %s", r.Queue, now.State)
		}
	}
	reaches(t, "the other queue to be left alone", func() bool {
		q, err := b.Queue(t.Context(), "other")
		return err == nil && q.Ready == 1
	})
	shows(t, b, b.tasks(0), scheduledConsumer("q"), 0)
}

// A delayed task that falls due between the two phases is not missed, and one that
// comes after the second began is left alone.
func TestPurgeEnds(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	due := aRecord("q", pelton.Low)
	due.State, due.RunAt = pelton.Scheduled, time.Now().Add(50*time.Millisecond)
	must(t, b.Enqueue(t.Context(), due))
	end, err := b.streamEnd(t.Context(), b.tasks(0))
	must(t, err)
	shows(t, b, b.tasks(0), scheduledConsumer("q"), 0) // it has fired
	purged, next, err := b.PurgeQueue(t.Context(), "q", "", fmt.Sprintf("s-1-%d", end), -1)
	if purged != 1 || next != "" {
		t.Errorf("purged %d, next %q, %v", purged, next, err)
	}
	late := aRecord("q", pelton.Low)
	must(t, b.Enqueue(t.Context(), late))
	last, err := b.streamEnd(t.Context(), b.tasks(0))
	must(t, err)
	if purged, next, err := b.PurgeQueue(t.Context(), "q", "", purgeCursor{phase: purgeReady, next: 1, end: last - 1}.String(), time.Second); purged != 0 || next != "" || err != nil {
		t.Errorf("what came later: purged %d, next %q, %v", purged, next, err)
	}
}

func TestPurgeErrors(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	must(t, b.EnsureLane(t.Context(), Lane{Queue: "q", Priority: pelton.Low}))
	for _, cursor := range []string{"x", "r-1", "r-0-1", "r-1-0", "t-1-1", "r-1-!", "r--1-1"} {
		var invalid *pelton.ValidationError
		if _, _, err := b.PurgeQueue(t.Context(), "q", "", cursor, time.Second); !errors.As(err, &invalid) || invalid.Fields[0].Field != "cursor" {
			t.Errorf("cursor %q = %v", cursor, err)
		}
	}
	if _, _, err := b.PurgeQueue(t.Context(), "nobody", "", "", time.Second); !errors.Is(err, pelton.ErrNotFound) {
		t.Errorf("no queue = %v, want ErrNotFound", err)
	}
	at := purgeCursor{phase: purgeReady, next: 12345, end: 99999}
	if got, err := parsePurgeCursor(at.String()); err != nil || got != at {
		t.Errorf("%s reads as %+v, %v", at, got, err)
	}
}

// A purge takes tasks out of lines, wherever they stand there, gives back their
// turns, and leaves alone those of other queues and priorities.
func TestPurgeOfLines(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	other, high, later, laterHigh := keyed("k"), keyed("k"), keyed("k"), keyed("k")
	other.Queue = "other"
	high.Priority, laterHigh.Priority = pelton.High, pelton.High
	for _, r := range []*Record{later, laterHigh} {
		r.State, r.RunAt = pelton.Scheduled, time.Now().Add(time.Hour).UTC()
	}
	called := inLineOf(t, b, "k", 1)[0]
	settled(t, b, "k")
	haveTurns(t, b, "k", called)
	ran := inLineOf(t, b, "ran", 2)
	settled(t, b, "ran")
	start(t, b, ran[0], 4711) // and its message is gone: it waits for its next attempt
	ran[0].State, ran[0].RunAt = pelton.Retrying, time.Now().Add(time.Hour).UTC()
	ran[0].Epoch++
	must(t, b.SaveRecord(t.Context(), ran[0]))
	must(t, b.Publish(t.Context(), ran[0]))
	waits := inLineOf(t, b, "k", 40) // more than one chunk
	for _, r := range []*Record{other, high, later, laterHigh} {
		must(t, b.Enqueue(t.Context(), r))
	}
	if n, _ := purgeAll(t, b, "q", pelton.Low); n != 1+2+40+1 {
		t.Errorf("%d purged, want the 44 of low priority", n)
	}
	for _, r := range append(waits, called, ran[0], ran[1], later) {
		now, err := b.LoadRecord(t.Context(), r.ID)
		must(t, err)
		if now.State != pelton.Cancelled {
			t.Errorf("task is %s", now.State)
		}
	}
	haveTurns(t, b, "k", other)
	haveTurns(t, b, "ran")
	if gone(t, b, b.keyed(0), b.laterPlace(0, "q", laterHigh.ID, 0)) {
		t.Error("a delayed task of another priority is gone")
	}
	if n, _ := purgeAll(t, b, "q", ""); n != 2 {
		t.Errorf("%d purged, want the 2 of high priority", n)
	}
	shows(t, b, b.keyed(0), waitingConsumer("q"), 0)
	shows(t, b, b.keyed(0), laterConsumer("q"), 0)
	haveTurns(t, b, "k", other)
}

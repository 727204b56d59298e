package broker

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/peltonq/pelton"
)

func TestUntilStarted(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	ctx := t.Context()
	u := pelton.Unique{Key: "k", Until: pelton.UntilStarted}
	start := func(r *Record) *Record {
		t.Helper()
		r.State, r.StartedAt, r.Attempt, r.Carrier = pelton.Running, time.Now().UTC(), 1, 99
		must(t, b.SaveRecord(ctx, r))
		return r
	}
	first := once(t, b, aUnique(u)).Record
	_, err := b.EnqueueOnce(ctx, aUnique(u), Idempotency{})
	heldBy(t, err, first.ID)
	start(first)
	second := once(t, b, aUnique(u)).Record
	first = end(t, b, first.ID, pelton.Failed, true)
	_, err = b.EnqueueOnce(ctx, aUnique(u), Idempotency{})
	heldBy(t, err, second.ID)

	// What held the key and was started goes back without it, as often as it likes.
	for range 2 {
		back, err := b.Requeue(ctx, first.ID)
		if err != nil || !back.KeySpent || back.started() {
			t.Fatalf("requeue of a task that had started = %+v, %v", back, err)
		}
		end(t, b, first.ID, pelton.Cancelled, true)
	}
	_, err = b.EnqueueOnce(ctx, aUnique(u), Idempotency{})
	heldBy(t, err, second.ID)

	// What was cancelled before that needs it again.
	second = end(t, b, second.ID, pelton.Cancelled, true)
	third := once(t, b, aUnique(u)).Record
	_, err = b.Requeue(ctx, second.ID)
	heldBy(t, err, third.ID)
	start(third)
	_, err = b.Requeue(ctx, second.ID)
	must(t, err)
	_, err = b.EnqueueOnce(ctx, aUnique(u), Idempotency{})
	heldBy(t, err, second.ID)
}

func TestWindow(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	ctx := t.Context()
	u := pelton.Unique{Key: "k", Window: 3 * time.Second}
	r := aUnique(u)
	r.Retention = time.Second
	if r = once(t, b, r).Record; r.KeepUntil.Before(r.windowEnd()) {
		t.Errorf("the record is kept until %s, the window ends %s", r.KeepUntil, r.windowEnd())
	}
	for i, release := range []bool{false, true} { // by the record, then by the lock
		if i == 0 {
			end(t, b, r.ID, pelton.Succeeded, release)
		} else {
			over, err := b.LoadRecord(ctx, r.ID)
			must(t, err)
			must(t, b.ReleaseKey(ctx, over))
		}
		_, err := b.EnqueueOnce(ctx, aUnique(u), Idempotency{})
		heldBy(t, err, r.ID)
	}
	if lock, found := lockOf(t, b, r); !found || lock.FreeAt.IsZero() {
		t.Errorf("lock = %+v, %v", lock, found)
	}
	// Its own task may be put back, and then holds the key beyond the window.
	_, err := b.Requeue(ctx, r.ID)
	must(t, err)
	reaches(t, "the window to end", func() bool { return time.Now().After(r.windowEnd().Add(700 * time.Millisecond)) })
	_, err = b.EnqueueOnce(ctx, aUnique(u), Idempotency{})
	heldBy(t, err, r.ID)
	end(t, b, r.ID, pelton.Succeeded, true)
	if _, found := lockOf(t, b, r); found {
		t.Error("the lock of a task that is over stays behind")
	}

	// A released lock holds even without a record, as long as its window.
	r = once(t, b, aUnique(u)).Record
	must(t, b.DropRecord(ctx, end(t, b, r.ID, pelton.Succeeded, true)))
	_, err = b.EnqueueOnce(ctx, aUnique(pelton.Unique{Key: "k", OnConflict: pelton.ConflictExisting}), Idempotency{})
	heldBy(t, err, r.ID)
	reaches(t, "the window to end", func() bool { return time.Now().After(r.windowEnd()) })
	if _, found := lockOf(t, b, r); !found {
		t.Error("the lock went with its window")
	}
	once(t, b, aUnique(u))
}

func TestReplace(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	ctx := t.Context()
	u := pelton.Unique{Key: "k", OnConflict: pelton.ConflictReplace, Window: time.Hour}
	first := aUnique(u)
	first.State, first.RunAt = pelton.Scheduled, time.Now().Add(time.Hour)
	once(t, b, first)
	second := once(t, b, aUnique(u)).Record
	got, err := b.LoadRecord(ctx, first.ID)
	if err != nil || got.State != pelton.Cancelled || !got.Replaced || got.FinishedAt.IsZero() {
		t.Errorf("replaced task = %+v, %v", got, err)
	}
	if scheduled := pending(t, b, b.tasks(0), scheduledConsumer("q")); scheduled != 0 {
		t.Errorf("%d scheduled, want none", scheduled)
	}

	// A crash after the other task was cancelled: repeating takes the key.
	got, err = b.LoadRecord(ctx, second.ID)
	must(t, err)
	must(t, b.replace(ctx, got))
	third := once(t, b, aUnique(u)).Record

	// What has started is not replaced.
	third.State, third.StartedAt = pelton.Running, time.Now().UTC()
	must(t, b.SaveRecord(ctx, third))
	_, err = b.EnqueueOnce(ctx, aUnique(u), Idempotency{})
	heldBy(t, err, third.ID)
	// Nor is what waits for its retry, or is over and within its window.
	third.State, third.RunAt = pelton.Retrying, time.Now().Add(time.Hour)
	must(t, b.SaveRecord(ctx, third))
	_, err = b.EnqueueOnce(ctx, aUnique(u), Idempotency{})
	heldBy(t, err, third.ID)
	end(t, b, third.ID, pelton.Succeeded, true)
	_, err = b.EnqueueOnce(ctx, aUnique(u), Idempotency{})
	heldBy(t, err, third.ID)

	// A start that comes first wins.
	u.Key = "race"
	holder := once(t, b, aUnique(u)).Record
	stale := *holder
	holder.State, holder.StartedAt = pelton.Running, time.Now().UTC()
	must(t, b.SaveRecord(ctx, holder))
	must(t, b.replace(ctx, &stale))
	if got, err := b.LoadRecord(ctx, holder.ID); err != nil || got.State != pelton.Running {
		t.Errorf("started task = %+v, %v", got, err)
	}
}

// Many that replace each other leave one, and every other one cancelled.
func TestReplaceRace(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	var asking sync.WaitGroup
	ids := make([]pelton.ID, 16)
	for i := range ids {
		asking.Go(func() {
			out, err := b.EnqueueOnce(t.Context(), aUnique(pelton.Unique{Key: "k", OnConflict: pelton.ConflictReplace}), Idempotency{})
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = out.Record.ID
		})
	}
	asking.Wait()
	waiting := 0
	for _, id := range ids {
		switch r, err := b.LoadRecord(t.Context(), id); {
		case err != nil:
			t.Error(err)
		case r.State == pelton.Queued:
			waiting++
		case r.State != pelton.Cancelled || !r.Replaced:
			t.Errorf("task = %+v", r)
		}
	}
	if waiting != 1 {
		t.Errorf("%d tasks wait, want 1", waiting)
	}
}

// A message that the broker refuses leaves the record: others may have been told.
func TestRefusedUniqueTaskStays(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	must(t, b.EnsureLane(t.Context(), Lane{Queue: "q", Priority: pelton.Normal}))
	must(t, b.js.DeleteStream(t.Context(), b.tasks(0)))
	r := aUnique(pelton.Unique{Key: "k"})
	if _, err := b.EnqueueOnce(t.Context(), r, Idempotency{}); !errors.Is(err, pelton.ErrUnknownOutcome) {
		t.Errorf("error = %v, want ErrUnknownOutcome", err)
	}
	if _, err := b.LoadRecord(t.Context(), r.ID); err != nil {
		t.Errorf("record: %v", err)
	}
	// A record that is refused gives the keys back.
	must(t, b.js.DeleteStream(t.Context(), bucketStream(b.state(0))))
	r = aUnique(pelton.Unique{Key: "k2"})
	idem := Idempotency{Key: "i", Fingerprint: "f"}
	for _, i := range []Idempotency{{}, idem} {
		if _, err := b.EnqueueOnce(t.Context(), r, i); !errors.Is(err, pelton.ErrUnavailable) || errors.Is(err, pelton.ErrUnknownOutcome) {
			t.Errorf("error = %v, want ErrUnavailable", err)
		}
		if i.none() {
			if _, found := lockOf(t, b, r); found {
				t.Error("the unique key is still taken")
			}
		}
		var lock idempotencyLock
		if _, _, found, err := b.loadLock(t.Context(), b.idempotencyKey(idem), &lock); err != nil || found {
			t.Errorf("idempotency key: %v, %v", found, err)
		}
	}
}

// The lock of a task that is over is kept beyond its window: see freeKept.
func TestLockOutlivesItsWindow(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	const window = 5 * time.Second
	r := once(t, b, aUnique(pelton.Unique{Key: "k", Window: window})).Record
	end(t, b, r.ID, pelton.Cancelled, true)
	stream, err := b.js.Stream(t.Context(), bucketStream(b.locks()))
	must(t, err)
	last, err := stream.GetLastMsgForSubject(t.Context(), b.uniqueKey(r.Kind, "k"))
	must(t, err)
	ttl, err := time.ParseDuration(last.Header.Get("Nats-TTL") + "s")
	must(t, err)
	if ttl <= freeKept || ttl > window+freeKept+time.Second {
		t.Errorf("the lock is kept for %s: %s", ttl, last.Data)
	}
}

package broker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
)

// aUnique is a new task under a unique key.
func aUnique(u pelton.Unique) *Record {
	r := aRecord("q", pelton.Normal)
	if u.Until == "" {
		u.Until = pelton.UntilFinished
	}
	if u.OnConflict == "" {
		u.OnConflict = pelton.ConflictReject
	}
	r.Unique = &u
	return r
}

func once(t *testing.T, b *Broker, r *Record) Once {
	t.Helper()
	out, err := b.EnqueueOnce(t.Context(), r, Idempotency{})
	must(t, err)
	return out
}

// heldBy fails the test unless err says that holder has the key.
func heldBy(t *testing.T, err error, holder pelton.ID) {
	t.Helper()
	var conflict *pelton.UniqueError
	if !errors.As(err, &conflict) || conflict.Holder != holder || !errors.Is(err, pelton.ErrConflict) {
		t.Fatalf("error = %v, want a conflict with %s", err, holder)
	}
}

// end writes that the task is over, and releases its key if that is wanted: the
// process may die in between.
func end(t *testing.T, b *Broker, id pelton.ID, state pelton.State, release bool) *Record {
	t.Helper()
	r, err := b.LoadRecord(t.Context(), id)
	must(t, err)
	r.State, r.FinishedAt = state, time.Now().UTC().Truncate(time.Microsecond)
	must(t, b.SaveRecord(t.Context(), r))
	if release {
		must(t, b.ReleaseKey(t.Context(), r))
	}
	return r
}

// lockOf is the lock of a unique key as it stands, or false.
func lockOf(t *testing.T, b *Broker, r *Record) (uniqueLock, bool) {
	t.Helper()
	var lock uniqueLock
	_, _, found, err := b.loadLock(t.Context(), b.uniqueKey(r.Kind, r.Unique.Key), &lock)
	must(t, err)
	return lock, found
}

func TestKeyStanding(t *testing.T) {
	t.Parallel()
	now := time.Now()
	finished, started := pelton.Unique{Until: pelton.UntilFinished}, pelton.Unique{Until: pelton.UntilStarted}
	windowed := pelton.Unique{Until: pelton.UntilFinished, Window: time.Hour}
	at := func(u pelton.Unique, state pelton.State, change ...func(*Record)) *Record {
		r := aUnique(u)
		r.Unique, r.State, r.CreatedAt = &u, state, now.Add(-time.Minute)
		for _, fn := range change {
			fn(r)
		}
		return r
	}
	ran := func(r *Record) { r.StartedAt = now }
	epoch := func(n uint32) func(*Record) { return func(r *Record) { r.Epoch = n } }
	old := func(r *Record) { r.CreatedAt = now.Add(-2 * time.Hour) }
	spent := func(r *Record) { r.KeySpent = true }
	replaced := func(r *Record) { r.Replaced = true }
	for _, tc := range []struct {
		name   string
		lock   uniqueLock
		holder *Record
		want   keyStanding
	}{
		{"waits", uniqueLock{}, at(finished, pelton.Queued), keyHeld},
		{"scheduled", uniqueLock{}, at(finished, pelton.Scheduled), keyHeld},
		{"runs", uniqueLock{}, at(finished, pelton.Running, ran), keyHeld},
		{"retries", uniqueLock{}, at(finished, pelton.Retrying, ran, epoch(2)), keyHeld},
		{"over", uniqueLock{}, at(finished, pelton.Succeeded, ran), keyFree},
		{"cancelled", uniqueLock{}, at(finished, pelton.Cancelled), keyFree},
		{"failed at a later epoch", uniqueLock{}, at(finished, pelton.Failed, ran, epoch(3)), keyFree},
		{"expired", uniqueLock{}, at(finished, pelton.Expired), keyFree},
		{"no record", uniqueLock{}, nil, keyUnsettled},
		{"requeue under way", uniqueLock{Epoch: 1}, at(finished, pelton.Failed), keyUnsettled},
		{"requeued", uniqueLock{Epoch: 1}, at(finished, pelton.Queued, epoch(1)), keyHeld},
		{"requeued and over", uniqueLock{Epoch: 1}, at(finished, pelton.Failed, epoch(1)), keyFree},
		{"started: waits", uniqueLock{}, at(started, pelton.Queued), keyHeld},
		{"started: runs", uniqueLock{}, at(started, pelton.Running, ran), keyFree},
		{"started: waits for a retry", uniqueLock{}, at(started, pelton.Retrying, ran, epoch(1)), keyFree},
		{"started: was released", uniqueLock{}, at(started, pelton.Queued, ran), keyFree},
		{"started: requeued after it had started", uniqueLock{Epoch: 1}, at(started, pelton.Queued, epoch(1), spent), keyFree},
		{"window", uniqueLock{}, at(windowed, pelton.Succeeded), keyHeld},
		{"window over", uniqueLock{}, at(windowed, pelton.Succeeded, old), keyFree},
		{"window over, task is not", uniqueLock{}, at(windowed, pelton.Running, ran, old), keyHeld},
		{"window, requeue under way", uniqueLock{Epoch: 1}, at(windowed, pelton.Failed), keyHeld},
		{"window of a replaced task", uniqueLock{}, at(windowed, pelton.Cancelled, replaced), keyFree},
		{"only the window is left", uniqueLock{FreeAt: now.Add(time.Minute)}, nil, keyHeld},
		{"not even that", uniqueLock{FreeAt: now}, nil, keyFree},
	} {
		if got := tc.lock.standing(tc.holder, now); got != tc.want {
			t.Errorf("%s: %d, want %d", tc.name, got, tc.want)
		}
	}
	for _, tc := range []struct {
		r                  *Record
		wants, replaceable bool
	}{
		{at(finished, pelton.Queued), true, true},
		{at(finished, pelton.Scheduled), true, true},
		{at(finished, pelton.Queued, ran), true, false},
		{at(finished, pelton.Running, ran), true, false},
		{at(finished, pelton.Retrying, ran), true, false},
		{at(finished, pelton.Succeeded, ran), true, false},
		{at(started, pelton.Cancelled), true, false},
		{at(started, pelton.Succeeded, ran), false, false},
		{at(started, pelton.Cancelled, spent), false, false},
		{aRecord("q", pelton.Low), false, true},
	} {
		if wants, can := tc.r.wantsKey(), tc.r.replaceable(); wants != tc.wants || can != tc.replaceable {
			t.Errorf("%s, %+v: wants %v, replaceable %v", tc.r.State, tc.r.Unique, wants, can)
		}
	}
}

// Of many that ask at once from several processes, one gets the key, and the others
// are told which.
func TestOneOfManyGetsTheKey(t *testing.T) {
	t.Parallel()
	srv := brokertest.StartServer(t)
	brokers := make([]*Broker, 4)
	for i := range brokers {
		brokers[i] = openOn(t, brokertest.Connect(t, srv), Config{})
	}
	for _, conflict := range []pelton.OnConflict{pelton.ConflictReject, pelton.ConflictExisting} {
		var (
			asking sync.WaitGroup
			start  = make(chan struct{})
			outs   = make([]Once, 64)
			errs   = make([]error, 64)
		)
		for i := range outs {
			r := aUnique(pelton.Unique{Key: string(conflict), OnConflict: conflict})
			asking.Go(func() {
				<-start
				outs[i], errs[i] = brokers[i%len(brokers)].EnqueueOnce(t.Context(), r, Idempotency{})
			})
		}
		close(start)
		asking.Wait()
		var winner pelton.ID
		for i, out := range outs {
			if errs[i] == nil && !out.Existing {
				if !winner.IsZero() {
					t.Fatalf("%s: two tasks for one key: %s and %s", conflict, winner, out.Record.ID)
				}
				winner = out.Record.ID
			}
		}
		if winner.IsZero() {
			t.Fatalf("%s: nobody got the key: %v", conflict, errs[0])
		}
		for i, out := range outs {
			switch {
			case errs[i] != nil && conflict == pelton.ConflictReject:
				heldBy(t, errs[i], winner)
			case errs[i] != nil || out.Record.ID != winner:
				t.Errorf("%s: answer %d is %+v, %v", conflict, i, out.Record, errs[i])
			}
		}
	}
	// Each process that answers with a task that waits makes sure of its message.
	if n := len(readyOf(t, brokers[0])); n < 2 || n > 2+len(brokers) {
		t.Errorf("%d ready, want 2 and at most one copy of each process", n)
	}
}

// Keys of different kinds do not meet; queues and priorities make no difference.
func TestScopeOfAKey(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	first := once(t, b, aUnique(pelton.Unique{Key: "k"})).Record
	elsewhere := aUnique(pelton.Unique{Key: "k"})
	elsewhere.Queue, elsewhere.Priority = "other", pelton.Low
	_, err := b.EnqueueOnce(t.Context(), elsewhere, Idempotency{})
	heldBy(t, err, first.ID)
	kind := aUnique(pelton.Unique{Key: "k"})
	kind.Kind = "other.kind"
	once(t, b, kind)
	once(t, b, aUnique(pelton.Unique{Key: "K"}))
	once(t, b, aUnique(pelton.Unique{Key: "ключ *.> \u00a0 " + fmt.Sprint(rand.Int())}))
}

// What a crash leaves in each gap, and that the key comes free when it should.
func TestUniqueCrashWindows(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	b.keyGrace = 20 * time.Millisecond
	ctx := t.Context()
	u := func(key string) pelton.Unique { return pelton.Unique{Key: key} }

	// After the lock: the key is taken.
	lost := aUnique(u("lock"))
	must(t, b.takeKey(ctx, lost, 0))
	once(t, b, aUnique(u("lock")))

	// After the record: the task holds the key, and the sweep publishes it.
	lost = aUnique(u("record"))
	lost.Queue = "another" // its message is missed when the lane has no older one
	must(t, b.takeKey(ctx, lost, 0))
	must(t, b.SaveRecord(ctx, lost))
	_, err := b.EnqueueOnce(ctx, aUnique(u("record")), Idempotency{})
	heldBy(t, err, lost.ID)
	sweeper := b.NewSweeper()
	sweeper.now = func() time.Time { return time.Now().Add(time.Hour) }
	_, err = sweeper.Step(ctx, 1000)
	must(t, err)
	ready := map[pelton.ID]bool{}
	for _, e := range readyOf(t, b) {
		ready[e.ID] = true
	}
	if !ready[lost.ID] {
		t.Errorf("the sweep did not publish %s: %v", lost.ID, ready)
	}

	// Between the end and the release: the record says that the task is over.
	for _, state := range []pelton.State{pelton.Succeeded, pelton.Failed, pelton.Cancelled, pelton.Expired} {
		end(t, b, once(t, b, aUnique(u("end"))).Record.ID, state, false)
	}
	// A late release does not touch the next holder.
	over := end(t, b, once(t, b, aUnique(u("end"))).Record.ID, pelton.Succeeded, false)
	next := once(t, b, aUnique(u("end"))).Record
	must(t, b.ReleaseKey(ctx, over))
	_, err = b.EnqueueOnce(ctx, aUnique(u("end")), Idempotency{})
	heldBy(t, err, next.ID)

	// The record is gone before anybody asks for the key.
	r := aUnique(u("forgotten"))
	r.Retention = time.Second
	forgotten := end(t, b, once(t, b, r).Record.ID, pelton.Succeeded, false)
	reaches(t, "the record to expire", func() bool {
		_, err := b.LoadRecord(ctx, forgotten.ID)
		return errors.Is(err, pelton.ErrNotFound)
	})
	once(t, b, aUnique(u("forgotten")))
}

// The wait for another's record ends with ctx, and nothing is left behind.
func TestWaitForAKeyEndsWithCtx(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	b.keyGrace = time.Hour
	must(t, b.takeKey(t.Context(), aUnique(pelton.Unique{Key: "k"}), 0))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	r := aUnique(pelton.Unique{Key: "k"})
	if _, err := b.EnqueueOnce(ctx, r, Idempotency{}); !errors.Is(err, pelton.ErrUnavailable) {
		t.Errorf("error = %v, want ErrUnavailable", err)
	}
	if _, err := b.LoadRecord(t.Context(), r.ID); !errors.Is(err, pelton.ErrNotFound) {
		t.Errorf("record: %v", err)
	}
}

// A lock that somebody else wrote is an error, not a free key.
func TestForeignLock(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	r := aUnique(pelton.Unique{Key: "k"})
	must(t, b.conn.nc.PublishMsg(&nats.Msg{Subject: b.uniqueKey(r.Kind, "k"), Data: []byte("?")}))
	if _, err := b.EnqueueOnce(t.Context(), r, Idempotency{}); !errors.Is(err, ErrMalformed) {
		t.Errorf("error = %v, want ErrMalformed", err)
	}
}

// Locks that were left behind by keys which never come back go with the sweep, and
// those that are held stay.
func TestSweepReleasesKeysThatNobodyHolds(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	ctx := t.Context()
	lost := aUnique(pelton.Unique{Key: "enqueuer died"})
	must(t, b.takeKey(ctx, lost, 0))
	over := end(t, b, once(t, b, aUnique(pelton.Unique{Key: "worker died"})).Record.ID, pelton.Cancelled, false)
	dead := end(t, b, once(t, b, aUnique(pelton.Unique{Key: "requeue died"})).Record.ID, pelton.Cancelled, true)
	must(t, b.takeKey(ctx, dead, 1))
	waits := once(t, b, aUnique(pelton.Unique{Key: "waits"})).Record
	windowed := end(t, b, once(t, b, aUnique(pelton.Unique{Key: "window", Window: time.Hour})).Record.ID, pelton.Cancelled, false)
	if swept := sweep(t, b.NewSweeper()); swept.Keys != 0 {
		t.Errorf("young locks: %+v", swept)
	}
	if swept := sweep(t, aged(b)); swept.Keys != 3 {
		t.Errorf("swept %+v, want three keys", swept)
	}
	for r, want := range map[*Record]bool{lost: false, over: false, dead: false, waits: true, windowed: true} {
		if _, found := lockOf(t, b, r); found != want {
			t.Errorf("lock of %q is there: %v", r.Unique.Key, found)
		}
	}
	// Whoever was not dead but slow has lost the key.
	if _, err := (&onceEnqueue{b: b, r: lost}).create(ctx); !errors.Is(err, errBurnt) {
		t.Errorf("create = %v, want errBurnt", err)
	}
	dead.restart(time.Now())
	if err := b.SaveRecord(ctx, dead); !errors.Is(err, ErrStale) {
		t.Errorf("requeue = %v, want ErrStale", err)
	}
	if swept := sweep(t, aged(b)); swept.Keys != 0 {
		t.Errorf("second round: %+v", swept)
	}
}

// A fence stays, although the bucket forgets the places of expired keys: the server
// limits only the markers that it makes itself. The next write of the key expects it.
func TestFactMarkerWithoutTTLStays(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	cfg := bucket("short", "", 1, false)
	cfg.SubjectDeleteMarkerTTL = time.Second
	_, err := b.js.CreateStream(t.Context(), cfg)
	must(t, err)
	fence := write{subject: "$KV.short.fence", header: deleteMarker()}
	_, err = b.do(t.Context(), fence)
	must(t, err)
	_, err = b.do(t.Context(), write{subject: "$KV.short.expires", ttl: time.Second})
	must(t, err)
	reaches(t, "the key to expire, and its marker to go", func() bool {
		_, err := b.get(t.Context(), cfg.Name, getRequest{LastFor: "$KV.short.expires"}, false)
		return errors.Is(err, pelton.ErrNotFound)
	})
	if _, err := b.do(t.Context(), fence); !errors.Is(err, ErrStale) {
		t.Errorf("write that expects no fence = %v, want ErrStale", err)
	}
}

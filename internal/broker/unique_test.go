package broker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
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
	if n := len(readyOf(t, brokers[0])); n != 2 {
		t.Errorf("%d ready, want 2", n)
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

// An enqueuer that stalls after it took the key, for however long, does not get a
// second task in when it wakes: it is told who has the key, or has it again.
func TestEnqueuerStallsBeforeItsRecord(t *testing.T) {
	t.Parallel()
	srv := brokertest.StartServer(t)
	a, b := openOn(t, brokertest.Connect(t, srv), Config{}), openOn(t, brokertest.Connect(t, srv), Config{})
	b.keyGrace = 50 * time.Millisecond
	for _, over := range []bool{false, true} {
		u := pelton.Unique{Key: fmt.Sprint(over)}
		stalled := onceEnqueue{b: a, r: aUnique(u)}
		must(t, a.ensure(t.Context(), stalled.r))
		must(t, a.takeKey(t.Context(), stalled.r, 0))
		burnt := stalled.r.ID

		began := time.Now()
		other := once(t, b, aUnique(u)).Record
		if waited := time.Since(began); waited < b.keyGrace {
			t.Errorf("took the key after %s, without a grace", waited)
		}
		if over {
			end(t, b, other.ID, pelton.Succeeded, true)
		}

		if _, err := stalled.create(t.Context()); !errors.Is(err, errBurnt) {
			t.Fatalf("create after the key was taken = %v, want errBurnt", err)
		}
		out, err := stalled.run(t.Context())
		if over {
			must(t, err)
			if out.Record.ID == burnt || out.Existing || out.Replayed {
				t.Errorf("out = %+v", out)
			}
		} else {
			heldBy(t, err, other.ID)
		}
		if _, err := a.LoadRecord(t.Context(), burnt); !errors.Is(err, pelton.ErrNotFound) {
			t.Errorf("fenced task: %v, want ErrNotFound", err)
		}
		marker, err := b.get(t.Context(), bucketStream(b.state(0)), getRequest{LastFor: b.record(burnt)}, false)
		if err != nil || !marker.deleted() || marker.header.Get(headerTTL) != "" {
			t.Errorf("fence = %+v, %v, want a marker that stays", marker, err)
		}
	}
}

// The same for a requeue, of a task with a record and of one that only its dead
// letter is left of.
func TestRequeueStallsBeforeItsRecord(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	b.keyGrace = 0
	for _, gone := range []bool{false, true} {
		u := pelton.Unique{Key: fmt.Sprint(gone)}
		task := once(t, b, aUnique(u)).Record
		task = end(t, b, task.ID, pelton.Failed, true)
		must(t, b.PublishDead(t.Context(), task))
		stalled := *task
		if gone {
			must(t, b.DropRecord(t.Context(), task))
			vacancy, err := b.vacancy(t.Context(), task.ID)
			must(t, err)
			stalled.Revision = vacancy
		}
		must(t, b.takeKey(t.Context(), &stalled, stalled.Epoch+1))

		other := once(t, b, aUnique(u)).Record
		stalled.restart(time.Now())
		if err := b.SaveRecord(t.Context(), &stalled); !errors.Is(err, ErrStale) {
			t.Fatalf("write of the stalled requeue = %v, want ErrStale", err)
		}
		got, err := b.Requeue(t.Context(), task.ID)
		heldBy(t, err, other.ID)
		if got == nil || got.State != pelton.Failed {
			t.Errorf("the conflict comes with %+v", got)
		}
		end(t, b, other.ID, pelton.Succeeded, false)
		if got, err = b.Requeue(t.Context(), task.ID); err != nil || got.State != pelton.Queued {
			t.Fatalf("requeue with a free key = %+v, %v", got, err)
		}
		_, err = b.EnqueueOnce(t.Context(), aUnique(u), Idempotency{})
		heldBy(t, err, task.ID)
	}
}

// A requeue that reads its record after the fence takes the lock from the one that
// fenced: naming the task already, it is written again.
func TestRequeueBetweenFenceAndLock(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	u := pelton.Unique{Key: "k"}
	task := end(t, b, once(t, b, aUnique(u)).Record.ID, pelton.Failed, true)
	dead := *task
	must(t, b.takeKey(t.Context(), &dead, 1)) // and the process dies
	var lock uniqueLock
	seq, _, _, err := b.loadLock(t.Context(), b.uniqueKey(task.Kind, "k"), &lock)
	must(t, err)
	holder, err := b.LoadRecord(t.Context(), task.ID)
	must(t, err)
	fenced, err := b.fence(t.Context(), lock.ID, holder)
	if err != nil || !fenced {
		t.Fatalf("fence = %v, %v", fenced, err)
	}
	if _, err := b.Requeue(t.Context(), task.ID); err != nil {
		t.Fatal(err)
	}
	w, err := lockWrite(b.uniqueKey(task.Kind, "k"), uniqueLock{ID: pelton.NewID(time.Now(), 0)}, seq, 0)
	must(t, err)
	if _, err := b.do(t.Context(), w); !errors.Is(err, ErrStale) {
		t.Errorf("lock after the fence = %v, want ErrStale", err)
	}
}

// Whatever processes do, and wherever they die, two tasks never hold a key. There is
// no grace here, so everybody takes keys from everybody in the middle of their work.
func TestExclusionWithoutGrace(t *testing.T) {
	t.Parallel()
	srv := brokertest.StartServer(t)
	const processes, rounds, most = 8, 60, 200
	var (
		held     atomic.Int32
		accepted atomic.Int32
		fenced   atomic.Int32
		working  sync.WaitGroup
	)
	u := pelton.Unique{Key: "k"}
	for p := range processes {
		b := openOn(t, brokertest.Connect(t, srv), Config{})
		b.keyGrace = 0
		random := rand.New(rand.NewPCG(uint64(p), 1))
		working.Go(func() {
			ctx := t.Context()
			var last pelton.ID
			for round := 0; round < rounds || round < most && fenced.Load() < 3; round++ {
				var got *Record
				var err error
				switch n := random.IntN(10); {
				case n < 2: // dies with the key in its hand
					_ = b.takeKey(ctx, aUnique(u), 0)
					continue
				case n < 4 && !last.IsZero():
					got, err = b.Requeue(ctx, last)
				default:
					r := aUnique(u)
					id := r.ID
					var out Once
					out, err = b.EnqueueOnce(ctx, r, Idempotency{})
					if got = out.Record; err == nil && got.ID != id {
						fenced.Add(1)
					}
				}
				if errors.Is(err, pelton.ErrConflict) {
					continue
				}
				if err != nil {
					t.Errorf("process %d: %v", p, err)
					return
				}
				if n := held.Add(1); n != 1 {
					t.Errorf("%d tasks hold the key", n)
				}
				accepted.Add(1)
				last = got.ID
				got.State, got.FinishedAt = pelton.Succeeded, time.Now().UTC()
				held.Add(-1)
				if err := b.SaveRecord(ctx, got); err != nil {
					t.Errorf("end of the task: %v", err)
				}
				if random.IntN(2) == 0 {
					_ = b.ReleaseKey(ctx, got)
				}
			}
		})
	}
	working.Wait()
	t.Logf("%d tasks, %d of them after their first id was fenced", accepted.Load(), fenced.Load())
	if accepted.Load() < processes {
		t.Errorf("%d tasks in %d rounds", accepted.Load(), processes*rounds)
	}
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

	// A released lock goes by itself; until then it holds even without a record.
	r = once(t, b, aUnique(u)).Record
	must(t, b.DropRecord(ctx, end(t, b, r.ID, pelton.Succeeded, true)))
	_, err = b.EnqueueOnce(ctx, aUnique(pelton.Unique{Key: "k", OnConflict: pelton.ConflictExisting}), Idempotency{})
	heldBy(t, err, r.ID)
	reaches(t, "the lock to go", func() bool { _, found := lockOf(t, b, r); return !found })
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
	must(t, b.EnsureLane(t.Context(), "q", pelton.Normal))
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

package broker

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
)

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

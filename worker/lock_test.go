package worker_test

import (
	"context"
	"encoding/json"
	"errors"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
	"github.com/peltonq/pelton/producer"
	"github.com/peltonq/pelton/worker"
)

// unlock is Unlock that must go well.
func unlock(t *testing.T, lock *worker.Held) {
	t.Helper()
	if err := lock.Unlock(); err != nil {
		t.Errorf("Unlock: %v", err)
	}
}

// TestLockExcludes has three workers on connections of their own take locks of
// one slot and of three. Nobody ever meets more than may be there, the semaphore
// is used in full, and tokens grow in the order of acquisition.
func TestLockExcludes(t *testing.T) {
	t.Parallel()
	srv := brokertest.StartServer(t)
	r := rigOn(t, brokertest.Connect(t, srv), producer.Config{})
	g := newGauge()
	var mu sync.Mutex
	last, tokens, together := uint64(0), map[uint64]bool{}, make(chan struct{})
	r.on("one", func(ctx context.Context, _ *pelton.Task) (json.RawMessage, error) {
		lock, err := worker.Lock(ctx, "one")
		if err != nil {
			return nil, err
		}
		defer unlock(t, lock)
		defer g.enter("one")()
		mu.Lock()
		defer mu.Unlock()
		if lock.Token() <= last {
			t.Errorf("token %d after %d", lock.Token(), last)
		}
		last = lock.Token()
		return nil, nil
	})
	r.on("three", func(ctx context.Context, _ *pelton.Task) (json.RawMessage, error) {
		lock, err := worker.Lock(ctx, "three", worker.Slots(3))
		if err != nil {
			return nil, err
		}
		defer unlock(t, lock)
		defer g.enter("three")()
		mu.Lock()
		if tokens[lock.Token()] {
			t.Errorf("token %d given twice", lock.Token())
		}
		tokens[lock.Token()] = true
		if len(tokens) == 3 {
			close(together)
		}
		mu.Unlock()
		select {
		case <-together: // the first three wait for each other
		case <-lock.Context().Done():
			t.Errorf("lost: %v", context.Cause(lock.Context()))
		}
		select {
		case <-time.After(2 * time.Millisecond):
		case <-lock.Context().Done():
			t.Errorf("lost: %v", context.Cause(lock.Context()))
		}
		return nil, nil
	})
	for range 3 {
		runOn(t, brokertest.Connect(t, srv), r.Mux, worker.Config{Concurrency: 8})
	}
	ids := append(r.enqueueMany(t, 100, "one"), r.enqueueMany(t, 100, "three")...)
	r.succeeds(t, ids...)
	if one, three := g.peak("one"), g.peak("three"); one != 1 || three != 3 {
		t.Errorf("%d held the lock at a time, and %d the semaphore of 3", one, three)
	}
}

// holding registers a kind that takes a lock and holds it until released is
// closed, and tells of the lock.
func (r *rig) holding(kind, name string, released <-chan struct{}, opts ...worker.LockOption) <-chan *worker.Held {
	held := make(chan *worker.Held, 10)
	r.on(kind, func(ctx context.Context, _ *pelton.Task) (json.RawMessage, error) {
		lock, err := worker.Lock(ctx, name, opts...)
		if err != nil {
			return nil, pelton.Discard(err)
		}
		held <- lock
		select {
		case <-released:
			return nil, nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	})
	return held
}

// in runs fn in a handler and gives its error.
func (r *rig) in(t *testing.T, kind string, fn func(ctx context.Context) error) (call func() error) {
	errs := make(chan error, 1)
	r.on(kind, func(ctx context.Context, _ *pelton.Task) (json.RawMessage, error) {
		errs <- fn(ctx)
		return nil, nil
	})
	return func() error {
		t.Helper()
		r.enqueue(t, kind)
		return receive(t, errs, "end of "+kind)
	}
}

func TestTryLock(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	released := make(chan struct{})
	held := r.holding("holder", "a/b *", released)
	try := r.in(t, "try", func(ctx context.Context) error {
		lock, err := worker.TryLock(ctx, "a/b *")
		if err == nil {
			err = lock.Unlock()
		}
		return err
	})
	mismatch := r.in(t, "mismatch", func(ctx context.Context) error { _, err := worker.Lock(ctx, "a/b *", worker.Slots(2)); return err })
	other := r.in(t, "other", func(ctx context.Context) error { _, err := worker.TryLock(ctx, "a/b", worker.Slots(2)); return err })
	w := r.run(t, worker.Config{})
	if err := try(); err != nil {
		t.Errorf("a free lock: %v", err)
	}
	task := r.enqueue(t, "holder")
	receive(t, held, "lock")
	err := try()
	if !errors.Is(err, pelton.ErrConflict) || !strings.Contains(err.Error(), "held by task "+task.ID.String()+" (holder) on worker "+w.ID()) {
		t.Errorf("a held lock: %v", err)
	}
	err = mismatch()
	if !errors.Is(err, pelton.ErrInvalid) || errors.Is(err, pelton.ErrConflict) || !strings.Contains(err.Error(), "2 slots for this handler and 1 for the one that holds it") {
		t.Errorf("another number of slots: %v", err)
	}
	if err := other(); err != nil {
		t.Errorf("another lock: %v", err)
	}
	close(released)
	r.succeeds(t, task.ID)
	if err := try(); err != nil {
		t.Errorf("a released lock: %v", err)
	}
}

func TestLockRefusesWhatMakesNoSense(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for want, call := range map[string]func(ctx context.Context) error{
		"is empty":  func(ctx context.Context) error { _, err := worker.Lock(ctx, ""); return err },
		"U+000A":    func(ctx context.Context) error { _, err := worker.TryLock(ctx, "a\n"); return err },
		"0 slots":   func(ctx context.Context) error { _, err := worker.Lock(ctx, "a", worker.Slots(0)); return err },
		"257 slots": func(ctx context.Context) error { _, err := worker.Lock(ctx, "a", worker.Slots(257)); return err },
		"lease 999ms": func(ctx context.Context) error {
			_, err := worker.Lock(ctx, "a", worker.Lease(999*time.Millisecond))
			return err
		},
		"lease 1h0m1s": func(ctx context.Context) error {
			_, err := worker.Lock(ctx, "a", worker.Lease(time.Hour+time.Second))
			return err
		},
		"that of a han": func(context.Context) error { _, err := worker.Lock(t.Context(), "a"); return err },
	} {
		kind := strings.Map(func(r rune) rune {
			if strings.ContainsRune(" +", r) {
				return '-'
			}
			return r
		}, want)
		call := r.in(t, kind, call)
		defer func() {
			if err := call(); !errors.Is(err, pelton.ErrInvalid) || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want ErrInvalid with %q", err, want)
			}
		}()
	}
	r.run(t, worker.Config{})
}

// TestLockWaitsNoLongerThanItsContext: the ctx given to Lock bounds the waiting,
// and the lock lives as long as the handler's.
func TestLockWaitsNoLongerThanItsContext(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	released := make(chan struct{})
	held := r.holding("holder", "x", released)
	type key struct{}
	bounded := r.in(t, "bounded", func(ctx context.Context) error {
		waiting, cancel := context.WithCancelCause(context.WithValue(ctx, key{}, "mine"))
		defer cancel(nil)
		free, err := worker.Lock(waiting, "y")
		if err != nil {
			return err
		}
		time.AfterFunc(time.Second, func() { cancel(errors.New("too long")) })
		_, err = worker.Lock(waiting, "x")
		if free.Context().Err() != nil || free.Context().Value(key{}) != "mine" {
			t.Errorf("ctx of a lock ended with the wait for another: %v", context.Cause(free.Context()))
		}
		deadline, _ := free.Context().Deadline()
		if want, _ := ctx.Deadline(); !deadline.Equal(want) {
			t.Errorf("deadline %s, want the handler's %s", deadline, want)
		}
		unlock(t, free)
		unlock(t, free)
		if free.Context().Err() == nil {
			t.Error("ctx of a lock outlives it")
		}
		return err
	})
	r.run(t, worker.Config{})
	task := r.enqueue(t, "holder")
	receive(t, held, "lock")
	if err := bounded(); err == nil || !strings.Contains(err.Error(), "too long: held by task "+task.ID.String()) {
		t.Errorf("Lock = %v", err)
	}
	close(released)
	r.succeeds(t, task.ID)
}

// TestLockIsRenewed holds a lock for longer than two leases.
func TestLockIsRenewed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	released := make(chan struct{})
	const lease = 6 * time.Second // renewed every two seconds, lost after four
	held := r.holding("holder", "x", released, worker.Lease(lease))
	tries := r.in(t, "tries", func(ctx context.Context) error {
		end := time.After(2*lease + time.Second)
		for {
			switch lock, err := worker.TryLock(ctx, "x"); {
			case err == nil:
				return errors.Join(errors.New("taken from its holder"), lock.Unlock())
			case !errors.Is(err, pelton.ErrConflict):
				return err
			}
			select {
			case <-end:
				return nil
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
	r.run(t, worker.Config{})
	task := r.enqueue(t, "holder")
	lock := receive(t, held, "lock")
	if err := tries(); err != nil {
		t.Error(err)
	}
	if err := context.Cause(lock.Context()); err != nil {
		t.Errorf("lost: %v", err)
	}
	close(released)
	r.succeeds(t, task.ID)
}

// TestLocksOfEveryEndAreReleased ends a handler that holds two locks in every way,
// and takes them at once in another one, long before the lease would be over.
func TestLocksOfEveryEndAreReleased(t *testing.T) {
	t.Parallel()
	forever := make(chan struct{})
	defer close(forever)
	for name, end := range map[string]struct {
		handler func(ctx context.Context) error // called with the locks held
		opts    []pelton.Option
		act     func(t *testing.T, r *rig, w *process, id pelton.ID)
	}{
		"return": {handler: func(context.Context) error { return nil }},
		"error":  {handler: func(context.Context) error { return pelton.Discard(errors.New("no")) }},
		"retry":  {handler: func(context.Context) error { return pelton.RetryAfter(time.Hour, errors.New("later")) }},
		"snooze": {handler: func(context.Context) error { return pelton.Snooze(time.Hour) }},
		"panic":  {handler: func(context.Context) error { panic("oh") }, opts: []pelton.Option{pelton.WithMaxAttempts(1)}},
		"goexit": {handler: func(context.Context) error { runtime.Goexit(); return nil }, opts: []pelton.Option{pelton.WithMaxAttempts(1)}},
		"timeout": {
			handler: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
			opts:    []pelton.Option{pelton.WithTimeout(2 * time.Second), pelton.WithMaxAttempts(1)}, // long enough to get there
		},
		"deaf": {
			handler: func(context.Context) error { <-forever; return nil },
			opts:    []pelton.Option{pelton.WithTimeout(2 * time.Second), pelton.WithMaxAttempts(1)}, // long enough to get there
		},
		"cancel": {
			handler: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
			act: func(t *testing.T, r *rig, _ *process, id pelton.ID) {
				if _, err := r.client.Cancel(t.Context(), id); err != nil {
					t.Error(err)
				}
			},
		},
		"shutdown": {
			handler: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
			act: func(t *testing.T, _ *rig, w *process, _ pelton.ID) {
				if err := w.stop(t); !errors.Is(err, pelton.ErrGraceExceeded) {
					t.Errorf("Run = %v, want ErrGraceExceeded", err)
				}
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			held := make(chan *worker.Held, 2)
			r.on("ends", func(ctx context.Context, _ *pelton.Task) (json.RawMessage, error) {
				for _, name := range []string{"a", "b"} {
					lock, err := worker.Lock(ctx, name, worker.Slots(2))
					if err != nil {
						return nil, err
					}
					held <- lock
				}
				return nil, end.handler(ctx)
			})
			grace := 10 * time.Second
			if name == "shutdown" {
				grace = 10 * time.Millisecond
			}
			w := runOn(t, r.nc, r.Mux, worker.Config{Grace: grace}, func(w *worker.Worker) { w.SetLinger(50 * time.Millisecond) })
			id := r.enqueue(t, "ends", end.opts...).ID
			first, second := receive(t, held, "lock"), receive(t, held, "lock")
			if end.act != nil {
				end.act(t, r, w, id)
			}
			b := r.broker(t)
			began := time.Now()
			eventually(t, "the locks are free", func() bool {
				locks, err := b.Locks(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				return len(locks) == 0
			})
			if took := time.Since(began); took > 15*time.Second { // half the lease
				t.Errorf("released after %s", took)
			}
			eventually(t, "the ctx of both has ended", func() bool { return first.Context().Err() != nil && second.Context().Err() != nil })
		})
	}
}

// A goroutine that outlives its handler gets no locks, and keeps none.
func TestNoLocksAfterTheHandler(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	contexts := make(chan context.Context, 1)
	r.on("k", func(ctx context.Context, _ *pelton.Task) (json.RawMessage, error) {
		contexts <- ctx
		return nil, nil
	})
	r.run(t, worker.Config{})
	r.succeeds(t, r.enqueue(t, "k").ID)
	ctx := context.WithoutCancel(receive(t, contexts, "ctx"))
	if lock, err := worker.Lock(ctx, "late"); err == nil {
		t.Errorf("a handler that is over got lock %s", lock.Name())
	}
	if locks, err := r.broker(t).Locks(t.Context()); err != nil || len(locks) != 0 {
		t.Errorf("locks = %+v, %v", locks, err)
	}
}

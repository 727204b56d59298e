package peltontest_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/peltontest"
	"github.com/peltonq/pelton/worker"
)

// Handlers that run without a broker lock among each other, by the same rules.
func TestLocksWithoutABroker(t *testing.T) {
	t.Parallel()
	type none struct{}
	mux := worker.NewMux()
	var inside, peak atomic.Int32
	guarded := pelton.NewKind[int, uint64]("guarded")
	worker.Handle(mux, guarded, func(ctx context.Context, slots int) (uint64, error) {
		lock, err := worker.Lock(ctx, "x", worker.Slots(slots))
		if err != nil {
			return 0, err
		}
		defer func() {
			if err := lock.Unlock(); err != nil {
				t.Error(err)
			}
		}()
		defer inside.Add(-1)
		if n := inside.Add(1); n > peak.Load() {
			peak.Store(n)
		}
		select {
		case <-time.After(time.Millisecond):
		case <-lock.Context().Done():
		}
		return lock.Token(), context.Cause(lock.Context())
	})
	forgetful := pelton.NewKind[none, none]("forgetful")
	worker.Handle(mux, forgetful, func(ctx context.Context, _ none) (none, error) {
		_, err := worker.TryLock(ctx, "forgotten")
		return none{}, err
	})
	panicking := pelton.NewKind[none, none]("panicking")
	worker.Handle(mux, panicking, func(ctx context.Context, _ none) (none, error) {
		if _, err := worker.TryLock(ctx, "forgotten"); err != nil {
			t.Error(err)
		}
		panic("oh")
	})
	twice := pelton.NewKind[none, none]("twice")
	worker.Handle(mux, twice, func(ctx context.Context, _ none) (none, error) {
		if _, err := worker.Lock(ctx, "y"); err != nil {
			t.Error(err)
		}
		if _, err := worker.Lock(ctx, "y", worker.Slots(2)); !errors.Is(err, pelton.ErrInvalid) || !strings.Contains(err.Error(), "2 slots") {
			t.Errorf("another number of slots: %v", err)
		}
		if _, err := worker.TryLock(ctx, "y"); !errors.Is(err, pelton.ErrConflict) || !strings.Contains(err.Error(), "(twice)") {
			t.Errorf("a held lock: %v", err)
		}
		_, err := worker.Lock(ctx, "y") // waits for itself
		return none{}, err
	})

	for _, slots := range []int{1, 3} {
		peak.Store(0)
		var mu sync.Mutex
		seen := map[uint64]bool{}
		var running sync.WaitGroup
		for range 20 {
			running.Go(func() {
				token, err := peltontest.Run(t, mux, guarded, slots)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				if seen[token] || token == 0 {
					t.Errorf("token %d given twice", token)
				}
				seen[token] = true
			})
		}
		running.Wait()
		if got := peak.Load(); int(got) != slots {
			t.Errorf("%d held a lock of %d slots at a time", got, slots)
		}
	}
	for range 2 {
		if _, err := peltontest.Run(t, mux, forgetful, none{}); err != nil {
			t.Errorf("a lock that a handler forgot is still held: %v", err)
		}
		func() {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			_, _ = peltontest.Run(t, mux, panicking, none{})
		}()
	}
	if _, err := peltontest.Run(t, mux, twice, none{}, pelton.WithTimeout(50*time.Millisecond)); !errors.Is(err, pelton.ErrTimeout) {
		t.Errorf("Lock until the timeout = %v, want ErrTimeout", err)
	}

	// Called directly, a handler locks for itself.
	ctx := worker.WithTask(t.Context(), &pelton.Task{Kind: "direct"})
	lock, err := worker.Lock(ctx, "x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := worker.TryLock(ctx, "x"); !errors.Is(err, pelton.ErrConflict) {
		t.Errorf("a held lock: %v", err)
	}
	if err := lock.Unlock(); err != nil {
		t.Error(err)
	}
	if _, err := mux.ServeTask(t.Context(), &pelton.Task{Kind: "forgetful"}); !errors.Is(err, pelton.ErrInvalid) {
		t.Errorf("Lock without a task = %v, want ErrInvalid", err)
	}
}

package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
)

// aPermit asks for a permit of a lock; grant also names its holder.
func aPermit(name string, slots int, lease time.Duration, grant string) *Permit {
	return NewPermit(name, slots, lease, grant, pelton.LockHolder{TaskID: pelton.NewID(time.Now(), 0), Kind: "k", Worker: grant, Fence: 7})
}

// take takes the lowest free permit of the lock.
func take(t *testing.T, b *Broker, name string, slots int, lease time.Duration, grant string) *Permit {
	t.Helper()
	state, err := b.LockState(t.Context(), name)
	must(t, err)
	p := aPermit(name, slots, lease, grant)
	var free bool
	if p.Index, free = state.Free(slots); !free {
		t.Fatalf("no permit of %q is free", name)
	}
	must(t, b.TakeLock(t.Context(), state, p))
	return p
}

func holderTokens(t *testing.T, b *Broker, name string) []uint64 {
	t.Helper()
	state, err := b.LockState(t.Context(), name)
	must(t, err)
	tokens := []uint64{}
	for _, p := range state.Permits {
		tokens = append(tokens, p.Token)
	}
	return tokens
}

func TestLockKeysAreReversible(t *testing.T) {
	t.Parallel()
	n := names{"pelton"}
	rapid.Check(t, func(t *rapid.T) {
		name, index := rapid.String().Draw(t, "name"), rapid.IntRange(0, 255).Draw(t, "index")
		key := n.lockKey(name, index)
		if strings.ContainsAny(strings.TrimPrefix(key, "$KV.pelton_LOCKS."), " *>$") {
			t.Fatalf("key %q", key)
		}
		gotName, gotIndex, ok := n.parseLockKey(key)
		if !ok || gotName != name || gotIndex != index {
			t.Fatalf("%q is read as %q, %d, %v", key, gotName, gotIndex, ok)
		}
	})
	for _, subject := range []string{"$KV.pelton_LOCKS.unique.YQ.0", "$KV.pelton_LOCKS.lock.YQ", "$KV.pelton_LOCKS.lock.Y!.0", "$KV.pelton_LOCKS.lock.YQ.x"} {
		if _, _, ok := n.parseLockKey(subject); ok {
			t.Errorf("%q is read as a permit", subject)
		}
	}
}

// A lock's life: taken, renewed, released, taken again under a greater token.
func TestLockLife(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	first := take(t, b, "x", 1, 1500*time.Millisecond, "a")
	if first.Token == 0 || first.Token != first.Revision || first.LeaseTime() != 2*time.Second {
		t.Errorf("taken: %+v", first)
	}
	must(t, b.RenewLock(t.Context(), first))
	if first.Revision <= first.Token {
		t.Errorf("renewed: %+v", first)
	}
	lock, err := b.Lock(t.Context(), "x")
	must(t, err)
	holder := first.Holder()
	holder.ExpiresAt = lock.Holders[0].ExpiresAt
	if diff := cmp.Diff(&pelton.Lock{Name: "x", Slots: 1, Holders: []pelton.LockHolder{holder}}, lock); diff != "" {
		t.Errorf("lock (-want +got):\n%s", diff)
	}
	if left := time.Until(holder.ExpiresAt); left < time.Second || left > 2*time.Second {
		t.Errorf("expires in %s", left)
	}
	must(t, b.ReleaseLock(t.Context(), first))
	if _, err := b.Lock(t.Context(), "x"); !errors.Is(err, pelton.ErrNotFound) {
		t.Errorf("a released lock: %v", err)
	}
	if err := b.RenewLock(t.Context(), first); !errors.Is(err, ErrStale) {
		t.Errorf("renewal of a released lock: %v", err)
	}
	if err := b.ReleaseLock(t.Context(), first); !errors.Is(err, ErrStale) {
		t.Errorf("second release: %v", err)
	}
	if second := take(t, b, "x", 1, time.Second, "b"); second.Token <= first.Revision {
		t.Errorf("token %d after revision %d", second.Token, first.Revision)
	}
}

// A take goes by what was seen of all permits: it is refused after any change, also
// of a permit that it does not want, and by somebody who counts other slots.
func TestTakeIsRefusedAfterAnyChange(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(b *Broker, held *Permit) error{
		"take": func(b *Broker, _ *Permit) error {
			state, err := b.LockState(t.Context(), "x")
			if err != nil {
				return err
			}
			other := aPermit("x", 9, time.Minute, "other")
			other.Index = 5
			return b.TakeLock(t.Context(), state, other)
		},
		"renewal": func(b *Broker, held *Permit) error { return b.RenewLock(t.Context(), held) },
		"release": func(b *Broker, held *Permit) error { return b.ReleaseLock(t.Context(), held) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := openNew(t)
			held := take(t, b, "x", 3, time.Minute, "a")
			state, err := b.LockState(t.Context(), "x")
			must(t, err)
			must(t, change(b, held))
			p := aPermit("x", 3, time.Minute, "b")
			p.Index = 1
			if err := b.TakeLock(t.Context(), state, p); !errors.Is(err, ErrStale) {
				t.Errorf("take by an old state = %v, want ErrStale", err)
			}
			state, err = b.LockState(t.Context(), "x")
			must(t, err)
			must(t, b.TakeLock(t.Context(), state, p))
		})
	}
	// Other names do not matter, also those that begin alike.
	b := openNew(t)
	state, err := b.LockState(t.Context(), "x")
	must(t, err)
	take(t, b, "xy", 1, time.Minute, "a")
	must(t, b.TakeLock(t.Context(), state, aPermit("x", 1, time.Minute, "b")))
}

// A permit that nobody renews is free when its lease is over: never before, and
// within a second after. Its taker's token is greater.
func TestLockExpires(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	before := time.Now()
	first := take(t, b, "x", 1, 2*time.Second, "a")
	after := time.Now()
	var state *LockState
	reaches(t, "the lock to be free", func() bool {
		var err error
		state, err = b.LockState(t.Context(), "x")
		must(t, err)
		return len(state.Permits) == 0
	})
	if held := time.Since(before); held < 2*time.Second {
		t.Errorf("free after %s, which is too early", held)
	}
	if held := time.Since(after); held > 6*time.Second { // 3 s on a machine that has the time
		t.Errorf("free after %s", held)
	} else {
		t.Logf("free after %s", held)
	}
	if err := b.RenewLock(t.Context(), first); !errors.Is(err, ErrStale) {
		t.Errorf("renewal of an expired lock: %v", err)
	}
	next := aPermit("x", 1, time.Minute, "b")
	must(t, b.TakeLock(t.Context(), state, next))
	if next.Token <= first.Token {
		t.Errorf("token %d after %d", next.Token, first.Token)
	}
	if err := b.RenewLock(t.Context(), first); !errors.Is(err, ErrStale) {
		t.Errorf("renewal of somebody else's lock: %v", err)
	}
}

// A released permit leaves nothing behind, not even a marker of the server's.
func TestReleasedLockLeavesNothing(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	must(t, b.ReleaseLock(t.Context(), take(t, b, "x", 1, time.Minute, "a")))
	reaches(t, "the bucket to be empty", func() bool { return streamState(t, b, bucketStream(b.locks())).State.Msgs == 0 })
	must(t, b.ReleaseLock(t.Context(), take(t, b, "x", 1, time.Minute, "b")))
}

// A held lock outlives a restart of the broker with its lease, and expires late
// rather than early.
func TestLockOutlivesARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	srv := brokertest.StartServer(t, brokertest.In(dir))
	nc := brokertest.Connect(t, srv)
	before := openOn(t, nc, Config{})
	taken := time.Now()
	short, long := take(t, before, "short", 1, 2*time.Second, "a"), take(t, before, "long", 2, time.Minute, "a")
	nc.Close()
	brokertest.Stop(t, srv)
	b := openOn(t, brokertest.Connect(t, brokertest.StartServer(t, brokertest.In(dir))), Config{})
	if tokens := holderTokens(t, b, "long"); !slices.Equal(tokens, []uint64{long.Token}) {
		t.Errorf("holders after a restart: %d", tokens)
	}
	must(t, b.RenewLock(t.Context(), long))
	reaches(t, "the short lock to be free", func() bool { return len(holderTokens(t, b, "short")) == 0 })
	if held := time.Since(taken); held < 2*time.Second {
		t.Errorf("free after %s, its lease is 2 s", held)
	}
	if next := take(t, b, "short", 1, time.Minute, "b"); next.Token <= short.Token || next.Token <= long.Revision {
		t.Errorf("token %d", next.Token)
	}
}

func TestLocksAreListed(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	if locks, err := b.Locks(t.Context()); err != nil || len(locks) != 0 {
		t.Errorf("no locks: %+v, %v", locks, err)
	}
	var want []pelton.Lock
	for _, name := range []string{"b", "a", "c.d > *"} {
		lock := pelton.Lock{Name: name, Slots: 3}
		for i := range 3 {
			p := take(t, b, name, 3, time.Minute, fmt.Sprint("w", i))
			if i == 1 {
				must(t, b.ReleaseLock(t.Context(), p))
				continue
			}
			lock.Holders = append(lock.Holders, p.Holder())
			if i == 0 {
				must(t, b.RenewLock(t.Context(), p)) // does not change the order
			}
		}
		want = append(want, lock)
	}
	// Neighbours in the bucket, and what somebody wrote by hand.
	for _, key := range []string{"unique.YQ", "lock.YQ", "lock.!.0", probeKey} {
		_, err := b.do(t.Context(), write{subject: "$KV." + b.locks() + "." + strings.ReplaceAll(key, "!", "=="), data: []byte("{}"), expect: anyRevision})
		must(t, err)
	}
	slices.SortFunc(want, func(a, b pelton.Lock) int { return strings.Compare(a.Name, b.Name) })
	got, err := b.Locks(t.Context())
	must(t, err)
	ignore := cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".ExpiresAt" }, cmp.Ignore())
	if diff := cmp.Diff(want, got, ignore); diff != "" {
		t.Errorf("locks (-want +got):\n%s", diff)
	}
}

// A permit whose value nobody can read is held, and can be broken.
func TestUnreadablePermitIsHeld(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	_, err := b.do(t.Context(), write{subject: b.lockKey("x", 0), data: []byte("[]"), expect: anyRevision})
	must(t, err)
	state, err := b.LockState(t.Context(), "x")
	must(t, err)
	if _, free := state.Free(1); free || state.Mismatch(1) != nil || len(state.Permits) != 1 {
		t.Errorf("state = %+v", state)
	}
	_, err = b.BreakLock(t.Context(), "x")
	must(t, err)
	take(t, b, "x", 1, time.Minute, "a")
}

func TestBreakLock(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	told := make(chan string, 10)
	stop, err := b.ServeLockSignals("w1", func(name string) { told <- name })
	must(t, err)
	defer stop()
	if _, err := b.BreakLock(t.Context(), "x"); !errors.Is(err, pelton.ErrNotFound) {
		t.Errorf("break of a free lock: %v", err)
	}
	released, unwatch, err := b.WatchLock(t.Context(), "x")
	must(t, err)
	defer unwatch()
	one, two := take(t, b, "x", 3, time.Minute, "w1"), take(t, b, "x", 3, time.Minute, "w2")
	three := take(t, b, "x", 3, time.Minute, "w3")
	must(t, b.RenewLock(t.Context(), one)) // after which a release must go by the new revision
	if _, err := b.BreakLock(t.Context(), "x", three.Token+100); !errors.Is(err, pelton.ErrNotFound) {
		t.Errorf("break by a token that nobody has: %v", err)
	}
	lock, err := b.BreakLock(t.Context(), "x", one.Token)
	must(t, err)
	if lock.Name != "x" || lock.Slots != 3 || len(lock.Holders) != 1 || lock.Holders[0].Token != one.Token {
		t.Errorf("broken: %+v", lock)
	}
	wait(t, released, "hint for waiters")
	if name := wait(t, told, "signal to the holder"); name != "x" {
		t.Errorf("signal about %q", name)
	}
	if tokens := holderTokens(t, b, "x"); !slices.Equal(tokens, []uint64{two.Token, three.Token}) {
		t.Errorf("left: %d", tokens)
	}
	lock, err = b.BreakLock(t.Context(), "x")
	must(t, err)
	if len(lock.Holders) != 2 || len(holderTokens(t, b, "x")) != 0 {
		t.Errorf("broken: %+v", lock)
	}
	if err := b.RenewLock(t.Context(), two); !errors.Is(err, ErrStale) {
		t.Errorf("renewal of a broken lock: %v", err)
	}
}

// A break meets renewals and a release by the holder: it releases that acquisition
// alone, and never that of who comes next.
func TestBreakLeavesTheNextHolderAlone(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	first := take(t, b, "x", 1, time.Minute, "a")
	read, err := b.LoadPermit(t.Context(), "x", 0)
	must(t, err)
	must(t, b.RenewLock(t.Context(), first))
	if gone, err := b.breakPermit(t.Context(), read); !gone || err != nil {
		t.Errorf("break of a renewed permit: %v, %v", gone, err)
	}
	second := take(t, b, "x", 1, time.Minute, "b")
	if gone, err := b.breakPermit(t.Context(), read); gone || err != nil {
		t.Errorf("break of a permit that has another holder: %v, %v", gone, err)
	}
	if tokens := holderTokens(t, b, "x"); !slices.Equal(tokens, []uint64{second.Token}) {
		t.Errorf("left: %d", tokens)
	}
}

func TestLocksWithoutABroker(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	b := openOn(t, nc, Config{})
	p := take(t, b, "x", 1, time.Minute, "a")
	nc.Close()
	for name, call := range map[string]func(ctx context.Context) error{
		"Locks":       func(ctx context.Context) error { _, err := b.Locks(ctx); return err },
		"Lock":        func(ctx context.Context) error { _, err := b.Lock(ctx, "x"); return err },
		"TakeLock":    func(ctx context.Context) error { return b.TakeLock(ctx, &LockState{}, p) },
		"RenewLock":   func(ctx context.Context) error { return b.RenewLock(ctx, p) },
		"ReleaseLock": func(ctx context.Context) error { return b.ReleaseLock(ctx, p) },
		"BreakLock":   func(ctx context.Context) error { _, err := b.BreakLock(ctx, "x"); return err },
		"WatchLock":   func(ctx context.Context) error { _, _, err := b.WatchLock(ctx, "x"); return err },
	} {
		if err := call(t.Context()); !errors.Is(err, pelton.ErrUnavailable) {
			t.Errorf("%s = %v, want ErrUnavailable", name, err)
		}
	}
}

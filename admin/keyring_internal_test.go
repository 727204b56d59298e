package admin

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
)

// fakeBucket is a bucket of tokens: the last change of each, by sequence.
type fakeBucket struct {
	mu    sync.Mutex
	last  uint64
	log   []change
	err   error
	calls int
}

type change struct {
	seq uint64
	id  string
	doc *broker.TokenDoc
}

func (f *fakeBucket) put(id string, doc *broker.TokenDoc) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dropLocked(id)
	f.last++
	f.log = append(f.log, change{f.last, id, doc})
}

// forget is a deletion whose marker is gone.
func (f *fakeBucket) forget(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dropLocked(id)
}

func (f *fakeBucket) dropLocked(id string) {
	for i, c := range f.log {
		if c.id == id {
			f.log = append(f.log[:i], f.log[i+1:]...)
			return
		}
	}
}

func (f *fakeBucket) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

func (f *fakeBucket) next(_ context.Context, from uint64) (string, *broker.TokenDoc, uint64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls++
	if f.err != nil {
		return "", nil, from, f.err
	}
	for _, c := range f.log {
		if c.seq >= from {
			return c.id, c.doc, c.seq + 1, nil
		}
	}
	return "", nil, from, pelton.ErrNotFound
}

// mint puts a new token into the bucket and gives what its holder shows.
func (f *fakeBucket) mint(expires time.Time) (id, shown string) {
	id, secret := newTokenText()
	_, sum, _ := splitToken(id + "." + secret)
	f.put(id, &broker.TokenDoc{Token: pelton.Token{ID: id, Name: "n", Scopes: []pelton.Scope{"read"}, ExpiresAt: expires}, Hash: sum})
	return id, id + "." + secret
}

// keyringTest runs test with a keyring on a bucket, on a clock of its own.
func keyringTest(t *testing.T, test func(t *testing.T, f *fakeBucket, k *Keyring, up chan struct{})) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, up := &fakeBucket{}, make(chan struct{}, 1)
		k := newKeyring(f.next, up, slog.New(slog.DiscardHandler))
		if err := k.look(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { k.Run(ctx) })
		test(t, f, k, up)
		known := k.Any()
		cancel()
		running.Wait()
		if k.Any() != known {
			t.Error("at its end it forgot that there are tokens, which would open an API")
		}
	})
}

func pass(d time.Duration) { <-time.After(d) }

func wantKnown(t *testing.T, k *Keyring, shown string, want error) context.Context {
	t.Helper()
	_, live, err := k.Identify(t.Context(), shown, false)
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", shown, err, want)
	}
	return live
}

func TestKeyringFollows(t *testing.T) {
	keyringTest(t, func(t *testing.T, f *fakeBucket, k *Keyring, _ chan struct{}) {
		if k.Any() {
			t.Error("there are none")
		}
		id, shown := f.mint(time.Time{})
		began := time.Now()
		live := wantKnown(t, k, shown, nil) // at once, though it was made elsewhere a moment ago
		if took := time.Since(began); took > 2*keyringSoon || !k.Any() {
			t.Errorf("a new token was known after %s", took)
		}
		other, _ := newTokenText()
		for _, wrong := range []string{"", ".", id, id + ".", shown + "x", shown[:len(shown)-1], other + shown[len(other):], id + "." + other, "A" + shown[1:], id[1:] + "." + shown} {
			wantKnown(t, k, wrong, pelton.ErrNotFound)
		}

		// In the usual case it costs nothing.
		f.mu.Lock()
		calls := f.calls
		f.mu.Unlock()
		for range 1000 {
			wantKnown(t, k, shown, nil)
		}
		if f.calls != calls {
			t.Errorf("%d calls of the broker for 1,000 callers", f.calls-calls)
		}

		f.put(id, nil)
		pass(keyringEvery + time.Millisecond)
		wantKnown(t, k, shown, pelton.ErrNotFound)
		if live.Err() == nil || k.Any() {
			t.Error("a revoked token lives on")
		}
	})
}

func TestKeyringAsksForStrangersOnceForAll(t *testing.T) {
	keyringTest(t, func(t *testing.T, f *fakeBucket, k *Keyring, _ chan struct{}) {
		began, calls := time.Now(), f.calls
		var asking sync.WaitGroup
		for range 100 {
			asking.Go(func() {
				for range 10 {
					id, secret := newTokenText()
					_, _, _ = k.Identify(t.Context(), id+"."+secret, false)
				}
			})
		}
		asking.Wait()
		if most := int(time.Since(began)/keyringSoon) + 3; f.calls-calls > most {
			t.Errorf("%d calls of the broker in %s, want %d", f.calls-calls, time.Since(began), most)
		}
	})
}

// While the broker is out of reach nobody gets in by what was known, but for what has
// nothing to do with it; and whoever waits is let in when it is back.
func TestKeyringWithoutBroker(t *testing.T) {
	keyringTest(t, func(t *testing.T, f *fakeBucket, k *Keyring, _ chan struct{}) {
		_, shown := f.mint(time.Time{})
		wantKnown(t, k, shown, nil)
		f.fail(pelton.ErrUnavailable)
		pass(keyringFresh + keyringEvery)
		began := time.Now()
		wantKnown(t, k, shown, pelton.ErrUnavailable)
		if took := time.Since(began); took > keyringPatience+time.Millisecond {
			t.Errorf("refused after %s", took)
		}
		if _, _, err := k.Identify(t.Context(), shown, true); err != nil {
			t.Errorf("what the broker has no part in: %v", err)
		}
		gone, leave := context.WithCancel(t.Context())
		leave()
		if _, _, err := k.Identify(gone, shown, false); !errors.Is(err, pelton.ErrUnavailable) {
			t.Errorf("who has gone: %v", err)
		}
		back := make(chan struct{})
		go func() {
			defer close(back)
			wantKnown(t, k, shown, nil)
		}()
		pass(time.Second)
		f.fail(nil)
		<-back
	})
}

// A deletion that was forgotten while the connection, or the process, was away counts.
func TestKeyringReadsAllAnew(t *testing.T) {
	keyringTest(t, func(t *testing.T, f *fakeBucket, k *Keyring, up chan struct{}) {
		first, shown := f.mint(time.Time{})
		second, shown2 := f.mint(time.Time{})
		live := wantKnown(t, k, shown, nil)
		live2 := wantKnown(t, k, shown2, nil)
		f.forget(first)
		up <- struct{}{}
		pass(time.Millisecond)
		wantKnown(t, k, shown, pelton.ErrNotFound)
		if live.Err() == nil || live2.Err() != nil {
			t.Error("the wrong one ended")
		}

		f.fail(pelton.ErrUnavailable)
		f.forget(second)
		pass(keyringGap + time.Second)
		f.fail(nil)
		pass(keyringEvery)
		wantKnown(t, k, shown2, pelton.ErrNotFound)
		if live2.Err() == nil {
			t.Error("it lives on")
		}
	})
}

func TestKeyringExpiry(t *testing.T) {
	keyringTest(t, func(t *testing.T, f *fakeBucket, k *Keyring, _ chan struct{}) {
		_, shown := f.mint(time.Now().Add(time.Minute))
		live := wantKnown(t, k, shown, nil)
		pass(time.Minute)
		wantKnown(t, k, shown, pelton.ErrNotFound)
		if live.Err() == nil || !k.Any() {
			t.Error("what was done for it goes on, or an expired token counts as none")
		}
	})
}

// A server that stops lets those go on who are in, and nobody new when it cannot know any
// more.
func TestKeyringAfterItsEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeBucket{}
		_, shown := f.mint(time.Time{})
		k := newKeyring(f.next, nil, slog.New(slog.DiscardHandler))
		if err := k.look(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		k.Run(ctx)
		live := wantKnown(t, k, shown, nil)
		pass(keyringFresh + time.Millisecond)
		wantKnown(t, k, shown, pelton.ErrUnavailable)
		if live.Err() != nil || !k.Any() {
			t.Error("what was under way was cut off, or the tokens were forgotten")
		}
	})
}

// Tokens have 256 random bits, in letters that a header may have.
func TestTokenText(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	for range 100 {
		id, secret := newTokenText()
		if len(id) != 16 || len(secret) != 43 || seen[id] || seen[secret] || !validTokenID(id) {
			t.Fatalf("%s.%s", id, secret)
		}
		seen[id], seen[secret] = true, true
	}
}

// BenchmarkIdentify is letting a caller in.
func BenchmarkIdentify(b *testing.B) {
	f := &fakeBucket{}
	_, shown := f.mint(time.Time{})
	k := newKeyring(f.next, nil, slog.New(slog.DiscardHandler))
	if err := k.look(b.Context()); err != nil {
		b.Fatal(err)
	}
	k.asOf = time.Now().Add(time.Hour) // fresh
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := k.Identify(b.Context(), shown, false); err != nil {
			b.Fatal(err)
		}
	}
}

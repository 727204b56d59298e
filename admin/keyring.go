package admin

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
)

const (
	// keyringEvery is how often a keyring asks for changes: one call of the broker.
	keyringEvery = 500 * time.Millisecond
	// keyringSoon is how soon it asks again for a token that it does not know, whatever
	// the number of those who show one.
	keyringSoon = 50 * time.Millisecond
	// keyringFresh is how old what a keyring knows may be when it lets somebody in. With
	// the time that a look takes it is the 2 s within which a revocation is in force.
	keyringFresh = 1500 * time.Millisecond
	// keyringPatience is how long a caller waits for a fresher look.
	keyringPatience = 2 * time.Second
	// keyringLook bounds one look for changes, keyringLoad a reading of all tokens.
	keyringLook = time.Second
	keyringLoad = 10 * time.Second
	// keyringGap is after how long without a look all tokens are read anew, because
	// deletions may have been forgotten. It is well below broker.TokenMemory.
	keyringGap = broker.TokenMemory / 3
)

// Keyring knows the tokens of an installation, so that letting somebody in costs no call
// of the broker. It follows the changes of the bucket by its sequence, twice a second:
// unlike a watch, that cannot stall without being noticed. What it knows is never acted
// on when it is older than 1.5 s; a server that is cut off from its broker lets nobody in
// by it, and does not have to, for it could do nothing for them.
type Keyring struct {
	source tokenSource
	up     <-chan struct{} // receives when the connection is back
	log    *slog.Logger
	kick   chan struct{}
	stop   func()

	mu     sync.Mutex
	keys   map[string]*key
	next   uint64        // from which sequence on changes are unknown
	asOf   time.Time     // when the last whole look began; zero before the first
	looked chan struct{} // closed after the look that is under way or comes next
}

// tokenSource is broker.NextToken.
type tokenSource func(ctx context.Context, from uint64) (id string, doc *broker.TokenDoc, next uint64, err error)

// key is one token. live ends when it is revoked or has expired.
type key struct {
	doc  *broker.TokenDoc
	live context.Context //nolint:containedctx // it is the token's life, which requests derive theirs from
	end  func()
}

var errRevoked = fmt.Errorf("%w: the token was revoked or has expired", pelton.ErrClosed)

// OpenKeyring reads all tokens. Run must go on for as long as the keyring is used.
// Errors: pelton.ErrUnavailable.
func (c *Client) OpenKeyring(ctx context.Context) (*Keyring, error) {
	up, forget := c.b.Reconnected()
	k := newKeyring(c.b.NextToken, up, c.logger)
	k.stop = forget
	if err := k.look(ctx); err != nil {
		forget()
		return nil, fmt.Errorf("read tokens: %w", err)
	}
	return k, nil
}

func newKeyring(source tokenSource, up <-chan struct{}, log *slog.Logger) *Keyring {
	return &Keyring{
		source: source, up: up, log: log, kick: make(chan struct{}, 1), stop: func() {},
		keys: make(map[string]*key), next: 1, looked: make(chan struct{}),
	}
}

// Run follows the changes until ctx ends. What is known then stays known, and is soon too
// old to let anybody in: an API must not become open while its server stops, and what it
// answers to those who are in is not cut off.
func (k *Keyring) Run(ctx context.Context) {
	defer k.stop()
	tick := time.NewTicker(keyringEvery)
	defer tick.Stop()
	began := time.Now()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.up:
			k.restart()
		case <-tick.C:
		case <-k.kick:
			wait := time.NewTimer(keyringSoon - time.Since(began))
			select {
			case <-ctx.Done():
				wait.Stop()
				return
			case <-wait.C:
			}
		}
		began = time.Now()
		err := k.look(ctx)
		if (err != nil) != failing && ctx.Err() == nil {
			if failing = err != nil; failing {
				k.log.WarnContext(ctx, "changes of tokens cannot be read, so that nobody is let in by one", slog.Any("error", err))
			} else {
				k.log.InfoContext(ctx, "changes of tokens can be read again")
			}
		}
	}
}

// restart makes the next look one at everything.
func (k *Keyring) restart() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.next = 1
}

// look reads the changes to their end. Only Run and OpenKeyring call it.
func (k *Keyring) look(ctx context.Context) error {
	began := time.Now()
	k.mu.Lock()
	if !k.asOf.IsZero() && began.Sub(k.asOf) > keyringGap {
		k.next = 1
	}
	from := k.next
	k.mu.Unlock()
	whole, limit := from == 1, keyringLook
	if whole {
		limit = keyringLoad
	}
	timed, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	seen := make(map[string]bool)
	for {
		id, doc, next, err := k.source(timed, from)
		if errors.Is(err, pelton.ErrNotFound) {
			break
		}
		if err != nil {
			return err
		}
		k.note(ctx, id, doc)
		seen[id] = doc != nil
		from = next
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if whole {
		for id := range k.keys {
			if !seen[id] {
				k.dropLocked(id)
			}
		}
	}
	k.next, k.asOf = from, began
	close(k.looked)
	k.looked = make(chan struct{})
	return nil
}

// note takes one change in, at once.
func (k *Keyring) note(ctx context.Context, id string, doc *broker.TokenDoc) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if old := k.keys[id]; old != nil && doc != nil && old.doc.Hash == doc.Hash {
		return // read anew
	}
	k.dropLocked(id)
	if doc == nil {
		return
	}
	life, untime := context.WithoutCancel(ctx), func() {} // as long as the token is known
	if !doc.ExpiresAt.IsZero() {
		life, untime = context.WithDeadlineCause(life, doc.ExpiresAt, errRevoked)
	}
	live, revoke := context.WithCancelCause(life)
	k.keys[id] = &key{doc: doc, live: live, end: func() {
		revoke(errRevoked)
		untime()
	}}
}

func (k *Keyring) dropLocked(id string) {
	if old := k.keys[id]; old != nil {
		old.end()
		delete(k.keys, id)
	}
}

// Any reports whether there are tokens, expired ones included, by what was known last.
func (k *Keyring) Any() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.keys) > 0
}

// Refresh returns when the keyring knows what was there when it was called, or with
// pelton.ErrUnavailable.
func (k *Keyring) Refresh(ctx context.Context) error { return k.await(ctx, time.Now()) }

// Identify finds the token that somebody shows as "id.secret". Hashes of one size are
// compared in constant time; ids are no secrets. live ends when the token is revoked
// or expires: so shall what is done for its holder. What the keyring knows serves, unless
// it is older than 1.5 s or does not have the id: then Identify waits for the next
// look, for 2 s at most. With remembered, it takes what is known, however old, for calls
// that the broker has no part in.
//
// Errors: pelton.ErrNotFound for what is no token, or no longer; pelton.ErrUnavailable
// when the broker cannot be asked.
func (k *Keyring) Identify(ctx context.Context, shown string, remembered bool) (t *pelton.Token, live context.Context, err error) {
	id, sum, ok := splitToken(shown)
	if !ok {
		return nil, nil, fmt.Errorf("%w: this is no token", pelton.ErrNotFound)
	}
	found := k.find(id)
	if !remembered {
		now := time.Now()
		after := now.Add(-keyringFresh)
		if found == nil {
			after = now // it may have been made by another server a moment ago
		}
		if err := k.await(ctx, after); err != nil {
			return nil, nil, err
		}
		found = k.find(id)
	}
	var want [sha256.Size]byte // of nothing that anybody knows
	if found != nil {
		want = found.doc.Hash
	}
	if subtle.ConstantTimeCompare(sum[:], want[:]) != 1 || found == nil || found.live.Err() != nil || found.doc.Expired(time.Now()) {
		return nil, nil, fmt.Errorf("%w: there is no such token", pelton.ErrNotFound)
	}
	return &found.doc.Token, found.live, nil
}

func (k *Keyring) find(id string) *key {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.keys[id]
}

// await returns when a whole look has begun after that time.
func (k *Keyring) await(ctx context.Context, after time.Time) error {
	var patience <-chan time.Time
	for {
		k.mu.Lock()
		fresh, looked := k.asOf.After(after), k.looked
		k.mu.Unlock()
		if fresh {
			return nil
		}
		if patience == nil {
			timer := time.NewTimer(keyringPatience)
			defer timer.Stop()
			patience = timer.C
		}
		select {
		case k.kick <- struct{}{}:
		default:
		}
		select {
		case <-looked:
		case <-patience:
			return fmt.Errorf("check token: %w: the broker did not say in time whether it is still good", pelton.ErrUnavailable)
		case <-ctx.Done():
			return fmt.Errorf("check token: %w: %w", pelton.ErrUnavailable, context.Cause(ctx))
		}
	}
}

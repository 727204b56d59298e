package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
)

// Locks lists all locks that are held, sorted by name, with holders sorted by
// token. It costs a read for each permit, and for each that was released within
// the last seconds.
func (b *Broker) Locks(ctx context.Context) ([]pelton.Lock, error) {
	permits, _, err := b.scanPermits(ctx, b.allLocks())
	if err != nil {
		return nil, fmt.Errorf("list locks: %w", err)
	}
	return locksOf(permits), nil
}

// Lock is one lock and who holds it. pelton.ErrNotFound means nobody.
func (b *Broker) Lock(ctx context.Context, name string) (*pelton.Lock, error) {
	state, err := b.LockState(ctx, name)
	if err != nil {
		return nil, err
	}
	if len(state.Permits) == 0 {
		return nil, fmt.Errorf("lock %q: %w: nobody holds it", name, pelton.ErrNotFound)
	}
	return &locksOf(state.Permits)[0], nil
}

// locksOf groups permits, which are sorted.
func locksOf(permits []*Permit) []pelton.Lock {
	var locks []pelton.Lock
	for _, p := range permits {
		if len(locks) == 0 || locks[len(locks)-1].Name != p.Name {
			locks = append(locks, pelton.Lock{Name: p.Name})
		}
		lock := &locks[len(locks)-1]
		lock.Slots = max(lock.Slots, p.Slots)
		lock.Holders = append(lock.Holders, p.Holder())
	}
	return locks
}

// BreakLock takes a lock from its holders, or from those with the given tokens, and
// tells their workers. It gives the lock as it was, with those who lost it.
// pelton.ErrNotFound means that there was none. Who takes the lock meanwhile keeps
// it. An error in between comes with those who lost it so far.
func (b *Broker) BreakLock(ctx context.Context, name string, tokens ...uint64) (*pelton.Lock, error) {
	state, err := b.LockState(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("break: %w", err)
	}
	var broken []*Permit
	for _, p := range state.Permits {
		if len(tokens) > 0 && !slices.Contains(tokens, p.Token) {
			continue
		}
		gone, err := b.breakPermit(ctx, p)
		if gone {
			broken = append(broken, p)
		}
		if err != nil {
			return lockOrNil(broken), fmt.Errorf("break: %w", err)
		}
	}
	if len(broken) == 0 {
		return nil, fmt.Errorf("break lock %q: %w: nobody holds it", name, pelton.ErrNotFound)
	}
	return lockOrNil(broken), nil
}

func lockOrNil(permits []*Permit) *pelton.Lock {
	if len(permits) == 0 {
		return nil
	}
	return &locksOf(permits)[0]
}

// breakPermit releases a permit that was read, as long as the same acquisition
// holds it. gone is false if it was given back meanwhile.
func (b *Broker) breakPermit(ctx context.Context, p *Permit) (gone bool, err error) {
	latest := p
	sent := false // a write may have landed
	for {
		err := b.ReleaseLock(ctx, latest)
		switch {
		case err == nil:
			b.hint(b.lockSignal(p.Worker), p.Name)
			return true, nil
		case errors.Is(err, pelton.ErrUnknownOutcome):
			sent = true
		case !errors.Is(err, ErrStale): // else a renewal was faster
			return false, err
		}
		if ctx.Err() != nil {
			return false, err
		}
		latest, err = b.LoadPermit(ctx, p.Name, p.Index)
		switch {
		case errors.Is(err, pelton.ErrNotFound), err == nil && latest.Token != p.Token:
			b.hint(b.lockSignal(p.Worker), p.Name)
			return sent, nil
		case err != nil:
			return false, err
		}
	}
}

// Hints to those who wait for a lock or hold it. They are best effort: waiters look
// again by themselves, and holders renew.

func (n names) lockEvent(name string) string    { return n.ns + ".l.r." + encodeName(name) }
func (n names) lockSignal(worker string) string { return n.ns + ".l.w." + worker }

func (b *Broker) hint(subject, text string) {
	if err := b.conn.nc.Publish(subject, []byte(text)); err != nil {
		b.cfg.Logger.Debug("hint not published", "subject", subject, "error", err)
	}
}

// WatchLock tells of releases of the lock until stop: read its state after this.
// The expiry of a lease is not told.
func (b *Broker) WatchLock(ctx context.Context, name string) (released <-chan struct{}, stop func(), err error) {
	ch := make(chan struct{}, 1)
	stop, err = b.subscribed(ctx, func(*nats.Msg) {
		select {
		case ch <- struct{}{}:
		default:
		}
	}, b.lockEvent(name))
	if err != nil {
		return nil, nil, fmt.Errorf("watch lock %q: %w", name, err)
	}
	return ch, stop, nil
}

// ServeLockSignals calls look with the name of a lock that somebody took from this
// worker by force, until stop, which waits for a call under way.
func (b *Broker) ServeLockSignals(worker string, look func(name string)) (stop func(), err error) {
	var mu sync.Mutex
	stopped := false
	sub, err := b.conn.nc.Subscribe(b.lockSignal(worker), func(msg *nats.Msg) {
		mu.Lock()
		defer mu.Unlock()
		if !stopped {
			look(string(msg.Data))
		}
	})
	if err != nil {
		return nil, fmt.Errorf("serve signals of locks: %w: %w", pelton.ErrUnavailable, err)
	}
	return func() {
		_ = sub.Unsubscribe() // fails only where the connection is gone
		mu.Lock()
		defer mu.Unlock()
		stopped = true
	}, nil
}

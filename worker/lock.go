package worker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/peltonq/pelton"
)

// LockOption says how a lock is taken.
type LockOption func(*lockOptions)

type lockOptions struct {
	slots int
	lease time.Duration
}

const (
	minLockLease = time.Second // the broker's finest TTL
	maxLockLease = time.Hour
)

// Slots lets n handlers hold the lock at a time, 1 to pelton.MaxLockSlots: a
// counting semaphore. All who take the lock must say the same number; while others
// hold it with another one, taking it is pelton.ErrInvalid. The default is 1.
func Slots(n int) LockOption { return func(o *lockOptions) { o.slots = n } }

// Lease is how long the lock stays taken when nothing is heard of its worker any
// more: 1 s to 1 h, rounded up to whole seconds. It is renewed every third of it,
// and given up as lost when that has not worked for two thirds. The default is the
// lease of the task's lane, usually 30 s.
func Lease(d time.Duration) LockOption { return func(o *lockOptions) { o.lease = d } }

// Lock takes the lock of that name, of which there is one in the installation, and
// waits for it until ctx ends. It must be called with the ctx of a handler, or one
// that was made of it; for any other the error is pelton.ErrInvalid, as for a name
// that pelton.ValidateLock refuses.
//
// The lock is released by Unlock, and at the latest when the handler ends,
// however it does, or is given up because it ignores the end of its ctx. A worker
// that dies keeps it until the lease is over.
//
// A handler that waits holds its slot. Nobody is promised a turn before others, and
// a handler that takes a lock twice waits for itself.
func Lock(ctx context.Context, name string, opts ...LockOption) (*Held, error) {
	return takeLock(ctx, name, true, opts)
}

// TryLock is Lock without waiting: a lock that cannot be had now is
// pelton.ErrConflict, and the error names who holds it.
func TryLock(ctx context.Context, name string, opts ...LockOption) (*Held, error) {
	return takeLock(ctx, name, false, opts)
}

func takeLock(ctx context.Context, name string, wait bool, opts []LockOption) (*Held, error) {
	v, _ := ctx.Value(contextKey{}).(contextValue)
	if v.locks == nil {
		return nil, fmt.Errorf("lock %q: %w: ctx is not that of a handler", name, pelton.ErrInvalid)
	}
	if err := pelton.ValidateLock(name); err != nil {
		return nil, err
	}
	o := lockOptions{slots: 1, lease: v.locks.lease}
	for _, opt := range opts {
		opt(&o)
	}
	if o.slots < 1 || o.slots > pelton.MaxLockSlots {
		return nil, fmt.Errorf("lock %q: %w: %d slots are not between 1 and %d", name, pelton.ErrInvalid, o.slots, pelton.MaxLockSlots)
	}
	if o.lease < minLockLease || o.lease > maxLockLease {
		return nil, fmt.Errorf("lock %q: %w: lease %s is not between %s and %s", name, pelton.ErrInvalid, o.lease, minLockLease, maxLockLease)
	}
	return v.locks.take(ctx, lockRequest{name: name, slots: o.slots, lease: (o.lease + time.Second - 1).Truncate(time.Second), wait: wait})
}

// Held is a lock that a handler holds.
type Held struct {
	name    string
	token   uint64
	ctx     context.Context //nolint:containedctx // handed out by Context
	lose    context.CancelCauseFunc
	release func() error
}

// Name is the lock's name.
func (h *Held) Name() string { return h.name }

// Token is the lock's fencing token: it grows with every acquisition of the name,
// by whomever. A store that keeps the highest token it saw, and refuses writes with
// a lower one, is safe from a holder that lost the lock without knowing.
func (h *Held) Token() uint64 { return h.token }

// Context is ctx as it was given to Lock, except that it ends with the handler's
// own ctx, whatever ends sooner, when the lock is lost, then with cause
// pelton.ErrLockLost, and when it is unlocked. Work under the lock with it.
func (h *Held) Context() context.Context { return h.ctx }

// Unlock gives the lock back; doing so again is the same. It tries for a few seconds
// while the broker is away; with pelton.ErrUnavailable the lock is free when its
// lease is over. pelton.ErrLockLost means that the lock was lost before: somebody
// else may have held it meanwhile.
func (h *Held) Unlock() error { return h.release() }

// lockRequest is what is asked of a granter, checked.
type lockRequest struct {
	name  string
	slots int
	lease time.Duration
	wait  bool
}

// granter grants locks: those of the installation, or, for handlers without a
// worker, of the process.
type granter interface {
	// grant takes a lock for s and makes it held with newHeld.
	grant(ctx context.Context, s *lockSession, req lockRequest) (*Held, error)
}

// lockSession is all that one run of a handler locks.
type lockSession struct {
	from   granter
	ctx    context.Context //nolint:containedctx // the handler's: the end of all its locks
	holder pelton.LockHolder
	lease  time.Duration
	fence  func() uint64 // of the run, which becomes the holder's; nil without a worker

	mu     sync.Mutex
	held   map[*Held]struct{}
	closed bool
}

func newLockSession(ctx context.Context, from granter, holder pelton.LockHolder, lease time.Duration) *lockSession {
	return &lockSession{from: from, ctx: ctx, holder: holder, lease: lease}
}

// holding says who holds the locks of the session.
func (s *lockSession) holding() pelton.LockHolder {
	h := s.holder
	if s.fence != nil {
		h.Fence = s.fence()
	}
	return h
}

// take is the granter's grant, kept until it is released. The handler may have
// ended while it was under way.
func (s *lockSession) take(ctx context.Context, req lockRequest) (*Held, error) {
	h, err := s.from.grant(ctx, s, req)
	if err != nil {
		return nil, err
	}
	if !s.keep(h) {
		return nil, errors.Join(fmt.Errorf("lock %q: %w: the handler is over", req.name, pelton.ErrInvalid), h.Unlock())
	}
	return h, nil
}

func (s *lockSession) keep(h *Held) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	if s.held == nil {
		s.held = make(map[*Held]struct{})
	}
	s.held[h] = struct{}{}
	return true
}

func (s *lockSession) forget(h *Held) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.held, h)
}

// close releases what is held, all at once, and lets nothing more be taken. wait
// waits for the releases.
func (s *lockSession) close() (wait func()) {
	s.mu.Lock()
	s.closed = true
	var left []*Held
	for h := range s.held {
		left = append(left, h)
	}
	s.mu.Unlock()
	if len(left) == 0 {
		return func() {}
	}
	var releasing sync.WaitGroup
	for _, h := range left {
		releasing.Go(func() { _ = h.Unlock() }) // the granter has said what went wrong
	}
	return releasing.Wait
}

// newHeld is a lock that was granted. release gives it back; it is called once.
func (s *lockSession) newHeld(ctx context.Context, req lockRequest, token uint64, release func() error) *Held {
	// ctx may be one that bounds the waiting alone: its values stay, its end does not.
	base, free := context.WithoutCancel(ctx), context.CancelFunc(func() {})
	if deadline, ok := s.ctx.Deadline(); ok {
		base, free = context.WithDeadlineCause(base, deadline, pelton.ErrTimeout)
	}
	h := &Held{name: req.name, token: token}
	h.ctx, h.lose = context.WithCancelCause(base)
	unhook := context.AfterFunc(s.ctx, func() { h.lose(context.Cause(s.ctx)) }) //nolint:contextcheck // the handler's, of which ctx was made
	h.release = sync.OnceValue(func() error {
		err := release()
		s.forget(h)
		unhook()
		h.lose(context.Canceled)
		free()
		return err
	})
	return h
}

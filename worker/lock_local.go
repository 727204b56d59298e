package worker

import (
	"context"
	"fmt"
	"sync"

	"github.com/peltonq/pelton"
)

// localLocks are locks among handlers of this process that run without a worker,
// in tests. They keep the rules of the others; what they cannot show is a lock that
// is lost.
type localLocks struct {
	mu     sync.Mutex
	token  uint64
	byName map[string]*localLock
}

type localLock struct {
	slots   int
	holders []pelton.LockHolder // at least one
	changed chan struct{}       // closed and replaced when one of them leaves
}

func newLocalLocks() *localLocks { return &localLocks{byName: make(map[string]*localLock)} }

func (l *localLocks) grant(ctx context.Context, s *lockSession, req lockRequest) (*Held, error) {
	for {
		token, changed, err := l.try(s.holding(), req)
		if err != nil {
			return nil, err
		}
		if changed == nil {
			return s.newHeld(ctx, req, token, func() error { l.leave(req.name, token); return nil }), nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, gaveUp(ctx, s.ctx, req.name, nil)
		case <-s.ctx.Done():
			return nil, gaveUp(ctx, s.ctx, req.name, nil)
		}
	}
}

// try takes the lock, or gives what to wait for.
func (l *localLocks) try(holder pelton.LockHolder, req lockRequest) (token uint64, changed <-chan struct{}, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lock := l.byName[req.name]
	if lock == nil {
		lock = &localLock{slots: req.slots, changed: make(chan struct{})}
		l.byName[req.name] = lock
	}
	switch {
	case lock.slots != req.slots:
		return 0, nil, slotsMismatch(req, lock.slots, lock.holders[0])
	case len(lock.holders) < lock.slots:
		l.token++
		holder.Token = l.token
		lock.holders = append(lock.holders, holder)
		return holder.Token, nil, nil
	case !req.wait:
		return 0, nil, fmt.Errorf("lock %q: %w: %s", req.name, pelton.ErrConflict, heldBy(lock.holders))
	default:
		return 0, lock.changed, nil
	}
}

func (l *localLocks) leave(name string, token uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lock := l.byName[name]
	for i, holder := range lock.holders {
		if holder.Token == token {
			lock.holders = append(lock.holders[:i], lock.holders[i+1:]...)
			break
		}
	}
	close(lock.changed)
	lock.changed = make(chan struct{})
	if len(lock.holders) == 0 {
		delete(l.byName, name)
	}
}

package worker

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
)

const (
	// lockLook is how often a waiter looks at a lock without being told.
	lockLook = time.Second
	// lockJitter spreads those who were told of the same release.
	lockJitter = 5 * time.Millisecond
	// lockRetry is the pause while the broker cannot be reached.
	lockRetry = 250 * time.Millisecond
)

// grant takes a lock of the installation for a run of this worker.
//
// Waiters of the same name in this process queue up, and the first alone talks to
// the broker: it subscribes to releases, looks at the lock, and looks again when it
// is told, when the holder's lease should be over, and every second. Among
// processes the first write wins.
func (w *Worker) grant(ctx context.Context, s *lockSession, req lockRequest) (*Held, error) {
	if req.wait {
		leave, err := w.turns.enter(ctx, s.ctx, req.name)
		if err != nil {
			return nil, err
		}
		defer leave()
	}
	t := &taking{w: w, req: req, permit: broker.NewPermit(req.name, req.slots, req.lease, w.id+"-"+strconv.FormatUint(w.grants.Add(1), 10), s.holding())}
	defer t.unwatch()
	for {
		err := t.try(ctx)
		if err == nil {
			break
		}
		if err = t.wait(ctx, s.ctx, err); err != nil {
			return nil, err
		}
	}
	held := w.hold(ctx, s, req, t.permit, t.sent)
	if ctx.Err() != nil || s.ctx.Err() != nil { // nobody waits for it any more
		return nil, errors.Join(gaveUp(ctx, s.ctx, req.name, nil), held.Unlock())
	}
	return held, nil
}

// taking is one Lock or TryLock under way.
type taking struct {
	w      *Worker
	req    lockRequest
	permit *broker.Permit
	sent   time.Time // of the write that took or renewed the permit
	asked  bool      // what became of a write was asked once more although nobody waits

	state    *broker.LockState // as it was last seen
	released <-chan struct{}   // nil until it waits
	unsub    func()
}

// errHeld is a lock that others hold.
var errHeld = errors.New("held")

// try looks at the lock and takes a free permit. errHeld means that there is none,
// pelton.ErrUnavailable that it can be tried again, pelton.ErrUnknownOutcome that a
// write was sent and may have taken it: the next try finds out. A try does not
// end with the caller's ctx, so that a permit is not left behind.
func (t *taking) try(ctx context.Context) error {
	calling, cancel := context.WithTimeout(t.w.hard, unlockWait)
	defer cancel()
	for {
		state, err := t.w.b.LockState(calling, t.req.name) //nolint:contextcheck // see above
		if err != nil {
			return err
		}
		t.state = state
		if own := state.Granted(t.permit.Grant); own != nil {
			// An earlier write had landed. When, is not known: the lease counts from now.
			t.permit, t.sent = own, time.Now()
			if err = t.w.b.RenewLock(calling, own); errors.Is(err, broker.ErrStale) { //nolint:contextcheck // see above
				continue
			}
			return err
		}
		if other := state.Mismatch(t.req.slots); other != nil {
			return slotsMismatch(t.req, other.Slots, other.Holder())
		}
		index, free := state.Free(t.req.slots)
		if !free {
			return errHeld
		}
		t.permit.Index, t.sent = index, time.Now()
		err = t.w.b.TakeLock(calling, state, t.permit) //nolint:contextcheck // see above
		switch {
		case errors.Is(err, broker.ErrStale) && ctx.Err() == nil: // somebody was faster
		case errors.Is(err, broker.ErrStale):
			return fmt.Errorf("%w: %w", pelton.ErrUnavailable, err)
		default:
			return err
		}
	}
}

// wait decides what follows from a try that failed: it returns when another makes
// sense, or with the error that ends the taking.
func (t *taking) wait(ctx, handler context.Context, failed error) error {
	wait := lockRetry
	if errors.Is(failed, pelton.ErrUnknownOutcome) && !t.asked {
		t.asked = ctx.Err() != nil || handler.Err() != nil
		pause(t.w.hard, wait) //nolint:contextcheck // a permit that was taken shall not be left behind
		return nil
	}
	switch held := errors.Is(failed, errHeld); {
	case !held && !repeatable(failed):
		return failed
	case held && !t.req.wait:
		return fmt.Errorf("lock %q: %w: %s", t.req.name, pelton.ErrConflict, heldBy(t.holders()))
	case !t.req.wait:
		return failed
	case held && t.released == nil:
		// Subscribe first, then look again: a release in between is not missed.
		if err := t.watch(ctx); err == nil {
			wait = 0
		}
	case held:
		wait = nextLook(t.state.Permits, time.Now())
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-t.released:
		pause(ctx, time.Duration(random()*float64(lockJitter)))
	case <-timer.C:
	case <-ctx.Done():
	case <-handler.Done():
	case <-t.w.hard.Done():
		return fmt.Errorf("lock %q: %w", t.req.name, pelton.ErrShutdown)
	}
	if ctx.Err() != nil || handler.Err() != nil {
		return gaveUp(ctx, handler, t.req.name, t.holders())
	}
	return nil
}

func (t *taking) watch(ctx context.Context) error {
	released, stop, err := t.w.b.WatchLock(ctx, t.req.name)
	if err == nil {
		t.released, t.unsub = released, stop
	}
	return err
}

// holders are those of the last look.
func (t *taking) holders() []pelton.LockHolder {
	if t.state == nil {
		return nil
	}
	var list []pelton.LockHolder
	for _, p := range t.state.Permits {
		list = append(list, p.Holder())
	}
	return list
}

func (t *taking) unwatch() {
	if t.unsub != nil {
		t.unsub()
	}
}

// gaveUp is the error of a Lock whose ctx, or whose handler's, ended first.
func gaveUp(ctx, handler context.Context, name string, holders []pelton.LockHolder) error {
	cause := context.Cause(ctx)
	if handler.Err() != nil {
		cause = context.Cause(handler)
	}
	if len(holders) == 0 {
		return fmt.Errorf("lock %q: %w", name, cause)
	}
	return fmt.Errorf("lock %q: %w: %s", name, cause, heldBy(holders))
}

// heldBy says who holds a lock; of several, who has held it for longest.
func heldBy(holders []pelton.LockHolder) string {
	text := fmt.Sprintf("held by task %s (%s) on worker %s", holders[0].TaskID, holders[0].Kind, holders[0].Worker)
	if more := len(holders) - 1; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// slotsMismatch is no pelton.ErrConflict: it does not mean that others do the work.
func slotsMismatch(req lockRequest, slots int, holder pelton.LockHolder) error {
	return fmt.Errorf("lock %q: %w: it has %d slots for this handler and %d for the one that holds it, task %s (%s)",
		req.name, pelton.ErrInvalid, req.slots, slots, holder.TaskID, holder.Kind)
}

// nextLook is when a waiter looks again without being told: when the first lease
// should be over, a few times after that, because the broker expires late rather
// than early, and every second in any case, because clocks differ and hints get lost.
func nextLook(held []*broker.Permit, now time.Time) time.Duration {
	const slack, again, keenly = 20 * time.Millisecond, 200 * time.Millisecond, 2 * time.Second
	look := lockLook
	for _, p := range held {
		switch left := p.Expires.Sub(now); {
		case left > 0:
			look = min(look, left+slack)
		case left > -keenly:
			look = min(look, again)
		}
	}
	return look
}

// turns are queues of those who wait for a lock in this process, by its name.
type turns struct {
	mu     sync.Mutex
	byName map[string]*turn
}

type turn struct {
	taken chan struct{} // holds one: whose turn it is. Senders are served in order
	users int
}

// enter waits for its turn; leave ends it.
func (ts *turns) enter(ctx, handler context.Context, name string) (leave func(), err error) {
	ts.mu.Lock()
	if ts.byName == nil {
		ts.byName = make(map[string]*turn)
	}
	t := ts.byName[name]
	if t == nil {
		t = &turn{taken: make(chan struct{}, 1)}
		ts.byName[name] = t
	}
	t.users++
	ts.mu.Unlock()
	quit := func() {
		ts.mu.Lock()
		defer ts.mu.Unlock()
		if t.users--; t.users == 0 {
			delete(ts.byName, name)
		}
	}
	select {
	case t.taken <- struct{}{}:
		return func() { <-t.taken; quit() }, nil
	case <-ctx.Done():
	case <-handler.Done():
	}
	quit()
	return nil, gaveUp(ctx, handler, name, nil)
}

package main

import (
	"context"
	"errors"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/chaos/history"
	"github.com/peltonq/pelton/worker"
)

// locked works under a lock, as long as it has it: what comes too late is done again.
func locked(ctx context.Context, a *actor, r *run) error { //nolint:contextcheck // the lock's ctx ends with the handler's
	slots := max(r.Slots, 1)
	event := history.Event{Lock: r.Lock, Slots: slots, Began: history.Now()}
	held, err := worker.Lock(ctx, r.Lock, worker.Slots(slots))
	if err != nil {
		return err
	}
	tell := func(kind history.Kind, o history.Outcome) {
		event := event
		event.Kind, event.Outcome, event.Token = kind, o, held.Token()
		a.tell(r, event)
	}
	tell(history.LockTaken, "")
	under := held.Context()                   // ends with ctx
	told := context.AfterFunc(under, func() { //nolint:contextcheck // see above
		if cause := context.Cause(under); errors.Is(cause, pelton.ErrLockLost) || errors.Is(cause, pelton.ErrFenced) {
			tell(history.LockLost, outcome(cause))
		}
	})
	err = sleep(under, a, r) //nolint:contextcheck // see above
	told()
	tell(history.LockReleased, outcome(err))
	if err = errors.Join(err, held.Unlock()); errors.Is(err, pelton.ErrLockLost) && ctx.Err() == nil {
		return pelton.Snooze(soon)
	}
	return err
}

package broker

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/peltonq/pelton"
)

// key deletes the lock of a unique key that nobody holds, because an enqueuer or a
// worker died before it could. Whoever wants the key would find out as well; this is
// for keys that never come back. A task that is not over is left to its end.
func (s *Sweeper) key(ctx context.Context, msg *stored, swept *Swept) error {
	var lock uniqueLock
	if msg.deleted() || s.now().Sub(msg.time) < sweepAge {
		return nil
	}
	if err := json.Unmarshal(msg.data, &lock); err != nil {
		return nil //nolint:nilerr // not a lock of ours
	}
	holder, err := s.b.LoadRecord(ctx, lock.ID)
	switch {
	case errors.Is(err, pelton.ErrNotFound):
		holder = nil
	case errors.Is(err, pelton.ErrUnavailable):
		return err
	case err != nil:
		return nil //nolint:nilerr // of a newer version: not ours to repair
	}
	if holder != nil && !holder.State.Terminal() {
		return nil
	}
	switch lock.standing(holder, time.Now()) {
	case keyHeld:
		return nil
	case keyUnsettled:
		if fenced, err := s.b.fence(ctx, lock.ID, holder); err != nil || !fenced {
			return err
		}
	case keyFree:
	}
	if _, err := s.b.do(ctx, s.b.unlockWrite(msg.subject, msg.seq)); err != nil {
		if errors.Is(err, ErrStale) {
			return nil // somebody has it by now
		}
		return err
	}
	s.b.cfg.Logger.Warn("unique key that nobody holds released", "task_id", lock.ID.String(), "kind", lock.Kind)
	swept.Keys++
	return nil
}

package broker

import (
	"context"
	"errors"
	"fmt"

	"github.com/peltonq/pelton"
)

// Scan calls yield for every message in the tasks stream, oldest first, until it
// returns false: tasks that are ready, run or wait in the schedule. Each message
// costs one read, so this is for tests and small installations. Unreadable
// messages are passed over.
func (b *Broker) Scan(ctx context.Context, yield func(*Envelope) bool) error {
	for _, filter := range []string{b.ns + ".t.0.r.>", b.ns + ".t.0.s.>"} {
		for next := uint64(1); ; {
			msg, err := b.get(ctx, b.tasks(0), getRequest{Seq: next, NextFor: filter}, false)
			if errors.Is(err, pelton.ErrNotFound) {
				break
			}
			if err != nil {
				return fmt.Errorf("scan tasks: %w", err)
			}
			next = msg.seq + 1
			if env, err := decodeEnvelope(msg.data); err == nil && !yield(env) {
				return nil
			}
		}
	}
	return nil
}

// Idle reports whether no task is ready or runs: a message that is acknowledged
// leaves the stream. Unlike the lanes' counters it is exact at once.
func (b *Broker) Idle(ctx context.Context) (bool, error) {
	_, err := b.get(ctx, b.tasks(0), getRequest{Seq: 1, NextFor: b.ns + ".t.0.r.>"}, false)
	switch {
	case errors.Is(err, pelton.ErrNotFound):
		return true, nil
	case err != nil:
		return false, fmt.Errorf("look for ready tasks: %w", err)
	default:
		return false, nil
	}
}

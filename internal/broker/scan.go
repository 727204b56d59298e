package broker

import (
	"context"
	"errors"
	"fmt"

	"github.com/peltonq/pelton"
)

// Scan calls yield for every message of a task until it returns false: of those
// that are ready or run, that wait in the schedule, and that wait for their turn in
// a line, each oldest first. Payloads are not in all of them. Each message
// costs one read, so this is for tests and small installations. Unreadable
// messages are passed over.
func (b *Broker) Scan(ctx context.Context, yield func(*Envelope) bool) error {
	type part struct{ stream, filter string }
	var parts []part
	for i := range b.Shards() {
		shard := uint8(i)
		parts = append(parts, part{b.tasks(shard), b.readyPrefix(shard) + ">"}, part{b.tasks(shard), b.scheduledIn(shard, "*")})
	}
	for _, in := range append(parts, part{b.keyed(0), b.places()}, part{b.keyed(0), b.laterPlaces(0)}) {
		for next := uint64(1); ; {
			msg, err := b.get(ctx, in.stream, getRequest{Seq: next, NextFor: in.filter}, false)
			if errors.Is(err, pelton.ErrNotFound) {
				break
			}
			if err != nil {
				return fmt.Errorf("scan tasks: %w", err)
			}
			next = msg.seq + 1
			if env, err := decodeMessage(msg.data, msg.seq); err == nil && !yield(env) {
				return nil
			}
		}
	}
	return nil
}

// Idle reports whether no task is ready, runs or waits for its turn: a message that
// is acknowledged leaves the stream. Unlike the lanes' counters it is exact at once.
func (b *Broker) Idle(ctx context.Context) (bool, error) {
	// Lines first: a task is in its lane before it leaves its line.
	type part struct{ stream, filter string }
	parts := []part{{b.keyed(0), b.places()}}
	for i := range b.Shards() {
		parts = append(parts, part{b.tasks(uint8(i)), b.readyPrefix(uint8(i)) + ">"})
	}
	for _, in := range parts {
		_, err := b.get(ctx, in.stream, getRequest{Seq: 1, NextFor: in.filter}, false)
		switch {
		case errors.Is(err, pelton.ErrNotFound):
		case err != nil:
			return false, fmt.Errorf("look for ready tasks: %w", err)
		default:
			return false, nil
		}
	}
	return true, nil
}

package broker

import (
	"context"
	"errors"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/peltonq/pelton"
)

// many are tasks with a turn each in a line that lets so many run, and two that wait; they are over.
func many(t *testing.T, b *Broker, n int) []*Record {
	t.Helper()
	must(t, b.LoadLimits(t.Context()))
	b.limits.set([]pelton.Limit{{Name: "k", ConcurrencyKey: "k", MaxRunning: n}})
	records := inLineOf(t, b, "k", n+2)
	settled(t, b, "k")
	haveTurns(t, b, "k", records[:n]...)
	for i, r := range records[:n] {
		runs(t, b, r, uint64(i+1))
	}
	return records
}

// atTheDoor is how many tasks wait to leave a line.
func atTheDoor(b *Broker, line Line) int {
	b.leaving.mu.Lock()
	defer b.leaving.mu.Unlock()
	return len(b.leaving.lines[line])
}

// Tasks of a line that end while it is settled give their turns back by one write, which calls who is next; so do
// those that are dropped.
func TestTasksLeaveTogether(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	const n = 20
	records := many(t, b, n)
	line := Line{Key: "k"}
	leave, err := b.lineDoors.enter(t.Context(), line)
	must(t, err)
	var group errgroup.Group
	for i, r := range records[:n] {
		group.Go(func() error {
			if i%2 > 0 {
				return b.LeaveDropped(t.Context(), r, r.Envelope(), uint64(i+1))
			}
			return b.LeaveLines(t.Context(), r, uint64(i+1))
		})
	}
	reaches(t, "all wait at the door", func() bool { return atTheDoor(b, line) == n })
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.leaveLine(gone, line, &leaver{}); !errors.Is(err, pelton.ErrUnavailable) {
		t.Errorf("who gives up = %v", err)
	}
	if waiting := atTheDoor(b, line); waiting != n {
		t.Errorf("%d wait, want %d without the one that gave up", waiting, n)
	}
	before := streamState(t, b, bucketStream(b.keys())).State.LastSeq
	leave()
	must(t, group.Wait())
	haveTurns(t, b, "k", records[n:]...)
	if writes := streamState(t, b, bucketStream(b.keys())).State.LastSeq - before; writes != 2 {
		t.Errorf("%d writes for %d tasks that end and %d that are dropped", writes, n/2, n/2)
	}
	if len(b.leaving.lines) != 0 {
		t.Errorf("left behind: %+v", b.leaving.lines)
	}
}

// What could not be written is an error for all who waited, and nobody gets a turn whose task could not be called.
func TestTasksFailToLeaveTogether(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	records := many(t, b, 2)
	line := Line{Key: "k"}
	leave, err := b.lineDoors.enter(t.Context(), line)
	must(t, err)
	ends := make(chan error, 2)
	for i, r := range records[:2] {
		go func() { ends <- b.LeaveLines(t.Context(), r, uint64(i+1)) }()
	}
	reaches(t, "both wait at the door", func() bool { return atTheDoor(b, line) == 2 })
	b.conn.nc.Close()
	leave()
	for range 2 {
		if err := wait(t, ends, "end of both"); !errors.Is(err, pelton.ErrUnavailable) {
			t.Errorf("without a broker = %v", err)
		}
	}
	head := &placeHead{ID: records[2].ID, Queue: "q", Priority: pelton.Low}
	if err := (&calling{b: b, calls: []call{{head, &stored{}}}}).publish(t.Context()); !errors.Is(err, pelton.ErrUnavailable) {
		t.Errorf("call without a broker = %v", err)
	}
}

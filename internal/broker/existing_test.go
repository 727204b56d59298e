package broker

import (
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
)

// An enqueuer dies before it has published the task's message: whoever is answered
// with that task publishes it, once, whatever the task waits for.
func TestExistingCrashWindows(t *testing.T) {
	t.Parallel()
	srv := brokertest.StartServer(t)
	dying := openOn(t, brokertest.Connect(t, srv), Config{})
	for _, tc := range []struct {
		name     string
		waits    func(*Record) // before it is enqueued
		dies     func(*testing.T, *Record)
		messages int // before the answer
	}{
		{"after the record", nil, nil, 0},
		{"after the message", nil, func(t *testing.T, r *Record) { must(t, dying.Publish(t.Context(), r)) }, 1},
		{"scheduled", func(r *Record) { r.State, r.RunAt = pelton.Scheduled, time.Now().Add(time.Hour) }, nil, 0},
		{"after a requeue's record", nil, func(t *testing.T, r *Record) {
			must(t, dying.Publish(t.Context(), r))
			over := end(t, dying, r.ID, pelton.Failed, true)
			must(t, dying.takeKey(t.Context(), over, over.Epoch+1))
			over.restart(time.Now())
			must(t, dying.SaveRecord(t.Context(), over))
		}, 1},
	} {
		for _, repeats := range []bool{false, true} {
			t.Run(tc.name+"/"+strconv.FormatBool(repeats), func(t *testing.T) {
				t.Parallel()
				ctx := t.Context()
				u := pelton.Unique{Key: t.Name(), OnConflict: pelton.ConflictExisting}
				first := aUnique(u)
				if tc.waits != nil {
					tc.waits(first)
				}
				must(t, dying.ensure(ctx, first))
				must(t, dying.takeKey(ctx, first, 0))
				must(t, dying.SaveRecord(ctx, first))
				if tc.dies != nil {
					tc.dies(t, first)
				}
				b := openOn(t, brokertest.Connect(t, srv), Config{})
				count := func() int {
					if first.State == pelton.Scheduled {
						return schedulesOf(t, b, first)
					}
					return messagesOf(t, b, first.ID)
				}
				if n := count(); n != tc.messages {
					t.Fatalf("%d messages before anybody asks, want %d", n, tc.messages)
				}
				var idem Idempotency
				if repeats {
					idem = aRequest(t.Name())
				}
				for i := range 3 {
					out, err := b.EnqueueOnce(ctx, aUnique(u), idem)
					if err != nil || !out.Existing || out.Record.ID != first.ID {
						t.Fatalf("answer %d = %+v, %v, want task %s", i, out, err, first.ID)
					}
					if n := count(); n != tc.messages+1 {
						t.Fatalf("%d messages after answer %d, want %d", n, i, tc.messages+1)
					}
				}
				// What was noted in the lock does not keep the key from being released.
				over := end(t, b, first.ID, pelton.Succeeded, true)
				if lock, found := lockOf(t, b, over); found {
					t.Errorf("the key stays taken: %+v", lock)
				}
			})
		}
	}
}

// schedulesOf counts the schedules of a task.
func schedulesOf(t *testing.T, b *Broker, r *Record) int {
	t.Helper()
	_, err := b.get(t.Context(), b.tasks(r.ID.Shard()), getRequest{LastFor: b.scheduled(r.ID.Shard(), r.Queue, r.Priority, r.ID, r.Epoch)}, false)
	if errors.Is(err, pelton.ErrNotFound) {
		return 0
	}
	must(t, err)
	return 1
}

// Nothing is published, nor written into the lock, of a task that has been started.
func TestExistingThatRuns(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	ctx := t.Context()
	u := pelton.Unique{Key: "k", OnConflict: pelton.ConflictExisting}
	running := once(t, b, aUnique(u)).Record
	running.State, running.StartedAt, running.Attempt, running.Carrier = pelton.Running, time.Now().UTC(), 1, 99
	must(t, b.SaveRecord(ctx, running))
	before, _ := lockOf(t, b, running)
	if out := once(t, b, aUnique(u)); !out.Existing || messagesOf(t, b, running.ID) != 1 {
		t.Errorf("a running task's message was published again: %+v", out)
	}
	if after, _ := lockOf(t, b, running); after != before {
		t.Errorf("the lock of a running task was written: %+v", after)
	}
}

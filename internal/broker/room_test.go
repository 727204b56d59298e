package broker

import (
	"errors"
	"testing"

	"github.com/peltonq/pelton"
)

// While the disk is said to be full, new tasks and retries of ended ones are
// refused by every process, and what belongs to an accepted task is not.
func TestFullDiskIsForAcceptedTasks(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	ctx := t.Context()
	before := aRecord("default", pelton.Normal)
	must(t, b.Enqueue(ctx, before))
	ended := aRecord("default", pelton.Normal)
	must(t, b.Enqueue(ctx, ended))
	ended.State = pelton.Succeeded
	must(t, b.SaveRecord(ctx, ended))

	once, err := b.EnqueueOnce(ctx, aRecord("default", pelton.Normal), aRequest("before"))
	must(t, err)

	must(t, b.TellFull(true))
	reaches(t, "the word", func() bool { return b.room.check() != nil })
	refused := aRecord("default", pelton.Normal)
	if err := b.Enqueue(ctx, refused); !errors.Is(err, pelton.ErrUnavailable) || errors.Is(err, pelton.ErrUnknownOutcome) {
		t.Errorf("enqueue: %v", err)
	}
	if _, err := b.LoadRecord(ctx, refused.ID); !errors.Is(err, pelton.ErrNotFound) {
		t.Errorf("a refused task has a record: %v", err)
	}
	if _, err := b.EnqueueOnce(ctx, aRecord("default", pelton.Normal), aRequest("new")); !errors.Is(err, pelton.ErrUnavailable) {
		t.Errorf("enqueue once: %v", err)
	}
	if again, err := b.EnqueueOnce(ctx, aRecord("default", pelton.Normal), aRequest("before")); err != nil || !again.Replayed || again.Record.ID != once.Record.ID {
		t.Errorf("a repeat: %+v, %v", again, err)
	}
	for _, err := range b.EnqueueMany(ctx, []*Record{aRecord("default", pelton.Normal), aRecord("default", pelton.Normal)}) {
		if !errors.Is(err, pelton.ErrUnavailable) {
			t.Errorf("enqueue many: %v", err)
		}
	}
	if _, err := b.Requeue(ctx, ended.ID); !errors.Is(err, pelton.ErrUnavailable) {
		t.Errorf("requeue: %v", err)
	}
	if err := b.Probe(ctx); !errors.Is(err, pelton.ErrUnavailable) {
		t.Errorf("probe: %v", err)
	}
	before.State = pelton.Running
	must(t, b.SaveRecord(ctx, before))

	must(t, b.TellFull(false))
	reaches(t, "the end of it", func() bool { return b.room.check() == nil })
	must(t, b.Enqueue(ctx, refused))
	must(t, b.Probe(ctx))
}

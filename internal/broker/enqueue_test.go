package broker

import (
	"errors"
	"testing"
	"time"

	"github.com/peltonq/pelton"
)

// A task that the broker refused leaves no record, alone or among many: nobody
// will ever run it, so nobody must find it.
func TestRefusedTasksLeaveNoRecord(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	must(t, b.EnsureScheduled(t.Context(), Lane{Queue: "q", Priority: pelton.Low}))
	must(t, b.js.DeleteStream(t.Context(), b.tasks(0))) // nothing takes the messages, and the server says so
	alone, delayed := aRecord("q", pelton.Low), aRecord("q", pelton.Low)
	delayed.State, delayed.RunAt = pelton.Scheduled, time.Now().Add(time.Hour)
	many := []*Record{aRecord("q", pelton.Low), aRecord("q", pelton.Low), aRecord("q", pelton.Low)}
	many[1].State, many[1].RunAt = pelton.Scheduled, time.Now().Add(time.Hour)

	errs := append(b.EnqueueMany(t.Context(), many), b.Enqueue(t.Context(), alone), b.Enqueue(t.Context(), delayed))
	for i, r := range append(many, alone, delayed) {
		if !errors.Is(errs[i], pelton.ErrUnavailable) || errors.Is(errs[i], pelton.ErrUnknownOutcome) {
			t.Errorf("task %d: %v, want ErrUnavailable", i, errs[i])
		}
		if _, err := b.LoadRecord(t.Context(), r.ID); !errors.Is(err, pelton.ErrNotFound) {
			t.Errorf("record of refused task %d: %v, want ErrNotFound", i, err)
		}
	}
}

// A lane that cannot be opened fails once for all tasks of a batch, and the
// other lanes' tasks are enqueued.
func TestEnqueueManyAcrossLanes(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	must(t, b.EnsureLane(t.Context(), Lane{Queue: "known", Priority: pelton.Low}))
	b.maxQueues = 1
	records := make([]*Record, 40)
	for i := range records {
		queue := "known"
		if i%2 == 1 {
			queue = "new"
		}
		records[i] = aRecord(queue, pelton.Low)
	}
	for i, err := range b.EnqueueMany(t.Context(), records) {
		if refused := errors.Is(err, pelton.ErrInvalid); refused != (i%2 == 1) || !refused && err != nil {
			t.Errorf("task %d of queue %s: %v", i, records[i].Queue, err)
		}
	}
	seen := 0
	must(t, b.Scan(t.Context(), func(*Envelope) bool { seen++; return true }))
	if seen != len(records)/2 {
		t.Errorf("%d tasks in the stream, want %d", seen, len(records)/2)
	}
}

// A record of a shard that this installation does not have is not there.
func TestRecordOfAnotherShard(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	id := pelton.NewID(time.Now(), 3)
	for name, load := range map[string]func() (*Record, error){
		"load": func() (*Record, error) { return b.LoadRecord(t.Context(), id) },
		"read": func() (*Record, error) { return b.ReadRecord(t.Context(), id) },
	} {
		if _, err := load(); !errors.Is(err, pelton.ErrNotFound) {
			t.Errorf("%s = %v, want ErrNotFound", name, err)
		}
	}
}

// A create that meets a marker which goes while it looks finds its way.
func TestCreateMeetsAVanishingMarker(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	r := aRecord("q", pelton.Low)
	must(t, b.CreateRecord(t.Context(), r))
	must(t, b.DropRecord(t.Context(), r))
	must(t, b.purge(t.Context(), bucketStream(b.state(0)), b.record(r.ID)))
	must(t, b.CreateRecord(t.Context(), r))
	again := aRecord("q", pelton.Low)
	again.ID = r.ID
	if err := b.CreateRecord(t.Context(), again); !errors.Is(err, pelton.ErrConflict) || again.Revision != 0 {
		t.Errorf("create over a record = %v with revision %d, want ErrConflict with 0", err, again.Revision)
	}
}

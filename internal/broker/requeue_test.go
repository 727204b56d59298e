package broker

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/peltonq/pelton"
)

// readyOf lists the envelopes in the ready lanes.
func readyOf(t *testing.T, b *Broker) (envelopes []*Envelope) {
	t.Helper()
	must(t, b.Scan(t.Context(), func(e *Envelope) bool {
		envelopes = append(envelopes, e)
		return true
	}))
	return envelopes
}

func noLetter(t *testing.T, b *Broker, id pelton.ID) {
	t.Helper()
	if _, err := b.FindDead(t.Context(), id); !errors.Is(err, pelton.ErrNotFound) {
		t.Errorf("dead letter: %v, want ErrNotFound", err)
	}
}

func TestRequeueDead(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	failed := aDead(t, b, "q")
	letter, err := b.FindDead(t.Context(), failed.ID)
	must(t, err)
	got, err := b.RequeueDead(t.Context(), letter)
	must(t, err)
	want := &Record{Meta: failed.Meta, State: pelton.Queued, Payload: failed.Payload, Errors: failed.Errors, Revision: got.Revision}
	want.Epoch = 1
	if diff := cmp.Diff(want, got); diff != "" || got.Revision <= failed.Revision {
		t.Errorf("record (-want +got):\n%s", diff)
	}
	stored, err := b.LoadRecord(t.Context(), failed.ID)
	must(t, err)
	if diff := cmp.Diff(want, stored); diff != "" {
		t.Errorf("stored record (-want +got):\n%s", diff)
	}
	ready := readyOf(t, b)
	if len(ready) != 1 || ready[0].ID != failed.ID || ready[0].Epoch != 1 || string(ready[0].Payload) != string(failed.Payload) {
		t.Errorf("ready = %+v", ready)
	}
	noLetter(t, b, failed.ID)
}

func TestRequeueAnyEnd(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	for _, state := range pelton.States() {
		r := aRecord(string(state), pelton.High)
		r.State, r.Result, r.Attempt, r.RunAt = state, []byte(`1`), 1, time.Now().Add(-time.Hour)
		r.ExpiresAt = time.Now().Add(-time.Minute)
		must(t, b.CreateRecord(t.Context(), r))
		got, err := b.Requeue(t.Context(), r.ID)
		if !state.Terminal() {
			if !errors.Is(err, pelton.ErrConflict) || got == nil || got.Revision != r.Revision {
				t.Errorf("%s: %+v, %v, want ErrConflict", state, got, err)
			}
			continue
		}
		if err != nil || got.State != pelton.Queued || got.Epoch != 1 || got.Result != nil || got.Attempt != 0 || !got.ExpiresAt.IsZero() || !got.RunAt.IsZero() {
			t.Errorf("%s: %+v, %v", state, got, err)
		}
	}
	if n := len(readyOf(t, b)); n != 4 {
		t.Errorf("%d ready, want 4", n)
	}
	if _, err := b.Requeue(t.Context(), pelton.NewID(time.Now(), 0)); !errors.Is(err, pelton.ErrNotFound) {
		t.Errorf("unknown task: %v, want ErrNotFound", err)
	}
	r := aRecord("q", pelton.High)
	r.State, r.ExpiresAt = pelton.Cancelled, time.Now().Add(time.Hour).UTC().Truncate(time.Millisecond)
	must(t, b.CreateRecord(t.Context(), r))
	if got, err := b.Requeue(t.Context(), r.ID); err != nil || !got.ExpiresAt.Equal(r.ExpiresAt) {
		t.Errorf("expires_at to come: %+v, %v", got, err)
	}
}

// TestRequeueFinishesWhatACrashLeft makes the record, and each of the following
// writes, be missing, and repeats the call.
func TestRequeueFinishesWhatACrashLeft(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	ctx := t.Context()

	// After the record: no message, and the letter is there.
	r := aDead(t, b, "after_record")
	r.restart(time.Now())
	must(t, b.SaveRecord(ctx, r))
	if got, err := b.Requeue(ctx, r.ID); err != nil || got.Revision != r.Revision {
		t.Errorf("repeat: %+v, %v", got, err)
	}
	if ready := readyOf(t, b); len(ready) != 1 || ready[0].ID != r.ID || ready[0].Epoch != 1 {
		t.Errorf("ready = %+v", ready)
	}
	noLetter(t, b, r.ID)

	// The same without a letter: a task that had succeeded, say.
	r = aRecord("no_letter", pelton.Normal)
	r.State = pelton.Succeeded
	must(t, b.CreateRecord(ctx, r))
	r.restart(time.Now())
	must(t, b.SaveRecord(ctx, r))
	if got, err := b.Requeue(ctx, r.ID); err != nil || got.Revision != r.Revision {
		t.Errorf("repeat without a letter: %+v, %v", got, err)
	}
	if n := len(readyOf(t, b)); n != 2 {
		t.Errorf("%d ready, want 2", n)
	}

	// After the message: the letter outlives, and the task runs, or has ended.
	for state, conflict := range map[pelton.State]bool{pelton.Running: false, pelton.Retrying: false, pelton.Succeeded: true} {
		r = aDead(t, b, "after_message")
		letter, err := b.FindDead(ctx, r.ID)
		must(t, err)
		r.restart(time.Now())
		r.State, r.Carrier = state, 99
		must(t, b.SaveRecord(ctx, r))
		got, err := b.RequeueDead(ctx, letter)
		if errors.Is(err, pelton.ErrConflict) != conflict || !conflict && err != nil || got == nil || got.Revision != r.Revision {
			t.Errorf("letter of a task that is %s: %+v, %v", state, got, err)
		}
		noLetter(t, b, r.ID)
	}
	if n := len(readyOf(t, b)); n != 2 {
		t.Errorf("%d ready, want 2: nothing of it was put back again", n)
	}

	// The task failed again before its letter was replaced.
	r = aDead(t, b, "again")
	r.Epoch += 2
	must(t, b.SaveRecord(ctx, r))
	letter, err := b.FindDead(ctx, r.ID)
	must(t, err)
	if got, err := b.RequeueDead(ctx, letter); err != nil || got.Epoch != 3 {
		t.Errorf("failed again: %+v, %v", got, err)
	}
	noLetter(t, b, r.ID)
}

func TestRequeueWithoutARecord(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	r := aRecord("q", pelton.Normal)
	r.State, r.Epoch = pelton.Failed, 4
	must(t, b.PublishDead(t.Context(), r))
	for range 2 { // the second finds that the task waits already
		got, err := b.Requeue(t.Context(), r.ID)
		if err != nil || got.State != pelton.Queued || got.Epoch != 5 || string(got.Payload) != string(r.Payload) {
			t.Errorf("Requeue = %+v, %v", got, err)
		}
	}
	noLetter(t, b, r.ID)

	// Where the record has expired, its delete marker is in the way.
	r = aDead(t, b, "q")
	must(t, b.DropRecord(t.Context(), r))
	if got, err := b.Requeue(t.Context(), r.ID); err != nil || got.Epoch != 1 {
		t.Errorf("Requeue of an expired record = %+v, %v", got, err)
	}
}

// TestRequeueLiftsTheTTL keeps the record of a requeued task beyond the retention
// that it had as a finished one.
func TestRequeueLiftsTheTTL(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	over := func() *Record {
		r := aRecord("q", pelton.Normal)
		r.State, r.Retention = pelton.Succeeded, time.Second
		must(t, b.CreateRecord(t.Context(), r))
		return r
	}
	back := over()
	_, err := b.Requeue(t.Context(), back.ID)
	must(t, err)
	gone := over() // written later, so it expires later
	reaches(t, "the finished record to expire", func() bool {
		_, err := b.LoadRecord(t.Context(), gone.ID)
		return errors.Is(err, pelton.ErrNotFound)
	})
	if got, err := b.LoadRecord(t.Context(), back.ID); err != nil || got.State != pelton.Queued {
		t.Errorf("requeued record = %+v, %v", got, err)
	}
}

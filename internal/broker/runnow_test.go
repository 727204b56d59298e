package broker

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/peltonq/pelton"
)

// inAnHour is a delayed task, with a concurrency key if key is not empty.
func inAnHour(t *testing.T, b *Broker, queue, key string) *Record {
	t.Helper()
	r := aRecord(queue, pelton.Low)
	r.State, r.RunAt, r.ConcurrencyKey = pelton.Scheduled, time.Now().Add(time.Hour).UTC(), key
	r.EnterLine()
	must(t, b.Enqueue(t.Context(), r))
	return r
}

func runNow(t *testing.T, b *Broker, id pelton.ID) *Record {
	t.Helper()
	r, err := b.RunNow(t.Context(), id)
	must(t, err)
	if state := r.Task(time.Now()).State; state != pelton.Queued {
		t.Errorf("task %s reads %s after run", id, state)
	}
	return r
}

// readyNow expects that the lane has exactly these messages of the task's epoch, and
// that no schedule is left.
func readyNow(t *testing.T, b *Broker, r *Record, copies uint64) {
	t.Helper()
	if _, subject := b.scheduleOf(r); !gone(t, b, b.tasks(0), subject) {
		t.Error("the schedule is still there")
	}
	stored, err := b.storedUnder(t.Context(), b.tasks(0), b.ready(0, r.Queue, r.Priority))
	must(t, err)
	if got := stored[b.ready(0, r.Queue, r.Priority)]; got != copies {
		t.Errorf("%d messages are ready, want %d", got, copies)
	}
}

func TestRunNow(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	delayed := inAnHour(t, b, "q", "")
	now := runNow(t, b, delayed.ID)
	if now.Epoch != 0 || now.State != pelton.Scheduled || now.RunAt.After(time.Now()) {
		t.Errorf("record = %+v", now)
	}
	readyNow(t, b, delayed, 1)
	shows(t, b, b.tasks(0), scheduledConsumer("q"), 0)
	if again := runNow(t, b, delayed.ID); again.Revision != now.Revision {
		t.Errorf("a second run wrote revision %d over %d", again.Revision, now.Revision)
	}
	readyNow(t, b, delayed, 1)
	d := wait(t, deliveries(t, b, "q", pelton.Low, 1), "task")
	must(t, d.Err)
	if d.Envelope.ID != delayed.ID || string(d.Envelope.Payload) != string(delayed.Payload) {
		t.Errorf("delivered %+v", d.Envelope)
	}

	retrying := aRecord("retrying", pelton.Low)
	retrying.State, retrying.RunAt, retrying.Epoch, retrying.Attempt, retrying.Ended = pelton.Retrying, time.Now().Add(time.Hour).UTC(), 3, 1, 1
	must(t, b.Enqueue(t.Context(), retrying))
	if now := runNow(t, b, retrying.ID); now.State != pelton.Retrying || now.Epoch != 3 {
		t.Errorf("record = %+v", now)
	}
	readyNow(t, b, retrying, 1)
}

func TestRunNowByState(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	for _, state := range pelton.States() {
		r := aRecord("q", pelton.Low)
		r.State, r.RunAt = state, time.Now().Add(-time.Minute).UTC()
		must(t, b.CreateRecord(t.Context(), r))
		got, err := b.RunNow(t.Context(), r.ID)
		waits := state == pelton.Queued || state == pelton.Scheduled || state == pelton.Retrying
		if waits && err != nil || !waits && !errors.Is(err, pelton.ErrConflict) || got == nil || got.Revision != r.Revision {
			t.Errorf("%s: %+v, %v", state, got, err)
		}
	}
	// What a limit put off goes by the limit.
	limited := inAnHour(t, b, "limited", "")
	limited.Limited = &Limited{Times: 1, By: "slow", Passes: []Pass{{Limit: "slow", At: limited.RunAt, Booked: true, Last: true}}}
	must(t, b.SaveRecord(t.Context(), limited))
	if got, err := b.RunNow(t.Context(), limited.ID); err != nil || got.Revision != limited.Revision || !got.RunAt.Equal(limited.RunAt) {
		t.Errorf("put off by a limit: %+v, %v", got, err)
	}
	if _, err := b.RunNow(t.Context(), pelton.NewID(time.Now(), 0)); !errors.Is(err, pelton.ErrNotFound) {
		t.Errorf("unknown task: %v, want ErrNotFound", err)
	}
}

// A crash between the record and the message: repeating the call finishes it, and so
// does the sweep, whatever the task waits in.
func TestRunNowFinishesWhatACrashLeft(t *testing.T) {
	t.Parallel()
	for name, finish := range map[string]func(t *testing.T, b *Broker, r *Record){
		"repeat": func(t *testing.T, b *Broker, r *Record) { t.Helper(); runNow(t, b, r.ID) },
		"sweep": func(t *testing.T, b *Broker, _ *Record) {
			t.Helper()
			if swept := sweep(t, b.NewSweeper()); swept.Repaired() != 0 {
				t.Errorf("young damage was repaired: %+v", swept)
			}
			s := aged(b)
			if swept := sweep(t, s); swept.Overdue != 1 || swept.Repaired() != 1 {
				t.Errorf("swept %+v, want one overdue", swept)
			}
			if swept := sweep(t, s); swept.Repaired() != 0 {
				t.Errorf("repaired again: %+v", swept)
			}
		},
	} {
		for _, key := range []string{"", "acme"} {
			t.Run(name+key, func(t *testing.T) {
				t.Parallel()
				b := openNew(t)
				r := inAnHour(t, b, "q", key)
				r.RunAt = time.Now().UTC()
				must(t, b.SaveRecord(t.Context(), r)) // and the process died
				finish(t, b, r)
				if key == "" {
					readyNow(t, b, r, 1)
					return
				}
				line, _ := r.waitsIn()
				if !gone(t, b, b.keyed(0), b.laterPlace(0, r.Queue, r.ID, 0)) || gone(t, b, b.keyed(0), b.place(0, line, r.Queue)) {
					t.Error("the task has a schedule, or no place")
				}
			})
		}
	}
}

// A task with a concurrency key takes its place at the end of its line, and waits for
// its turn there.
func TestRunNowInALine(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	delayed := inAnHour(t, b, "q", "acme")
	first := aRecord("q", pelton.Low)
	first.ConcurrencyKey = "acme"
	first.EnterLine()
	must(t, b.Enqueue(t.Context(), first))
	runNow(t, b, delayed.ID)
	ctx, stop := context.WithCancel(t.Context())
	serving := make(chan struct{})
	go func() { defer close(serving); b.CallLines(ctx) }()
	t.Cleanup(func() { stop(); <-serving })
	called := deliveries(t, b, "q", pelton.Low, 2)
	d := wait(t, called, "first of the line")
	if d.Envelope.ID != first.ID {
		t.Fatalf("%s was called, want %s, which came first", d.Envelope.ID, first.ID)
	}
	if now, err := b.Called(t.Context(), mustLoad(t, b, delayed.ID)); err != nil || now {
		t.Errorf("the delayed task has a turn beside another: %t, %v", now, err)
	}
	over := mustLoad(t, b, first.ID)
	over.State = pelton.Succeeded
	must(t, b.SaveRecord(t.Context(), over))
	must(t, b.LeaveLines(t.Context(), over, d.Seq))
	if d := wait(t, called, "second of the line"); d.Envelope.ID != delayed.ID {
		t.Errorf("%s was called, want %s", d.Envelope.ID, delayed.ID)
	}
}

func mustLoad(t *testing.T, b *Broker, id pelton.ID) *Record {
	t.Helper()
	r, err := b.LoadRecord(t.Context(), id)
	must(t, err)
	return r
}

// Run now and the schedule at the same time make two copies of one epoch at most, and
// never none.
func TestRunNowWhileTheScheduleFires(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	const n = 40
	due := time.Now().Add(400 * time.Millisecond).UTC()
	var tasks []*Record
	for range n {
		r := aRecord("q", pelton.Low)
		r.State, r.RunAt = pelton.Scheduled, due
		must(t, b.Enqueue(t.Context(), r))
		tasks = append(tasks, r)
	}
	got := deliveries(t, b, "q", pelton.Low, 2*n)
	reaches(t, "the time to come", func() bool { return time.Now().After(due.Add(-20 * time.Millisecond)) })
	for _, r := range tasks {
		if _, err := b.RunNow(t.Context(), r.ID); err != nil {
			t.Error(err)
		}
	}
	seen := map[pelton.ID]int{}
	for len(seen) < n {
		d := wait(t, got, "task")
		must(t, d.Err)
		seen[d.Envelope.ID]++
	}
	shows(t, b, b.tasks(0), scheduledConsumer("q"), 0)
}

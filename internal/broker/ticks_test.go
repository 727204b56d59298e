package broker

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
)

// serveTicksInto hands what b gets to a channel, and answers with what answer says.
func serveTicksInto(t *testing.T, b *Broker, answer func(DueTick) error) <-chan DueTick {
	t.Helper()
	got := make(chan DueTick, 100)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var serving sync.WaitGroup
	serving.Go(func() {
		b.ServeTicks(ctx, func(_ context.Context, due DueTick) error {
			got <- due
			return answer(due)
		})
	})
	t.Cleanup(func() {
		cancel()
		serving.Wait()
	})
	return got
}

// A tick comes once to one of several, not before it is due by the broker's clock, and
// again after 2 s if it is not finished.
func TestTicksComeWhenTheyAreDue(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	b := openOn(t, nc, Config{})
	var mu sync.Mutex
	failed := false
	answer := func(due DueTick) error {
		mu.Lock()
		defer mu.Unlock()
		if due.Schedule == "again" && !failed {
			failed = true
			return errors.New("not finished")
		}
		return nil
	}
	got := serveTicksInto(t, b, answer)
	other := serveTicksInto(t, openOn(t, nc, Config{}), answer)
	receive := func() DueTick {
		select {
		case due := <-got:
			return due
		case due := <-other:
			return due
		case <-time.After(10 * time.Second):
			t.Fatal("no tick within 10 s")
			return DueTick{}
		}
	}
	now, err := b.Now(t.Context())
	must(t, err)
	due := now.Add(700_123_456)
	must(t, b.PublishTick(t.Context(), "once", due, due))
	must(t, b.PublishTick(t.Context(), "once", due, due.Add(-time.Hour))) // which changes nothing
	must(t, b.PublishTick(t.Context(), "dropped", due, due))
	must(t, b.DropTicks(t.Context(), "dropped"))
	for name, want := range map[string]bool{"once": false, "dropped": true, "other": true} {
		if missing, err := b.MissesTick(t.Context(), name, due); err != nil || missing != want {
			t.Errorf("tick of %s is missing: %t, %v", name, missing, err)
		}
	}
	if tick := receive(); tick.Schedule != "once" || tick.Again || tick.Due.Before(due) {
		t.Errorf("%+v, due at %s", tick, due)
	}
	must(t, b.PublishTick(t.Context(), "again", due, due)) // due already
	if tick := receive(); tick.Schedule != "again" || tick.Again {
		t.Errorf("%+v", tick)
	}
	if tick := receive(); tick.Schedule != "again" || !tick.Again {
		t.Errorf("%+v", tick)
	}
	// What is none of ours is dropped.
	must(t, nc.Publish(b.dueTicks(), []byte(`{"schedule":"a.b"}`)))
	reaches(t, "an empty stream", func() bool { return streamState(t, b, b.ticks()).State.Msgs == 0 })
}

// The clock that counts is the broker's, also for a process that has counted on by
// itself since it asked.
func TestNowIsTheBrokers(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	for range 3 {
		before := time.Now()
		now, err := b.Now(t.Context())
		must(t, err)
		if now.Before(before.Add(-50*time.Millisecond)) || now.After(time.Now().Add(time.Millisecond)) {
			t.Errorf("%s, want between %s and now", now, before)
		}
	}
	told := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	b.clock.told, b.clock.at = told, time.Now()
	now, err := b.Now(t.Context())
	must(t, err)
	if d := now.Sub(told); d < 0 || d > time.Second {
		t.Errorf("%s after it was told", d)
	}
	b.clock.at = time.Now().Add(-clockInterval)
	now, err = b.Now(t.Context())
	must(t, err)
	if time.Since(now).Abs() > time.Second {
		t.Errorf("%s after the broker was asked again", now)
	}
}

func tickRecord() *Record {
	r := aRecord("q", pelton.Low)
	r.ID = pelton.TickID("s", "one", r.CreatedAt, 0)
	return r
}

// Any number of callers: the record is created once, and all get it.
func TestEnqueueTickAtOnce(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	const callers = 8
	type answer struct {
		made    *Record
		created bool
		err     error
	}
	answers := make(chan answer, callers)
	want := tickRecord()
	for range callers {
		go func() {
			r := tickRecord()
			r.ID = want.ID
			made, created, err := b.EnqueueTick(t.Context(), r)
			answers <- answer{made, created, err}
		}()
	}
	created := 0
	for range callers {
		a := wait(t, answers, "answer")
		must(t, a.err)
		if a.created {
			created++
		}
		if a.made == nil || a.made.ID != want.ID {
			t.Errorf("%+v", a.made)
		}
	}
	if created != 1 {
		t.Errorf("created %d times", created)
	}
}

func TestEnqueueTickAfterEarlierTries(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	for name, tt := range map[string]struct {
		marker  nats.Header
		created bool
	}{
		"expired: it ran, and is forgotten":               {nats.Header{"Nats-Marker-Reason": {"MaxAge"}}, false},
		"fenced, or its message refused: it never was it": {deleteMarker(), true},
	} {
		r := tickRecord()
		r.ID = pelton.TickID(name, "one", r.CreatedAt, 0)
		_, err := b.do(t.Context(), write{subject: b.record(r.ID), expect: 0, header: tt.marker})
		must(t, err)
		made, created, err := b.EnqueueTick(t.Context(), r)
		must(t, err)
		if created != tt.created || (made != nil) != tt.created {
			t.Errorf("%s: created %t, %+v", name, created, made)
		}
	}
	// An expiry as the broker writes it.
	r := tickRecord()
	r.State, r.FinishedAt, r.Retention = pelton.Succeeded, r.CreatedAt, time.Second
	must(t, b.SaveRecord(t.Context(), r))
	reaches(t, "the record's expiry", func() bool {
		_, err := b.LoadRecord(t.Context(), r.ID)
		return errors.Is(err, pelton.ErrNotFound)
	})
	again := tickRecord()
	again.ID = r.ID
	if made, created, err := b.EnqueueTick(t.Context(), again); err != nil || created || made != nil {
		t.Errorf("after expiry: %+v, created %t, %v", made, created, err)
	}
}

// The record of a tick's task outlives a short retention, as long as the tick might be
// repeated.
func TestTickRecordIsKept(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	r := tickRecord()
	r.Retention = time.Second
	_, _, err := b.EnqueueTick(t.Context(), r)
	must(t, err)
	r.State, r.FinishedAt = pelton.Succeeded, r.CreatedAt.Add(time.Minute)
	w, err := b.recordWrite(r)
	must(t, err)
	if w.ttl < tickMemory-time.Minute {
		t.Errorf("it is kept for %s", w.ttl)
	}
}

func TestEnqueueTickWithUniqueKey(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	unique := func(name string, on pelton.OnConflict) *Record {
		r := tickRecord()
		r.ID = pelton.TickID(name, "one", r.CreatedAt, 0)
		r.Unique = &pelton.Unique{Key: "u", Until: pelton.UntilFinished, OnConflict: on}
		return r
	}
	first := unique("first", pelton.ConflictReject)
	_, created, err := b.EnqueueTick(t.Context(), first)
	must(t, err)
	// The same once more holds its key already.
	again := unique("first", pelton.ConflictReject)
	again.ID = first.ID
	if made, twice, err := b.EnqueueTick(t.Context(), again); err != nil || twice || !created || made.ID != first.ID {
		t.Errorf("%+v, %t, %v", made, twice, err)
	}
	var held *pelton.UniqueError
	if _, _, err := b.EnqueueTick(t.Context(), unique("second", pelton.ConflictReject)); !errors.As(err, &held) || held.Holder != first.ID {
		t.Errorf("reject: %v", err)
	}
	if made, created, err := b.EnqueueTick(t.Context(), unique("third", pelton.ConflictExisting)); err != nil || created || made.ID != first.ID {
		t.Errorf("existing: %+v, %v", made, err)
	}
	replacer := unique("fourth", pelton.ConflictReplace)
	if made, created, err := b.EnqueueTick(t.Context(), replacer); err != nil || !created || made.ID != replacer.ID {
		t.Errorf("replace: %+v, %v", made, err)
	}
	if r, err := b.LoadRecord(t.Context(), first.ID); err != nil || r.State != pelton.Cancelled {
		t.Errorf("replaced: %+v, %v", r, err)
	}
}

// What a definition says comes back, its time is the broker's, and its other writers
// are noticed.
func TestScheduleDocs(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	fresh, err := b.LoadSchedule(t.Context(), "s")
	if !errors.Is(err, pelton.ErrNotFound) {
		t.Fatal(err)
	}
	fresh.Schedule = pelton.Schedule{Name: "s", Every: time.Hour, Task: pelton.Spec{Kind: "k", Payload: []byte(`{ "a":"<" }`)}}
	fresh.Incarnation = "one"
	before := time.Now()
	must(t, b.SaveSchedule(t.Context(), fresh))
	d, err := b.LoadSchedule(t.Context(), "s")
	must(t, err)
	if string(d.Schedule.Task.Payload) != `{ "a":"<" }` || d.Incarnation != "one" || d.Revision != fresh.Revision || d.InForce().Sub(before).Abs() > 5*time.Second || !d.Created().Equal(d.Written()) {
		t.Errorf("%+v", d)
	}
	must(t, b.SaveScheduleState(t.Context(), &ScheduleState{Name: "s", Incarnation: "one", Last: before}))
	if err := b.SaveScheduleState(t.Context(), &ScheduleState{Name: "s", Incarnation: "one"}); !errors.Is(err, ErrStale) {
		t.Errorf("a state over another: %v", err)
	}
	stale := *d
	must(t, b.SaveSchedule(t.Context(), d))
	if err := errors.Join(b.SaveSchedule(t.Context(), &stale), b.DeleteSchedule(t.Context(), &stale)); !errors.Is(err, ErrStale) {
		t.Errorf("a definition over another: %v", err)
	}
	if found, _, err := b.NextSchedule(t.Context(), 1); err != nil || found.Schedule.Name != "s" {
		t.Errorf("%+v, %v", found, err)
	}
	must(t, b.DeleteSchedule(t.Context(), d))
	state, err := b.LoadScheduleState(t.Context(), "s")
	must(t, err)
	if state.Incarnation != "" || state.Revision == 0 {
		t.Errorf("state of a deleted schedule: %+v", state)
	}
	gone, err := b.LoadSchedule(t.Context(), "s")
	if !errors.Is(err, pelton.ErrNotFound) || gone.Revision == 0 {
		t.Fatalf("%+v, %v", gone, err)
	}
	gone.Schedule, gone.Incarnation = fresh.Schedule, "two"
	must(t, b.SaveSchedule(t.Context(), gone)) // over the marker
	names, err := b.ScheduleNames(t.Context())
	if err != nil || len(names) != 1 || names[0] != "s" {
		t.Errorf("%v, %v", names, err)
	}
}

// What is due after the year 2262 would be fired at once. Ticks wait.
func TestFactSchedulesOfTheFarFuture(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	got := serveTicksInto(t, b, func(DueTick) error { return nil })
	far := time.Date(2263, 1, 1, 0, 0, 0, 0, time.UTC)
	_, err := b.do(t.Context(), write{
		subject: b.tick("fact", far), data: []byte(`{"schedule":"fact"}`), expect: 0,
		header: nats.Header{headerSchedule: {"@at " + far.Format(time.RFC3339Nano)}, headerScheduleTarget: {b.dueTicks()}},
	})
	must(t, err)
	if due := wait(t, got, "schedule of the far future"); due.Schedule != "fact" {
		t.Errorf("%+v", due)
	}
	must(t, b.PublishTick(t.Context(), "far", time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)))
	now := time.Now().Add(time.Second)
	must(t, b.PublishTick(t.Context(), "control", now, now))
	if due := wait(t, got, "control"); due.Schedule != "control" {
		t.Errorf("%+v", due)
	}
}

// Runs of each sort are forgotten for others of their sort alone.
func TestNote(t *testing.T) {
	t.Parallel()
	var s ScheduleState
	first := pelton.NewID(time.Now(), 0)
	s.Note(pelton.ScheduleRun{TaskID: first})
	for range 100 {
		s.Note(pelton.ScheduleRun{Skipped: pelton.SkippedOverlap})
		s.Note(pelton.ScheduleRun{TaskID: pelton.NewID(time.Now(), 0), Manual: true})
	}
	if len(s.Runs) != 1+maxManualRuns+maxSkipped || s.Runs[0].TaskID != first {
		t.Errorf("%d runs, the first is %+v", len(s.Runs), s.Runs[0])
	}
	for range maxRuns {
		s.Note(pelton.ScheduleRun{TaskID: pelton.NewID(time.Now(), 0)})
	}
	if len(s.Runs) != maxRuns+maxManualRuns+maxSkipped || s.Runs[0].TaskID == first {
		t.Errorf("%d runs, the first is %+v", len(s.Runs), s.Runs[0])
	}
}

package broker

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/peltonq/pelton"
)

// modelTask is what the documentation says of a task with a key.
type modelTask struct {
	unique   pelton.Unique
	state    pelton.State
	started  bool // since it was enqueued or put back
	spent    bool // it was started before it was put back, and held the key until then
	replaced bool
	open     bool // its window, of an hour
}

func (m *modelTask) holds() bool {
	switch {
	case m.replaced:
		return false
	case m.open:
		return true
	case m.state.Terminal() || m.spent:
		return false
	default:
		return m.unique.Until == pelton.UntilFinished || !m.started
	}
}

// keyModel runs tasks with one key through everything that can happen to them, and
// to the processes that handle them.
type keyModel struct {
	t     *testing.T
	b     *Broker
	kind  string
	order []pelton.ID
	tasks map[pelton.ID]*modelTask
}

func (m *keyModel) holder() (id pelton.ID, found bool) {
	for _, id := range m.order {
		if m.tasks[id].holds() {
			return id, true
		}
	}
	return pelton.ID{}, false
}

// some draws a task that is in one of the states.
func (m *keyModel) some(rt *rapid.T, fits func(*modelTask) bool) (*Record, *modelTask) {
	var ids []pelton.ID
	for _, id := range m.order {
		if fits(m.tasks[id]) {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		rt.Skip("no such task")
	}
	id := ids[rapid.IntRange(0, len(ids)-1).Draw(rt, "task")]
	r, err := m.b.LoadRecord(m.t.Context(), id)
	if err != nil {
		rt.Fatal(err)
	}
	return r, m.tasks[id]
}

func (m *keyModel) save(rt *rapid.T, r *Record) {
	if err := m.b.SaveRecord(m.t.Context(), r); err != nil {
		rt.Fatal(err)
	}
}

func (m *keyModel) drawRecord(rt *rapid.T) *Record {
	u := pelton.Unique{
		Key:        "k",
		Until:      rapid.SampledFrom(pelton.UniqueUntils()).Draw(rt, "until"),
		OnConflict: rapid.SampledFrom(pelton.OnConflicts()).Draw(rt, "on_conflict"),
	}
	if rapid.IntRange(0, 9).Draw(rt, "window") == 0 {
		u.Window = time.Hour
	}
	r := aUnique(u)
	r.Kind = m.kind
	if rapid.Bool().Draw(rt, "delayed") {
		r.State, r.RunAt = pelton.Scheduled, time.Now().Add(time.Hour)
	}
	return r
}

func (m *keyModel) enqueue(rt *rapid.T) {
	r := m.drawRecord(rt)
	holder, held := m.holder()
	out, err := m.b.EnqueueOnce(m.t.Context(), r, Idempotency{})
	var conflict *pelton.UniqueError
	switch {
	case held && r.Unique.OnConflict == pelton.ConflictExisting:
		if err != nil || !out.Existing || out.Record.ID != holder {
			rt.Fatalf("existing = %+v, %v, want task %s", out, err, holder)
		}
		return
	case held && r.Unique.OnConflict == pelton.ConflictReplace && m.waits(m.tasks[holder]):
		m.tasks[holder].state, m.tasks[holder].replaced = pelton.Cancelled, true
	case held:
		if !errors.As(err, &conflict) || conflict.Holder != holder || conflict.State != m.tasks[holder].state {
			rt.Fatalf("enqueue = %+v, %v, want a conflict with %s, which is %s", out, err, holder, m.tasks[holder].state)
		}
		return
	}
	if err != nil || out.Existing || out.Replayed {
		rt.Fatalf("enqueue with a free key = %+v, %v", out, err)
	}
	m.order = append(m.order, out.Record.ID)
	m.tasks[out.Record.ID] = &modelTask{unique: *r.Unique, state: r.State, open: r.Unique.Window > 0}
}

func (m *keyModel) waits(t *modelTask) bool {
	return (t.state == pelton.Queued || t.state == pelton.Scheduled) && !t.started
}

// lostEnqueue dies with the key in its hand, if it gets it.
func (m *keyModel) lostEnqueue(rt *rapid.T) {
	_, held := m.holder()
	if err := m.b.takeKey(m.t.Context(), m.drawRecord(rt), 0); (err == nil) == held {
		rt.Fatalf("key held: %v, take = %v", held, err)
	}
}

func (m *keyModel) start(rt *rapid.T) {
	r, t := m.some(rt, func(t *modelTask) bool { return !t.state.Terminal() && t.state != pelton.Running })
	r.State, r.StartedAt, r.Attempt, r.Carrier = pelton.Running, time.Now().UTC(), r.Ended+1, r.Carrier+1
	m.save(rt, r)
	t.state, t.started = pelton.Running, true
}

// putBack is a retry, a snooze or a release.
func (m *keyModel) putBack(rt *rapid.T) {
	r, t := m.some(rt, func(t *modelTask) bool { return t.state == pelton.Running })
	r.State = rapid.SampledFrom([]pelton.State{pelton.Retrying, pelton.Scheduled, pelton.Queued}).Draw(rt, "state")
	if r.State == pelton.Retrying {
		r.Ended++
	}
	if r.Attempt = r.Ended; r.State != pelton.Queued {
		r.RunAt, r.Epoch = time.Now().Add(time.Hour), r.Epoch+1
	}
	m.save(rt, r)
	t.state = r.State
}

// end finishes, cancels or expires a task; the process may die before the release.
func (m *keyModel) end(rt *rapid.T) {
	r, t := m.some(rt, func(t *modelTask) bool { return !t.state.Terminal() })
	states := []pelton.State{pelton.Cancelled, pelton.Failed, pelton.Expired}
	if t.state == pelton.Running {
		states = []pelton.State{pelton.Succeeded, pelton.Failed, pelton.Cancelled}
	}
	r.State, r.FinishedAt = rapid.SampledFrom(states).Draw(rt, "end"), time.Now().UTC()
	m.save(rt, r)
	t.state = r.State
	if rapid.Bool().Draw(rt, "released") {
		if err := m.b.ReleaseKey(m.t.Context(), r); err != nil {
			rt.Fatal(err)
		}
	}
}

// lateRelease is that of a worker which stalled after the end.
func (m *keyModel) lateRelease(rt *rapid.T) {
	r, _ := m.some(rt, func(t *modelTask) bool { return t.state.Terminal() })
	if err := m.b.ReleaseKey(m.t.Context(), r); err != nil {
		rt.Fatal(err)
	}
}

func (m *keyModel) requeue(rt *rapid.T) {
	r, t := m.some(rt, func(t *modelTask) bool { return t.state.Terminal() })
	holder, held := m.holder()
	wants := !t.spent && (t.unique.Until == pelton.UntilFinished || !t.started)
	refused := wants && held && holder != r.ID
	got, err := m.b.Requeue(m.t.Context(), r.ID)
	var conflict *pelton.UniqueError
	switch {
	case refused && (!errors.As(err, &conflict) || conflict.Holder != holder):
		rt.Fatalf("requeue = %+v, %v, want a conflict with %s", got, err, holder)
	case !refused && err != nil:
		rt.Fatalf("requeue = %+v, %v", got, err)
	case !refused:
		t.state, t.started, t.replaced, t.spent = pelton.Queued, false, t.replaced && !wants, !wants
	}
}

// lostRequeue dies with the key in its hand, if it gets it.
func (m *keyModel) lostRequeue(rt *rapid.T) {
	r, _ := m.some(rt, func(t *modelTask) bool { return t.state.Terminal() })
	if !r.wantsKey() {
		rt.Skip("the key is not taken")
	}
	holder, held := m.holder()
	if err := m.b.takeKey(m.t.Context(), r, r.Epoch+1); (err == nil) == (held && holder != r.ID) {
		rt.Fatalf("key held by %s: %v, take for %s = %v", holder, held, r.ID, err)
	}
}

// sweepKeys lets the sweep look at everything as if it were old.
func (m *keyModel) sweepKeys(rt *rapid.T) {
	s := m.b.NewSweeper()
	s.now = func() time.Time { return time.Now().Add(time.Hour) }
	var swept Swept
	next := sweepAt{next: 1}
	if err := s.round(m.t.Context(), 1000, bucketStream(m.b.locks()), m.b.uniqueKey(m.kind, "k"), &next, &swept, s.key); err != nil {
		rt.Fatal(err)
	}
}

// check holds records and lock against the model.
func (m *keyModel) check(rt *rapid.T) {
	holding := 0
	for _, id := range m.order {
		r, err := m.b.LoadRecord(m.t.Context(), id)
		if err != nil {
			rt.Fatal(err)
		}
		want := m.tasks[id].holds()
		if r.State != m.tasks[id].state || r.holdsKey(time.Now()) != want {
			rt.Fatalf("task %s is %s and holds its key: %v, want %+v", id, r.State, r.holdsKey(time.Now()), m.tasks[id])
		}
		if want {
			holding++
			if lock, found := lockOf(m.t, m.b, r); !found || lock.ID != id {
				rt.Fatalf("task %s holds the key, the lock says %+v, %v", id, lock, found)
			}
		}
	}
	if holding > 1 {
		rt.Fatalf("%d tasks hold the key", holding)
	}
}

// A key is held by one task at most, and free exactly when no task holds it,
// whatever happens to the tasks and to the processes that handle them.
func TestKeyIsFreeExactlyWhenItShouldBe(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	b.keyGrace = 0
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		m := &keyModel{t: t, b: b, kind: fmt.Sprintf("test.kind.%d", n), tasks: map[pelton.ID]*modelTask{}}
		rt.Repeat(map[string]func(*rapid.T){
			"enqueue": m.enqueue, "enqueue again": m.enqueue, "lost enqueue": m.lostEnqueue, "start": m.start, "put back": m.putBack, "end": m.end,
			"end too": m.end, "late release": m.lateRelease, "requeue": m.requeue, "lost requeue": m.lostRequeue,
			"sweep": m.sweepKeys, "": m.check,
		})
	})
}

package broker

import (
	"context"
	"errors"
	"slices"
	"time"

	"pgregory.net/rapid"

	"github.com/peltonq/pelton"
)

// checkOrder: at a limit of one, places are started from in the order in which
// they were taken.
func (m *lineMachine) checkOrder(t *rapid.T, r *Record) {
	key := m.keyOf[r.ID]
	if _, unsure := m.unsure[r.ID]; unsure || m.limits[key] != 1 || m.seen[r.ID] == r.Epoch+1 {
		return
	}
	m.seen[r.ID] = r.Epoch + 1
	if m.place[r.ID] < m.started[key] {
		t.Fatalf("task of %s at place %d starts after that of place %d", key, m.place[r.ID], m.started[key])
	}
	m.started[key] = m.place[r.ID]
}

// drain plays a calm end: whatever is delivered is dealt with, whatever arrived is
// settled. Everything must end by that alone, unless only a sweep can repair it.
func (m *lineMachine) drain(t *rapid.T, ctx context.Context) {
	m.draining = true
	m.leave(t, ctx)
	for range 8 * (len(m.ids) + 4) {
		for _, key := range []string{"a", "b"} {
			if m.arrived[key] {
				m.settle(t, ctx, key)
			}
		}
		if m.swept {
			s := aged(m.b)
			_, err := s.Step(ctx, 1000)
			m.must(t, err)
			for key := range m.arrived {
				m.arrived[key] = true
			}
		}
		m.awaitSchedules(t, ctx)
		m.acksLand(t, ctx)
		for _, msg := range m.messages(t, ctx) {
			m.deliver(t, ctx, msg, 9)
			m.check(t)
		}
		for seq := range m.handlers {
			m.finish(t, ctx, seq, "succeeds", 9)
		}
		for seq := range m.relays {
			m.relayStep(t, ctx, seq, 9)
		}
		left := slices.ContainsFunc(m.ids, func(id pelton.ID) bool { return !m.load(t, ctx, id).State.Terminal() })
		if !left && len(m.messages(t, ctx)) == 0 {
			m.checkEmpty(t, ctx)
			return
		}
	}
	for _, id := range m.ids {
		if r := m.load(t, ctx, id); !r.State.Terminal() {
			doc, _ := m.b.loadLine(ctx, Line{Key: m.keyOf[id]})
			t.Errorf("task of %s is stuck: %+v; turns %+v", m.keyOf[id], r, doc)
		}
	}
	t.Fatal("not everything ends")
}

// awaitSchedules waits until what was put back has fired.
func (m *lineMachine) awaitSchedules(t *rapid.T, ctx context.Context) {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		_, err := m.b.get(ctx, m.b.tasks(0), getRequest{Seq: 1, NextFor: m.b.scheduledIn(0, "q")}, false)
		if errors.Is(err, pelton.ErrNotFound) {
			return
		}
		m.must(t, err)
		<-tick.C
	}
}

func (m *lineMachine) checkEmpty(t *rapid.T, ctx context.Context) {
	for _, key := range []string{"a", "b"} {
		doc, err := m.b.loadLine(ctx, Line{Key: key})
		m.must(t, err)
		if len(doc.Granted) > 0 {
			t.Fatalf("turns of %s are left: %+v", key, doc)
		}
	}
}

func (m *lineMachine) check(t *rapid.T) {
	for key, limit := range m.limits {
		if n := m.running(key); n > limit {
			t.Fatalf("%d of %s run at a time, more than %d", n, key, limit)
		}
	}
}

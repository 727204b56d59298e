package broker

import (
	"context"
	"errors"

	"pgregory.net/rapid"

	"github.com/peltonq/pelton"
)

// deliver is a worker that gets a message. dies says after which step it dies.
func (m *lineMachine) deliver(t *rapid.T, ctx context.Context, msg *stored, dies int) {
	if _, here := m.handlers[msg.seq]; here || m.relays[msg.seq] != nil {
		return
	}
	env, err := decodeEnvelope(msg.data)
	m.must(t, err)
	if m.deliverUnread(t, ctx, msg.seq, env, dies) {
		return
	}
	r := m.load(t, ctx, env.ID)
	switch {
	case m.resume(t, ctx, r, env, msg.seq, dies):
	case r.State.Terminal():
		if dies > 0 {
			m.drop(t, ctx, r, env, msg.seq)
		}
	case r.Epoch > env.Epoch:
		if dies > 0 && r.State != pelton.Running {
			m.must(t, m.b.Publish(ctx, r))
			m.arrived[m.keyOf[r.ID]] = true
		}
		if dies > 1 {
			m.drop(t, ctx, r, env, msg.seq)
		}
	case r.State == pelton.Running && r.Carrier != msg.seq:
		m.ack(msg.seq)
	default:
		if r.InLine {
			called, err := m.b.Called(ctx, r)
			m.must(t, err)
			if !called {
				if dies > 0 {
					m.ack(msg.seq)
				}
				return
			}
			m.checkOrder(t, r)
		}
		r.State, r.Owner, r.Carrier, r.InLine = pelton.Running, "w", msg.seq, false
		m.must(t, m.b.SaveRecord(ctx, r))
		if dies > 0 {
			m.handlers[msg.seq] = r.ID
		}
	}
}

// deliverUnread is a worker that does not read the record first: it may take it for what it
// was when the task took its place.
func (m *lineMachine) deliverUnread(t *rapid.T, ctx context.Context, seq uint64, env *Envelope, dies int) (done bool) {
	r := (&Delivery{Envelope: env}).Unstarted()
	if r == nil || m.draining || !rapid.Bool().Draw(t, "unread") {
		return false
	}
	called, err := m.b.Called(ctx, r)
	m.must(t, err)
	if !called {
		if dies > 0 && !m.resume(t, ctx, r, env, seq, dies) {
			m.ack(seq)
		}
		return true
	}
	r.State, r.Owner, r.Carrier, r.InLine = pelton.Running, "w", seq, false
	if err := m.b.SaveRecord(ctx, r); errors.Is(err, ErrStale) {
		return false
	} else {
		m.must(t, err)
	}
	m.checkOrder(t, r)
	if dies > 0 {
		m.handlers[seq] = r.ID
	}
	return true
}

// learn hands the process the next arrival, which it takes note of, no more.
func (m *lineMachine) learn(t *rapid.T, ctx context.Context) {
	msg, err := m.b.get(ctx, m.b.keyed(0), getRequest{Seq: m.learnt[m.b] + 1, NextFor: m.b.ns + ".k.0.>"}, false)
	if errors.Is(err, pelton.ErrNotFound) {
		t.Skip("no arrival")
	}
	m.must(t, err)
	m.hand(t, msg)
}

func (m *lineMachine) hand(t *rapid.T, msg *stored) {
	m.learnt[m.b] = msg.seq
	env, err := decodeEnvelope(msg.data)
	m.must(t, err)
	if !m.draining {
		m.b.known.places = rapid.SampledFrom([]int{0, mostKnown}).Draw(t, "places of others that are known")
		m.b.known.bare = rapid.SampledFrom([]int{0, 0, mostBare}).Draw(t, "sequences of others")
	}
	m.b.known.arrived(m.b.connections(), &Delivery{Seq: msg.seq, subject: msg.subject}, env.Line(OfKey), msg.data)
}

// handLast hands the process the last arrival in a key's line, unless it has had that, and maybe all
// that came before.
func (m *lineMachine) handLast(t *rapid.T, ctx context.Context, key string) {
	places, err := m.b.lastPlaces(ctx, Line{Key: key}, 1)
	if errors.Is(err, pelton.ErrNotFound) {
		return
	}
	m.must(t, err)
	last := places[len(places)-1]
	if m.draining || rapid.Bool().Draw(t, "and all others") {
		for m.learnt[m.b] < last.seq {
			m.learn(t, ctx)
		}
	} else if m.learnt[m.b] < last.seq {
		m.hand(t, last)
	}
}

package broker

import (
	"context"
	"slices"
	"time"

	"pgregory.net/rapid"

	"github.com/peltonq/pelton"
)

// played is a relay in the hands of a worker of the machine.
type played struct {
	seq     uint64
	b       *Broker // of the worker
	relay   *Relay
	over    int     // tasks that are over
	running *Record // as it was read before it started, or was written since
	resumed bool    // taken over: it ends after the task that runs
	short   bool    // those behind the one that runs may have been given back
}

// leaving is a task that is over, by the message that it ran from, and the process that it waits in.
type leaving struct {
	b   *Broker
	r   *Record
	seq uint64
	how howToLeave
}

// waitToLeave is a worker that waits at the door of a line, to give a turn back.
func (m *lineMachine) waitToLeave(t *rapid.T, r *Record, seq uint64) bool {
	if m.draining || !rapid.Bool().Draw(t, "waits at the door") {
		return false
	}
	how := howToLeave{redone: rapid.Bool().Draw(t, "redone")}
	how.fence = how.redone
	m.b.leaving.add(r.Line(OfKey), &leaver{id: r.ID, epoch: r.Places[0].Epoch, by: seq, how: how})
	m.leaves = append(m.leaves, leaving{m.b, r, seq, how})
	return true
}

// leave lets all enter who wait, unless somebody has given their turns back already.
func (m *lineMachine) leave(t *rapid.T, ctx context.Context) {
	for _, l := range m.leaves {
		m.must(t, l.b.leaveLines(ctx, l.r, l.seq, lineSettling{seen: true, fence: l.how.fence, redone: l.how.redone}))
		m.ack(l.seq)
	}
	m.leaves = nil
}

// passOn is a worker that ends a task and may go on with those who are next in line.
func (m *lineMachine) passOn(t *rapid.T, ctx context.Context, r *Record, seq uint64) bool {
	if m.draining || !rapid.Bool().Draw(t, "relays") {
		return false
	}
	relay := NewRelay(r, seq, "w", func(*Envelope) bool { return true })
	m.must(t, m.b.PassOn(ctx, r, relay, rapid.IntRange(1, 4).Draw(t, "most")))
	if len(relay.Tasks) == 0 {
		m.ack(seq)
		return true
	}
	m.relays[seq] = &played{seq: seq, b: m.b, relay: relay}
	return true
}

// relayStep starts the next task of a relay, or ends it. Its worker may die instead.
func (m *lineMachine) relayStep(t *rapid.T, ctx context.Context, seq uint64, dies int) {
	p := m.relays[seq]
	if dies == 0 {
		delete(m.relays, seq)
		return
	}
	for p.over < len(p.relay.Tasks) && !p.resumed && !p.short {
		if !m.draining && rapid.IntRange(0, 5).Draw(t, "ends early") == 0 {
			break
		}
		r := m.load(t, ctx, p.relay.Tasks[p.over])
		if r.State.Terminal() {
			p.over++
			continue
		}
		if !r.Relayable() {
			break
		}
		m.checkOrder(t, r)
		p.running, m.handlers[seq] = r, r.ID
		if !m.draining && rapid.IntRange(0, 2).Draw(t, "takes long") == 0 {
			m.shorten(t, ctx, p)
		}
		return
	}
	p.short = false
	if p.relay.Over(p.over); p.resumed {
		p.relay.Over(0)
	}
	most := 0
	if !m.draining && !p.resumed {
		most = rapid.IntRange(0, 3).Draw(t, "most")
	}
	m.must(t, p.b.GoOn(ctx, p.relay, most))
	if p.over = 0; len(p.relay.Tasks) == 0 {
		delete(m.relays, seq)
		if dies > 1 {
			m.ack(seq)
		}
	}
}

// shorten is a task of a relay that has run for a while. It may be unknown to the worker whether those
// behind it went back.
func (m *lineMachine) shorten(t *rapid.T, ctx context.Context, p *played) {
	n := p.over + 1
	if p.resumed {
		n = 1 + slices.Index(p.relay.Tasks, p.running.ID)
	}
	if n >= len(p.relay.Tasks) {
		return
	}
	relay := p.relay
	if p.short = true; rapid.Bool().Draw(t, "unknown") {
		other := *relay
		relay = &other
	}
	m.must(t, p.b.Shorten(ctx, relay, n))
}

// finishInRelay is a handler of a relay that returns; now is its record as it is.
func (m *lineMachine) finishInRelay(t *rapid.T, ctx context.Context, p *played, now *Record, how string, dies int) {
	r := p.running
	if now.State.Terminal() || now.Epoch > r.Epoch && now.InLine { // cancelled meanwhile, and requeued
		p.over++
		return
	}
	if now.Revision != r.Revision {
		t.Fatalf("record of a task in a relay changed: %+v, was %+v", now, r)
	}
	r.Owner, r.Carrier, r.InLine = "w", p.seq, false
	switch how {
	case "dies":
		if dies > 0 { // after it was written that it runs
			r.State = pelton.Running
			m.must(t, p.b.SaveRecord(ctx, r))
		}
		delete(m.relays, p.seq)
	case "succeeds", "fails":
		r.State = pelton.Succeeded
		if how == "fails" {
			r.State = pelton.Failed
		}
		m.must(t, p.b.SaveRecord(ctx, r))
		if p.over++; dies == 0 {
			delete(m.relays, p.seq)
		}
	case "retries":
		r.State, r.RunAt = pelton.Retrying, time.Now().UTC()
		r.Epoch++
		m.must(t, p.b.SaveRecord(ctx, r))
		if dies > 0 {
			_, err := p.b.PublishReady(ctx, r.Envelope())
			m.must(t, err)
		}
		m.keep(t, ctx, p.b, r, p.seq, dies)
	case "releases":
		r.State, r.Released = pelton.Queued, true
		m.must(t, p.b.SaveRecord(ctx, r))
		delete(m.relays, p.seq)
	}
}

// keep leaves the turn to a task whose next message is published.
func (m *lineMachine) keep(t *rapid.T, ctx context.Context, b *Broker, r *Record, seq uint64, dies int) {
	delete(m.relays, seq)
	if dies > 0 {
		m.must(t, b.KeepTurn(ctx, r, seq))
	}
	if dies > 1 {
		m.ack(seq)
	}
}

// resume is a worker that gets the message of a relay whose worker is gone.
func (m *lineMachine) resume(t *rapid.T, ctx context.Context, r *Record, e *Envelope, seq uint64, dies int) bool {
	relay, worker, err := m.b.Relayed(ctx, e, seq)
	m.must(t, err)
	if relay == nil || dies == 0 {
		return relay != nil
	}
	if worker != "w" {
		t.Fatalf("relay of worker %q", worker)
	}
	if r.Epoch > e.Epoch && r.State != pelton.Running && !r.State.Terminal() { // requeued
		m.must(t, m.b.Publish(ctx, r))
		m.arrived[m.keyOf[r.ID]] = true
	}
	for _, id := range relay.Tasks {
		of := m.load(t, ctx, id)
		switch {
		case of.OverInRelay():
			continue
		case of.State == pelton.Queued && of.InLine:
		case of.Epoch > 0:
			if of.State != pelton.Running {
				m.must(t, m.b.Publish(ctx, of))
			}
			m.keep(t, ctx, m.b, of, seq, dies)
			return true
		case of.State == pelton.Running && of.Carrier != seq: // released, and started from a copy
			m.keep(t, ctx, m.b, of, seq, dies)
			return true
		default:
			of.State, of.Owner, of.Carrier = pelton.Running, "w", seq
			m.must(t, m.b.SaveRecord(ctx, of))
			m.handlers[seq] = id
			m.relays[seq] = &played{seq: seq, b: m.b, relay: relay, running: of, resumed: true}
			return true
		}
		break
	}
	relay.Over(0)
	m.must(t, m.b.GoOn(ctx, relay, 0))
	if dies > 1 {
		m.ack(seq)
	}
	return true
}

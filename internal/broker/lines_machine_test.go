package broker

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
)

// lineMachine plays producers, workers and their deaths on one lane, step by step,
// in any order. What a worker does with a delivery is written down here once more,
// in short.
type lineMachine struct {
	b        *Broker            // that of the process whose turn it is
	learnt   map[*Broker]uint64 // up to where it has been handed arrivals
	limits   map[string]int
	arrived  map[string]bool        // keys with an arrival that nobody has settled yet
	ids      []pelton.ID            // all tasks
	handlers map[uint64]pelton.ID   // those that run, by the message they run from
	relays   map[uint64]*played     // by the message, while their worker lives
	acks     []uint64               // on their way
	leaves   []leaving              // tasks that are over and wait at the door of their line
	keyOf    map[pelton.ID]string   //
	place    map[pelton.ID]int      // when a task took its place
	started  map[string]int         // place of the last task that started, by key
	seen     map[pelton.ID]uint32   // epoch of the place from which it started last
	swept    bool                   // something happened that only the sweep repairs
	unsure   map[pelton.ID]struct{} // tasks that took another place than was noted
	places   int
	draining bool // nothing is drawn any more
}

// ctx bounds one step; rapid's own T has none.
func (m *lineMachine) load(t *rapid.T, ctx context.Context, id pelton.ID) *Record {
	r, err := m.b.LoadRecord(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (m *lineMachine) must(t *rapid.T, err error) {
	if err != nil {
		t.Fatal(err)
	}
}

func (m *lineMachine) tookPlace(id pelton.ID) {
	m.places++
	m.place[id] = m.places
	m.arrived[m.keyOf[id]] = true
}

// running is how many handlers of a key run, those of cancelled tasks included.
func (m *lineMachine) running(key string) (n int) {
	for _, id := range m.handlers {
		if m.keyOf[id] == key {
			n++
		}
	}
	return n
}

// messages are the lane's, as a worker could get them: any of them, at any time.
func (m *lineMachine) messages(t *rapid.T, ctx context.Context) (all []*stored) {
	for next := uint64(1); ; {
		msg, err := m.b.get(ctx, m.b.tasks(0), getRequest{Seq: next, NextFor: m.b.ready(0, "q", pelton.Low)}, false)
		if errors.Is(err, pelton.ErrNotFound) {
			return all
		}
		m.must(t, err)
		next = msg.seq + 1
		if !slices.Contains(m.acks, msg.seq) {
			all = append(all, msg)
		}
	}
}

// ack sends an acknowledgement, which nobody waits for: it lands later.
func (m *lineMachine) ack(seq uint64) { m.acks = append(m.acks, seq) }

func (m *lineMachine) acksLand(t *rapid.T, ctx context.Context) {
	for _, seq := range m.acks {
		m.must(t, m.b.DeleteMessage(ctx, 0, seq))
	}
	m.acks = nil
}

// drop is a worker that drops a message, or gives it back if that must not be.
func (m *lineMachine) drop(t *rapid.T, ctx context.Context, r *Record, env *Envelope, seq uint64) {
	err := m.b.LeaveDropped(ctx, r, env, seq)
	if errors.Is(err, pelton.ErrUnavailable) {
		return
	}
	m.must(t, err)
	m.ack(seq)
}

// finish is a handler that returns, and what its worker does then.
func (m *lineMachine) finish(t *rapid.T, ctx context.Context, seq uint64, how string, dies int) {
	id := m.handlers[seq]
	delete(m.handlers, seq)
	r := m.load(t, ctx, id)
	if p := m.relays[seq]; p != nil {
		m.finishInRelay(t, ctx, p, r, how, dies)
		return
	}
	if r.State.Terminal() && r.Carrier == seq { // cancelled meanwhile
		if dies > 0 {
			m.must(t, m.b.LeaveLines(ctx, r, seq))
			m.ack(seq)
		}
		return
	}
	if r.State != pelton.Running || r.Carrier != seq || how == "dies" {
		return
	}
	switch how {
	case "succeeds", "fails":
		r.State = pelton.Succeeded
		if how == "fails" {
			r.State = pelton.Failed
		}
		m.must(t, m.b.SaveRecord(ctx, r))
		if dies > 1 && m.passOn(t, ctx, r, seq) || dies > 0 && m.waitToLeave(t, r, seq) {
			return
		}
		if dies > 0 {
			m.must(t, m.b.LeaveLines(ctx, r, seq))
		}
		if dies > 1 {
			m.ack(seq)
		}
	case "retries":
		r.State, r.RunAt, r.InLine = pelton.Retrying, time.Now().UTC(), false
		r.Epoch++
		m.must(t, m.b.SaveRecord(ctx, r))
		if dies > 0 {
			_, err := m.b.PublishReady(ctx, r.Envelope()) // as the schedule does, at once
			m.must(t, err)
		}
		if dies > 1 {
			m.ack(seq)
		}
	case "releases":
		r.State, r.Released = pelton.Queued, true
		m.must(t, m.b.SaveRecord(ctx, r))
	}
}

// cancel is what producer.Cancel does.
func (m *lineMachine) cancel(t *rapid.T, ctx context.Context, id pelton.ID, dies int) {
	r := m.load(t, ctx, id)
	was := r.State
	switch {
	case was == pelton.Cancelled:
		m.must(t, m.b.LeaveLines(ctx, r, 0))
		return
	case was.Terminal():
		return
	}
	r.State = pelton.Cancelled
	m.must(t, m.b.SaveRecord(ctx, r))
	if was == pelton.Running || dies == 0 {
		return
	}
	m.must(t, m.b.LeaveLines(ctx, r, r.Carrier))
	if dies > 1 && r.Carrier > 0 {
		m.ack(r.Carrier)
	}
}

func (m *lineMachine) settle(t *rapid.T, ctx context.Context, key string) {
	m.handLast(t, ctx, key)
	_, err := m.b.settleLine(ctx, Line{Key: key}, lineSettling{})
	m.must(t, err)
	m.arrived[key] = false
}

// Whatever producers and workers do, wherever they die and in whatever order
// messages come: no key has more than its limit running, a limit of one keeps the
// order, and everything ends.
func TestLineMachine(t *testing.T) {
	t.Parallel()
	srv := brokertest.Start(t)
	b := openOn(t, srv, Config{})
	processes := []*Broker{b, openOn(t, srv, Config{})}
	processes[1].known.aloneAfter = 1
	rapid.Check(t, func(rt *rapid.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for _, stream := range []string{b.tasks(0), b.keyed(0), bucketStream(b.state(0)), bucketStream(b.keys()), b.dead()} {
			if err := b.purge(ctx, stream, ">"); err != nil {
				rt.Fatal(err)
			}
		}
		m := &lineMachine{
			b: b, learnt: map[*Broker]uint64{}, limits: map[string]int{"a": 1, "b": rapid.IntRange(1, 3).Draw(rt, "limit")}, arrived: map[string]bool{"a": false, "b": false},
			handlers: map[uint64]pelton.ID{}, relays: map[uint64]*played{}, keyOf: map[pelton.ID]string{}, place: map[pelton.ID]int{}, started: map[string]int{},
			seen: map[pelton.ID]uint32{}, unsure: map[pelton.ID]struct{}{},
		}
		for _, b := range processes {
			b.known.begin(0) // its places are purged
			m.must(rt, b.LoadLimits(ctx))
			b.limits.set([]pelton.Limit{{Name: "b", ConcurrencyKey: "b", MaxRunning: m.limits["b"]}})
		}
		dies := rapid.SampledFrom([]int{9, 9, 9, 0, 1})
		anyTask := func(rt *rapid.T) pelton.ID {
			if len(m.ids) == 0 {
				rt.Skip("no task")
			}
			return rapid.SampledFrom(m.ids).Draw(rt, "task")
		}
		steps := map[string]func(*rapid.T){
			"":               m.check,
			"other process":  func(rt *rapid.T) { m.b = processes[rapid.IntRange(0, 1).Draw(rt, "process")] },
			"arrival learnt": func(rt *rapid.T) { m.learn(rt, ctx) },
			"look for places before": func(*rapid.T) {
				(&caller{b: m.b, conn: m.b.connections()}).lookBefore(ctx)
			},
			"others take arrivals": func(rt *rapid.T) {
				m.b.known.came.n, m.b.known.came.of = shareOf, shareOf*rapid.Uint64Range(1, 2).Draw(rt, "one of")
			},
			"enqueue": func(rt *rapid.T) {
				key := rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "key")
				r := keyed(key)
				m.ids, m.keyOf[r.ID] = append(m.ids, r.ID), key
				if rapid.IntRange(0, 9).Draw(rt, "dies") == 0 {
					m.must(rt, b.CreateRecord(ctx, r))
					m.swept, m.unsure[r.ID] = true, struct{}{}
					return
				}
				m.must(rt, b.Enqueue(ctx, r))
				m.tookPlace(r.ID)
			},
			"settle": func(rt *rapid.T) { m.settle(rt, ctx, rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "key")) },
			"publish and die": func(rt *rapid.T) { // a settler, before it writes the document; or any stray copy
				if r := m.load(rt, ctx, anyTask(rt)); r.InLine && !r.State.Terminal() {
					_, err := b.PublishReady(ctx, r.Envelope())
					m.must(rt, err)
				}
			},
			"place again": func(rt *rapid.T) { // a repeated enqueue, requeue or republish
				if r := m.load(rt, ctx, anyTask(rt)); r.InLine && !r.State.Terminal() {
					m.must(rt, b.Publish(ctx, r))
					m.arrived[m.keyOf[r.ID]] = true
				}
			},
			"deliver": func(rt *rapid.T) {
				all := m.messages(rt, ctx)
				if len(all) == 0 {
					rt.Skip("no message")
				}
				m.deliver(rt, ctx, all[rapid.IntRange(0, len(all)-1).Draw(rt, "message")], dies.Draw(rt, "dies"))
			},
			"a task runs": func(rt *rapid.T) {
				m.settle(rt, ctx, rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "key"))
				if all := m.messages(rt, ctx); len(all) > 0 {
					msg := rapid.SampledFrom(all).Draw(rt, "message")
					if m.deliver(rt, ctx, msg, 9); m.relays[msg.seq] == nil && m.handlers[msg.seq] != (pelton.ID{}) {
						m.finish(rt, ctx, msg.seq, "succeeds", 9)
					}
					if m.relays[msg.seq] != nil && m.handlers[msg.seq] == (pelton.ID{}) {
						m.relayStep(rt, ctx, msg.seq, 9)
					}
				}
			},
			"finish": func(rt *rapid.T) {
				if len(m.handlers) == 0 {
					rt.Skip("no handler")
				}
				seqs := []uint64{}
				for seq := range m.handlers {
					seqs = append(seqs, seq)
				}
				slices.Sort(seqs)
				how := rapid.SampledFrom([]string{"succeeds", "succeeds", "succeeds", "fails", "retries", "releases", "dies"}).Draw(rt, "how")
				m.finish(rt, ctx, rapid.SampledFrom(seqs).Draw(rt, "handler"), how, dies.Draw(rt, "dies"))
			},
			"relay": func(rt *rapid.T) {
				seqs := []uint64{}
				for seq := range m.relays {
					if _, runs := m.handlers[seq]; !runs {
						seqs = append(seqs, seq)
					}
				}
				if len(seqs) == 0 {
					rt.Skip("no relay")
				}
				slices.Sort(seqs)
				m.relayStep(rt, ctx, rapid.SampledFrom(seqs).Draw(rt, "relay"), dies.Draw(rt, "dies"))
			},
			"relay is shortened": func(rt *rapid.T) {
				seqs := []uint64{}
				for seq := range m.relays {
					if _, runs := m.handlers[seq]; runs {
						seqs = append(seqs, seq)
					}
				}
				if len(seqs) == 0 {
					rt.Skip("no task of a relay runs")
				}
				slices.Sort(seqs)
				m.shorten(rt, ctx, m.relays[rapid.SampledFrom(seqs).Draw(rt, "relay")])
			},
			"cancel": func(rt *rapid.T) {
				m.cancel(rt, ctx, anyTask(rt), dies.Draw(rt, "dies"))
			},
			"requeue": func(rt *rapid.T) {
				id := anyTask(rt)
				if r := m.load(rt, ctx, id); !r.State.Terminal() {
					return
				}
				_, err := b.Requeue(ctx, id)
				m.must(rt, err)
				delete(m.unsure, id)
				m.tookPlace(id)
			},
			"leave":         func(rt *rapid.T) { m.leave(rt, ctx) },
			"acks land":     func(rt *rapid.T) { m.acksLand(rt, ctx) },
			"acks are lost": func(*rapid.T) { m.acks = nil },
			"sweep": func(rt *rapid.T) {
				_, err := aged(b).Step(ctx, 1000)
				m.must(rt, err)
				for id := range m.unsure {
					m.arrived[m.keyOf[id]] = true
				}
			},
		}
		for _, often := range []string{"deliver", "finish", "relay", "a task runs"} {
			steps[often+" (2)"], steps[often+" (3)"] = steps[often], steps[often]
		}
		for range rapid.SampledFrom([]int{0, 3, 16}).Draw(rt, "waiting") {
			steps["enqueue"](rt)
		}
		rt.Repeat(steps)
		m.drain(rt, ctx)
	})
}

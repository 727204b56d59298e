package check_test

import (
	"fmt"
	"slices"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/chaos/check"
	"github.com/peltonq/pelton/chaos/history"
)

// The hand-made histories have a lease of 1 s; times are in milliseconds.
var config = check.Config{Lease: time.Second, Slots: 1, Limits: map[string]int{"wide": 2}}

const (
	ms  = int64(time.Millisecond)
	day = 24 * time.Hour
)

// epoch is the wall time of millisecond 0.
var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func wall(at int64) time.Time { return epoch.Add(time.Duration(at * ms)) }

var one, two, three = pelton.NewID(epoch, 0), pelton.NewID(epoch.Add(time.Millisecond), 0), pelton.NewID(epoch.Add(2*time.Millisecond), 0)

// script is a history by hand. Its methods return what can be changed further.
type script struct{ events []*history.Event }

func (s *script) add(at int64, actor string, kind history.Kind) *history.Event {
	e := &history.Event{At: at * ms, Wall: wall(at), Actor: actor, Kind: kind}
	s.events = append(s.events, e)
	return e
}

func (s *script) sorted() []history.Event {
	out := make([]history.Event, len(s.events))
	for i, e := range s.events {
		out[i] = *e
	}
	slices.SortStableFunc(out, func(a, b history.Event) int { return int(a.At - b.At) })
	return out
}

// accept is an enqueue of id as ref, sent a millisecond before its answer.
func (s *script) accept(at int64, id pelton.ID, ref string) {
	s.add(at-1, "producer", history.EnqueueSent).Ref = ref
	e := s.add(at, "producer", history.EnqueueOK)
	e.Task, e.Ref, e.Retention = id, ref, day
}

func (s *script) start(at int64, actor string, id pelton.ID, ref string, attempt int, fence uint64) *history.Event {
	e := s.add(at, actor, history.RunStart)
	e.Task, e.Ref, e.Attempt, e.Fence, e.Worker = id, ref, attempt, fence, "id-of-"+actor
	e.Run, e.StartedAt = name(actor, fence), wall(at-1)
	return e
}

// name is that of a run.
func name(actor string, fence uint64) string { return fmt.Sprintf("%s#%d", actor, fence) }

func (s *script) end(at int64, actor string, id pelton.ID, fence uint64, outcome history.Outcome) *history.Event {
	e := s.add(at, actor, history.RunEnd)
	e.Task, e.Run, e.Outcome = id, name(actor, fence), outcome
	return e
}

func (s *script) ctxEnd(at int64, actor string, id pelton.ID, fence uint64, cause history.Outcome) {
	e := s.add(at, actor, history.CtxEnd)
	e.Task, e.Run, e.Outcome = id, name(actor, fence), cause
}

// stored is a record as the broker keeps it.
func (s *script) stored(at int64, id pelton.ID, state pelton.State, revision, previous uint64) *history.Record {
	e := s.add(at, "recorder", history.Observe)
	e.Task = id
	e.Record = &history.Record{State: state, Revision: revision, Previous: previous, Stored: true}
	return e.Record
}

// read is a record as the API shows it, asked for a millisecond before.
func (s *script) read(at int64, id pelton.ID, state pelton.State, revision uint64) *history.Event {
	e := s.add(at, "reader", history.Observe)
	e.Task, e.Began = id, (at-1)*ms
	e.Record = &history.Record{State: state, Revision: revision}
	return e
}

func (s *script) call(at int64, id pelton.ID, kind history.Kind) *history.Event {
	e := s.add(at, "canceller", kind)
	e.Task, e.Began = id, (at-1)*ms
	return e
}

// fault is one from begin to end that hits the target.
func (s *script) fault(begin, end int64, what, target string) {
	for at, kind := range map[int64]history.Kind{begin: history.FaultBegin, end: history.FaultEnd} {
		e := s.add(at, "nemesis", kind)
		e.Fault, e.Target = what, target
	}
}

func (s *script) healed(at int64) { s.add(at, "nemesis", history.Healed) }

// attempt is a run of task one from its running record, at revision fence over
// previous, to the handler's return.
func (s *script) attempt(begin, end int64, actor string, attempt int, fence, previous uint64, outcome history.Outcome) {
	running := s.stored(begin, one, pelton.Running, fence, previous)
	running.Attempt, running.Worker, running.StartedAt = attempt, "id-of-"+actor, wall(begin)
	s.start(begin+1, actor, one, "r1", attempt, fence)
	if outcome != "" {
		s.end(end, actor, one, fence, outcome)
	}
}

// finish is the record that follows attempt's run.
func (s *script) finish(at int64, state pelton.State, actor string, begin int64, attempt int, revision, fence uint64) *history.Record {
	r := s.stored(at, one, state, revision, fence)
	r.Attempt, r.Worker, r.StartedAt = attempt, "id-of-"+actor, wall(begin)
	switch {
	case state == pelton.Succeeded:
		r.ResultFence, r.ResultRun, r.FinishedAt = fence, name(actor, fence), wall(at)
	case state.Terminal():
		r.FinishedAt = wall(at)
	}
	return r
}

// queued is task one, accepted and stored at revision 1.
func queued() *script {
	s := &script{}
	s.accept(10, one, "r1")
	s.stored(10, one, pelton.Queued, 1, 0)
	return s
}

// plain is task one without any fault: queued, run once, succeeded.
func plain() *script {
	s := queued()
	s.attempt(20, 30, "w1", 1, 2, 1, history.OK)
	s.finish(31, pelton.Succeeded, "w1", 20, 1, 3, 2)
	return s
}

// retried is task one, which succeeded, was retried, and succeeded again.
func retried() *script {
	s := plain()
	s.call(40, one, history.RetrySent)
	s.stored(45, one, pelton.Queued, 4, 3)
	s.attempt(50, 60, "w2", 1, 5, 4, history.OK)
	s.finish(61, pelton.Succeeded, "w2", 50, 1, 6, 5)
	return s
}

// cancelled is task one, cancelled while it waited.
func cancelled() *script {
	s := queued()
	s.call(20, one, history.CancelSent)
	s.call(25, one, history.CancelOK).Record = &history.Record{State: pelton.Cancelled, Revision: 2}
	s.stored(24, one, pelton.Cancelled, 2, 1).FinishedAt = wall(24)
	return s
}

// killed is task one whose first worker was killed in the middle, and which the
// second took over.
func killed(begin, end int64) *script {
	s := queued()
	s.attempt(20, 0, "w1", 1, 2, 1, "")
	s.fault(begin, end, "kill", "w1")
	s.attempt(1500, 1600, "w2", 1, 3, 2, history.OK)
	s.finish(1601, pelton.Succeeded, "w2", 1500, 1, 4, 3)
	return s
}

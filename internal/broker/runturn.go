package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/failpoint"
)

// How turns of runs work. A task of a kind with a limit need not take a place in the line of its kind, be called
// from there and come back in another message, if the line has room: its worker asks for a turn for
// this run of it, by the message that it holds (grant.By). It gives that back before it ends the message.
//
// What holds, and why:
//
//   - No more than the limit have a turn: runs are counted in the document as everybody is.
//   - Those who wait in the line go first, but for half of the limit: a run gets what they leave, in the same write.
//   - The turn belongs to the message. Only its holder gives it back: when an outcome, or a next message of the task, is
//     stored, and before the acknowledgement, or before it gives the message back. If it dies before that, the message brings
//     another worker, which asks for the turn before it starts the task, and finds that it has it; or gives
//     it back with the message, if there is nothing to start.
//   - A task that is not over keeps nothing, other than one that was called: its next run asks anew.
//   - If the message goes without its holder, by a cancel of a task that had no record yet or by an operator's hand, and that
//     one dies, the sweep takes the turn. It asks the worker first: a handler may run on.
//
// Crash windows: the document says that the run has a turn, and it has not started (failpoint LineSeated); the outcome is
// stored, and the turn was not given back (FinishRecorded); it was, and the message is not acknowledged
// (LineReleased). All of them leave the message.
//
// Many tasks begin and end at a time: a process writes the document for all who ask and all who give back since its
// last write of it.

// RunTurn is the turn of a run, or one that it asks for.
type RunTurn struct {
	line   Line
	id     pelton.ID
	epoch  uint32
	by     uint64
	worker string
	from   string // may have had it before
}

// From is the turn, to be taken over from a worker that does not run the task any more.
func (t RunTurn) From(worker string) RunTurn {
	t.from = worker
	return t
}

// RunTurn is the turn of a run of the task in the line of its kind, by the message that the worker holds.
func (m *Meta) RunTurn(by uint64, worker string) RunTurn {
	return RunTurn{line: m.Line(OfKind), id: m.ID, epoch: m.Epoch, by: by, worker: worker}
}

// in is the index of the turn in the document, or -1.
func (t *RunTurn) in(doc *lineDoc) int {
	return slices.IndexFunc(doc.Granted, func(g grant) bool { return g.By == t.by && g.ID == t.id })
}

// TurnRequest is a turn that was asked for.
type TurnRequest struct {
	turn  RunTurn
	desk  *desk
	first chan struct{} // closed when it was dealt with for the first time
	taken chan struct{} // closed when it has the turn
	err   error         // of the first time
	other string        // who has the turn by the same message
}

// Await waits for the turn until stop is closed, as long as it may come soon, and no longer than most. If another worker has the turn by the
// same message, it is that one's. Errors: pelton.ErrUnavailable, after which the run may have its turn nevertheless.
func (q *TurnRequest) Await(ctx context.Context, most time.Duration, stop <-chan struct{}) (taken bool, other string, err error) {
	<-q.first // the settling has a deadline
	d := q.desk
	if q.other != "" || q.err != nil || closed(q.taken) || !d.queue.join(time.Now()) {
		return q.withdraw(), q.other, q.err
	}
	d.look(ctx)
	ticker, timer := time.NewTicker(turnPace), time.NewTimer(min(most, turnWait))
	defer ticker.Stop()
	defer timer.Stop()
	for on := true; on; {
		select {
		case <-q.taken:
			on = false
		case <-stop:
			on = false
		case <-timer.C:
			on = false
		case now := <-ticker.C:
			on = d.queue.stay(now)
		}
	}
	d.queue.leave()
	return q.withdraw(), "", nil
}

// withdraw ends the request, and reports whether the run has its turn.
func (q *TurnRequest) withdraw() (taken bool) {
	d := q.desk
	d.mu.Lock()
	for d.settles(q) {
		d.settled.Wait() // it has a deadline
	}
	d.waiting = slices.DeleteFunc(d.waiting, func(other *TurnRequest) bool { return other == q })
	d.mu.Unlock()
	return closed(q.taken)
}

// desk is where the runs of a line ask for turns and give them back.
type desk struct {
	b    *Broker
	line Line

	mu      sync.Mutex
	settled sync.Cond
	open    bool // somebody deals with what comes
	asked   bool // somebody came who was not dealt with
	waiting []*TurnRequest
	at      []*TurnRequest // those of them that are being dealt with
	back    []turnBack
	looks   bool // somebody does, for those who wait
	queue   turnQueue
}

// turnBack is a turn that is given back.
type turnBack struct {
	turn RunTurn
	done func(error)
}

// desks are those of the lines of kinds that had a limit. Kinds are few.
type desks struct {
	mu  sync.Mutex
	all map[Line]*desk
}

func (b *Broker) deskOf(line Line) *desk {
	b.desks.mu.Lock()
	defer b.desks.mu.Unlock()
	d := b.desks.all[line]
	if d == nil {
		d = &desk{b: b, line: line}
		d.settled.L = &d.mu
		if b.desks.all == nil {
			b.desks.all = map[Line]*desk{}
		}
		b.desks.all[line] = d
	}
	return d
}

// AskTurn asks for the turn of a run. One that it has already it gets.
func (b *Broker) AskTurn(ctx context.Context, turn RunTurn) *TurnRequest {
	d := b.deskOf(turn.line)
	q := &TurnRequest{turn: turn, desk: d, first: make(chan struct{}), taken: make(chan struct{})}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.waiting, d.asked = append(d.waiting, q), true
	d.deal(ctx)
	return q
}

// GiveTurn gives the turn of a run back, if it has it. done gets the outcome: nil, or pelton.ErrUnavailable, after which it
// may be repeated. GiveTurn does not block.
func (b *Broker) GiveTurn(ctx context.Context, turn RunTurn, done func(error)) {
	d := b.deskOf(turn.line)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.back = append(d.back, turnBack{turn, done})
	d.deal(ctx)
}

// GiveTurnNow is GiveTurn that waits.
func (b *Broker) GiveTurnNow(ctx context.Context, turn RunTurn) error {
	done := make(chan error, 1)
	b.GiveTurn(ctx, turn, func(err error) { done <- err })
	return <-done // the settling has a deadline
}

// deal sees to it that what came to the desk is dealt with, in a goroutine that ends when all is. The lock is held.
func (d *desk) deal(ctx context.Context) {
	if !d.open {
		d.open = true
		d.b.background.Go(func() { d.run(context.WithoutCancel(ctx)) })
	}
}

// look lets the line be asked again every turnLook, as long as somebody waits: another process may have made room.
func (d *desk) look(ctx context.Context) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.looks || len(d.waiting) == 0 {
		return
	}
	d.looks = true
	time.AfterFunc(turnLook, func() {
		d.mu.Lock()
		if d.looks, d.asked = false, d.asked || len(d.waiting) > 0; d.asked {
			d.deal(ctx)
		}
		d.mu.Unlock()
		d.look(ctx)
	})
}

func (d *desk) run(ctx context.Context) {
	for {
		d.mu.Lock()
		if d.open = d.asked || len(d.back) > 0; !d.open {
			d.mu.Unlock()
			return
		}
		back := d.back
		d.at, d.back, d.asked = slices.Clone(d.waiting), nil, false
		d.mu.Unlock()
		d.settle(ctx, d.at, back)
	}
}

// settles reports whether the request is being dealt with. The lock is held.
func (d *desk) settles(q *TurnRequest) bool { return slices.Contains(d.at, q) }

// settle settles the line for those who give their turns back and those who ask for some.
func (d *desk) settle(ctx context.Context, asking []*TurnRequest, back []turnBack) {
	s := lineSettling{seen: true, asking: &askers{seats: make([]seat, len(asking))}}
	for _, q := range asking {
		s.asking.turns = append(s.asking.turns, &q.turn)
	}
	for i := range back {
		t := &back[i].turn
		s.leavers = append(s.leavers, &leaver{id: t.id, epoch: t.epoch, by: t.by})
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	_, err := d.b.settleLine(ctx, d.line, s)
	cancel()
	if err != nil && !errors.Is(err, pelton.ErrUnavailable) {
		err = fmt.Errorf("%w: %w", pelton.ErrUnavailable, err)
	}
	if slices.Contains(s.asking.seats, seat{taken: true}) {
		failpoint.At(failpoint.LineSeated)
	}
	d.answer(s.asking.seats, err)
	for _, one := range back {
		one.done(err)
	}
}

// answer tells those who asked what became of it. Who has no turn waits on, if it was not the first time that failed.
func (d *desk) answer(seats []seat, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, q := range d.at {
		if seats[i].taken {
			close(q.taken)
			d.queue.took(time.Now())
		}
		if !closed(q.first) {
			if q.other = seats[i].other; !seats[i].taken && q.other == "" {
				q.err = err
			}
			close(q.first)
		}
	}
	d.waiting = slices.DeleteFunc(d.waiting, func(q *TurnRequest) bool { return closed(q.taken) || q.other != "" || q.err != nil })
	d.at = nil
	d.settled.Broadcast()
}

// askers are runs that ask for turns while their line is settled.
type askers struct {
	turns []*RunTurn
	seats []seat // by a document that is stored
	shut  bool   // nobody gets a turn any more
}

// seat is what became of a run that asked for its turn.
type seat struct {
	taken bool
	other string // the worker that has the turn by the same message
}

// fit reports whether a document may have room for one of them.
func (a *askers) fit(doc *lineDoc, limit int) bool {
	return a != nil && len(a.turns) > 0 && len(doc.Granted) < limit
}

// have notes who has a turn in a document that is stored. What room is left then is for those in line, and for other processes.
func (a *askers) have(seats []seat) {
	if a != nil {
		a.seats, a.shut = seats, true
	}
}

// reserve is how much room is kept from those in line: up to half of the limit is for runs, if so many ask. Else, where many tasks
// are short, all of them would go through the line as soon as some did, and the line would never get shorter.
func (a *askers) reserve(doc *lineDoc, limit int) int {
	if a == nil || a.shut {
		return 0
	}
	ask := 0
	for _, t := range a.turns {
		if t.in(doc) < 0 {
			ask++
		}
	}
	runs := 0
	for _, g := range doc.Granted {
		if g.By > 0 {
			runs++
		}
	}
	return min(ask, max(0, limit/2-runs))
}

// most is how many runs of this worker may get a turn: all that there is room for, or half of that where others have turns
// too, if it is more than what was reserved. Others, or this one, take the rest when they write the document the next time.
func (a *askers) most(doc *lineDoc, limit, reserved int) int {
	room := max(0, limit-len(doc.Granted))
	if a.shut {
		return 0
	}
	if failpoint.Broken(failpoint.TurnBlind) {
		return len(a.turns)
	}
	if slices.ContainsFunc(doc.Granted, func(g grant) bool { return g.By == 0 || g.Worker != a.turns[0].worker }) {
		return min(room, max((room+1)/2, reserved))
	}
	return room
}

// seat gives turns to those who ask for them, as far as there is room, and says who has one in the document now.
func (c *calling) seat(a *askers) []seat {
	if a == nil || len(a.turns) == 0 {
		return nil
	}
	seats, most := make([]seat, len(a.turns)), a.most(c.doc, c.limit, c.reserved)
	for i, t := range a.turns {
		at := t.in(c.doc)
		switch {
		case at >= 0 && c.doc.Granted[at].Worker == t.worker:
		case at >= 0 && c.doc.Granted[at].Worker == t.from:
			c.doc.Granted[at].Worker, c.called = t.worker, true
		case at >= 0:
			seats[i].other = c.doc.Granted[at].Worker
			continue
		case most > 0:
			most--
			c.doc.Granted = append(c.doc.Granted, grant{ID: t.id, Epoch: t.epoch, At: time.Now().UTC(), By: t.by, Worker: t.worker})
			c.called = true
		default:
			continue
		}
		seats[i].taken = true
	}
	return seats
}

// TurnHolder is the worker that has the turn of a run by the same message; "" is none.
func (b *Broker) TurnHolder(ctx context.Context, turn RunTurn) (worker string, err error) {
	doc, err := b.loadLine(ctx, turn.line)
	if err != nil {
		return "", err
	}
	if at := turn.in(doc); at >= 0 {
		return doc.Granted[at].Worker, nil
	}
	return "", nil
}

// closed reports whether a channel that nothing is sent to is closed.
func closed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

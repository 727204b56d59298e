package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/peltonq/pelton"
)

// How relays work. A worker that ends a task of a key's line need not call the next one
// by a message, if it could run that itself: it gives the turn to the next ones in line,
// one after the other, by the message that it still holds. The document names that
// message and them (grant.By, grant.Then). So a line of short tasks costs a write to its document for many
// of them, and no message, delivery and record that says that it runs for each.
//
// What holds, and why:
//
//   - It counts as one turn, and one of its tasks runs at a time, in the order of their
//     places. The next one starts when the one before is over, by its record.
//   - The holder of the message runs them. Nobody else gives the turn back: not those who end
//     another task, not a cancel, but for that of a task that was given back. Copies of a call that lost their compare-and-swap find
//     that the task has no turn of its own (Called).
//   - A task of a relay has the record of a waiting task until it has run for a while or is
//     over, as a plain one has none: its first write expects the revision that was read before it
//     started. If its holder dies, the message comes to another worker, which looks at their
//     records: those that are over are passed; one that had begun to be written is gone on
//     with by that message; the others go back to the line, by the end of the relay. A task that
//     was started and not written is called like one that was not: nobody can tell, and its
//     next start is written first, as of any task that is called.
//   - Their places stay until they are over, so that they can go back: Reached goes back before
//     the first of them. Back says how far it was, because what processes know of the places up to
//     there may be short of those.
//   - A task that is not over when its run ends, because it is retried say, keeps the turn for
//     itself, and the others go back (KeepTurn). Its next message is published before
//     that: until then, the relay's message brings somebody who does both.
//   - A relay whose message is gone is ended by the sweep.
//   - Nobody waits for long behind a task of a relay, if another could have the turn: when that task
//     has run for a while, the others go back (Shorten).
//   - Where a limit lets several tasks run at a time, a relay takes no more than its part of those who
//     wait, and sharedRelay at most: they start behind those of another relay that came after them.

// versionRelay is the version of a document that has relays: an earlier one would drop them.
const versionRelay = 2

// sharedRelay is how many tasks of a line a relay takes at a time, if others have turns in it too.
const sharedRelay = 8

// Relay is what a worker takes over from the line of a key. It is one goroutine's.
type Relay struct {
	// Tasks have the turn, in this order.
	Tasks []pelton.ID

	line  Line
	lane  Lane
	by    uint64 // the message
	who   string // has it
	fits  func(e *Envelope) bool
	first pelton.ID // of the turn that it has; zero is none
	keeps int       // others than the first so many go back; 0 is not of interest
	left  bool      // not all of its tasks have started
	from  uint64    // place of the first of those; 0 is not known
	// places are those of Tasks, as far as they are known; over those of tasks that are over.
	places, over []uint64

	// While its line is settled.
	most  int
	gave  bool // it has given back its turn, or that of the task before it
	fixed bool // what it takes is written
	shut  bool // it takes no more
	next  []pelton.ID
	at    []uint64
}

// NewRelay prepares a relay for the line of a task's key, by the message that the worker has
// the task from. fits says what else than the lane must be right about those it takes.
func NewRelay(r *Record, by uint64, worker string, fits func(e *Envelope) bool) *Relay {
	return &Relay{line: r.Line(OfKey), lane: r.Lane(), by: by, who: worker, fits: fits}
}

// PassOn is LeaveLines for a task that is over, and gives its turn to at most so many of those
// who are next in its line, by the same message: afterwards they are the Tasks of the relay. If
// there are any, the caller must run them and end with GoOn, and acknowledge the message
// only when GoOn has left none.
func (b *Broker) PassOn(ctx context.Context, r *Record, relay *Relay, most int) error {
	relay.prepare(most)
	s := lineSettling{seen: true}
	if len(r.Places) == 1 && r.Places[0].Of == OfKey {
		s.relay = relay
	}
	if err := b.leaveLines(ctx, r, relay.by, s); err != nil {
		return err
	}
	relay.settled()
	return nil
}

// Over says that the first n of the relay's tasks are over, and that the others have not
// started: GoOn puts those back.
func (r *Relay) Over(n int) {
	if r.left, r.from = n < len(r.Tasks), 0; r.left && n < len(r.places) {
		r.from = r.places[n]
	}
	r.over = append(r.over, r.places[:min(n, len(r.places))]...)
	r.places = nil
}

// GoOn gives the relay's turn back, after Over, and takes at most so many of those who are next,
// none if some were put back. It may be repeated after an error.
func (b *Broker) GoOn(ctx context.Context, relay *Relay, most int) error {
	if relay.left {
		most = 0
	}
	relay.prepare(most)
	if _, err := b.settleLine(ctx, relay.line, lineSettling{seen: true, relay: relay}); err != nil {
		return fmt.Errorf("give back the turn of a relay: %w", err)
	}
	relay.settled()
	return nil
}

// Shorten gives back those of the relay's tasks that come after the first n, of which the last one runs
// and takes its time. Whoever has a turn may start them. Repeating it changes nothing. After an
// error they may be anywhere, and must not be started either: see Over.
func (b *Broker) Shorten(ctx context.Context, relay *Relay, n int) error {
	part := &Relay{line: relay.line, by: relay.by, first: relay.first, keeps: n}
	if n < len(relay.places) {
		part.from = relay.places[n]
	}
	if _, err := b.settleLine(ctx, relay.line, lineSettling{seen: true, relay: part}); err != nil {
		return fmt.Errorf("give back what waits in a relay: %w", err)
	}
	relay.Tasks, relay.places = relay.Tasks[:n], relay.places[:min(n, len(relay.places))]
	return nil
}

// Relayed is the relay by a message that the caller got, in the line of the key of its task, and
// the worker that began it; nil if there is none.
func (b *Broker) Relayed(ctx context.Context, e *Envelope, by uint64) (_ *Relay, worker string, err error) {
	if e.ConcurrencyKey == "" {
		return nil, "", nil
	}
	line := e.Line(OfKey)
	doc, err := b.loadLine(ctx, line)
	if err != nil {
		return nil, "", err
	}
	for _, g := range doc.Granted {
		if g.By == by {
			return &Relay{Tasks: g.tasks(), line: line, lane: e.Lane(), by: by, first: g.ID}, g.Worker, nil
		}
	}
	return nil, "", nil
}

// KeepTurn makes the turn of a relay that of one of its tasks, which is not over; the others go
// back to the line. The task's next message must have been published. Repeating it
// changes nothing.
func (b *Broker) KeepTurn(ctx context.Context, r *Record, by uint64) error {
	if err := b.keepTurn(ctx, r.Line(OfKey), r.ID, by); err != nil {
		return fmt.Errorf("keep the turn of task %s: %w", r.ID, err)
	}
	// If that message was quick, whoever ended the task found the relay, and gave nothing back.
	now, err := b.LoadRecord(ctx, r.ID)
	switch {
	case errors.Is(err, pelton.ErrNotFound):
		return nil // the sweep's
	case err != nil:
		return fmt.Errorf("keep the turn of task %s: %w", r.ID, err)
	case now.State.Terminal():
		return b.LeaveLines(ctx, now, 0)
	}
	return nil
}

func (b *Broker) keepTurn(ctx context.Context, line Line, id pelton.ID, by uint64) error {
	leave, err := b.lineDoors.enter(ctx, line)
	if err != nil {
		return fmt.Errorf("%w: %w", pelton.ErrUnavailable, err)
	}
	defer leave()
	for {
		doc, err := b.loadLine(ctx, line)
		if err != nil {
			return err
		}
		at := slices.IndexFunc(doc.Granted, func(g grant) bool { return g.By == by && g.names(id) })
		if at < 0 {
			return nil
		}
		doc.Granted[at] = grant{ID: id, At: time.Now().UTC()}
		doc.goBack(0)
		err = b.saveLine(ctx, doc)
		if err == nil || !errors.Is(err, ErrStale) {
			return err
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%w: %w", pelton.ErrUnavailable, context.Cause(ctx))
		}
	}
}

// endRelay ends a relay whose message is gone, so that nobody is left to do it.
func (b *Broker) endRelay(ctx context.Context, line Line, g grant) (ended bool, err error) {
	if held, err := b.heldElsewhere(ctx, g.ID, g.By, 0); err != nil || held {
		return false, err
	}
	for _, id := range g.tasks() {
		r, err := b.LoadRecord(ctx, id)
		switch {
		case errors.Is(err, pelton.ErrNotFound):
		case err != nil:
			return false, err
		case !r.OverInRelay() && !r.InLine: // it has a message of its own
			return true, b.KeepTurn(ctx, r, g.By)
		}
	}
	return true, b.GoOn(ctx, &Relay{line: line, by: g.By, first: g.ID, left: true}, 0)
}

// OverInRelay reports whether the run of a relay's task is over. It may have been requeued since: then it has
// another place, and maybe another turn.
func (r *Record) OverInRelay() bool {
	return r.State.Terminal() || len(r.Places) == 0 || r.Places[0].Epoch > 0
}

func (g *grant) tasks() []pelton.ID { return append([]pelton.ID{g.ID}, g.Then...) }

func (r *Relay) prepare(most int) {
	r.most, r.gave, r.fixed, r.next, r.at = most, false, false, nil, nil
}

func (r *Relay) settled() {
	r.Tasks, r.left = nil, false
	if r.first = (pelton.ID{}); r.fixed {
		r.Tasks, r.places, r.first = r.next, r.at, r.next[0]
	}
}

// gives reports whether a turn is the one that the relay gives back.
func (r *Relay) gives(g *grant) bool { return r != nil && g.By == r.by && g.ID == r.first }

// shorten lets a turn name fewer tasks, and reports whether it named more.
func (r *Relay) shorten(g *grant) bool {
	if r.keeps > len(g.Then) {
		return false
	}
	g.Then = slices.Clone(g.Then[:r.keeps-1]) // others may have a copy of the turn
	return true
}

// landed reports whether the document has what the relay takes already: a write whose outcome
// was unknown.
func (r *Relay) landed(doc *lineDoc) bool {
	if r == nil || r.fixed || r.most == 0 {
		return false
	}
	for _, g := range doc.Granted {
		if g.By == r.by && g.ID != r.first {
			r.next, r.at, r.fixed = g.tasks(), nil, true
			return true
		}
	}
	return false
}

// begin is called before places are read. With a limit of more than one the relay takes its part of
// so many who wait: guided self-scheduling (Polychronopoulos and Kuck, 1987), which leaves each
// turn enough to do until the last ones.
func (r *Relay) begin(taken bool, limit int, waiting func() int) {
	if r == nil || r.fixed {
		return
	}
	r.gave = r.gave || taken
	r.shut, r.next, r.at = !r.gave, nil, nil
	if limit > 1 && r.most > 1 {
		r.most = min(r.most, sharedRelay, max(waiting()/limit, 1))
	}
}

// wants reports whether the relay has a turn and takes one more task.
func (r *Relay) wants() bool {
	return r != nil && !r.shut && len(r.next) > 0 && len(r.next) < r.most
}

// room is how many more tasks the relay would take.
func (r *Relay) room() int {
	if r == nil || r.shut {
		return 0
	}
	return r.most - len(r.next)
}

// takes adds the task of a place to the relay, if that may have it. It is the line's next one
// that waits.
func (r *Relay) takes(doc *lineDoc, place *stored) bool {
	if r == nil || r.shut || len(r.next) >= r.most {
		return false
	}
	e, err := decodeEnvelope(place.data)
	if err != nil || e.Recorded == 0 || e.Epoch != 0 || e.Lane() != r.lane || !r.fits(e) {
		r.shut = true
		return false
	}
	if len(r.next) == 0 {
		doc.Granted = append(doc.Granted, grant{ID: e.ID, At: time.Now().UTC(), By: r.by, Worker: r.who})
	} else {
		g := &doc.Granted[len(doc.Granted)-1]
		g.Then = append(g.Then, e.ID)
	}
	r.next, r.at = append(r.next, e.ID), append(r.at, place.seq)
	return true
}

// saved follows the write of the document. done are the places to be deleted.
func (r *Relay) saved(done []uint64) []uint64 {
	if r == nil {
		return done
	}
	if r.fixed = r.fixed || len(r.next) > 0; r.fixed {
		r.shut = true
	}
	done = append(done, r.over...)
	r.over = nil
	return done
}

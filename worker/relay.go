package worker

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
	"github.com/peltonq/pelton/internal/failpoint"
)

const (
	// relayFor bounds the time for which a worker passes a turn on without giving its slot
	// to whatever else waits.
	relayFor = 100 * time.Millisecond
	// relayLeast tasks may take relayLasts, if it is not the handlers that take it but the broker, as where
	// many tasks share a processor: to give the slot away sooner would cost still more of that.
	relayLeast = 8
	relayLasts = 400 * time.Millisecond
	// mostRelayed bounds the tasks that it takes over at a time.
	mostRelayed = 32
)

// relay is a turn in a line that this worker passes on from one task to the next, in the slot of
// the first: see broker.Relay, which says why that holds.
//
// Crash windows, each repaired by the first task's message, which nobody has acknowledged: see
// resume.
//
//   - between the write that takes the tasks over and the first start: all go back;
//   - while one runs that nothing is written of: it goes back, and is called first;
//   - while one runs that a running record is written of: it is taken over, before or after those
//     behind it went back;
//   - between a terminal write and the dead letter: that is kept, and the next ones go back;
//   - between a put-back write and its publish, or between that and the write that leaves
//     the turn to the task: both are done;
//   - between the end of the relay and the acknowledgement: nothing is left to do.
type relay struct {
	*broker.Relay
	head   pelton.ID // whose message it is
	began  time.Time
	worked time.Duration       // by handlers
	ended  int                 // tasks that are over
	last   atomic.Pointer[run] // the latest run: it knows the lease
	on     bool                // the task of that is over, and the next one may start

	mu    sync.Mutex
	runs  int  // tasks that have started since the last ones were taken over; 0 while none runs
	short bool // those that have not started were given back, or may have been
}

// shorten gives back who waits behind the run, which takes long: whoever has a turn may go on with them. done
// is false if that is not known to be written.
func (rl *relay) shorten(ctx context.Context, r *run) (done bool) {
	rl.mu.Lock() // the relay goes on after that
	defer rl.mu.Unlock()
	r.mu.Lock()
	over := r.ending || r.fenced // if ending takes long, it is the broker
	r.mu.Unlock()
	if over || rl.runs == 0 || rl.runs >= len(rl.Tasks) {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, min(time.Second, r.lane.leaseNow()/6)) // heartbeats wait for it meanwhile
	defer cancel()
	rl.short = true
	if err := r.w.b.Shorten(ctx, rl.Relay, rl.runs); err != nil {
		r.log().Debug("those who wait in a relay not given back yet", "error", err)
		return false
	}
	failpoint.At(failpoint.RelayShort)
	return true
}

// step says that so many of its tasks have started, the last of them now; 0 that none runs. It
// reports whether those that have not started are still the relay's.
func (rl *relay) step(runs int) (goesOn bool) {
	rl.mu.Lock()
	defer rl.mu.Unlock()
	rl.runs = runs
	return !rl.short
}

// beginRelay prepares to pass on the turn of a task whose handler has returned; nil means
// that its turn is to be given back.
func (r *run) beginRelay() *relay {
	if !r.inHand || len(r.record.Places) != 1 {
		return nil
	}
	if entry, _ := r.w.mux.lookup(r.record.Kind); entry.cpuBound { // it has a seat, which others wait for
		return nil
	}
	rl := &relay{head: r.record.ID, began: r.begun}
	rl.count(r)
	rl.Relay = broker.NewRelay(r.record, r.delivery.Seq, r.w.id, r.w.fits)
	rl.last.Store(r)
	if rl.most() == 0 || !rl.mayGoOn() {
		return nil
	}
	return rl
}

// count adds a task that is over.
func (rl *relay) count(r *run) {
	rl.ended++
	rl.worked += max(0, r.record.FinishedAt.Sub(r.record.StartedAt))
}

// most is how many tasks the relay is to take over.
func (rl *relay) most() int { return relayTakes(time.Since(rl.began), rl.worked, rl.ended) }

// relayTakes is how many more tasks fit into the time of a relay, if they take what those before
// took: took in all, and worked by their handlers.
func relayTakes(took, worked time.Duration, ended int) int {
	more := func(spent, of time.Duration) int {
		each := max(spent/time.Duration(max(ended, 1)), time.Microsecond)
		return int((of - spent) / each)
	}
	by := max(more(took, relayFor), min(more(took, relayLasts), relayLeast-ended))
	return max(0, min(by, more(worked, relayFor), mostRelayed))
}

// relayInTime reports whether a relay still has time for another task.
func relayInTime(took, worked time.Duration, ended int) bool {
	return took < relayFor || took < relayLasts && ended < relayLeast && worked < relayFor
}

// mayGoOn reports whether another task may start in the relay.
func (rl *relay) mayGoOn() bool {
	r := rl.last.Load()
	return relayInTime(time.Since(rl.began), rl.worked, rl.ended) && !ended(r.w.stopping) && !r.lane.paused.Load() && r.lane.rate.Load() == nil &&
		r.lane.startBy(r.delivery) > 0 && !r.lateNow()
}

// fits reports whether a task may start as soon as it has its turn.
func (w *Worker) fits(e *broker.Envelope) bool {
	entry, known := w.mux.lookup(e.Kind)
	now, rules := time.Now(), w.rules.Load()
	return known && !entry.cpuBound && !w.b.KindLimited(e.Kind) && !rules.apply(e.Kind, e.RateKey) &&
		rules.free(e.Kind, e.RateKey, now) && (e.ExpiresAt.IsZero() || e.ExpiresAt.After(now))
}

// passOn gives back the turns of a task that is over, and then acknowledges its message: until then,
// a crash brings that to somebody who does it. If those who are next in line can run here,
// it keeps the message for them: see relayOn.
func (r *run) passOn() error {
	if r.relay != nil && r.inHand {
		r.relay.on = true // its loop goes on
		return nil
	}
	err := r.giveTurn()
	next := (*relay)(nil)
	switch {
	case err != nil:
	case r.relay != nil: // and its loop does not go on
		r.relay.step(0)
		r.relay.Over(0)
		err = r.insist(func() error { return r.w.b.GoOn(r.w.hard, r.relay.Relay, 0) })
	case len(r.record.Places) == 0:
	default:
		if next = r.beginRelay(); next == nil {
			err = r.insist(func() error { return r.w.b.LeaveLines(r.w.hard, r.record, r.delivery.Seq) })
			break
		}
		most := next.most()
		err = r.insist(func() error { return r.w.b.PassOn(r.w.hard, r.record, next.Relay, most) })
	}
	switch {
	case err != nil:
		return err
	case next != nil && len(next.Tasks) > 0:
		failpoint.At(failpoint.RelayTaken)
		r.begins = next
		r.w.pass(next)
	default:
		r.ack()
	}
	return nil
}

// keepTurn acknowledges the message of a task that is not over, and whose next message is
// published. In a relay the turn is left to it first, and the others go back.
func (r *run) keepTurn() error {
	if err := r.giveTurn(); err != nil {
		return err
	}
	if r.delivery.InRelay() {
		if err := r.insist(func() error { return r.w.b.KeepTurn(r.w.hard, r.record, r.delivery.Seq) }); err != nil {
			return err
		}
		failpoint.At(failpoint.RelayKept)
	}
	r.ack()
	return nil
}

// relayOn runs the tasks of the relay that the end of a run has begun, if it has.
func (w *Worker) relayOn(c candidate, head *run) {
	rl := head.begins
	if rl == nil {
		return
	}
	defer w.passed(rl)
	for len(rl.Tasks) > 0 {
		n := 0
		records, err := w.b.LoadRecords(w.hard, rl.Tasks)
		for over := err == nil; over && n < len(records) && rl.mayGoOn(); {
			var lost bool
			rl.step(n + 1)
			if over, lost = w.runNext(c, rl, records[n]); lost {
				return // its turn is dealt with, or the message comes to somebody who does it
			}
			goesOn := rl.step(0)
			if over {
				n++
				failpoint.At(failpoint.RelayPassed)
			}
			over = over && goesOn
		}
		rl.Over(n)
		rl.short = false
		last, most := rl.last.Load(), rl.most()
		if err := last.insist(func() error { return w.b.GoOn(w.hard, rl.Relay, most) }); err != nil {
			last.log().Warn("turn not given back, it is left to the message's next delivery", "error", err)
			return
		}
	}
	rl.last.Load().ack()
}

// runNext runs a task of the relay. over is false for one that cannot start here and now; lost
// means that the relay has ended with it.
func (w *Worker) runNext(c candidate, rl *relay, record *broker.Record) (over, lost bool) {
	before := rl.last.Load()
	switch {
	case record == nil:
		return false, false
	case failpoint.Broken(failpoint.RelayBlind):
	case record.State.Terminal():
		return true, false
	case !record.Relayable() || !w.fits(record.Envelope()):
		return false, false
	}
	before.mu.Lock()
	delivery, contact, lease := before.delivery.As(record), before.contact, before.lease
	before.mu.Unlock()
	entry, _ := w.mux.lookup(record.Kind)
	own := candidate{
		w: w, lane: c.lane, delivery: delivery, entry: entry, known: true, seated: true, way: &broker.Limited{}, fresh: true, slot: c.slot, relay: rl,
	}
	r := w.newRun(own, record)
	r.contact, r.lease = contact, lease
	rl.last.Store(r)
	rl.on = false
	if err := w.execute(r, own); err != nil { // nothing was done
		return false, false
	}
	if rl.on {
		rl.count(r)
	}
	return rl.on, !rl.on
}

// resume deals with a message that is to be dropped, if a worker ran those by it who were next in
// line. dealt is false if there is no such relay.
func (w *Worker) resume(r *run, c candidate) (dealt bool) {
	gone := r.record.State == "" // its record
	switch {
	case c.relay != nil && (gone || r.record.State.Terminal()):
		c.relay.on = true
		return true
	case gone: // of no task in a relay
	case r.delivery.InRelay() && !r.record.State.Terminal(): // another message carries it
		if err := r.keepTurn(); err != nil {
			w.giveUp(r, c, err)
		}
		return true
	}
	if failpoint.Broken(failpoint.RelayLost) {
		return false
	}
	left, owner, err := w.b.Relayed(w.hard, c.delivery.Envelope, c.delivery.Seq)
	switch {
	case err != nil:
		w.giveUp(r, c, err)
		return true
	case left == nil:
		return false
	case w.passing(r.record.ID) != nil:
		r.log().Info("delivery of a relay that goes on here left alone")
		return true
	}
	if owner != w.id {
		if sign, err := w.ownerSign(owner, r.record.ID, c); err != nil || sign == broker.SignRuns {
			r.log().Info("delivery of a relay that its owner goes on with left alone", "owner", owner, "error", err)
			return true
		}
	}
	rl := &relay{Relay: left, head: r.record.ID}
	rl.last.Store(r)
	w.pass(rl)
	defer w.passed(rl)
	if on, err := w.lookThrough(c, rl); err != nil {
		w.giveUp(r, c, err)
		return true
	} else if !on {
		return true
	}
	rl.Over(0) // who is over is passed by its record
	if err := w.b.GoOn(w.hard, rl.Relay, 0); err != nil {
		w.giveUp(r, c, err)
		return true
	}
	r.log().Warn("relay of a silent worker ended", "owner", owner)
	r.ack()
	return true
}

// lookThrough goes on with whichever task of a relay has begun, as far as its record says. on is
// false if the turn is that task's from here on.
func (w *Worker) lookThrough(c candidate, rl *relay) (on bool, err error) {
	for i, id := range rl.Tasks {
		record, err := w.b.LoadRecord(w.hard, id)
		switch {
		case errors.Is(err, pelton.ErrNotFound):
			continue
		case err != nil:
			return false, err //nolint:wrapcheck // logged
		case record.State == pelton.Failed:
			if err := w.b.PublishDead(w.hard, record); err != nil {
				return false, err //nolint:wrapcheck // logged
			}
			continue
		case record.OverInRelay():
			continue
		case record.State == pelton.Queued && record.InLine:
			return true, nil
		}
		entry, known := w.mux.lookup(record.Kind)
		rl.on = false
		rl.step(i + 1)
		w.admit(candidate{
			w: w, lane: c.lane, delivery: c.delivery.As(record), entry: entry, known: known, seated: !entry.cpuBound, way: &broker.Limited{}, slot: c.slot, relay: rl,
		})
		rl.step(0)
		if !rl.on {
			return false, nil
		}
	}
	return true, nil
}

// giveUp gives a delivery back whose turn cannot be dealt with now.
func (w *Worker) giveUp(r *run, c candidate, err error) {
	r.log().Warn("turn not given back, delivery given back", "error", err)
	w.giveBackFor(c.lane, c.delivery, brokenDelay)
}

func (w *Worker) pass(rl *relay) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.relays[rl.head] = rl
}

func (w *Worker) passed(rl *relay) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.relays, rl.head)
}

// passing is the latest run of the relay that the task has begun here; nil if there is none.
func (w *Worker) passing(head pelton.ID) *run {
	w.mu.Lock()
	defer w.mu.Unlock()
	if rl := w.relays[head]; rl != nil {
		return rl.last.Load()
	}
	return nil
}

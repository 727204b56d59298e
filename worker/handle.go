package worker

import (
	"errors"
	"log/slog"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
	"github.com/peltonq/pelton/internal/failpoint"
)

const (
	// unreadableDelay puts off a message of a newer version for a newer worker.
	unreadableDelay = 30 * time.Second
	// cpuDelay puts off a CPU-bound task while such tasks hold their share of slots.
	cpuDelay = time.Second
	// brokenDelay puts off a task while the broker refuses reads or writes.
	brokenDelay = time.Second
)

// handle takes one delivery from its arrival to its last write. It holds a slot
// until it returns.
func (w *Worker) handle(h kept) {
	l, delivery := h.lane, h.delivery
	switch {
	case errors.Is(delivery.Err, broker.ErrNewer):
		log := w.cfg.Logger.With("queue", l.Queue)
		log.Warn("task of a newer version put off", "error", delivery.Err)
		w.nak(delivery, unreadableDelay, log)
		return
	case delivery.Err != nil:
		log := w.cfg.Logger.With("queue", l.Queue)
		log.Error("message that is no task dropped", "seq", delivery.Seq, "error", delivery.Err)
		w.signal(log, delivery.Ack())
		return
	}
	entry, known := w.mux.lookup(delivery.Envelope.Kind)
	c := candidate{w: w, lane: l, delivery: delivery, entry: entry, known: known, seated: true, way: h.way, slot: h.slot}
	if known && entry.cpuBound {
		if c.seated = w.cpu.sit(); c.seated {
			defer w.cpu.stand()
			if !w.awaitCPU(l, delivery) {
				w.giveBack(l, delivery)
				return
			}
			defer func() { <-w.cpu.running }()
		}
	}
	w.admit(c)
}

// candidate is a delivery that asks for admission.
type candidate struct {
	w        *Worker
	lane     *lane
	delivery *broker.Delivery
	entry    entry
	known    bool // there is a handler for its kind
	seated   bool // it may compute, if that is what its handler does
	takeover bool // it runs in place of an owner that went silent
	// way is how far it has come with its limits, in this hand. It is shared by all
	// copies of the candidate: what was counted once must not be counted again.
	way  *broker.Limited
	turn bool // the run has its own in the line of its kind
	// fresh says that the task has no record, and that nobody can have started it
	// before: it is started without one.
	fresh bool
	slot  *slot  // that it holds
	relay *relay // that it is in; nil for most
}

// log is made when there is something to say: most tasks come and go in silence.
func (c candidate) log() *slog.Logger { return c.w.logOf(c.lane, c.delivery.Envelope) }

func (w *Worker) logOf(l *lane, env *broker.Envelope) *slog.Logger {
	return w.cfg.Logger.With("queue", l.Queue, "task_id", env.ID.String(), "kind", env.Kind)
}

// awaitCPU waits for a turn to compute; false means that the delivery got old or
// the worker stops.
func (w *Worker) awaitCPU(l *lane, delivery *broker.Delivery) bool {
	timer := time.NewTimer(l.startBy(delivery))
	defer timer.Stop()
	select {
	case w.cpu.running <- struct{}{}:
		return true
	case <-timer.C:
		return false
	case <-w.stopping:
		return false
	}
}

// startBy is how long a delivery may still wait for its start: a third of the
// lease after its arrival, the lease might be over before the first heartbeat.
func (l *lane) startBy(delivery *broker.Delivery) time.Duration {
	return l.leaseNow()/3 - time.Since(delivery.Arrived)
}

// giveBack naks a delivery that was not started, so that the broker hands it on at
// once. One that is so old that another worker may hold it by now is left to the
// lease: the nak would take it from that one.
func (w *Worker) giveBack(l *lane, delivery *broker.Delivery) { w.giveBackFor(l, delivery, 0) }

func (w *Worker) giveBackFor(l *lane, delivery *broker.Delivery, delay time.Duration) {
	if time.Since(delivery.Arrived) < l.leaseNow()*2/3 {
		w.nak(delivery, delay, w.cfg.Logger.With("queue", l.Queue))
	}
}

// nak gives a message back to the broker. Without a connection it does nothing:
// nats.go would keep the nak, and send it when the message is somebody else's.
func (w *Worker) nak(delivery *broker.Delivery, delay time.Duration, log *slog.Logger) {
	switch {
	case !w.nc.IsConnected():
	case delay > 0:
		w.signal(log, delivery.NakWithDelay(delay))
	default:
		w.signal(log, delivery.Nak())
	}
}

func (w *Worker) load(delivery *broker.Delivery) (*broker.Record, error) {
	return w.b.LoadFor(w.hard, delivery)
}

// unloadable ends a delivery whose record cannot be read.
func (w *Worker) unloadable(c candidate, err error) {
	switch {
	case errors.Is(err, pelton.ErrNotFound):
		// Records come before messages and outlive them, so this one is of a task
		// that is over and forgotten.
		c.log().Warn("message without a record dropped", "seq", c.delivery.Seq)
		if r := w.newRun(c, &broker.Record{Meta: c.delivery.Envelope.Meta}); w.resume(r, c) || !w.leaveOwnTurn(r, c) {
			return
		}
		if err := w.b.LeaveDropped(w.hard, nil, c.delivery.Envelope, c.delivery.Seq); err != nil {
			c.log().Warn("turn not given back, delivery given back", "error", err)
			w.giveBackFor(c.lane, c.delivery, brokenDelay)
			return
		}
		w.signal(c.log(), c.delivery.Ack())
	case errors.Is(err, broker.ErrNewer):
		w.nak(c.delivery, unreadableDelay, c.log())
	case errors.Is(err, broker.ErrMalformed):
		c.log().Error("record unreadable, task put off", "error", err)
		w.nak(c.delivery, unreadableDelay, c.log())
	default:
		c.log().Warn("record not read, task given back", "error", err)
		w.giveBackWith(c, brokenDelay)
	}
}

// admit asks the record what to do with the delivery, and does it. A lost
// compare-and-swap means that somebody else did something: ask again. A fresh
// delivery has no record that could be asked, at first, and one that was called from
// its line may have it with it: then whatever is written is refused if it has changed.
func (w *Worker) admit(c candidate) {
	c.fresh = c.delivery.Fresh
	for first := true; ; c.fresh, first = false, false {
		record := w.assumed(c, first)
		if record == nil {
			var err error
			if record, err = w.load(c.delivery); err != nil {
				w.unloadable(c, err)
				return
			}
		}
		if c.lane.startBy(c.delivery) <= 0 || ended(w.stopping) {
			w.giveBackWith(c, 0)
			return
		}
		here := w.running(record.ID)
		if here != nil && !here.healthy() { // it is about to write how it ended
			w.outwait(here, c)
			continue
		}
		epoch, carrier := c.delivery.Envelope.Epoch, c.delivery.Seq
		if failpoint.Broken(failpoint.NoEpoch) {
			epoch = record.Epoch
		}
		if failpoint.Broken(failpoint.NoCarrier) {
			carrier = record.Carrier
		}
		if here != nil && record.State.Terminal() && len(record.Places) > 0 {
			w.outwait(here, c) // its handler has not returned yet, and has the turn till then
			continue
		}
		what := admit(record, epoch, carrier, w.id, here != nil, c.known, time.Now())
		if what == admitAdopt {
			if here.adopt(c.delivery) {
				c.log().Info("delivery of a task that runs here adopted")
				return
			}
			continue
		}
		if (what == admitStart || what == admitTakeover) && c.lane.paused.Load() {
			w.giveBackWith(c, 0) // it was handed out before the pause
			return
		}
		what, ok := w.turn(&c, record, what)
		if what == admitAlone {
			return
		}
		if !ok {
			w.giveBackFor(c.lane, c.delivery, brokenDelay)
			return
		}
		if what.starts() && c.lane.startBy(c.delivery) <= 0 { // its line took too long
			w.giveBackWith(c, 0)
			return
		}
		r := w.newRun(c, record)
		if err := w.act(r, what, c); !errors.Is(err, broker.ErrStale) {
			w.relayOn(c, r)
			return
		}
	}
}

// assumed is what a delivery's record must be if nothing has become of the task
// before; nil if it has to be read.
func (w *Worker) assumed(c candidate, first bool) *broker.Record {
	switch {
	case c.fresh:
		return c.delivery.Unrecorded()
	case first && c.delivery.First() && w.running(c.delivery.Envelope.ID) == nil:
		return c.delivery.Unstarted()
	default:
		return nil
	}
}

// outwait waits for the next step of another run of the same task in this
// process, as long as the delivery may be started at all.
func (w *Worker) outwait(other *run, c candidate) {
	step := other.started
	if ended(step) {
		step = other.done
	}
	timer := time.NewTimer(c.lane.startBy(c.delivery))
	defer timer.Stop()
	select {
	case <-step:
	case <-timer.C:
	case <-w.stopping:
	}
}

// ended reports whether ch is closed.
func ended(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// signal logs an acknowledgement that could not be sent: the lease repairs it.
func (w *Worker) signal(log *slog.Logger, err error) {
	if err != nil {
		log.Debug("acknowledgement not sent", "error", err)
	}
}

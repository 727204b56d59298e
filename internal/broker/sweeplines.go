package broker

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/peltonq/pelton"
)

// inLine publishes what a task that waits for its turn has lost: its schedule, its
// place, or, when it was called, its message. As in waiting, it may be any message
// that is old enough.
func (s *Sweeper) inLine(ctx context.Context, r *Record, written time.Time, swept *Swept) error {
	shard := r.ID.Shard()
	line, place := r.waitsIn()
	due := written
	if r.waitsForTime() {
		if waits, err := s.inSchedule(ctx, r); err != nil {
			return err
		} else if waits {
			return s.scheduled(ctx, r, written, swept)
		}
		due = later(r.RunAt, written)
	}
	publish := func() error { return s.b.Publish(ctx, r) }
	if due.Before(s.now()) {
		doc, err := s.b.loadLine(ctx, line)
		if err != nil {
			return err
		}
		stream, subject := s.b.keyed(commonShard), s.b.placesIn(commonShard, line)
		if at := doc.called(r.ID, place.Epoch); at >= 0 {
			stream, subject, due = s.b.tasks(shard), s.b.ready(shard, r.Queue, r.Priority), doc.Granted[at].At
			publish = func() error { _, err := s.b.PublishReady(ctx, r.Envelope()); return err }
		}
		oldest, err := s.b.get(ctx, stream, getRequest{Seq: 1, NextFor: subject}, false)
		if err != nil && !errors.Is(err, pelton.ErrNotFound) {
			return err
		}
		if err == nil && !oldest.time.After(due.Add(orphanSlack)) {
			return nil
		}
	}
	if fresh, err := s.unchanged(ctx, r); err != nil || !fresh {
		return err
	}
	if err := s.b.ensure(ctx, r); err != nil {
		return err
	}
	if err := publish(); err != nil {
		return err
	}
	s.b.cfg.Logger.Warn("task in a line without a message published", "task_id", r.ID.String(), "queue", r.Queue, "state", string(r.State))
	swept.Orphans++
	return nil
}

// place settles the line of a place that a worker has dealt with long ago and in
// whose line there is room nevertheless, and deletes a void one.
func (s *Sweeper) place(ctx context.Context, msg *stored, swept *Swept) error {
	env, err := decodeEnvelope(msg.data)
	if err != nil || s.now().Sub(msg.time) < sweepAge {
		return nil //nolint:nilerr // whoever settles it deals with it
	}
	line := env.Line(OfKey)
	if msg.subject != s.b.place(0, line, env.Queue) {
		line = env.Line(OfKind)
	}
	doc, err := s.b.loadLine(ctx, line)
	if err != nil {
		return err
	}
	what, _, err := s.b.placeOf(ctx, doc, msg, false)
	switch {
	case err != nil:
		return err
	case what == placeVoid, what == placeCalled:
		s.b.deletePlaces([]uint64{msg.seq})
		return nil
	case what == placeUnread, what == placeRelayed:
		return nil
	}
	if err := s.b.LoadLimits(ctx); err != nil || len(doc.Granted) >= s.b.limits.of(line) {
		return err
	}
	if dealt, err := s.dealtWith(ctx, msg.seq); err != nil || !dealt {
		return err
	}
	after, err := s.b.settleLine(ctx, line, lineSettling{front: true})
	if err != nil {
		return err
	}
	if after.revision != doc.revision {
		s.b.cfg.Logger.Warn("line in which nobody was called settled", "concurrency_key", line.Key, "kind", line.Kind)
		swept.Turns++
	}
	return nil
}

// dealtWith reports whether a worker has acknowledged the arrival. Without workers
// nobody has, and all is well.
func (s *Sweeper) dealtWith(ctx context.Context, seq uint64) (bool, error) {
	info, err := s.b.consumer(ctx, s.b.keyed(0), arrivalsConsumer)
	if err != nil || info == nil {
		return false, err
	}
	return info.AckFloor.Stream >= seq, nil
}

// line takes the turns of tasks that are over and whose message is gone, so that
// nobody is left to give them back.
func (s *Sweeper) line(ctx context.Context, msg *stored, swept *Swept) error {
	if msg.deleted() {
		return nil
	}
	doc, err := decodeLine(msg)
	if err != nil {
		return nil //nolint:nilerr // of a probe, or of a newer version
	}
	for _, g := range doc.Granted {
		if g.By > 0 && doc.Kind != "" {
			if err := s.run(ctx, doc.Line, g, swept); err != nil {
				return err
			}
		}
	}
	if s.now().Sub(msg.time) < sweepAge {
		return nil
	}
	stuck := false
	for _, g := range doc.Granted {
		if g.By > 0 && doc.Kind != "" {
			continue
		}
		if g.By > 0 {
			ended, err := s.b.endRelay(ctx, doc.Line, g)
			if err != nil {
				return err
			}
			if ended {
				s.b.cfg.Logger.Warn("turn of a relay whose message is gone taken back", "concurrency_key", doc.Key)
				swept.Turns++
			}
			continue
		}
		if gone, err := s.gone(ctx, doc.Line, g); err != nil {
			return err
		} else if gone {
			stuck = true
		}
	}
	if err := s.b.LoadLimits(ctx); err != nil {
		return err
	}
	if !stuck && len(doc.Granted) >= s.b.limits.of(doc.Line) {
		return nil
	}
	// Not only a stuck one: a limit that was raised makes room that nobody else sees.
	_, err = s.b.settleLine(ctx, doc.Line, lineSettling{front: true, over: func(ctx context.Context, g grant) (bool, error) { return s.gone(ctx, doc.Line, g) }})
	if err == nil && stuck {
		s.b.cfg.Logger.Warn("turn of a task that is over taken back", "concurrency_key", doc.Key, "kind", doc.Kind)
		swept.Turns++
	}
	return err
}

// run gives back the turn of a run whose message is gone, and that its worker knows nothing of. The document of a busy
// line is always new, so it is the turn's age that counts.
func (s *Sweeper) run(ctx context.Context, line Line, g grant, swept *Swept) error {
	if s.now().Sub(g.At) < sweepAge {
		return nil
	}
	if held, err := s.b.heldElsewhere(ctx, g.ID, g.By, 0); err != nil || held {
		return err
	}
	asking, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	sign, err := s.b.AskPresence(asking, g.Worker, g.ID)
	if err != nil || sign == SignRuns {
		return err
	}
	if sign == SignNone { // or it is slow
		if present, err := s.b.Present(ctx, g.Worker); err != nil || present {
			return err
		}
	}
	if err := s.b.GiveTurnNow(ctx, RunTurn{line: line, id: g.ID, epoch: g.Epoch, by: g.By, worker: g.Worker}); err != nil {
		return err
	}
	s.b.cfg.Logger.Warn("turn of a run whose message is gone taken back", "kind", line.Kind, "task_id", g.ID.String())
	swept.Turns++
	return nil
}

// gone reports whether a task with a turn is over and carried by no message.
func (s *Sweeper) gone(ctx context.Context, line Line, g grant) (bool, error) {
	r, err := s.b.LoadRecord(ctx, g.ID)
	switch {
	case errors.Is(err, pelton.ErrNotFound):
		return true, nil
	case errors.Is(err, ErrNewer), errors.Is(err, ErrMalformed):
		return false, nil
	case err != nil:
		return false, err
	}
	carrier := r.Former // it was requeued, and the turn is of the time before
	if slices.ContainsFunc(r.Places, func(p Place) bool { return p.Epoch == g.Epoch && r.Line(p.Of) == line }) {
		if !r.State.Terminal() {
			return false, nil
		}
		carrier = r.Carrier
	}
	held, err := s.b.heldElsewhere(ctx, r.ID, carrier, 0)
	return err == nil && !held, err
}

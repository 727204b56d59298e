package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/peltonq/pelton"
)

const (
	// sweepAge is how long something must have looked broken before the sweep
	// touches it: every write that belongs to another follows it within seconds.
	sweepAge = 15 * time.Second
	// orphanSlack is by how much the oldest message of a lane must be younger than
	// the moment at which a task was due there, before the task counts as missing.
	orphanSlack = 10 * time.Second
)

// Swept counts what a step of the sweep looked at and repaired.
type Swept struct {
	Looked  int // messages and records read
	Overdue int // schedules past their time that the broker did not fire
	Letters int // failed tasks without a dead letter
	Orphans int // waiting tasks without a message
	Lost    int // running tasks of a worker that is gone, without a message
	Keys    int // locks of unique keys that nobody holds
	Turns   int // lines in which somebody had a turn who is over, or in which nobody was called
}

// Repaired is the number of repairs.
func (s Swept) Repaired() int { return s.Overdue + s.Letters + s.Orphans + s.Lost + s.Keys + s.Turns }

// Plus adds the counts of two steps.
func (s Swept) Plus(o Swept) Swept {
	return Swept{s.Looked + o.Looked, s.Overdue + o.Overdue, s.Letters + o.Letters, s.Orphans + o.Orphans, s.Lost + o.Lost, s.Keys + o.Keys, s.Turns + o.Turns}
}

// Sweeper repairs what a crash between two writes left behind and redelivery does
// not: it goes round the schedules, the records and the unique keys, a few at a time. Any number of
// processes may sweep at once: every repair is a compare-and-swap, or a message
// whose second copy is dropped at admission. A Sweeper is not safe for concurrent
// use.
type Sweeper struct {
	b         *Broker
	now       func() time.Time
	schedules sweepAt
	records   sweepAt
	keys      sweepAt
	later     sweepAt
	places    sweepAt
	lines     sweepAt
	doubt     uint64 // in the due index, of this round over the records; 0 is none
}

// sweepAt is where a round is: the next sequence to look at, and of those that go through one shard after the
// other in which.
type sweepAt struct {
	next  uint64
	shard uint8
}

// starts reports whether the round has not begun.
func (at *sweepAt) starts() bool { return at.next <= 1 && at.shard == 0 }

// nextShard goes on after the end of a shard: to the next, or to a new round.
func (at *sweepAt) nextShard(shards int) {
	if at.next == 1 {
		at.shard = uint8((int(at.shard) + 1) % shards)
	}
}

// NewSweeper starts a round at the oldest of each.
func (b *Broker) NewSweeper() *Sweeper {
	start := sweepAt{next: 1}
	return &Sweeper{b: b, now: time.Now, schedules: start, records: start, keys: start, later: start, places: start, lines: start}
}

// Step looks at up to budget each of schedules, records, keys, places and lines, from
// where the last step ended, and starts a new round at the end. Its cost is one read
// for each and one or two more for each task that waits.
func (s *Sweeper) Step(ctx context.Context, budget int) (Swept, error) {
	var swept Swept
	err := errors.Join(
		s.schedulesRound(ctx, budget, &swept),
		s.recordsRound(ctx, budget, &swept),
		s.round(ctx, budget, bucketStream(s.b.locks()), "$KV."+s.b.locks()+".unique.>", &s.keys, &swept, s.key),
		s.round(ctx, budget, s.b.keyed(0), s.b.laterPlaces(0), &s.later, &swept, s.schedule),
		s.round(ctx, budget, s.b.keyed(0), s.b.places(), &s.places, &swept, s.place),
		s.round(ctx, budget, bucketStream(s.b.keys()), "$KV."+s.b.keys()+".>", &s.lines, &swept, s.line),
	)
	return swept, err
}

// schedulesRound goes over the schedules, one shard after the other.
func (s *Sweeper) schedulesRound(ctx context.Context, budget int, swept *Swept) error {
	shard := s.schedules.shard
	err := s.round(ctx, budget, s.b.tasks(shard), s.b.scheduledIn(shard, "*"), &s.schedules, swept, s.schedule)
	if err == nil {
		s.schedules.nextShard(s.b.Shards())
	}
	return err
}

// recordsRound goes over the records, one shard after the other. If the due index is doubted when a round begins,
// the tasks that it meets are entered anew, and at its end the doubt is dispelled.
func (s *Sweeper) recordsRound(ctx context.Context, budget int, swept *Swept) (err error) {
	if s.records.starts() {
		if s.doubt, err = s.b.dueDoubt(ctx); err != nil {
			return err
		}
		if s.doubt > 0 {
			s.b.due.hold(0) // what is remembered of it is doubted, too
		}
	}
	bucket := s.b.state(s.records.shard)
	if err := s.round(ctx, budget, bucketStream(bucket), "$KV."+bucket+".>", &s.records, swept, s.record); err != nil {
		return err
	}
	s.records.nextShard(s.b.Shards())
	if s.records.starts() && s.doubt > 0 {
		return s.b.dispelDue(ctx, s.doubt)
	}
	return nil
}

// reindex enters a task that waits for its time into the due index, if that is doubted
// and does not have it.
func (s *Sweeper) reindex(ctx context.Context, r *Record) error {
	w, listed := s.b.dueWrite(r, time.Now())
	if s.doubt == 0 || !listed {
		return nil
	}
	if known, err := s.b.inDueIndex(ctx, r); err != nil || known {
		return err
	}
	_, err := s.b.do(ctx, w)
	return err
}

// round calls look for up to budget messages of the subject from at on.
func (s *Sweeper) round(ctx context.Context, budget int, stream, subject string, at *sweepAt, swept *Swept, look func(context.Context, *stored, *Swept) error) error {
	for range budget {
		msg, err := s.b.get(ctx, stream, getRequest{Seq: at.next, NextFor: subject}, false)
		if errors.Is(err, pelton.ErrNotFound) {
			at.next = 1
			return nil
		}
		if err != nil {
			return fmt.Errorf("sweep %s: %w", stream, err)
		}
		swept.Looked++
		if err := look(ctx, msg, swept); err != nil {
			return fmt.Errorf("sweep %s: sequence %d: %w", stream, msg.seq, err)
		}
		at.next = msg.seq + 1 // only what was dealt with is passed
	}
	return nil
}

// schedule fires a schedule that the broker forgot: one that fell due while the
// store was full sticks until a restart. Publishing with these two headers is one
// write that delivers the message and removes the schedule.
func (s *Sweeper) schedule(ctx context.Context, msg *stored, swept *Swept) error {
	text, found := strings.CutPrefix(msg.header.Get(headerSchedule), "@at ")
	at, err := time.Parse(time.RFC3339Nano, text)
	target := msg.header.Get(headerScheduleTarget)
	if !found || err != nil || target == "" || s.now().Sub(at) < sweepAge {
		return nil //nolint:nilerr // not a schedule of ours
	}
	if _, err = s.b.do(ctx, write{subject: target, data: msg.data, expect: anyRevision, header: firedBy(msg.subject)}); err != nil {
		return err
	}
	s.b.cfg.Logger.Warn("overdue schedule fired", "subject", msg.subject, "due", at)
	swept.Overdue++
	return nil
}

// scheduled looks at a task that has a schedule. One whose time came long ago was to
// run earlier than its schedule says, and whoever wanted that died before it
// published the message (RunNow).
func (s *Sweeper) scheduled(ctx context.Context, r *Record, written time.Time, swept *Swept) error {
	if s.now().Sub(later(r.RunAt, written)) < sweepAge {
		return s.reindex(ctx, r)
	}
	if fresh, err := s.unchanged(ctx, r); err != nil || !fresh {
		return err
	}
	if err := s.b.fire(ctx, r); err != nil {
		return err
	}
	s.b.cfg.Logger.Warn("task whose time was brought forward published", "task_id", r.ID.String(), "queue", r.Queue)
	swept.Overdue++
	return nil
}

// record looks for what a record needs in the broker.
func (s *Sweeper) record(ctx context.Context, msg *stored, swept *Swept) error {
	if msg.deleted() || s.now().Sub(msg.time) < sweepAge {
		return nil
	}
	if _, is := s.b.pageOf(s.records.shard, msg.subject); is {
		return nil // successes need nothing
	}
	if seg, is := s.b.sealOf(s.records.shard, msg.subject); is {
		return s.seal(ctx, seg, msg)
	}
	r, err := decodeRecord(msg.data, msg.seq)
	if err != nil {
		return nil //nolint:nilerr // not a record, or of a newer version: not ours to repair
	}
	switch r.State {
	case pelton.Failed:
		return s.letter(ctx, r, swept)
	case pelton.Scheduled, pelton.Retrying, pelton.Queued:
		if r.InLine {
			return s.inLine(ctx, r, msg.time, swept)
		}
		return s.waiting(ctx, r, msg.time, swept)
	case pelton.Running:
		return s.running(ctx, r, swept)
	case pelton.Succeeded, pelton.Cancelled, pelton.Expired:
		return nil
	default:
		return nil
	}
}

// letter keeps the dead letter of a failed task that has none.
func (s *Sweeper) letter(ctx context.Context, r *Record, swept *Swept) error {
	if r.LetterDropped {
		return nil
	}
	_, err := s.b.get(ctx, s.b.dead(), getRequest{LastFor: s.b.deadLetter(r.Queue, r.ID)}, false)
	if !errors.Is(err, pelton.ErrNotFound) {
		return err
	}
	if fresh, err := s.unchanged(ctx, r); err != nil || !fresh {
		return err
	}
	if err := s.b.PublishDead(ctx, r); err != nil {
		return err
	}
	s.b.cfg.Logger.Warn("missing dead letter kept", "task_id", r.ID.String(), "queue", r.Queue)
	swept.Letters++
	return nil
}

// waiting publishes the message of a task that waits without one. Whether it has
// one is hard to know, because a fired schedule has a new sequence: it has none if
// its schedule is gone and every message of its lane came later than it was due.
// written is when the record was.
func (s *Sweeper) waiting(ctx context.Context, r *Record, written time.Time, swept *Swept) error {
	shard := r.ID.Shard()
	due := written
	if r.waitsForTime() {
		if waits, err := s.inSchedule(ctx, r); err != nil {
			return err
		} else if waits {
			return s.scheduled(ctx, r, written, swept)
		}
		due = later(r.RunAt, written)
	}
	if due.Before(s.now()) {
		oldest, err := s.b.get(ctx, s.b.tasks(shard), getRequest{Seq: 1, NextFor: s.b.ready(shard, r.Queue, r.Priority)}, false)
		if err != nil && !errors.Is(err, pelton.ErrNotFound) {
			return err
		}
		if err == nil && !oldest.time.After(due.Add(orphanSlack)) {
			return nil // it may be any of the messages since
		}
	}
	if fresh, err := s.unchanged(ctx, r); err != nil || !fresh {
		return err
	}
	if err := s.b.ensure(ctx, r); err != nil {
		return err
	}
	if err := s.b.Publish(ctx, r); err != nil { // a schedule in the past fires at once
		return err
	}
	s.b.cfg.Logger.Warn("waiting task without a message published", "task_id", r.ID.String(), "queue", r.Queue, "state", string(r.State))
	swept.Orphans++
	return nil
}

func (s *Sweeper) inSchedule(ctx context.Context, r *Record) (bool, error) {
	stream, subject := s.b.scheduleOf(r)
	_, err := s.b.get(ctx, stream, getRequest{LastFor: subject}, false)
	if errors.Is(err, pelton.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// running puts back a running task whose message is gone and whose worker is too.
func (s *Sweeper) running(ctx context.Context, r *Record, swept *Swept) error {
	_, err := s.b.get(ctx, s.b.tasks(r.ID.Shard()), getRequest{Seq: r.Carrier}, false)
	if !errors.Is(err, pelton.ErrNotFound) {
		return err
	}
	if present, err := s.b.Present(ctx, r.Owner); err != nil || present {
		return err
	}
	r.State, r.Attempt = pelton.Queued, r.Ended
	r.Crashes++
	r.Epoch++
	if err := s.b.SaveRecord(ctx, r); err != nil {
		if errors.Is(err, ErrStale) {
			return nil // its owner lives after all
		}
		return err
	}
	if _, err := s.b.PublishReady(ctx, r.Envelope()); err != nil {
		return err // the next round finds a waiting task without a message
	}
	s.b.cfg.Logger.Warn("running task without a message put back", "task_id", r.ID.String(), "queue", r.Queue, "worker", r.Owner)
	swept.Lost++
	return nil
}

// unchanged reads the record again, right before its repair.
func (s *Sweeper) unchanged(ctx context.Context, r *Record) (bool, error) {
	now, err := s.b.LoadRecord(ctx, r.ID)
	if errors.Is(err, pelton.ErrNotFound) {
		return false, nil
	}
	return err == nil && now.Revision == r.Revision, err
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/peltonq/pelton"
)

const (
	// mostLooked bounds the messages that are read to find a task's place among
	// others, and mostLookedBytes their payloads.
	mostLooked      = 100
	mostLookedBytes = 4 << 20
)

// Standing is what is known of where a task stands. Its parts are read one after
// the other, so they may be of different moments.
type Standing struct {
	Record *Record
	// Queue is the entry of its queue; an empty one if there is none.
	Queue *QueueConfig
	// Workers are those that gave a sign of life in the last time that they promised
	// one for. Theirs are the numbers of that sign.
	Workers []Presence
	// Line is the one that the task waits in for its turn; nil if it waits in none.
	Line *LineStanding
	// Lane is its lane; nil while it waits for a time or in a line.
	Lane *LaneStanding
	// KindPause and KeyPause hold its kind and its rate key; nil for none.
	KindPause, KeyPause *Pause
	// Limit is the one that put it off; nil if that is gone, or there was none.
	Limit *pelton.Limit
}

// LineStanding is where a task stands in a line.
type LineStanding struct {
	Of      LineOf
	Limit   int         // how many may have a turn
	Holders []pelton.ID // who has one, in the order of their turns
	// Ahead counts places, of which some may be void; nil if the task has no place
	// yet, or no more.
	Ahead *pelton.Between
}

// LaneStanding is where a task stands in its lane.
type LaneStanding struct {
	Paused     bool
	Running    int // handed out and not acknowledged
	MaxRunning int // 0 is no bound
	// Ahead counts the ready messages before the task's; nil if that is not among
	// them: it was handed out, or is about to come.
	Ahead *pelton.Between
	// Higher counts the ready tasks of higher priorities in the queue.
	Higher uint64
}

// Standing finds out where a task stands. It costs some ten reads, one for each
// worker, and up to mostLooked more for a task that is not among the first, however
// many tasks there are. pelton.ErrNotFound is a task without a record.
func (b *Broker) Standing(ctx context.Context, id pelton.ID) (*Standing, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if !b.conn.nc.IsConnected() {
		return nil, fmt.Errorf("look for task %s: %w: not connected", id, pelton.ErrUnavailable)
	}
	r, err := b.ReadRecord(ctx, id)
	if err != nil {
		return nil, err
	}
	s := &Standing{Record: r, Queue: &QueueConfig{Name: r.Queue}}
	if r.State.Terminal() {
		return s, nil
	}
	if s.Queue, err = b.loadQueue(ctx, r.Queue); err != nil && !errors.Is(err, pelton.ErrNotFound) {
		return nil, err
	}
	if s.Workers, err = b.Presences(ctx); err != nil {
		return nil, err
	}
	if r.State == pelton.Running {
		return s, nil
	}
	if err := b.addRules(ctx, s); err != nil {
		return nil, err
	}
	return s, b.addPlace(ctx, s)
}

// addRules reads the pauses and the limit that hold the task, by their keys.
func (b *Broker) addRules(ctx context.Context, s *Standing) (err error) {
	r := s.Record
	if s.KindPause, err = b.loadPause(ctx, Pause{Kind: r.Kind}); err != nil {
		return err
	}
	if r.RateKey != "" {
		if s.KeyPause, err = b.loadPause(ctx, Pause{RateKey: r.RateKey}); err != nil {
			return err
		}
	}
	switch {
	case r.Limited == nil || r.Limited.By == "":
		return nil
	case r.Limited.By == QueueLimit(r.Queue):
		if rate := s.Queue.Settings.Rate; rate != nil {
			s.Limit = &pelton.Limit{Name: r.Limited.By, Rate: rate.Filled()}
		}
		return nil
	}
	msg, err := b.get(ctx, bucketStream(b.names.config()), getRequest{LastFor: b.configKey(limitKeyPrefix + r.Limited.By)}, false)
	switch {
	case errors.Is(err, pelton.ErrNotFound):
	case err != nil:
		return fmt.Errorf("read limit %s: %w", r.Limited.By, err)
	case !msg.deleted():
		var l pelton.Limit
		if err := json.Unmarshal(msg.data, &l); err != nil || l.Name != r.Limited.By {
			b.cfg.Logger.Error("limit is unreadable and does not hold", "limit", r.Limited.By, "error", err)
			break
		}
		s.Limit = &l
	}
	return nil
}

// loadPause is nil for a pause that is not there. One that is over is read, too.
func (b *Broker) loadPause(ctx context.Context, of Pause) (*Pause, error) {
	msg, err := b.get(ctx, bucketStream(b.names.config()), getRequest{LastFor: b.configKey(of.key())}, false)
	if errors.Is(err, pelton.ErrNotFound) || err == nil && msg.deleted() {
		return nil, nil //nolint:nilnil // documented
	}
	if err != nil {
		return nil, fmt.Errorf("read pause: %w", err)
	}
	var p Pause
	if err := json.Unmarshal(msg.data, &p); err != nil {
		b.cfg.Logger.Error("pause is unreadable and does not hold", "error", err)
		return nil, nil //nolint:nilnil // logged
	}
	return &p, nil
}

// addPlace finds the task in its line, or in its lane.
func (b *Broker) addPlace(ctx context.Context, s *Standing) error {
	r := s.Record
	if r.Task(time.Now()).State != pelton.Queued {
		return nil
	}
	if r.InLine {
		line, place := r.waitsIn()
		doc, err := b.loadLine(ctx, line)
		if err != nil {
			return err
		}
		if next := slices.ContainsFunc(doc.Granted, func(g grant) bool { return g.ID == r.ID && g.Epoch == place.Epoch }); !next {
			return b.addLine(ctx, s, doc, place)
		}
	}
	return b.addLane(ctx, s)
}

func (b *Broker) addLine(ctx context.Context, s *Standing, doc *lineDoc, place Place) error {
	if err := b.LoadLimits(ctx); err != nil {
		return err
	}
	s.Line = &LineStanding{Of: place.Of, Limit: b.limits.of(doc.Line)}
	for _, g := range doc.Granted {
		tasks := g.tasks()
		if at := slices.Index(tasks, s.Record.ID); at >= 0 { // those before it in a relay
			tasks = tasks[:at]
		}
		s.Line.Holders = append(s.Line.Holders, tasks...)
	}
	filter := b.placesIn(0, doc.Line)
	at, more, err := b.lookFor(ctx, b.keyed(0), filter, 1, s.Record)
	if err != nil {
		return err
	}
	if more {
		// The line has a subject for each queue, so this is a short answer however long
		// the line is.
		stream, err := b.js.Stream(ctx, b.keyed(0))
		if err != nil {
			return translate("open stream "+b.keyed(0), err)
		}
		info, err := stream.Info(ctx, jetstream.WithSubjectFilter(filter))
		if err != nil {
			return translate("count the places of a line", err)
		}
		var all uint64
		for _, n := range info.State.Subjects {
			all += n
		}
		at.AtMost = max(at.AtLeast, all-min(all, 1))
	}
	s.Line.Ahead = at
	return nil
}

func (b *Broker) addLane(ctx context.Context, s *Standing) error {
	r := s.Record
	s.Lane = &LaneStanding{MaxRunning: s.Queue.Settings.MaxRunning[r.Priority]}
	var (
		own       *jetstream.ConsumerInfo
		elsewhere uint64 // ready in other shards
	)
	for _, p := range pelton.Priorities() {
		if p.Rank() > r.Priority.Rank() {
			continue
		}
		err := b.eachShard(func(shard uint8) error {
			info, err := b.consumer(ctx, b.tasks(shard), laneConsumer(r.Queue, p))
			switch {
			case err != nil, info == nil:
				return err
			case p == r.Priority:
				s.Lane.Running += max(info.NumAckPending, 0)
				if shard == r.ID.Shard() {
					own = info
				} else {
					elsewhere += info.NumPending
				}
			case !s.Queue.IsPaused(p):
				s.Lane.Higher += info.NumPending
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if own == nil {
		return nil
	}
	shard := r.ID.Shard()
	s.Lane.Paused = isPaused(own)
	if b.Shards() > 1 && s.Queue.bounded(r.Priority) { // a pause may be of another shard's turn
		s.Lane.Paused = s.Queue.IsPaused(r.Priority)
	}
	at, more, err := b.lookFor(ctx, b.tasks(shard), b.ready(shard, r.Queue, r.Priority), own.Delivered.Stream+1, r)
	if err != nil {
		return err
	}
	if more {
		at.AtMost = max(at.AtLeast, own.NumPending-min(own.NumPending, 1))
	}
	if at != nil {
		at.AtMost += elsewhere // the shards are served in turns
	}
	s.Lane.Ahead = at
	return nil
}

// lookFor finds the message of a task among those of a subject from a sequence on,
// and how many are before it. It is nil for a task that is not there; more means
// that the search ended early: so many are before it at least.
func (b *Broker) lookFor(ctx context.Context, stream, subject string, from uint64, r *Record) (at *pelton.Between, more bool, err error) {
	before, size := uint64(0), 0
	for before < mostLooked && size < mostLookedBytes {
		msg, err := b.get(ctx, stream, getRequest{Seq: from, NextFor: subject}, true)
		if errors.Is(err, pelton.ErrNotFound) {
			return nil, false, nil
		}
		if err != nil {
			return nil, false, fmt.Errorf("look for the message of task %s: %w", r.ID, err)
		}
		if env, err := decodeMessage(msg.data, msg.seq); err == nil && env.ID == r.ID && env.Epoch == r.Epoch {
			return &pelton.Between{AtLeast: before, AtMost: before}, false, nil
		}
		before++
		size += len(msg.data)
		from = msg.seq + 1
	}
	return &pelton.Between{AtLeast: before, AtMost: before}, true, nil
}

// Presences lists the workers that are there, in no order.
func (b *Broker) Presences(ctx context.Context) ([]Presence, error) {
	bucket, err := b.js.KeyValue(ctx, b.workers())
	if err != nil {
		return nil, translate("open bucket "+b.workers(), err)
	}
	watcher, err := bucket.WatchAll(ctx, jetstream.IgnoreDeletes())
	if err != nil {
		return nil, translate("list workers", err)
	}
	defer endWatch(watcher)
	var found []Presence
	for {
		select {
		case entry, ok := <-watcher.Updates():
			switch {
			case !ok:
				return nil, fmt.Errorf("list workers: %w: the listing broke off", pelton.ErrUnavailable)
			case entry == nil: // the end of what is there
				return found, nil
			case strings.HasPrefix(entry.Key(), "_"): // of Probe
			default:
				var p Presence
				if err := json.Unmarshal(entry.Value(), &p); err != nil {
					b.cfg.Logger.Debug("sign of a worker is unreadable", "worker", entry.Key(), "error", err)
					continue
				}
				found = append(found, p)
			}
		case <-ctx.Done():
			return nil, fmt.Errorf("list workers: %w: %w", pelton.ErrUnavailable, context.Cause(ctx))
		}
	}
}

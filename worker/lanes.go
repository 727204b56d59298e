package worker

import (
	"context"
	"errors"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
)

// laneState is what the dispatcher knows of a lane.
type laneState int

const (
	laneUnknown  laneState = iota // may have tasks
	laneProbing                   // asked for what is ready now; at most one lane is
	laneEmpty                     // had nothing when last asked, no request open
	laneKnocking                  // had nothing, and a request waits for the next task
)

// lane is a (queue, priority) pair as this worker serves it.
type lane struct {
	broker.Lane
	rank     int
	lease    time.Duration
	puller   puller
	state    laneState
	want     int       // deliveries the open request may still bring
	deadline time.Time // when the open request is taken for lost
	// generation counts the lane's pullers. What an earlier one still brings is not
	// of the open request.
	generation int
	retryAt    time.Time // not to be asked before
	offered    time.Time // when it last was asked, answered or delivered
}

// puller asks a lane for deliveries: *broker.Puller, or a test's.
type puller interface {
	Pull(batch int, wait time.Duration) error
	Close(ctx context.Context)
}

// laneEvent is what a puller reports: a delivery, or the end of a request.
type laneEvent struct {
	lane       *lane
	generation int // of the puller
	delivery   *broker.Delivery
	end        broker.PullEnd
}

// openLanes watches for lanes of the worker's queues, opens each once and hands
// it to the dispatcher. It tries again until ctx ends, whatever fails.
func (w *Worker) openLanes(ctx context.Context, d *dispatcher, added chan<- *lane) {
	known := make(map[broker.Lane]bool)
	for ctx.Err() == nil {
		err := w.watchLanes(ctx, d, known, added)
		if ctx.Err() != nil {
			return
		}
		if !errors.Is(err, pelton.ErrUnavailable) && !errors.Is(err, errWatchEnded) {
			w.cfg.Logger.Warn("lanes are not watched, trying again", "error", err)
		}
		pause(ctx, time.Second)
	}
}

// errWatchEnded is the ordinary end of a watch: the connection was lost, or is new.
var errWatchEnded = errors.New("watch of lanes ended")

func (w *Worker) watchLanes(ctx context.Context, d *dispatcher, known map[broker.Lane]bool, added chan<- *lane) error {
	found, stop, err := w.b.WatchLanes(ctx, w.cfg.Queues)
	if err != nil {
		return err
	}
	defer stop()
	for at := range found {
		if known[at] {
			continue
		}
		l, err := w.openLane(ctx, d, at)
		if err != nil {
			return err
		}
		select {
		case added <- l:
			known[at] = true
			w.cfg.Logger.Debug("lane opened", "queue", at.Queue, "priority", string(at.Priority), "lease", l.lease.String())
		case <-ctx.Done():
			l.puller.Close(ctx)
		}
	}
	return errWatchEnded
}

func (w *Worker) openLane(ctx context.Context, d *dispatcher, at broker.Lane) (*lane, error) {
	lease, err := w.b.LaneLease(ctx, at)
	if err != nil {
		return nil, err
	}
	if lease < time.Duration(w.shortest.Load()) { // only this goroutine stores it
		w.shortest.Store(int64(lease))
		select {
		case w.show <- struct{}{}:
		default: // it will be looked at
		}
	}
	l := &lane{Lane: at, rank: at.Priority.Rank(), lease: lease}
	if l.puller, err = w.openPuller(d, l, l.generation); err != nil {
		return nil, err
	}
	return l, nil
}

func (w *Worker) openPuller(d *dispatcher, l *lane, generation int) (puller, error) {
	return w.b.OpenPuller(l.Lane,
		func(delivery *broker.Delivery) {
			d.report(laneEvent{lane: l, generation: generation, delivery: delivery})
		},
		func(end broker.PullEnd) { d.report(laneEvent{lane: l, generation: generation, end: end}) })
}

// reopenLane replaces the puller of a lane whose request hangs. What the old one
// still brings comes to the dispatcher like any other delivery.
func (w *Worker) reopenLane(d *dispatcher, l *lane) {
	fresh, err := w.openPuller(d, l, l.generation+1)
	if err != nil {
		w.cfg.Logger.Warn("lane not reopened", "queue", l.Queue, "priority", string(l.Priority), "error", err)
		return
	}
	old := l.puller
	l.puller = fresh
	l.generation++
	w.background.Go(func() {
		ctx, cancel := context.WithTimeout(w.hard, drainWait)
		defer cancel()
		old.Close(ctx)
	})
}

// pause waits for d or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

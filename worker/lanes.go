package worker

import (
	"context"
	"errors"
	"sync/atomic"
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
	rank       int
	lease      atomic.Int64                        // in nanoseconds; see Worker.setLease
	maxCrashes atomic.Int64                        // deliveries that may die before a task is poison
	rate       atomic.Pointer[broker.RevisedLimit] // of the queue; nil without one
	paused     atomic.Bool                         // what was handed out and has not started is given back

	// Of the dispatcher.
	puller   puller
	state    laneState
	want     int       // deliveries the open request may still bring, or the open ones
	follows  int       // requests that followed an open knock; some may be complete
	stood    time.Time // when the last of the open knocks was made
	deadline time.Time // when the open request is taken for lost
	// generation counts the lane's pullers. What an earlier one still brings is not
	// of the open request.
	generation int
	retryAt    time.Time // not to be asked before
	offered    time.Time // when it last had a slot, or nothing for one
	rules      laneRules
	stock      []kept // what waits for a slot, in the order of its arrival
	hold       int    // how many of its priority may wait, by what the open request asked for
	number     int    // in which it came: among lanes that are equal, the first is first
	place      place  // in the ranking
}

// laneRules are what a queue's settings mean for asking one of its lanes.
type laneRules struct {
	paused bool // it is not asked, and what it still brings is given back
	// bounded means that max_running may hold back tasks that are ready: the broker
	// then answers no request, not even one for what is ready now.
	bounded bool
	// most is how many tasks one request asks for: what the queue's rate lets start
	// while they are in hand. Zero is no bound.
	most int
}

// laneChange tells the dispatcher of a lane's rules.
type laneChange struct {
	lane  *lane
	rules laneRules
}

// puller asks a lane for deliveries: *broker.Puller, or a test's.
type puller interface {
	// Pull asks for what is there, and if that is nothing, waits for the first.
	Pull(batch int, wait time.Duration) error
	// Stand asks for those that come, until there were batch of them.
	Stand(batch int, wait time.Duration) error
	Close(ctx context.Context)
}

// laneEvent is what a puller reports, a delivery or the end of a request, or what became of
// a lane in the broker.
type laneEvent struct {
	lane       *lane
	generation int // of the puller
	delivery   *broker.Delivery
	end        broker.PullEnd
	moved      *broker.Lane // it has another leader; nothing else is set
}

// leaseNow is the lease by which tasks of the lane are kept.
func (l *lane) leaseNow() time.Duration { return time.Duration(l.lease.Load()) }

// openLanes watches the limits and the worker's queues, opens each of their lanes once and hands
// it to the dispatcher, and lets lanes follow their queues' settings. It tries
// again until ctx ends, whatever fails; work is the first watch.
func (w *Worker) openLanes(ctx context.Context, d *dispatcher, work *broker.Work) {
	watch := newLaneWatch(w, d)
	for ctx.Err() == nil {
		var err error
		if work == nil {
			work, err = w.b.WatchWork(ctx, w.cfg.Queues)
		}
		if err == nil {
			err = watch.run(ctx, work)
			work = nil
		}
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, errGrown) {
			continue
		}
		if errors.Is(err, errWatchEnded) {
			pause(ctx, rewatch)
			continue
		}
		if !errors.Is(err, pelton.ErrUnavailable) {
			w.cfg.Logger.Warn("lanes are not watched, trying again", "error", err)
		}
		pause(ctx, time.Second)
	}
}

// rewatch is the pause before the configuration is watched again when the watch has ended.
const rewatch = 250 * time.Millisecond

func (w *Worker) openPuller(d *dispatcher, l *lane, generation int) (puller, error) {
	return w.b.OpenPuller(l.Lane,
		func(delivery *broker.Delivery) {
			d.report(laneEvent{lane: l, generation: generation, delivery: delivery})
		},
		func(end broker.PullEnd) { d.report(laneEvent{lane: l, generation: generation, end: end}) })
}

// reopenLane replaces the puller of a lane whose request hangs, or is not wanted
// any more. What the old one still brings comes to the dispatcher like any other
// delivery.
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

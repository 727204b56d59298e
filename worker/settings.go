package worker

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"sync"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
)

// Looks at the consumers of a queue's lanes after its settings changed. Each is
// put off by up to as much again, so that workers do not all look at once. The
// first is for a longer lease alone.
const (
	// firstLook is when a longer lease is believed: whoever changed the settings has
	// told the consumers by then. Until that, tasks are kept by the shorter one.
	firstLook = 700 * time.Millisecond
	// repairLook is when whoever changed the settings must be done. What differs by
	// then was left behind by a crash, a lease that is too long included.
	repairLook = 5 * time.Second
)

// laneWatch follows the settings of the worker's queues, and the limits. All of it belongs to the
// goroutine that runs it.
type laneWatch struct {
	w     *Worker
	d     *dispatcher
	lanes map[broker.Lane]*watchedLane
	looks map[string]*look // by queue
}

type watchedLane struct {
	*lane
	told laneRules // what the dispatcher knows
}

// look is the next look at a queue's consumers.
type look struct {
	at     time.Time
	repair bool
}

// errGrown ends a watch because there are more shards: the next one opens the lanes in those.
var errGrown = errors.New("there are more shards")

// errWatchEnded is the ordinary end of a watch: the connection was lost, or is new.
var errWatchEnded = errors.New("watch of lanes ended")

func newLaneWatch(w *Worker, d *dispatcher) *laneWatch {
	return &laneWatch{w: w, d: d, lanes: make(map[broker.Lane]*watchedLane), looks: make(map[string]*look)}
}

// run follows a watch until it ends or a lane cannot be opened. No lane is opened, and
// nothing starts, before the limits are known.
func (lw *laneWatch) run(ctx context.Context, work *broker.Work) error {
	var following sync.WaitGroup
	defer following.Wait()
	defer work.Stop()
	known, over := make(chan struct{}), make(chan struct{})
	following.Go(func() {
		defer close(over)
		lw.w.followRules(work.Rules, known)
	})
	select {
	case <-known:
	case <-over:
		return errWatchEnded
	}
	grown, forget := lw.w.b.Growth()
	defer forget()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case cfg, ok := <-work.Queues:
			if !ok {
				return errWatchEnded
			}
			if err := lw.follow(ctx, cfg); err != nil {
				return err
			}
		case <-timer.C:
			lw.look(ctx)
		case <-grown:
			return errGrown
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		timer.Reset(lw.nextLook())
	}
}

// follow opens the lanes of a queue that are new, and lets the others follow its
// settings.
func (lw *laneWatch) follow(ctx context.Context, cfg *broker.QueueConfig) error {
	next := look{at: after(repairLook), repair: true}
	for _, at := range lw.w.b.Lanes(cfg) {
		rate, p := queueRate(cfg), at.Priority
		rules := laneRules{paused: cfg.IsPaused(p) || cfg.WaitsForTurn(p, at.Shard), bounded: cfg.Settings.MaxRunning[p] > 0, most: mostOf(rate)}
		if rate != nil && lw.w.cfg.Limiter == nil {
			lw.w.warnUnshared()
		}
		l := lw.lanes[at]
		if l == nil {
			if err := lw.open(ctx, at, rules, rate, cfg.MaxCrashes()); err != nil {
				return err
			}
			continue
		}
		l.maxCrashes.Store(int64(cfg.MaxCrashes()))
		l.rate.Store(rate)
		l.paused.Store(rules.paused)
		// Shorter at once: the broker follows in a moment. Longer when it has.
		switch lease := cfg.Lease(); {
		case lease > l.leaseNow():
			next = look{at: after(firstLook)}
		case lease > 0 && lease < l.leaseNow():
			lw.setLease(l.lane, lease)
		}
		if l.told != rules {
			select {
			case lw.d.changed <- laneChange{l.lane, rules}:
				l.told = rules
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			lw.w.cfg.Logger.Debug("lane changed", "queue", cfg.Name, "priority", string(p), "paused", rules.paused, "bounded", rules.bounded)
		}
	}
	lw.looks[cfg.Name] = &next
	return nil
}

// open opens a lane and hands it to the dispatcher. Its consumer is settled before
// anything is asked of it: it may be new, or left behind by a crash.
func (lw *laneWatch) open(ctx context.Context, at broker.Lane, rules laneRules, rate *broker.RevisedLimit, maxCrashes int) error {
	settled, err := lw.w.b.SettleLane(ctx, at, false)
	if errors.Is(err, pelton.ErrNotFound) && lw.w.b.Shards() > 1 {
		// It was used for the first time, in another shard, and nobody has been in this one yet.
		if err = lw.w.b.EnsureLane(ctx, at); err == nil {
			settled, err = lw.w.b.SettleLane(ctx, at, false)
		}
	}
	if err != nil {
		return err
	}
	l := &lane{Lane: at, rank: at.Priority.Rank(), rules: rules}
	l.maxCrashes.Store(int64(maxCrashes))
	l.rate.Store(rate)
	l.lease.Store(int64(settled.Lease))
	l.paused.Store(rules.paused)
	if l.puller, err = lw.w.openPuller(lw.d, l, l.generation); err != nil {
		return err
	}
	lw.lanes[at] = &watchedLane{lane: l, told: rules}
	lw.setLease(l, settled.Lease)
	select {
	case lw.d.added <- l:
		lw.w.cfg.Logger.Debug("lane opened", "queue", at.Queue, "priority", string(at.Priority), "lease", settled.Lease.String())
	case <-ctx.Done():
		l.puller.Close(ctx)
	}
	return nil
}

// look settles the lanes of every queue whose time has come.
func (lw *laneWatch) look(ctx context.Context) {
	for queue, due := range lw.looks {
		if time.Now().Before(due.at) {
			continue
		}
		failed, again := false, false
		for at, l := range lw.lanes {
			if at.Queue != queue {
				continue
			}
			settled, err := lw.w.b.SettleLane(ctx, at, due.repair)
			if err != nil {
				lw.w.cfg.Logger.Debug("lane not settled", "queue", queue, "priority", string(at.Priority), "error", err)
				failed = true
				continue
			}
			lw.setLease(l.lane, settled.Lease)
			again = again || settled.Again
		}
		switch {
		case failed, again:
			due.at = after(repairLook)
		case !due.repair:
			*due = look{at: after(repairLook), repair: true}
		default:
			delete(lw.looks, queue)
		}
	}
}

// nextLook is how long to wait for the next look.
func (lw *laneWatch) nextLook() time.Duration {
	next := time.Now().Add(time.Hour)
	for _, due := range lw.looks {
		if due.at.Before(next) {
			next = due.at
		}
	}
	return max(time.Until(next), 0)
}

// after is d from now, and up to as much again.
func after(d time.Duration) time.Time {
	return time.Now().Add(d + time.Duration(float64(d)*random()))
}

// setLease changes the lease by which the tasks of a lane are kept. Those that run
// give their next sign of life by the shorter lease at once, and fence themselves
// by it from then on: see run.lease.
func (lw *laneWatch) setLease(l *lane, lease time.Duration) {
	w := lw.w
	if was := time.Duration(l.lease.Swap(int64(lease))); lease < was {
		w.mu.Lock()
		for _, r := range w.runs {
			if k := r.keeper.Load(); k != nil && r.lane == l { // else it will have one, which looks at the lease first
				select {
				case k.hurry <- struct{}{}:
				default: // it will
				}
			}
		}
		w.mu.Unlock()
	}
	shortest := broker.DefaultLease
	for _, other := range lw.lanes {
		shortest = min(shortest, other.leaseNow())
	}
	if w.shortest.Swap(int64(shortest)) != int64(shortest) {
		select {
		case w.show <- struct{}{}:
		default: // it will be looked at
		}
	}
}

// queueRate is the rate of a queue as a limit, nil for a queue without one. Its
// revision is its form: other settings may change and leave its bucket as it is.
func queueRate(cfg *broker.QueueConfig) *broker.RevisedLimit {
	if cfg.Settings.Rate == nil {
		return nil
	}
	rate := cfg.Settings.Rate.Filled()
	form := fnv.New64a()
	_, _ = fmt.Fprint(form, rate.Limit, rate.Per, rate.Burst) // never fails
	return &broker.RevisedLimit{Limit: pelton.Limit{Name: broker.QueueLimit(cfg.Name), Cost: 1, Rate: rate}, Revision: form.Sum64()}
}

// mostOf is how many tasks of a queue may start while they are in hand. It is no bound, which is 0, if all may that can
// wait for slots.
func mostOf(rate *broker.RevisedLimit) int {
	if rate == nil {
		return 0
	}
	near := float64(rate.Rate.Limit)*nearBy.Seconds()/rate.Rate.Per.Seconds() + float64(rate.Rate.Burst)
	if near >= mostAhead {
		return 0
	}
	return int(near)
}

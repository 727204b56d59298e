package broker

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/peltonq/pelton"
)

// runningLimits is this process's view of the limits, kept by a watch that starts with
// the first use, or by that of WatchWork. It may be behind by the time that a change takes to come: no
// process takes more than its own view allows, and the lines' documents hold
// whatever the views are (settleLine).
type runningLimits struct {
	mu     sync.RWMutex
	keys   []pelton.Limit // those of concurrency keys
	byKind map[string]int // the lowest of each kind

	start    sync.Mutex
	started  bool
	stopped  bool
	stop     context.CancelFunc
	ready    chan struct{} // closed when what is there has been read
	once     sync.Once     // that it is closed
	watching sync.WaitGroup
}

func (l *runningLimits) set(limits []pelton.Limit) {
	var keys []pelton.Limit
	byKind := map[string]int{}
	for _, limit := range limits {
		n, known := byKind[limit.Kind]
		switch {
		case limit.MaxRunning == 0:
		case limit.ConcurrencyKey != "":
			keys = append(keys, limit)
		case !known || limit.MaxRunning < n:
			byKind[limit.Kind] = limit.MaxRunning
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.keys, l.byKind = keys, byKind
}

// of is how many tasks of a line may have a turn at a time.
func (l *runningLimits) of(line Line) int {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if line.Kind != "" {
		if n, limited := l.byKind[line.Kind]; limited {
			return n
		}
		return pelton.MaxLimitRunning // the limit was deleted: those who wait still go
	}
	if strings.HasPrefix(line.Key, ScheduleKey) {
		return 1 // a limit for all keys is not meant for what must not overlap
	}
	least := 0
	for _, limit := range l.keys {
		if limit.AppliesToKey(line.Key) && (least == 0 || limit.MaxRunning < least) {
			least = limit.MaxRunning
		}
	}
	return max(least, 1)
}

// KindLimited reports whether the kind has a limit, by what LoadLimits and the
// watch since have seen. It costs no call.
func (b *Broker) KindLimited(kind string) bool {
	b.limits.mu.RLock()
	defer b.limits.mu.RUnlock()
	_, limited := b.limits.byKind[kind]
	return limited
}

// LoadLimits makes sure that the limits are known, and followed from now on.
// pelton.ErrUnavailable means that they could not be read.
func (b *Broker) LoadLimits(ctx context.Context) error {
	l := &b.limits
	l.start.Lock()
	if l.stopped {
		l.start.Unlock()
		return fmt.Errorf("load limits: %w", pelton.ErrClosed)
	}
	if !l.started {
		l.started = true
		watching, stop := context.WithCancel(context.WithoutCancel(ctx))
		l.stop = stop
		l.watching.Go(func() { b.followLimits(watching) })
	}
	l.start.Unlock()
	select { // most often at once
	case <-l.ready:
		return nil
	default:
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	select {
	case <-l.ready:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("load limits: %w: %w", pelton.ErrUnavailable, context.Cause(ctx))
	}
}

// close waits for the watch for a second at most: while the connection is lost,
// nats.go takes five over the end of a subscription.
func (l *runningLimits) close() {
	l.start.Lock()
	l.stopped = true
	if l.stop != nil {
		l.stop()
	}
	l.start.Unlock()
	ended := make(chan struct{})
	go func() { l.watching.Wait(); close(ended) }()
	timer := time.NewTimer(time.Second)
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
	}
}

// followLimits watches until ctx ends, whatever fails meanwhile.
func (b *Broker) followLimits(ctx context.Context) {
	for ctx.Err() == nil {
		if err := b.watchLimits(ctx); err != nil && ctx.Err() == nil {
			b.cfg.Logger.Debug("limits not watched, trying again", "error", err)
			_ = waitFor(ctx, time.Second) // fails only where ctx ends
		}
	}
}

// watchLimits follows the changes until the watch ends.
func (b *Broker) watchLimits(ctx context.Context) error {
	found, stop, err := b.WatchRules(ctx)
	if err != nil {
		return err
	}
	defer stop()
	for rules := range found {
		b.limits.know(rules)
	}
	return nil
}

// know takes in what a watch has brought.
func (l *runningLimits) know(rules Rules) {
	limits := make([]pelton.Limit, len(rules.Limits))
	for i, limit := range rules.Limits {
		limits[i] = limit.Limit
	}
	l.set(limits)
	l.once.Do(func() { close(l.ready) })
}

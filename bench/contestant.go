package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// contestant is a queue that is compared: its broker, what enqueues, and its
// workers. All that it starts is on loopback, and its data is below the folder that
// it gets.
type contestant interface {
	// start brings up the broker and whatever enqueues, with an empty queue. If it
	// fails, nothing is left running. After stop it can be started again.
	start(ctx context.Context, dir string) error
	// enqueue sends tasks one by one, each of which the broker has confirmed before
	// its caller sends the next, and tells how many there were.
	enqueue(ctx context.Context, l load) (int, time.Duration, error)
	// batch sends batchSize tasks at a time, from one caller; errNoBatch if it cannot.
	batch(ctx context.Context, l load) (int, time.Duration, error)
	// paced sends n tasks, one each gap whether or not the one before is confirmed,
	// with the time in their payloads.
	paced(ctx context.Context, n int, gap time.Duration) error
	// hire starts worker processes with workerSlots slots each, until stop.
	hire(ctx context.Context, c *crew, processes int) (stop func() error, err error)
	// footprint tells which processes are the broker, whose children count as well,
	// and where it keeps its data. No processes means that their memory tells nothing.
	footprint() (pids []int, data string)
	stop() error
}

// resetter is a contestant that can empty its queue without a restart, which would
// take too long.
type resetter interface {
	reset(ctx context.Context) error
}

// rounds are the data folders of a contestant, one for each start.
type rounds struct {
	dir string
	n   int
}

func (r *rounds) next(dir string) { r.dir, r.n = dir, r.n+1 }

func (r *rounds) data() string { return filepath.Join(r.dir, fmt.Sprint("data-", r.n)) }

func (r *rounds) clean() error { return os.RemoveAll(r.data()) }

const (
	batchSize   = 1000
	workerSlots = 64
	// callWithin bounds one call of a contestant: a broker that hangs is a failure.
	callWithin = 30 * time.Second
)

var (
	errNoBatch = errors.New("it has no call for many tasks")
	// errMissing wraps what a contestant lacks on this machine.
	errMissing = errors.New("missing")
)

// load bounds what is sent: n tasks, or fewer if the time is over before.
type load struct {
	callers int
	n       int
	within  time.Duration
}

// sender sends by calls of Go. Contestants embed it.
type sender struct {
	one  func(ctx context.Context, payload []byte) error
	many func(ctx context.Context, n int) error // nil if there is no such call
}

func (s *sender) enqueue(ctx context.Context, l load) (int, time.Duration, error) {
	return repeat(ctx, l, 1, func(ctx context.Context) error { return s.one(ctx, payload) })
}

func (s *sender) batch(ctx context.Context, l load) (int, time.Duration, error) {
	if s.many == nil {
		return 0, 0, errNoBatch
	}
	return repeat(ctx, load{callers: 1, n: l.n, within: l.within}, batchSize, func(ctx context.Context) error { return s.many(ctx, batchSize) })
}

func (s *sender) paced(ctx context.Context, n int, gap time.Duration) error {
	var group sync.WaitGroup
	defer group.Wait()
	failed := make(chan error, n)
	pace := time.NewTicker(gap)
	defer pace.Stop()
	for range n {
		select {
		case <-pace.C:
		case err := <-failed:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		group.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, callWithin)
			defer cancel()
			if err := s.one(ctx, stamped(time.Now())); err != nil {
				failed <- err
			}
		})
	}
	group.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

// repeat shares calls that send size tasks each among callers, and tells how many
// tasks were sent. Each caller stops at its first error.
func repeat(ctx context.Context, l load, size int, call func(context.Context) error) (int, time.Duration, error) {
	var left, sent atomic.Int64
	left.Store(int64(l.n))
	began := time.Now()
	end := began.Add(l.within)
	errs := make([]error, l.callers)
	var group sync.WaitGroup
	for i := range l.callers {
		group.Go(func() {
			for left.Add(-int64(size)) > -int64(size) && time.Now().Before(end) && errs[i] == nil {
				ctx, cancel := context.WithTimeout(ctx, callWithin)
				if errs[i] = call(ctx); errs[i] == nil {
					sent.Add(int64(size))
				}
				cancel()
			}
		})
	}
	group.Wait()
	took := time.Since(began)
	if err := errors.Join(errs...); err != nil {
		return int(sent.Load()), took, fmt.Errorf("enqueue: %w", err)
	}
	return int(sent.Load()), took, nil
}

// timed sends n tasks one after the other, one each gap, and tells how long each
// call took, in ms.
func (s *sender) timed(ctx context.Context, n int, gap time.Duration) ([]float64, error) {
	took := make([]float64, 0, n)
	pace := time.NewTicker(gap)
	defer pace.Stop()
	for range n {
		select {
		case <-pace.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		began := time.Now()
		within, cancel := context.WithTimeout(ctx, callWithin)
		err := s.one(within, payload)
		cancel()
		if err != nil {
			return nil, err
		}
		took = append(took, inMs(time.Since(began)))
	}
	return took, nil
}

func inMs(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }

// workers is how contestants whose workers are this program hire them.
func workers(ctx context.Context, c *crew, processes int, log, role string, args ...string) (func() error, error) {
	return c.join(ctx, processes, func(i int, line func(string)) (program, error) {
		return self(fmt.Sprintf("%s-%s-%d.log", log, role, i), line, role, args...)
	})
}

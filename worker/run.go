package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
	"github.com/peltonq/pelton/internal/failpoint"
)

const (
	// Defaults of the fields of that name.
	linger         = 5 * time.Second
	lingerShutdown = 2 * time.Second
	// progressEvery bounds how often a task's progress is written.
	progressEvery = 500 * time.Millisecond
)

// run is one delivery that this worker acts on.
//
// Crash windows, each repaired by the message that was not acknowledged, which
// the broker delivers again when the lease is over:
//
//   - before the running write: the next worker starts it as if nothing had been;
//   - while the handler runs: the next worker takes over;
//   - between a terminal write and the ack: admission drops (or buries) it;
//   - between a put-back write and its publish: admission republishes it.
type run struct {
	w       *Worker
	lane    *lane
	log     *slog.Logger
	fence   uint64        // revision of the running write: grows with every start
	started chan struct{} // closed when the running write was tried
	done    chan struct{} // closed when the run has had its last write
	told    chan struct{} // the handler reported progress
	hurry   chan struct{} // the lane's lease got shorter
	cancel  context.CancelCauseFunc

	mu       sync.Mutex
	delivery *broker.Delivery
	contact  time.Time // the last proof that the broker is in reach
	// lease is what the broker grants from contact on. It becomes the lane's present
	// one with the next sign of life: the broker may not know that one yet, or may
	// have applied it to the last sign only after it was given.
	lease    time.Duration
	record   *broker.Record
	progress *pelton.Progress
	fenced   bool
	ending   bool // no further delivery can be adopted
}

// serve runs the handler, keeps the lease meanwhile, and finishes the task. It
// returns a channel when the handler was abandoned: closed when that returns.
func (r *run) serve(ctx context.Context, h Handler) (handlerEnded <-chan struct{}) { //nolint:contextcheck // writes outlive the handler's ctx
	keeping, stopKeeping := context.WithCancel(r.w.hard)
	var keeper sync.WaitGroup
	keeper.Go(func() { r.keep(keeping) })
	defer keeper.Wait()
	defer stopKeeping()

	task := r.record.Task(r.record.StartedAt)
	ctx, stop := context.WithTimeoutCause(ctx, r.record.Timeout, pelton.ErrTimeout)
	defer stop()
	locks := newLockSession(ctx, r.w, pelton.LockHolder{TaskID: task.ID, Kind: task.Kind, Worker: r.w.id, Fence: r.fence}, r.lane.leaseNow())
	results := make(chan result, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		call(withRun(ctx, r, task, locks), h, task, results)
	}()

	res, returned := r.await(ctx, results)
	released := locks.close() // also those of a handler that is given up: its retry may need them
	defer released()
	var cause error
	if ctx.Err() != nil {
		cause = context.Cause(ctx)
	}
	r.finish(res, cause) //nolint:contextcheck // as above
	if !returned {
		r.log.Error("handler ignores the end of its ctx, slot leaked", "cause", cause)
		return ended
	}
	return nil
}

// await waits for the handler, and for a while longer after its ctx ended.
func (r *run) await(ctx context.Context, results <-chan result) (res result, returned bool) {
	select {
	case res = <-results:
		return res, true
	case <-ctx.Done():
	}
	patience := r.w.linger
	if errors.Is(context.Cause(ctx), pelton.ErrShutdown) {
		patience = r.w.lingerShutdown
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case res = <-results:
		return res, true
	case <-timer.C:
		return result{err: fmt.Errorf("handler still runs %s after: %w", patience, context.Cause(ctx))}, false
	}
}

// call runs the handler and sends exactly one result, whatever happens to its
// goroutine.
func call(ctx context.Context, h Handler, task *pelton.Task, results chan<- result) {
	// What stands if the handler neither returns nor panics.
	res := result{err: errors.New("handler ended its goroutine with runtime.Goexit"), reason: pelton.ReasonGoexit}
	defer func() {
		if p := recover(); p != nil {
			res = result{err: fmt.Errorf("panic: %v", p), reason: pelton.ReasonPanic, stack: string(debug.Stack())}
		}
		results <- res // buffered
	}()
	value, err := h.ServeTask(ctx, task)
	res = result{value: value, err: err}
}

// end ends the handler's ctx for the given cause, the first one counts.
func (r *run) end(cause error) { r.cancel(cause) }

// healthy reports whether the run still holds its lease.
func (r *run) healthy() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.fenced && !r.ending && !r.late(time.Now())
}

// late reports whether the broker has been out of reach for two thirds of the
// lease, by the monotonic or the wall clock: the monotonic one stands still while
// the machine sleeps.
func (r *run) late(now time.Time) bool {
	if failpoint.Broken(failpoint.NoFence) {
		return false
	}
	return late(r.contact, r.lease, now)
}

func late(contact time.Time, lease time.Duration, now time.Time) bool {
	bound := lease * 2 / 3
	return now.Sub(contact) >= bound || now.Round(0).Sub(contact.Round(0)) >= bound
}

// adopt goes on under a newer delivery of the same message, which the broker made
// because it restarted or because heartbeats came late.
func (r *run) adopt(delivery *broker.Delivery) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fenced || r.ending {
		return false
	}
	r.delivery, r.contact = delivery, delivery.Arrived
	return true
}

// keep extends the lease every third of it and writes progress. Without contact
// for two thirds it fences the run. It ends with ctx.
func (r *run) keep(ctx context.Context) {
	beat := time.NewTimer(r.nextBeat()) // the delivery may be as old as a third of the lease
	defer beat.Stop()
	progress := time.NewTimer(progressEvery)
	progress.Stop()
	defer progress.Stop()
	var written time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-beat.C:
			if !r.extend(ctx) {
				return
			}
			beat.Reset(r.nextBeat())
		case <-r.hurry:
			beat.Reset(r.hurried())
		case <-r.told:
			progress.Reset(max(time.Millisecond, progressEvery-time.Since(written)))
		case <-progress.C:
			written = time.Now()
			r.saveProgress(ctx)
		}
	}
}

// extend makes one heartbeat; false means that the run is fenced.
func (r *run) extend(ctx context.Context) bool {
	r.mu.Lock()
	delivery := r.delivery
	late := r.late(time.Now())
	lease := r.lease
	r.mu.Unlock()
	if !late {
		sent, next := time.Now(), r.lane.leaseNow()
		beating, cancel := context.WithTimeout(ctx, min(lease, next)/3)
		err := delivery.Extend(beating)
		cancel()
		r.mu.Lock()
		if err == nil && sent.After(r.contact) {
			r.contact, r.lease = sent, next
		}
		late = r.late(time.Now())
		r.mu.Unlock()
		if err != nil && ctx.Err() == nil {
			r.log.Warn("heartbeat failed", "error", err)
		}
	}
	if late {
		r.fenceOff("the broker is out of reach")
	}
	return !late
}

// nextBeat is a third of the lease after the last contact, sooner when it is due.
func (r *run) nextBeat() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	lease := min(r.lease, r.lane.leaseNow())
	return max(lease/3-time.Since(r.contact), lease/20)
}

// hurried is nextBeat after the lane's lease got shorter: it may be overdue.
func (r *run) hurried() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return max(r.lane.leaseNow()/3-time.Since(r.contact), 0)
}

// fenceOff ends the handler; from here on nothing is sent for this run.
func (r *run) fenceOff(why string) {
	r.mu.Lock()
	already := r.fenced
	r.fenced = true
	r.mu.Unlock()
	if !already {
		r.log.Warn("task fenced", "why", why, "worker", r.w.id)
	}
	r.end(pelton.ErrFenced)
}

// report takes a handler's progress; keep writes it.
func (r *run) report(p pelton.Progress) {
	r.mu.Lock()
	r.progress = &p
	r.mu.Unlock()
	select {
	case r.told <- struct{}{}:
	default:
	}
}

// saveProgress writes the latest progress into the record. A record that changed
// under the run ends it.
func (r *run) saveProgress(ctx context.Context) {
	// Heartbeats wait for it meanwhile.
	ctx, cancel := context.WithTimeout(ctx, min(time.Second, r.lane.leaseNow()/6))
	defer cancel()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fenced || r.ending {
		return
	}
	record := *r.record
	record.Progress = r.progress
	err := r.w.b.SaveRecord(ctx, &record)
	if err == nil {
		r.record = &record
		return
	}
	if !errors.Is(err, broker.ErrStale) && !errors.Is(err, pelton.ErrUnknownOutcome) {
		return // not written; the next report or the end will say it
	}
	switch now, err := r.w.b.LoadRecord(ctx, record.ID); {
	case err != nil: // finish will look again
	case now.State.Terminal():
		r.end(pelton.ErrCancelled)
	case r.mine(now):
		r.record.Revision = now.Revision
	default:
		r.fenced = true
		r.end(pelton.ErrFenced)
	}
}

// random is the jitter's source: it needs no secrecy.
func random() float64 { return rand.Float64() } //nolint:gosec // jitter

package worker

import (
	"context"
	"errors"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
	"github.com/peltonq/pelton/internal/failpoint"
)

const (
	// progressEvery bounds how often a task's progress is written.
	progressEvery = 500 * time.Millisecond
	// attendAfter is the age at which somebody begins to look after a run: shorter ones
	// need no heartbeat, and those of plain tasks no running record.
	attendAfter = 50 * time.Millisecond
	// attendLook is how often runs are looked at for their age.
	attendLook = 25 * time.Millisecond
)

// runKeeper looks after one run: its lease, its record, and its handler once that
// ought to end.
type runKeeper struct {
	told  chan struct{} // the handler reported progress
	hurry chan struct{} // the lane's lease got shorter
	stop  context.CancelFunc
}

// attendRuns lets every run that gets old have a keeper, until ctx ends.
func (w *Worker) attendRuns(ctx context.Context) {
	for {
		select {
		case <-w.entered:
		case <-ctx.Done():
			return
		}
		for ctx.Err() == nil && w.attendOld(time.Now()) { //nolint:contextcheck // keepers outlive it by the grace
			pause(ctx, attendLook)
		}
	}
}

// attendOld gives keepers to the runs that are old enough, and reports whether there are
// younger ones. If there are none, enter tells of the next.
func (w *Worker) attendOld(now time.Time) (more bool) {
	var old []*run
	w.mu.Lock()
	for _, r := range w.runs {
		switch {
		case r.keeper.Load() != nil:
		case ended(r.started) && now.Sub(r.begun) >= attendAfter:
			old = append(old, r)
		default:
			more = true
		}
	}
	w.attending = more
	w.mu.Unlock()
	for _, r := range old {
		r.attend()
	}
	return more
}

// attend gives the run a keeper, unless it has one or is over. With ending it has been
// claimed, but its last write may take longer than its lease.
func (r *run) attend() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.keeper.Load() != nil || r.ctx == nil || ended(r.done) { // without a ctx it was not started
		return
	}
	ctx, stop := context.WithCancel(r.w.hard)
	k := &runKeeper{told: make(chan struct{}, 1), hurry: make(chan struct{}, 1), stop: stop}
	r.keeper.Store(k)
	r.w.background.Go(func() { r.keep(ctx, k) })
}

// keep extends the lease every third of it, writes that the task runs, and its
// progress, gives back who waits behind it in a relay, and gives the handler up that goes on for too long after the end of its ctx.
// Without contact for two thirds of the lease it fences the run. It ends with ctx.
func (r *run) keep(ctx context.Context, k *runKeeper) {
	beat := time.NewTimer(r.nextBeat()) // the delivery may be as old as a third of the lease
	defer beat.Stop()
	write := time.NewTimer(0)
	defer write.Stop()
	writes := true // the timer runs
	if r.fence.Load() != 0 || failpoint.Broken(failpoint.NoPromotion) {
		write.Stop()
		writes = false
	}
	behind := time.NewTimer(attendAfter - time.Since(r.begun))
	defer behind.Stop()
	if r.relay == nil {
		behind.Stop()
	}
	patience := time.NewTimer(time.Hour)
	patience.Stop()
	defer patience.Stop()
	ends, lingers := r.ctx.Done(), r.w.linger
	var written time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-beat.C:
			if !r.extend(ctx) {
				beat.Stop()
				continue // until its handler has ended
			}
			beat.Reset(r.nextBeat())
		case <-k.hurry:
			beat.Reset(r.hurried())
		case <-k.told:
			if !writes {
				writes = true
				write.Reset(progressEvery - time.Since(written))
			}
		case <-write.C:
			written = time.Now()
			if r.saveRunning(ctx); r.fence.Load() == 0 {
				write.Reset(progressEvery)
			} else {
				writes = false
			}
		case <-behind.C:
			if !r.relay.shorten(ctx, r) {
				behind.Reset(progressEvery)
			}
		case <-ends:
			if ends = nil; errors.Is(context.Cause(r.ctx), pelton.ErrShutdown) { //nolint:contextcheck // the handler's
				lingers = r.w.lingerShutdown
			}
			patience.Reset(lingers)
		case <-patience.C:
			r.abandon(lingers) //nolint:contextcheck // its writes outlive the keeper
		}
	}
}

// report takes a handler's progress; keep writes it.
func (r *run) report(p pelton.Progress) {
	r.mu.Lock()
	r.progress = &p
	r.mu.Unlock()
	r.attend()
	k := r.keeper.Load()
	if k == nil { // it is over
		return
	}
	select {
	case k.told <- struct{}{}:
	default:
	}
}

// token is the fence of the run, which is written now if it was not. It is 0 for a
// run that is lost or over.
func (r *run) token() uint64 {
	if fence := r.fence.Load(); fence != 0 {
		return fence
	}
	r.saveRunning(r.w.hard)
	return r.fence.Load()
}

// saveRunning writes that the task runs here, with its latest progress. A record that
// changed under the run ends it.
func (r *run) saveRunning(ctx context.Context) {
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
		if r.fence.Load() == 0 {
			failpoint.At(failpoint.FreshPromoted)
		}
		r.record = &record
		r.fence.CompareAndSwap(0, record.Revision)
		return
	}
	if !errors.Is(err, broker.ErrStale) && !errors.Is(err, pelton.ErrUnknownOutcome) {
		return // not written; the next report or the end will say it
	}
	switch now, err := r.w.b.LoadRecord(ctx, record.ID); {
	case err != nil: // finish will look again
	case now.State.Terminal():
		r.end(pelton.ErrCancelled)
	case now.Revision == r.unfixed: // it was not written
	case r.mine(now):
		r.record.Revision = now.Revision
		r.fence.CompareAndSwap(0, now.Revision)
	default:
		r.fenced = true
		r.end(pelton.ErrFenced)
	}
}

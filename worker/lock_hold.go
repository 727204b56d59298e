package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
)

// unlockWait bounds the release of a lock while the broker is away.
const unlockWait = 5 * time.Second

// permit is a permit of a lock that a run of this worker holds.
//
// Crash windows:
//
//   - between the write that takes it and its acknowledgement: a worker that lives
//     finds its grant when it looks again, one that died leaves a permit that is
//     free when its lease is over;
//   - between a renewal and its acknowledgement: the same look finds the revision;
//   - between the release and the hint: waiters look again by themselves.
type permit struct {
	w     *Worker
	log   *slog.Logger
	lease time.Duration
	nudge chan struct{} // somebody says that the permit is lost: look

	// Of keep until it has ended, of release after that.
	at      *broker.Permit
	contact time.Time // when the write was sent that the lease counts from, at the latest
	lost    error

	stop    context.CancelFunc
	keeping sync.WaitGroup
}

// hold makes a permit that was taken a held lock and starts its renewals, which
// end with its release.
func (w *Worker) hold(ctx context.Context, s *lockSession, req lockRequest, at *broker.Permit, contact time.Time) *Held { //nolint:contextcheck // the lock ends with the handler's ctx
	p := &permit{
		w: w, log: w.cfg.Logger.With("lock", req.name, "task_id", s.holder.TaskID.String()), lease: at.LeaseTime(),
		nudge: make(chan struct{}, 1), at: at, contact: contact,
	}
	h := s.newHeld(ctx, req, at.Token, func() error { return p.release() }) //nolint:contextcheck // a release outlives the handler's ctx
	keeping, stop := context.WithCancel(w.hard)
	p.stop = stop
	w.permits.add(p)
	p.keeping.Go(func() {
		if err := p.keep(keeping); err != nil {
			p.lost = err
			p.log.Warn("lock lost", "worker", w.id, "token", at.Token, "error", err)
			h.lose(err)
		}
	})
	return h
}

// keep renews every third of the lease, until ctx ends or the permit is lost.
func (p *permit) keep(ctx context.Context) (lost error) {
	timer := time.NewTimer(nextRenewal(p.lease, time.Since(p.contact)))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-p.nudge:
		}
		if err := p.renew(ctx); err != nil {
			return err
		}
		timer.Reset(nextRenewal(p.lease, time.Since(p.contact)))
	}
}

// nextRenewal is a third of the lease after the last contact. When that is over it
// tries again soon, and looks when two thirds are: then the permit is lost.
func nextRenewal(lease, since time.Duration) time.Duration {
	return max(min(max(lease/3-since, lease/20), lease*2/3-since), 0)
}

// renew makes one renewal. Its error means that the permit is lost.
func (p *permit) renew(ctx context.Context) (lost error) {
	for ctx.Err() == nil {
		sent := time.Now()
		if late(p.contact, p.lease, sent) {
			return fmt.Errorf("%w: not renewed for %s: the broker is out of reach", pelton.ErrLockLost, sent.Sub(p.contact).Round(time.Millisecond))
		}
		// No answer may come so late that it proves nothing.
		renewing, cancel := context.WithTimeout(ctx, min(p.lease/3, p.lease*2/3-sent.Sub(p.contact)))
		err := p.w.b.RenewLock(renewing, p.at)
		if err == nil {
			cancel()
			p.contact = sent
			return nil
		}
		if !errors.Is(err, broker.ErrStale) && !errors.Is(err, pelton.ErrUnknownOutcome) {
			cancel()
			p.log.Debug("lock not renewed", "error", err)
			return nil // not written; again soon
		}
		ours, err := p.look(renewing)
		cancel()
		if err != nil {
			p.log.Debug("lock not renewed", "error", err)
			return nil
		}
		if !ours {
			return fmt.Errorf("%w: it was released by force, or not renewed in time", pelton.ErrLockLost)
		}
		// A renewal had landed, nobody knows which one: make another.
	}
	return nil
}

// look reads whether the permit is still of this acquisition, and its revision.
func (p *permit) look(ctx context.Context) (ours bool, err error) {
	now, err := p.w.b.LoadPermit(ctx, p.at.Name, p.at.Index)
	switch {
	case errors.Is(err, pelton.ErrNotFound):
		return false, nil
	case err != nil:
		return false, err
	case now.Grant != p.at.Grant:
		return false, nil
	}
	p.at.Revision = now.Revision
	return true, nil
}

// release ends the renewals and gives the permit back. A permit that is lost
// because the broker was out of reach may still be there, and is given back, too.
func (p *permit) release() error {
	p.stop()
	p.keeping.Wait()
	p.w.permits.remove(p)
	ctx, cancel := context.WithTimeout(p.w.hard, unlockWait)
	defer cancel()
	if p.lost != nil {
		_ = p.w.b.ReleaseLock(ctx, p.at) // stale where somebody else has it, as it should be
		return fmt.Errorf("unlock %q: %w", p.at.Name, p.lost)
	}
	err := p.giveBack(ctx)
	if err != nil && !errors.Is(err, pelton.ErrLockLost) {
		p.log.Warn("lock not released, it is free when its lease is over", "error", err)
	}
	return err
}

func (p *permit) giveBack(ctx context.Context) error {
	sent := false // a release may have landed
	for {
		err := p.w.b.ReleaseLock(ctx, p.at)
		if err == nil {
			return nil
		}
		stale := errors.Is(err, broker.ErrStale)
		sent = sent || errors.Is(err, pelton.ErrUnknownOutcome)
		if stale || sent {
			// A renewal that was cut off, or our own release, or the lock was lost.
			ours, lookErr := p.look(ctx)
			switch {
			case lookErr != nil:
				err = lookErr
			case ours:
				continue
			case sent:
				return nil
			default:
				return fmt.Errorf("unlock %q: %w: it was released by force, or not renewed in time", p.at.Name, pelton.ErrLockLost)
			}
		}
		if !repeatable(err) || ctx.Err() != nil {
			return fmt.Errorf("unlock: %w", err)
		}
		pause(ctx, 50*time.Millisecond)
	}
}

// permits are those that this worker holds, for signals.
type permits struct {
	mu   sync.Mutex
	held map[*permit]struct{}
}

func (ps *permits) add(p *permit) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if ps.held == nil {
		ps.held = make(map[*permit]struct{})
	}
	ps.held[p] = struct{}{}
}

func (ps *permits) remove(p *permit) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	delete(ps.held, p)
}

// nudge has the holders of that lock look whether they still hold it.
func (ps *permits) nudge(name string) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for p := range ps.held {
		if p.at.Name == name { // never changes
			select {
			case p.nudge <- struct{}{}:
			default:
			}
		}
	}
}

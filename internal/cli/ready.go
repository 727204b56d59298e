package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

const (
	probeEvery   = 5 * time.Second
	probeAgain   = 500 * time.Millisecond // after a failed probe
	probeTimeout = 4 * time.Second
	// probeLife is how long a successful probe vouches for the broker.
	probeLife = 15 * time.Second
)

var (
	errNotYet   = errors.New("the broker has taken no write yet")
	errStopping = errors.New("the server is shutting down")
)

// readiness knows whether the broker takes writes. It asks in the background, so
// that the answer comes from memory.
type readiness struct {
	probe func(context.Context) error // writes to every stream
	now   func() time.Time
	log   *slog.Logger
	// announce is called after the first successful probe.
	announce func()

	mu       sync.Mutex
	success  time.Time // of the last probe
	last     error     // of the last probe
	stopping bool
}

func newReadiness(probe func(context.Context) error, log *slog.Logger, announce func()) *readiness {
	return &readiness{probe: probe, now: time.Now, log: log, announce: announce}
}

// run probes until ctx ends.
func (r *readiness) run(ctx context.Context) {
	for {
		pause := probeEvery
		if !r.once(ctx) {
			pause = probeAgain
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			r.stop()
			return
		}
	}
}

// stop is the end of being ready.
func (r *readiness) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopping = true
}

// once probes, and reports whether that was a success.
func (r *readiness) once(ctx context.Context) bool {
	probing, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	err := r.probe(probing)
	if ctx.Err() != nil {
		return false
	}
	r.mu.Lock()
	first, recovered := r.success.IsZero(), r.last != nil
	if r.last = err; err == nil {
		r.success = r.now()
	}
	r.mu.Unlock()
	switch {
	case err == nil && first:
		r.announce()
	case err == nil && recovered:
		r.log.InfoContext(ctx, "the broker takes writes again")
	case err != nil && !recovered:
		r.log.WarnContext(ctx, "the broker does not take writes", slog.Any("error", err))
	}
	return err == nil
}

// ready is nil while the last successful probe is young enough.
func (r *readiness) ready() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.stopping:
		return errStopping
	case r.success.IsZero() && r.last != nil:
		return fmt.Errorf("%w: %w", errNotYet, r.last)
	case r.success.IsZero():
		return errNotYet
	case r.now().Sub(r.success) > probeLife:
		return fmt.Errorf("the broker has taken no write for %s: %w", r.now().Sub(r.success).Round(time.Second), r.last)
	default:
		return nil
	}
}

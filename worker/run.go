package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
	"github.com/peltonq/pelton/internal/failpoint"
)

const (
	// Defaults of the fields of that name.
	linger         = 5 * time.Second
	lingerShutdown = 2 * time.Second
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
//
// The run of a fresh delivery has no running write until it is attendAfter old, or
// its handler reports progress, asks for a fence or takes a lock. A worker that dies
// before that leaves no trace but the message: the death is not counted, because
// nobody can tell it from a delivery that was given back, and the next start is written first.
type run struct {
	w       *Worker
	lane    *lane
	slot    *slot
	env     *broker.Envelope          // of the delivery that it began with
	begun   time.Time                 // when it was to run; zero for a delivery that is not to be started
	fence   atomic.Uint64             // revision of the running write: grows with every start; 0 before it
	keeper  atomic.Pointer[runKeeper] // nil as long as nobody has to look after the run
	started chan struct{}             // closed when the running write was tried, or need not be
	done    chan struct{}             // closed when the run has had its last write
	ctx     context.Context           //nolint:containedctx // of the handler
	cancel  context.CancelCauseFunc
	stop    context.CancelFunc // of its timeout
	task    *pelton.Task
	locks   lockSession
	relay   *relay // that the task is in
	begins  *relay // that its end has begun
	turn    bool   // it has a turn of its own in the line of its kind
	inHand  bool   // its end is dealt with on the goroutine that handles the delivery
	unfixed uint64 // revision of its record when it started without a running write

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
	ending   bool // no further delivery can be adopted; the run's end is somebody's already
}

// log is made when there is something to say.
func (r *run) log() *slog.Logger { return r.w.logOf(r.lane, r.env) }

var errGoexit = errors.New("handler ended its goroutine with runtime.Goexit")

// call runs the handler on this goroutine and calls then exactly once, whether it
// returns, panics, or ends the goroutine.
func call(ctx context.Context, h Handler, task *pelton.Task, then func(result)) {
	// What stands if the handler neither returns nor panics.
	res := result{err: errGoexit, reason: pelton.ReasonGoexit}
	defer func() {
		if p := recover(); p != nil {
			res = result{err: fmt.Errorf("panic: %v", p), reason: pelton.ReasonPanic, stack: string(debug.Stack())}
		}
		then(res)
	}()
	value, err := h.ServeTask(ctx, task)
	res = result{value: value, err: err}
}

// returned finishes the task of a handler that returned, unless it was given up.
func (r *run) returned(res result) {
	if r.claim() {
		r.inHand = res.reason != pelton.ReasonGoexit // else that goroutine ends now
		r.over(res)
		return
	}
	r.w.addLeaked(-1)
}

// claim makes the end of the run the caller's. It is one caller's only: that of the
// handler's return, or of its giving up.
func (r *run) claim() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ending {
		return false
	}
	r.ending = true
	return true
}

// over follows the end of the handler.
func (r *run) over(res result) {
	released := r.locks.close() // also those of a handler that is given up: its retry may need them
	defer released()
	var cause error
	if r.ctx.Err() != nil {
		cause = context.Cause(r.ctx)
	}
	r.finish(res, cause)
}

// abandon finishes the task of a handler that ignores the end of its ctx. Its slot stays
// taken until it returns, or the worker stops.
func (r *run) abandon(patience time.Duration) {
	if !r.claim() {
		return
	}
	cause := context.Cause(r.ctx)
	r.w.addLeaked(1)
	r.log().Error("handler ignores the end of its ctx, slot leaked", "cause", cause)
	r.over(result{err: fmt.Errorf("handler still runs %s after: %w", patience, cause)})
	r.slot.abandon()
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
			r.log().Warn("heartbeat failed", "error", err)
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
		r.log().Warn("task fenced", "why", why, "worker", r.w.id)
	}
	r.end(pelton.ErrFenced)
}

// random is the jitter's source: it needs no secrecy.
func random() float64 { return rand.Float64() } //nolint:gosec // jitter

package worker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
)

const (
	// releaseWait bounds what follows the grace: ending handlers and giving their
	// tasks back.
	releaseWait = 5 * time.Second
)

// Worker serves queues with the handlers of a Mux. Make it with New and Run it once.
type Worker struct {
	nc        *nats.Conn
	mux       *Mux
	cfg       Config
	id        string
	startedAt time.Time
	ran       atomic.Bool
	cpu       *cpuPool
	keeper    *keeper
	limits    limits
	rules     atomic.Pointer[rules]
	unshared  sync.Once // the warning that limits are not shared
	// linger is how long a handler may go on after its ctx ended before it counts
	// as leaked. At shutdown it is shorter: the process is about to go.
	linger, lingerShutdown time.Duration

	// Set by Run before anything is started.
	b        *broker.Broker
	stopping <-chan struct{} // closed when nothing more is to be started
	stop     context.CancelCauseFunc
	base     context.Context //nolint:containedctx // of handlers: ends when the grace is over
	hard     context.Context //nolint:containedctx // of writes to the broker: ends when Run gives up

	connected  atomic.Int64  // unix time of the last connection to the broker, in nanoseconds
	shortest   atomic.Int64  // lease of the lanes served, in nanoseconds
	show       chan struct{} // told when presence is to be shown at once
	ready      chan kept     // takes a delivery if a goroutine has nothing to do
	idle       idlers
	finishing  chan struct{}  // held by successes that are being written
	entered    chan struct{}  // told that there are runs again that may need a keeper
	background sync.WaitGroup // everything but handlers
	tasks      sync.WaitGroup // deliveries from start to their last write

	turns   turns         // of those who wait for locks
	permits permits       // of locks that handlers hold
	grants  atomic.Uint64 // acquisitions of locks so far

	mu      sync.Mutex
	runs    map[pelton.ID]*run
	relays  map[pelton.ID]*relay // by the task whose message they have
	dropped dropped
	leaks   map[*slot]struct{} // of handlers that were given up
	// attending says that somebody looks for runs that need a keeper.
	attending bool
	leaked    int // handlers that ignored the end of their ctx and still run
}

// ID names this worker in records and in the list of workers.
func (w *Worker) ID() string { return w.id }

// untouched is memory that a worker holds and never touches, in bytes, so that it takes addresses and
// nothing else. In a process that has little, Go would collect garbage each 2 MB, which at 40,000 tasks
// a second is each 15 ms: a third of what a task took there. With it that is each 10 MB.
// A process that holds more by itself notices nothing.
const untouched = 8 << 20

// Run serves until ctx ends, then drains: it asks for nothing more, waits for
// running handlers up to Grace, ends the rest with cause pelton.ErrShutdown and
// gives their tasks back, so that other workers start them at once. It returns
// nil after a clean drain and pelton.ErrGraceExceeded when handlers had to be
// ended. Too many leaked handlers end the worker with pelton.ErrLeaked, a connection
// to NATS that is closed for good with pelton.ErrUnavailable. An installation that cannot be opened is the error of
// producer.New. A Worker runs once; a second Run is pelton.ErrConflict.
func (w *Worker) Run(ctx context.Context) error {
	if w.ran.Swap(true) {
		return fmt.Errorf("%w: worker %s ran already", pelton.ErrConflict, w.id)
	}
	defer runtime.KeepAlive(make([]byte, untouched))
	closed := w.nc.StatusChanged(nats.CLOSED)
	defer w.nc.RemoveStatusListener(closed)
	b, err := broker.Open(ctx, w.nc, broker.Config{Namespace: w.cfg.Namespace, Lease: w.cfg.Lease, Logger: w.cfg.Logger})
	if err != nil {
		return fmt.Errorf("open worker: %w", err)
	}
	defer b.Close()
	w.b = b
	w.limits.namespace = b.Namespace()

	outlive := context.WithoutCancel(ctx)
	base, endBase := context.WithCancelCause(outlive)
	defer endBase(pelton.ErrShutdown)
	hard, endHard := context.WithCancel(outlive)
	serving, stopServing := context.WithCancelCause(ctx)
	defer stopServing(nil)
	w.base, w.hard, w.stopping, w.stop = base, hard, serving.Done(), stopServing
	defer w.background.Wait()
	defer endHard()
	defer w.idle.end()

	work, err := b.WatchWork(serving, w.cfg.Queues)
	if err != nil {
		return fmt.Errorf("open worker: %w", err)
	}
	defer work.Stop()
	stopCancels, err := b.ServeCancels(w.dropTask)
	if err != nil {
		return err
	}
	defer stopCancels()
	stopSigns, err := b.ServePresence(w.id, w.holds)
	if err != nil {
		return err
	}
	defer stopSigns()
	stopLocks, err := b.ServeLockSignals(w.id, w.permits.nudge)
	if err != nil {
		return err
	}
	defer stopLocks()
	w.connected.Store(time.Now().UnixNano())
	w.background.Go(func() { w.noteConnections(hard) })
	w.background.Go(func() { w.showPresence(hard) })
	w.background.Go(func() { b.CallLines(serving) })
	w.background.Go(func() { w.attendRuns(hard) })
	w.background.Go(func() {
		select {
		case <-closed:
			stopServing(fmt.Errorf("worker %s: %w: the connection to NATS is closed", w.id, pelton.ErrUnavailable))
		case <-hard.Done():
		}
	})

	w.cfg.Logger.Info("worker started", "worker", w.id, "queues", w.cfg.Queues, "concurrency", w.cfg.Concurrency, "kinds", w.mux.Kinds())
	w.dispatch(serving, work)
	if ctx.Err() == nil {
		return errors.Join(context.Cause(serving), w.drain(endBase))
	}
	return w.drain(endBase)
}

// dispatch takes deliveries and starts them until ctx ends. work is what it follows as long as that
// lasts.
func (w *Worker) dispatch(ctx context.Context, work *broker.Work) {
	slots, err := w.cfg.bounds()
	if err != nil { // New has checked them
		w.cfg.Logger.Error("worker bounds", "error", err)
		return
	}
	d := &dispatcher{
		bounds: slots, maxWait: w.cfg.MaxWait, now: time.Now, log: w.cfg.Logger, giveBack: w.giveBack,
		added: make(chan *lane), changed: make(chan laneChange),
		online: w.nc.IsConnected, inbox: newInbox(), resumed: make(chan kept), paced: make(chan pace), freed: make(chan int, slots.total), stopped: make(chan struct{}),
	}
	d.start = func(h kept) { //nolint:contextcheck // tasks outlive ctx by the grace
		h.slot = w.takeSlot(h.lane.rank, d.freed)
		select {
		case w.ready <- h: // somebody has just finished one
		default:
			go w.work(h)
		}
	}
	w.keeper.resume, w.keeper.pace = d.resume, d.tellPace
	d.reopen = func(l *lane) { w.reopenLane(d, l) } //nolint:contextcheck // ends with Run

	reconnected, stop := w.b.Reconnected()
	defer stop()
	stopElections, err := w.b.Elections(func(l broker.Lane) { d.report(laneEvent{moved: &l}) })
	if err != nil { // the time of each request repairs what is lost
		w.cfg.Logger.Warn("elections are not heard of", "error", err)
	} else {
		defer stopElections()
	}
	var opening sync.WaitGroup
	watching, stopWatching := context.WithCancel(ctx)
	opening.Go(func() { w.openLanes(watching, d, work) })
	defer opening.Wait()
	defer stopWatching() // a panic must not wait for it
	d.run(ctx, reconnected)
}

// drain waits for running handlers, ends them when the grace is over, and tells
// which of the two it was.
func (w *Worker) drain(endBase context.CancelCauseFunc) error {
	w.endLeaks()
	done := make(chan struct{})
	go func() { w.tasks.Wait(); close(done) }()
	w.mu.Lock()
	running := len(w.runs)
	w.mu.Unlock()
	w.cfg.Logger.Info("worker drains", "worker", w.id, "running", running, "grace", w.cfg.Grace.String())

	grace := time.NewTimer(w.cfg.Grace)
	defer grace.Stop()
	select {
	case <-done:
		w.cfg.Logger.Info("worker stopped", "worker", w.id)
		return nil
	case <-grace.C:
	}
	endBase(pelton.ErrShutdown)
	release := time.NewTimer(releaseWait)
	defer release.Stop()
	select {
	case <-done:
	case <-release.C:
	}
	w.cfg.Logger.Warn("worker stopped after its grace", "worker", w.id)
	return fmt.Errorf("worker %s: %w", w.id, pelton.ErrGraceExceeded)
}

// showPresence keeps the worker on the list of workers until ctx ends.
func (w *Worker) showPresence(ctx context.Context) {
	host, _ := os.Hostname() // an unknown host is an empty one
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		ttl := presenceTTL(time.Duration(w.shortest.Load()))
		w.mu.Lock()
		running := slices.Collect(maps.Keys(w.runs))
		leaked := w.leaked
		w.mu.Unlock()
		err := w.b.ShowPresence(ctx, broker.Presence{
			ID: w.id, Host: host, PID: os.Getpid(), Version: w.cfg.Version, Kinds: w.mux.Kinds(), Queues: w.cfg.Queues,
			Concurrency: w.cfg.Concurrency, Running: running, Leaked: leaked, StartedAt: w.startedAt.UTC(), SeenAt: time.Now().UTC(),
		}, ttl)
		if err != nil && ctx.Err() == nil {
			w.cfg.Logger.Warn("worker not shown", "worker", w.id, "error", err)
		}
		timer.Reset(ttl / 3)
		select {
		case <-timer.C:
		case <-w.show:
		case <-ctx.Done():
			w.hidePresence(context.WithoutCancel(ctx))
			return
		}
	}
}

// noteConnections keeps the time of the last connection, until ctx ends.
func (w *Worker) noteConnections(ctx context.Context) {
	reconnected, stop := w.b.Reconnected()
	defer stop()
	for {
		select {
		case <-reconnected:
			w.connected.Store(time.Now().UnixNano())
			select {
			case w.show <- struct{}{}:
			default:
			}
		case <-ctx.Done():
			return
		}
	}
}

// presenceTTL is how long a worker is taken for alive after its last sign: half
// the shortest lease it serves, so that it is known to be gone when its tasks come
// back, within the broker's finest TTL and broker.PresenceTTL.
func presenceTTL(lease time.Duration) time.Duration {
	return min(max(lease/2, time.Second), broker.PresenceTTL).Truncate(time.Second)
}

func (w *Worker) hidePresence(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := w.b.HidePresence(ctx, w.id); err != nil && !errors.Is(err, pelton.ErrUnavailable) {
		w.cfg.Logger.Debug("worker not hidden", "worker", w.id, "error", err)
	}
}

// dropTask ends the handler of a task that was cancelled, and reports whether
// one runs here. If none does, its delivery may be on its way: see enter.
func (w *Worker) dropTask(id pelton.ID) bool {
	w.mu.Lock()
	r := w.runs[id]
	if r == nil {
		w.dropped.add(id)
	}
	w.mu.Unlock()
	if r == nil {
		return false
	}
	r.end(pelton.ErrCancelled)
	return true
}

// holds reports whether the task runs here under a lease that is still good.
func (w *Worker) holds(id pelton.ID) bool {
	r := w.running(id)
	if r == nil {
		r = w.passing(id)
	}
	return r != nil && !r.lateNow()
}

func (w *Worker) running(id pelton.ID) *run {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.runs[id]
}

// enter makes r the run of its task in this process. If there is one already,
// that one is returned and stays. dropped says that a cancel signal for the task
// came before it.
func (w *Worker) enter(r *run) (other *run, dropped bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if other = w.runs[r.record.ID]; other == nil {
		w.runs[r.record.ID] = r
	}
	if !w.attending {
		w.attending = true
		select {
		case w.entered <- struct{}{}:
		default:
		}
	}
	return other, w.dropped.has(r.record.ID)
}

func (w *Worker) leave(r *run) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.runs, r.record.ID)
}

func (w *Worker) addLeaked(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.leaked += n
	if w.leaked >= w.cfg.MaxLeaked {
		w.stop(fmt.Errorf("worker %s: %w: %d", w.id, pelton.ErrLeaked, w.leaked))
	}
}

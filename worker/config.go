// Package worker takes tasks from a queue and runs their handlers, on any host.
package worker

import (
	"fmt"
	"log/slog"
	"maps"
	"os"
	"regexp"
	"runtime"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
	"github.com/peltonq/pelton/internal/limit"
)

// Config says what a Worker serves. Every field's zero value is its default.
type Config struct {
	// Namespace of the installation in NATS. Empty means "pelton".
	Namespace string
	// Queues to serve; all are equal. Empty means pelton.DefaultQueue alone.
	Queues []string
	// Concurrency is the number of slots: tasks that run at the same time in this
	// process. Zero means 16.
	Concurrency int
	// Limits are the most slots that a priority may hold. A priority that is
	// absent may hold all of them.
	Limits map[pelton.Priority]int
	// Reserves are slots that no other priority may take. Their sum must leave a
	// slot for every priority.
	Reserves map[pelton.Priority]int
	// MaxWait bounds how long a priority with ready tasks is passed over in favour
	// of higher ones: after that it gets the next free slot. Zero means 30 s.
	MaxWait time.Duration
	// Grace is how long running handlers may go on after Run's ctx ends. When it
	// is over, their ctx ends with cause pelton.ErrShutdown and the attempt does
	// not count. Zero means 30 s.
	Grace time.Duration
	// Lease given to queues that this worker is the first to use. Zero means 30 s.
	Lease time.Duration
	// CPUSlots is how many handlers marked CPUBound run at a time. Zero means
	// GOMAXPROCS.
	CPUSlots int
	// Limiter counts what starts against the installation's rate limits, for all
	// processes together: package redislimit has one. Nil means that this process
	// counts by itself, and holds LimitShare of each limit.
	Limiter Limiter
	// LimitShare is the share of each rate limit that this process may use when it has
	// no Limiter: above 0 and at most 1. Zero means 1. With n workers of a share of
	// 1/n the limits hold for the fleet.
	LimitShare float64
	// MaxLeaked is the number of slots that may be held at a time by handlers that
	// ignored the end of their ctx. When it is reached, Run drains and returns
	// pelton.ErrLeaked, so that a supervisor starts a new process. Zero means
	// Concurrency: no slot is left.
	MaxLeaked int
	// Version of the program, shown in the list of workers.
	Version string
	// Observer is told what the worker does, for metrics. Nil is nobody.
	Observer Observer
	// Logger gets what an operator may want to know; payloads are never logged.
	// Nil discards.
	Logger *slog.Logger
}

const (
	defaultConcurrency = 16
	maxConcurrency     = 10_000
	defaultMaxWait     = 30 * time.Second
	defaultGrace       = 30 * time.Second
)

func (c Config) withDefaults() (Config, error) {
	c.Queues = slices.Clone(c.Queues)
	if len(c.Queues) == 0 {
		c.Queues = []string{pelton.DefaultQueue}
	}
	slices.Sort(c.Queues)
	c.Queues = slices.Compact(c.Queues)
	for _, queue := range c.Queues {
		if err := pelton.ValidateQueue(queue); err != nil {
			return c, fmt.Errorf("worker.Config.Queues: %w", err)
		}
	}
	if c.Concurrency == 0 {
		c.Concurrency = defaultConcurrency
	}
	if c.Concurrency < 1 || c.Concurrency > maxConcurrency {
		return c, fmt.Errorf("%w: worker.Config.Concurrency %d is not between 1 and %d", pelton.ErrInvalid, c.Concurrency, maxConcurrency)
	}
	if c.MaxWait == 0 {
		c.MaxWait = defaultMaxWait
	}
	if c.Grace == 0 {
		c.Grace = defaultGrace
	}
	if c.MaxWait < 0 || c.Grace < 0 || c.CPUSlots < 0 || c.MaxLeaked < 0 {
		return c, fmt.Errorf("%w: worker.Config: MaxWait, Grace, CPUSlots and MaxLeaked must not be negative", pelton.ErrInvalid)
	}
	if c.LimitShare == 0 {
		c.LimitShare = 1
	}
	if c.MaxLeaked == 0 {
		c.MaxLeaked = c.Concurrency
	}
	if c.CPUSlots == 0 {
		c.CPUSlots = runtime.GOMAXPROCS(0)
	}
	if c.Observer == nil {
		c.Observer = nobody{}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.Limits, c.Reserves = maps.Clone(c.Limits), maps.Clone(c.Reserves)
	_, err := c.bounds()
	return c, err
}

// bounds checks Limits and Reserves against Concurrency.
func (c Config) bounds() (bounds, error) {
	b := bounds{total: c.Concurrency}
	for i := range b.limit {
		b.limit[i] = c.Concurrency
	}
	for p, n := range c.Limits {
		if p.Rank() < 0 || p == "" || n < 1 || n > c.Concurrency {
			return b, fmt.Errorf("%w: worker.Config.Limits: %q=%d: want a priority and 1 to %d slots", pelton.ErrInvalid, p, n, c.Concurrency)
		}
		b.limit[p.Rank()] = n
	}
	reserved := 0
	for p, n := range c.Reserves {
		if p.Rank() < 0 || p == "" || n < 0 || n > c.Concurrency {
			return b, fmt.Errorf("%w: worker.Config.Reserves: %q=%d: want a priority and 0 to %d slots", pelton.ErrInvalid, p, n, c.Concurrency)
		}
		if n > b.limit[p.Rank()] {
			return b, fmt.Errorf("%w: worker.Config.Reserves: %s reserves %d slots but may hold only %d", pelton.ErrInvalid, p, n, b.limit[p.Rank()])
		}
		b.reserve[p.Rank()] = n
		reserved += n
	}
	for _, p := range pelton.Priorities() {
		if reserved-b.reserve[p.Rank()] >= c.Concurrency {
			return b, fmt.Errorf("%w: worker.Config.Reserves leave no slot for %s", pelton.ErrInvalid, p)
		}
	}
	return b, nil
}

var unsafeInID = regexp.MustCompile(`[^A-Za-z0-9-]+`)

// newID names this worker: host, pid, and enough randomness that a restarted
// process is another worker.
func newID() string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "host"
	}
	host = unsafeInID.ReplaceAllString(host, "-")
	return fmt.Sprintf("%.40s-%d-%.8s", host, os.Getpid(), uuid.NewString())
}

// New makes a worker for the kinds of mux. It does not talk to the broker yet;
// Run does. Make nc with nats.MaxReconnects(-1), so that the worker outlives a
// restart of the broker. An unusable Config or a mux without kinds is
// pelton.ErrInvalid.
func New(nc *nats.Conn, mux *Mux, cfg Config) (*Worker, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if len(mux.entries) == 0 {
		return nil, fmt.Errorf("%w: worker without handlers", pelton.ErrInvalid)
	}
	w := &Worker{
		nc: nc, mux: mux, cfg: cfg, id: newID(), startedAt: time.Now(),
		runs: make(map[pelton.ID]*run), relays: make(map[pelton.ID]*relay), leaks: make(map[*slot]struct{}), entered: make(chan struct{}, 1), ready: make(chan kept), finishing: make(chan struct{}, mostFinishing), cpu: newCPUPool(cfg.CPUSlots, cfg.Concurrency),
		linger: linger, lingerShutdown: lingerShutdown, show: make(chan struct{}, 1),
		keeper: newKeeper(),
	}
	w.limits.limiter = cfg.Limiter
	if cfg.Limiter == nil {
		if w.limits.limiter, err = limit.NewLocal(cfg.LimitShare); err != nil {
			return nil, fmt.Errorf("worker.Config.LimitShare: %w", err)
		}
	}
	w.rules.Store(newRules(broker.Rules{}, &rules{}))
	w.shortest.Store(int64(broker.DefaultLease))
	return w, nil
}

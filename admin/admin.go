// Package admin looks after an installation: its queues, what they hold, their
// settings, which it can also pause and purge; its dead letters, which it can retry
// and delete; and whether the broker takes writes.
package admin

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/time/rate"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
)

// Config is how a Client finds its installation.
type Config struct {
	// Namespace of the installation in NATS. Empty means "pelton".
	Namespace string
	// Lease given to queues that this process is the first to use. Zero means 30 s.
	Lease time.Duration
	// Replicas of what this client is the first to create. Zero means 1.
	Replicas int
	// Tags that the servers of a cluster must have which hold what this client is the first to
	// create. None are any servers.
	Tags []string
	// Logger gets what an operator may want to know. Nil discards.
	Logger *slog.Logger
}

// Client reads and tends an installation. It is safe for concurrent use.
type Client struct {
	b        *broker.Broker
	bulkPace *rate.Limiter
	logger   *slog.Logger
}

// New opens the installation on nc. Its errors are those of producer.New.
func New(ctx context.Context, nc *nats.Conn, cfg Config) (*Client, error) {
	b, err := broker.Open(ctx, nc, broker.Config{Namespace: cfg.Namespace, Lease: cfg.Lease, Replicas: cfg.Replicas, Tags: cfg.Tags, Access: true, Logger: cfg.Logger})
	if err != nil {
		return nil, fmt.Errorf("open admin: %w", err)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Client{b: b, bulkPace: rate.NewLimiter(bulkRate, 1), logger: cfg.Logger}, nil
}

// Close ends calls that are under way. It does not close the NATS connection.
func (c *Client) Close() { c.b.Close() }

// Queues tells what every queue holds, sorted by name. The cost grows with the
// number of queues, not of tasks.
func (c *Client) Queues(ctx context.Context) ([]pelton.Queue, error) { return c.b.Queues(ctx) }

// Queue tells what one queue holds, in constant time. pelton.ErrNotFound is a
// queue without tasks or settings, ever; pelton.ErrInvalid a name that cannot be.
func (c *Client) Queue(ctx context.Context, name string) (*pelton.Queue, error) {
	return c.b.Queue(ctx, name)
}

// Idle reports whether no task of the installation is ready or runs. It costs one
// read and, unlike the counters of Queues, is exact at once.
func (c *Client) Idle(ctx context.Context) (bool, error) { return c.b.Idle(ctx) }

// Probe writes to every stream and bucket of the installation; nil means that
// all of them took it and that there is room for tasks.
func (c *Client) Probe(ctx context.Context) error { return c.b.Probe(ctx) }

// TellFull tells every process of the installation whether the broker's disk is too
// full for new tasks: Enqueue and Retry are refused with pelton.ErrUnavailable for
// 3 s, or until the opposite is told. Whoever knows the disk repeats it.
func (c *Client) TellFull(full bool) error { return c.b.TellFull(full) }

// Command actor is a worker process of the fault suite. Its handlers write down
// what they do, and misbehave as their payloads say.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/chaos/history"
	"github.com/peltonq/pelton/redislimit"
	"github.com/peltonq/pelton/worker"
)

func main() {
	if err := act(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// flags say who this actor is and what it serves.
type flags struct {
	name, dir   string
	nats, token string
	concurrency int
	lease       time.Duration
	grace       time.Duration
	redis       string
}

func parse() (flags, error) {
	var f flags
	flag.StringVar(&f.name, "name", "", "`name` of this actor in the history")
	flag.StringVar(&f.dir, "dir", "", "`folder` of the history")
	flag.StringVar(&f.nats, "nats", "", "`URL` of the broker")
	flag.StringVar(&f.token, "token", "", "token of the broker")
	flag.IntVar(&f.concurrency, "concurrency", 16, "slots")
	flag.DurationVar(&f.lease, "lease", 2*time.Second, "lease of the lanes")
	flag.DurationVar(&f.grace, "grace", time.Second, "grace of the shutdown")
	flag.StringVar(&f.redis, "redis", "", "`URL` of the Redis that counts rates; empty is none")
	flag.Parse()
	if f.name == "" || f.dir == "" || f.nats == "" {
		return f, errors.New("actor: -name, -dir and -nats are required")
	}
	return f, nil
}

func act() error {
	f, err := parse()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM) //nolint:forbidigo // a main starts it
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	written, err := history.Open(f.dir, f.name)
	if err != nil {
		return err
	}
	defer written.Close()

	nc, err := connect(f)
	if err != nil {
		return fmt.Errorf("connect to %s: %w", f.nats, err)
	}
	defer nc.Close()
	watching := make(chan error, 1)
	go func() { watching <- history.WatchStalls(ctx, written, f.lease/4, f.name) }()

	limiter, err := limiting(ctx, f, log)
	if err != nil {
		return err
	}
	if limiter != nil {
		defer limiter.Close()
	}
	a := &actor{dir: f.dir, log: written}
	err = work(ctx, nc, f, a, limiter, log)
	stop()
	return errors.Join(err, <-watching)
}

// connect makes a connection that comes back by itself, as the pelton command
// does, and notices a silent broker within about half a lease.
func connect(f flags) (*nats.Conn, error) {
	options := []nats.Option{
		nats.Name(f.name),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.ReconnectBufSize(-1),
		nats.ReconnectWait(100 * time.Millisecond),
		nats.Timeout(2 * time.Second),
		nats.PingInterval(max(f.lease/4, 250*time.Millisecond)),
		nats.MaxPingsOutstanding(2),
	}
	if f.token != "" {
		options = append(options, nats.Token(f.token))
	}
	return nats.Connect(f.nats, options...)
}

// quarter is what each of four actors may use alone of a rate while Redis is out of reach.
const quarter = 0.25

// limiting is what counts rates, nil without a Redis.
func limiting(ctx context.Context, f flags, log *slog.Logger) (*redislimit.Limiter, error) {
	if f.redis == "" {
		return nil, nil //nolint:nilnil // there need not be one
	}
	return redislimit.Open(ctx, f.redis, redislimit.Config{Share: quarter, Logger: log})
}

// work runs workers until ctx ends: another one when the broker was out of reach
// at the start.
func work(ctx context.Context, nc *nats.Conn, f flags, a *actor, limiter *redislimit.Limiter, log *slog.Logger) error {
	cfg := worker.Config{Concurrency: f.concurrency, Lease: f.lease, Grace: f.grace, Logger: log}
	if limiter != nil {
		cfg.Limiter = limiter
	}
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for {
		w, err := worker.New(nc, a.mux(), cfg)
		if err != nil {
			return err
		}
		err = w.Run(ctx)
		switch {
		case ctx.Err() != nil && errors.Is(err, pelton.ErrGraceExceeded):
			return nil // that is what handlers that hang do to a shutdown
		case ctx.Err() != nil || !errors.Is(err, pelton.ErrUnavailable):
			return err
		}
		log.Info("broker out of reach, trying again", "error", err)
		select {
		case <-again.C:
		case <-ctx.Done():
			return nil
		}
	}
}

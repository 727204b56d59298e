package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/peltonq/pelton/admin"
	"github.com/peltonq/pelton/api"
	"github.com/peltonq/pelton/internal/broker"
	"github.com/peltonq/pelton/internal/embed"
	"github.com/peltonq/pelton/internal/metrics"
	"github.com/peltonq/pelton/producer"
	"github.com/peltonq/pelton/scheduler"
	"github.com/peltonq/pelton/worker"
)

// brokerStop bounds the shutdown of the embedded broker.
const brokerStop = 20 * time.Second

// serving is one run of the server.
type serving struct {
	app      *app
	flags    *serveFlags
	log      *slog.Logger
	mux      *worker.Mux // nil without a worker
	slots    worker.Config
	metrics  *metrics.Metrics
	limiter  *limiter
	requests *api.RequestLimit // nil without a bound
	web      *web
	// brokerURL is where the broker is, for people; empty when it has no port.
	brokerURL string
	// embed is the broker in this process; nil if it is elsewhere.
	embed *embed.Server
}

// serve runs the server until ctx ends. The parts start in this order and stop in
// the reverse one: the broker, HTTP, the clients of the broker, the worker. HTTP
// listens first of all, so that whoever asks meanwhile is told to try again.
func (a *app) serve(ctx context.Context, f *serveFlags) (err error) {
	s := &serving{app: a, flags: f, log: a.logger()}
	if s.mux, err = f.handlers.mux(s.log); err != nil {
		return err
	}
	if s.slots, err = f.slots.config(s.mux, s.log); err != nil {
		return err
	}
	s.slots.Namespace = string(f.namespace)
	s.metrics = metrics.New(readBuild().Version)
	if s.limiter, err = f.limiter.open(ctx, s.log, s.metrics); err != nil {
		return err
	}
	defer s.limiter.close()
	f.limiter.configure(&s.slots, s.limiter)
	if s.requests, err = f.requests.requests(s.limiter, string(f.namespace)); err != nil {
		return err
	}
	if s.requests != nil && f.nats.url != "" && f.limiter.redis == "" {
		s.log.WarnContext(ctx, "requests are not counted together: each replica of this server lets its callers send its share of --api-rate, "+
			"n replicas with share 1 n times as much; give --redis to share it", slog.Float64("share", f.limiter.share))
	}
	secure, err := f.tls.config(s.log)
	if err != nil {
		return err
	}
	if s.web, err = startWeb(ctx, f.addr, f.bounds.connections, secure, s.log); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.web.stop(ctx)) }()
	s.log.InfoContext(ctx, "listening", slog.String("addr", s.web.addr))

	if f.nats.url != "" {
		err = s.external(ctx)
	} else {
		err = s.embedded(ctx)
	}
	if ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) {
		return nil // it was asked to stop before it had begun
	}
	return err
}

// external serves from a broker elsewhere.
func (s *serving) external(ctx context.Context) error {
	s.brokerURL = redactURLs(s.flags.nats.url)
	l, err := dialLink(s.log, s.flags.nats, party{s.flags.namespace, broker.RoleAdmin})
	if err != nil {
		return err
	}
	defer l.close()
	return s.run(ctx, l)
}

// embedded serves from a broker in this process.
func (s *serving) embedded(ctx context.Context) (err error) {
	secure, err := s.flags.nats.tls.server(s.log)
	if err != nil {
		return err
	}
	server, err := embed.Start(ctx, embed.Config{
		Dir: s.flags.data, Listen: s.flags.natsListen, TLS: secure, Token: s.flags.nats.token, Sync: s.flags.sync.Sync, Logger: s.log,
	})
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), brokerStop)
		defer cancel()
		err = errors.Join(err, server.Shutdown(ctx))
	}()
	s.brokerURL, s.embed = server.ClientURL(), server
	l, err := newLink(s.log, party{s.flags.namespace, broker.RoleAdmin}, func(opts ...nats.Option) (*nats.Conn, error) { return server.Connect(opts...) })
	if err != nil {
		return err
	}
	defer l.close()
	return s.run(ctx, l)
}

// run opens the installation and serves it until ctx ends or a part fails.
func (s *serving) run(ctx context.Context, l *link) error {
	var (
		tasks     *producer.Client
		queues    *admin.Client
		schedules *scheduler.Client
	)
	err := l.retry(ctx, 0, func(ctx context.Context) (err error) {
		ctx, cancel := context.WithTimeout(ctx, openTimeout)
		defer cancel()
		queues, err = s.openQueues(ctx, l.nc)
		return err
	})
	if err != nil {
		return err
	}
	defer queues.Close()
	if err := s.settle(ctx, l, queues); err != nil { // first: who opens then knows whether every write is synced
		return err
	}
	err = l.retry(ctx, 0, func(ctx context.Context) (err error) {
		ctx, cancel := context.WithTimeout(ctx, openTimeout)
		defer cancel()
		tasks, schedules, err = s.open(ctx, l.nc)
		return err
	})
	if err != nil {
		return err
	}
	defer tasks.Close()
	defer schedules.Close()
	err = l.retry(ctx, 0, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, arrangeTimeout)
		defer cancel()
		return s.flags.place.arrange(ctx, queues, s.log)
	})
	if err != nil {
		return err
	}

	if err := s.grow(ctx, l, queues); err != nil {
		return err
	}

	keys, err := s.openKeyring(ctx, l, queues)
	if err != nil {
		return err
	}

	audit, endAudit := s.auditing(ctx, queues)
	defer endAudit()

	ready := newReadiness(queues.Probe, s.log, func() { s.announce(ctx) })
	m := s.metrics
	m.WatchQueues(ctx, queues)
	memory, held := s.flags.bounds.budgets(s.web, m)
	s.slots.Observer = m
	handler, err := api.New(api.Config{
		Tasks: countedTasks{tasks, m}, Lists: queues, Why: queues, Metrics: m.Handler(), Queues: queues, Dead: queues, Locks: queues, Limits: queues, Workers: queues, Schedules: schedules, Requests: s.requests, Memory: memory, Held: held, Ready: s.ready(ready),
		Token: s.flags.token, Keyring: keys, Audit: queues, Auditing: audit, Closed: s.flags.exposed(), CheckHost: s.flags.checkHost(), AllowedHosts: s.flags.allowedHosts,
		Version: readBuild().Version, Logger: s.log,
	})
	if err != nil {
		return fmt.Errorf("make the API: %w", err)
	}
	s.web.gate.open(s.flags.proxies.trust(handler))

	parts, running := errgroup.WithContext(ctx)
	parts.Go(func() error {
		ready.run(running)
		return nil
	})
	parts.Go(func() error {
		queues.Sweep(running, s.log, func(step admin.SweepStep) { m.Swept(step.Looked, step.Repaired, step.Took) })
		return nil
	})
	parts.Go(func() error {
		s.flags.place.tellCopies(running, queues, s.log)
		return nil
	})
	parts.Go(func() error { return schedules.Run(running) })
	parts.Go(func() error {
		keys.Run(running)
		return nil
	})
	if s.embed != nil {
		parts.Go(func() error { return s.noteRestarts(running, l, queues) })
		parts.Go(func() error {
			s.watchDisk(running, queues)
			return nil
		})
		if s.app.environ.get("GOGC") == "" { // else somebody wants it otherwise
			parts.Go(func() error {
				watchHeap(running)
				return nil
			})
		}
	}
	if s.mux != nil {
		parts.Go(func() error { return runWorker(running, l, s.mux, s.slots, m, 0) })
	}
	parts.Go(func() error {
		select {
		case <-running.Done():
			ready.stop()
			s.notify(ctx, "STOPPING=1")
			if ctx.Err() != nil { // asked to, and not because a part failed
				s.web.drain(s.flags.drainDelay.duration(), l.closed)
			}
			return s.web.stop(running)
		case <-s.web.done:
			return s.web.err
		case <-l.closed:
			return l.err()
		}
	})
	err = parts.Wait()
	s.log.InfoContext(ctx, "stopped")
	return err
}

var errDiskFull = errors.New("the disk is too full for new tasks")

// ready adds to what the probes say what is known at once: a full disk.
func (s *serving) ready(probes *readiness) func() error {
	return func() error {
		if s.embed != nil && s.embed.Full() {
			return errDiskFull
		}
		return probes.ready()
	}
}

const (
	diskLook  = 100 * time.Millisecond
	diskAgain = time.Second // between two words of a full disk
)

// watchDisk tells the installation when the disk of the broker in this process
// becomes too full for new tasks, repeats it, and tells when it is over.
func (s *serving) watchDisk(ctx context.Context, queues *admin.Client) {
	ticker := time.NewTicker(diskLook)
	defer ticker.Stop()
	var told bool // that it is full
	var at time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		full := s.embed.Full()
		if full == told && (!full || time.Since(at) < diskAgain) {
			continue
		}
		if err := queues.TellFull(full); err != nil {
			continue // again at the next look
		}
		told, at = full, time.Now()
	}
}

func (s *serving) openQueues(ctx context.Context, nc *nats.Conn) (*admin.Client, error) {
	place := s.flags.place
	return admin.New(ctx, nc, admin.Config{Namespace: string(s.flags.namespace), Lease: s.slots.Lease, Replicas: place.replicas, Tags: place.tags, Logger: s.log})
}

func (s *serving) open(ctx context.Context, nc *nats.Conn) (*producer.Client, *scheduler.Client, error) {
	lease, namespace, place := s.slots.Lease, string(s.flags.namespace), s.flags.place
	tasks, err := producer.New(ctx, nc, producer.Config{Namespace: namespace, Lease: lease, Replicas: place.replicas, Tags: place.tags, Logger: s.log})
	if err != nil {
		return nil, nil, err
	}
	schedules, err := scheduler.New(ctx, nc, scheduler.Config{Namespace: namespace, Lease: lease, Replicas: place.replicas, Tags: place.tags, Logger: s.log})
	if err != nil {
		tasks.Close()
		return nil, nil, err
	}
	return tasks, schedules, nil
}

// announce says that tasks are taken: to a person at a terminal, or to the log.
func (s *serving) announce(ctx context.Context) {
	s.notify(ctx, "READY=1")
	data := ""
	if s.flags.nats.url == "" {
		data = s.flags.data
		if abs, err := filepath.Abs(data); err == nil {
			data = abs
		}
	}
	if s.app.logFormat.value == "text" && isTerminal(s.app.stderr) {
		s.welcome(data)
		return
	}
	s.log.InfoContext(ctx, "ready", slog.String("addr", s.web.addr), slog.String("url", apiURL(s.flags.tls.scheme(), s.web.addr)),
		slog.String("data", data), slog.String("nats", s.brokerURL), slog.Bool("worker", s.mux != nil))
}

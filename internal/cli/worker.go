package cli

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
	"github.com/peltonq/pelton/internal/metrics"
	"github.com/peltonq/pelton/worker"
)

const (
	defaultQueue       = pelton.DefaultQueue
	defaultConcurrency = 16
	defaultGrace       = 25 * time.Second // below the 30 s that supervisors tend to give
	defaultLease       = 30 * time.Second
	minLease           = time.Second // what the broker package accepts
	maxLease           = time.Hour

	// metricsConnections is for scrapers.
	metricsConnections = 64

	// workerPatience is how long a worker looks for its broker at the start.
	workerPatience = 30 * time.Second
)

func (a *app) workerCmd() *cobra.Command {
	return group("worker", "Run workers, and see which are there", a.workerRunCmd(), a.workerListCmd())
}

func (a *app) workerRunCmd() *cobra.Command {
	var (
		nats     natsFlags
		handlers handlerFlags
		slots    concurrencyFlags
		limiter  limiterFlags

		metricsAddr string
		namespace   namespaceFlag
	)
	cmd := &cobra.Command{
		Use:   "run --nats URL (--demo | --exec KIND=CMD)...",
		Short: "Run a worker in this process",
		Long: `Run a worker: it takes tasks from its queues and runs their handlers until it
gets SIGTERM or SIGINT. Then it takes no more, lets running tasks end within the
grace and gives back the rest. A second signal ends it at once.

Exit codes: 0 stopped in order, 1 tasks outlived the grace, 7 no broker within 30s.`,
		Example: `  pelton worker run --nats nats://127.0.0.1:4222 --exec report.build='python3 report.py'
  pelton worker run --nats nats://nats.internal:4222 --queues default,emails --limit low=2 --demo`,
		Args:                  needArgs(0, 0, ""),
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log := a.logger()
			if nats.url == "" {
				return usagef("--nats (PELTON_NATS) is missing: it says where the broker is, such as nats://127.0.0.1:4222; " +
					"'pelton serve --nats-listen' opens one")
			}
			mux, err := handlers.mux(log)
			if err != nil {
				return err
			}
			if mux == nil {
				return usagef("a worker needs handlers: give --exec KIND=CMD or --demo")
			}
			cfg, err := slots.config(mux, log)
			if err != nil {
				return err
			}
			cfg.Namespace = string(namespace)
			return runLinkedWorker(cmd.Context(), log, nats, limiter, mux, cfg, metricsAddr)
		},
	}
	flags := cmd.Flags()
	nats.register(flags, "`URL` of the broker; several are separated by commas", false)
	flags.StringVar(&metricsAddr, "metrics-addr", "", "`ADDR` on which /metrics is served for Prometheus; none by default")
	namespace.register(flags)
	slots.register(flags)
	slots.registerBounds(flags)
	handlers.register(flags)
	limiter.register(flags)
	return inSection(cmd, sectionWorker)
}

// runLinkedWorker connects and runs a worker until ctx ends. Its metrics are numbers
// without secrets, so their address needs no token.
func runLinkedWorker(ctx context.Context, log *slog.Logger, flags natsFlags, limits limiterFlags, mux *worker.Mux, cfg worker.Config, metricsAddr string) (err error) {
	m := metrics.New(cfg.Version)
	cfg.Observer = m
	limiter, err := limits.open(ctx, log, m)
	if err != nil {
		return err
	}
	defer limiter.close()
	limits.configure(&cfg, limiter)
	if metricsAddr != "" {
		web, err := startWeb(ctx, metricsAddr, metricsConnections, nil, log)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, web.stop(ctx)) }()
		routes := http.NewServeMux()
		routes.Handle("GET /metrics", m.Handler())
		web.gate.open(boundBodies(routes))
		log.InfoContext(ctx, "serving metrics", slog.String("addr", web.addr))
	}
	l, err := dialLink(log, flags, party{namespaceFlag(cfg.Namespace), broker.RoleWorker})
	if err != nil {
		return err
	}
	defer l.close()
	return runWorker(ctx, l, mux, cfg, m, workerPatience)
}

// runWorker runs a worker until ctx ends. While the broker is out of reach at the
// start it tries again until patience is over, zero being never. The connection
// being over for good ends the worker too.
func runWorker(ctx context.Context, l *link, mux *worker.Mux, cfg worker.Config, m *metrics.Metrics, patience time.Duration) error {
	running, stop := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-l.closed:
			stop(l.err())
		case <-running.Done():
		}
	}()
	defer func() { <-watched }()
	defer stop(nil)

	err := l.retry(running, patience, func(ctx context.Context) error {
		w, err := worker.New(l.nc, mux, cfg)
		if err != nil {
			return err
		}
		m.Watch(w.Stats)
		return w.Run(ctx)
	})
	if ctx.Err() != nil && !errors.Is(err, pelton.ErrGraceExceeded) {
		return nil // asked to stop, perhaps before it had begun
	}
	if err == nil {
		err = context.Cause(running) // the worker drained because of it
	}
	return err
}

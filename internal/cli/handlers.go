package cli

import (
	"log/slog"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/command"
	"github.com/peltonq/pelton/internal/demo"
	"github.com/peltonq/pelton/worker"
)

// handlerFlags say what a worker runs.
type handlerFlags struct {
	demo bool
	exec []string
}

func (f *handlerFlags) register(flags *pflag.FlagSet) {
	flags.BoolVar(&f.demo, "demo", false, "handle the demo kinds: demo.echo, demo.sleep, demo.fail, …")
	flags.StringArrayVar(&f.exec, "exec", nil,
		"`KIND=CMD`: handle the kind by a program: payload on stdin, result on stdout; may be repeated")
}

// mux has the handlers that the flags ask for, nil if they ask for none.
func (f *handlerFlags) mux(log *slog.Logger) (*worker.Mux, error) {
	if !f.demo && len(f.exec) == 0 {
		return nil, nil //nolint:nilnil // no handlers is no error here.
	}
	mux := worker.NewMux()
	if f.demo {
		demo.Register(mux, demo.Config{})
	}
	for _, flag := range f.exec {
		kind, argv, err := command.Parse(flag)
		if err != nil {
			return nil, usagef("%s", plain(err))
		}
		if slices.Contains(mux.Kinds(), kind) {
			return nil, usagef("--exec %s: the kind has a handler already", kind)
		}
		handler, err := command.New(command.Config{Argv: argv, Logger: log})
		if err != nil {
			return nil, usagef("--exec %s: %w", kind, err)
		}
		mux.Handle(kind, handler)
	}
	return mux, nil
}

// concurrencyFlags say how much a worker runs, and how it stops.
type concurrencyFlags struct {
	queues      []string
	concurrency int
	limits      slotsValue
	reserves    slotsValue
	grace       durationValue
	lease       durationValue
}

func (f *concurrencyFlags) register(flags *pflag.FlagSet) {
	f.limits.least = 1
	flags.StringSliceVar(&f.queues, "queues", []string{defaultQueue}, "the queues that the worker serves")
	flags.IntVar(&f.concurrency, "concurrency", defaultConcurrency, "how many tasks the worker runs at the same time")
	f.grace = durationValue(defaultGrace)
	flags.Var(&f.grace, "grace", "how long running tasks may go on after the signal to stop")
	f.lease = durationValue(defaultLease)
	flags.Var(&f.lease, "lease", "how long the broker waits for a sign of life before it gives a task to another worker; of new queues, 'pelton queue set' changes it")
}

// registerBounds adds the flags by priority.
func (f *concurrencyFlags) registerBounds(flags *pflag.FlagSet) {
	flags.Var(&f.limits, "limit", "`PRIORITY=N`: the most tasks of the priority that run at the same time; may be repeated")
	flags.Var(&f.reserves, "reserve", "`PRIORITY=N`: places that no other priority may take; may be repeated")
}

// config checks everything that needs no broker.
func (f *concurrencyFlags) config(mux *worker.Mux, log *slog.Logger) (worker.Config, error) {
	cfg := worker.Config{
		Queues: f.queues, Concurrency: f.concurrency, Limits: f.limits.slots, Reserves: f.reserves.slots,
		Grace: f.grace.duration(), Lease: f.lease.duration(), Version: readBuild().Version, Logger: log,
	}
	switch {
	case len(f.queues) == 0:
		return cfg, usagef("--queues is empty")
	case f.concurrency < 1: // zero would mean the default
		return cfg, usagef("--concurrency must be at least 1")
	case cfg.Grace <= 0:
		return cfg, usagef("--grace must be more than zero")
	case cfg.Lease < minLease || cfg.Lease > maxLease:
		return cfg, usagef("--lease %s is not between %s and %s", &f.lease, pelton.FormatDuration(minLease), pelton.FormatDuration(maxLease))
	}
	for _, queue := range f.queues {
		if err := pelton.ValidateQueue(queue); err != nil {
			return cfg, usagef("--queues: %s", plain(err))
		}
	}
	if mux == nil {
		return cfg, nil
	}
	if _, err := worker.New(nil, mux, cfg); err != nil { // looks at its configuration alone
		flags := strings.NewReplacer("worker.Config.Concurrency", "--concurrency",
			"worker.Config.Limits", "--limit", "worker.Config.Reserves", "--reserve")
		return cfg, usagef("%s", flags.Replace(plain(err)))
	}
	return cfg, nil
}

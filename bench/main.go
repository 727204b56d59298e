// Command bench measures Pelton on this machine: side by side with other queues and
// with what its broker allows, or by itself.
//
//	go run . -pelton ../bin/pelton                      the comparison, short form
//	go run . -pelton ../bin/pelton -full                the same with more of everything
//	go run . -pelton ../bin/pelton -only pelton,floor -modes drain -reps 5
//	go run . -pelton ../bin/pelton -fleet 500           a cluster, and workers that wait
//	go run . -pelton ../bin/pelton -cluster 20000       a cluster's throughput
//	go run . -pelton ../bin/pelton -own                 start, idle cost, latency, throughput
//
// It starts and ends its own servers on loopback ports, with data in a temporary
// folder. Figures of shared machines vary; the share of the machine that others
// took while each was measured is printed beside it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

// options are the flags.
type options struct {
	pelton string
	only   string
	modes  string
	reps   int
	full   bool
	part   float64
	json   bool
	save   string

	own     bool
	samples int
	tasks   int
	waiting int
	flow    int
	blocked int
	delayed int
	fleet   int
	cluster int
	profile string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := error(nil)
	if len(os.Args) > 2 && os.Args[1] == childArg {
		err = runChild(ctx, os.Args[2:])
	} else {
		err = run(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1) //nolint:gocritic // stop only restores the signals' defaults
	}
}

func run(ctx context.Context) error {
	var o options
	flag.StringVar(&o.pelton, "pelton", "../bin/pelton", "the binary to measure")
	flag.StringVar(&o.only, "only", "", "contestants to compare, separated by commas; all if empty")
	flag.StringVar(&o.modes, "modes", "", "what to compare, separated by commas: "+modeNames()+"; if empty all, but latency1k with -full only")
	flag.IntVar(&o.reps, "reps", 0, "repetitions of the comparison; 0 means 3, or 5 with -full")
	flag.BoolVar(&o.full, "full", false, "compare with more tasks, for up to an hour")
	flag.Float64Var(&o.part, "part", 1, "compare with this share of the tasks and the time: to try a mode out, the figures mean little")
	flag.BoolVar(&o.json, "json", false, "print JSON instead of a table")
	flag.StringVar(&o.save, "save", "", "write the comparison to this name with .json, .md and .svg as well")
	flag.BoolVar(&o.own, "own", false, "measure Pelton by itself, and nothing else")
	flag.IntVar(&o.samples, "samples", 1000, "tasks of -own's latency measurement")
	flag.IntVar(&o.tasks, "tasks", 20000, "tasks of -own's throughput measurement")
	flag.IntVar(&o.waiting, "waiting", 0, "measure calls and the sweep beside so many waiting tasks, and nothing else")
	flag.IntVar(&o.flow, "flow", 0, "measure what limits cost that never bind with so many tasks, and nothing else")
	flag.IntVar(&o.blocked, "blocked", 0, "measure what so many tasks that wait for one key cost those of another, and nothing else")
	flag.IntVar(&o.delayed, "delayed", 0, "measure delayed tasks, with so many pending, and nothing else")
	flag.IntVar(&o.fleet, "fleet", 0, "measure a cluster of three brokers beside so many idle workers, and nothing else")
	flag.IntVar(&o.cluster, "cluster", 0, "measure how fast a cluster of three brokers takes and hands out so many tasks, with one copy and with three, and with 1, 2 and 4 shards, and nothing else")
	flag.StringVar(&o.profile, "profile", "", "write CPU profiles of the brokers of -fleet and -cluster to this folder")
	flag.Parse()
	if flag.NArg() > 0 {
		return fmt.Errorf("unexpected %q", flag.Arg(0))
	}
	if o.own || o.waiting > 0 || o.flow > 0 || o.blocked > 0 || o.delayed > 0 || o.fleet > 0 || o.cluster > 0 {
		return runOwn(ctx, o)
	}
	return runCompare(ctx, o)
}

func modeNames() string {
	var names []string
	for _, m := range modes {
		names = append(names, m.name)
	}
	return strings.Join(names, ",")
}

// runCompare bounds the comparison to 10 minutes, or 90 with -full.
func runCompare(ctx context.Context, o options) error {
	s, within := shortScale, 10*time.Minute
	if o.full {
		s, within = fullScale, 90*time.Minute
	}
	if o.part <= 0 || o.part > 1 {
		return fmt.Errorf("-part %v is not above 0 and at most 1", o.part)
	}
	if o.part < 1 {
		s = s.part(o.part)
	}
	if o.reps > 0 {
		s.Reps = o.reps
	}
	entries, err1 := chosen(contestants(o.pelton), o.only, func(e entry) string { return e.name })
	chosenModes, err2 := chosen(modes, o.modes, func(m mode) string { return m.name })
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	if o.modes != "" { // whoever asks for a mode gets all of it
		for i := range chosenModes {
			chosenModes[i].brief = nil
		}
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	c, err := compare(ctx, entries, chosenModes, s)
	if err != nil {
		return err
	}
	if o.save != "" {
		err = c.save(o.save)
	}
	if o.json {
		err = errors.Join(err, printJSON(os.Stdout, c))
	} else {
		err = errors.Join(err, c.table(os.Stdout))
	}
	if c.Failed > 0 {
		err = errors.Join(err, fmt.Errorf("not all was measured: %d failures", c.Failed))
	}
	return err
}

// runOwn measures Pelton alone.
func runOwn(ctx context.Context, o options) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	figures, err := measure(ctx, o)
	if err != nil {
		return err
	}
	if o.json {
		return printJSON(os.Stdout, figures)
	}
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "WHAT\tVALUE\tUNIT\tOTHERS")
	for _, f := range figures {
		fmt.Fprintf(table, "%s\t%.4g\t%s\t%.0f %%\n", f.Name, f.Value, f.Unit, 100*f.Others)
	}
	return table.Flush()
}

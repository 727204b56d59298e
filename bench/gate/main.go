// Command gate fails when the benchmarks of this tree are worse than those of the
// commit that it grew from.
//
//	go run ./gate                 against the merge base with main, as make gate does
//	go run ./gate -base HEAD      what is not committed yet
//	go run ./gate -base v1.2.0 -all
//
// The base is origin/main's (or origin/HEAD's, or main's) merge base with HEAD; on that
// branch itself it is HEAD's first parent. It is checked out into a temporary worktree.
// The benchmarks of both are built and take turns, A B B A, each in a process of its own
// and with a fixed number of iterations. A sample is the fastest of a few runs in one
// process, because other load only adds. Programs that are the same byte for byte are not run.
//
// A benchmark has regressed when its median time is worse by more than 15 % and by more
// than the run's own noise, benchstat's test (Mann-Whitney U) says that chance is below 1 %,
// and another set of three times as many rounds of that benchmark alone says all of it
// again. Where only the noise hides a difference, two such sets have to say it. The noise is
// the difference between halves of the samples of one and the same program. Allocations and
// bytes have 10 %, and more than 2 allocations or 64 bytes.
//
// A regression that is meant is accepted by a trailer of a commit since the base:
//
//	Benchmark-Accepts: BenchmarkDrain (each task is now read back before it is acked)
//
// Where there is nothing to compare with, as in a shallow clone, it says so and ends
// with 0, or with 1 if -strict is given.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

var (
	// errNothing is that there is nothing to compare, which is nobody's fault.
	errNothing = errors.New("nothing to compare")
	// errRegressed is what the gate is there for.
	errRegressed = errors.New("regressed")
)

// options are the flags, and what tests measure instead.
type options struct {
	dir    string        // a folder of the tree
	base   string        // the commit to compare with; found if empty
	all    bool          // run programs that are the same as well
	rounds int           // of each set; at least minRounds
	within time.Duration // bounds the measuring, and the confirming once more
	suite  []entry
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	o := options{dir: ".", suite: suite()}
	flag.StringVar(&o.base, "base", "", "the commit to compare with; if empty, the merge base with main, or on main the first parent")
	flag.BoolVar(&o.all, "all", false, "also run programs that are the same in both")
	flag.IntVar(&o.rounds, "rounds", 10, "samples of each benchmark, at least 6; three times as many confirm a regression")
	flag.DurationVar(&o.within, "within", 6*time.Minute, "the longest time to measure, and once more to confirm; building is not counted")
	strict := flag.Bool("strict", false, "fail if there is nothing to compare with, or too little time")
	flag.Parse()
	if flag.NArg() > 0 || o.rounds < minRounds {
		flag.Usage()
		os.Exit(2) //nolint:gocritic // stop only restores the signals' defaults
	}
	switch err := gate(ctx, o, os.Stdout); {
	case err == nil:
	case errors.Is(err, errNothing) && !*strict:
		fmt.Fprintf(os.Stderr, "gate: PASSED WITHOUT A COMPARISON: %v\n", err)
	default:
		fmt.Fprintf(os.Stderr, "gate: %v\n", err)
		os.Exit(1)
	}
}

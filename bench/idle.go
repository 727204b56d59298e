package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/peltonq/pelton"
)

const (
	idleMetric = "idle worker, 16 queues of 4 priorities"
	idleServer = "server beside it"
	ofACore    = "% of a core"
)

// idleMode is the share of a core that `pelton worker run` takes with 64 lanes and
// nothing to do, and that of the server meanwhile.
var idleMode = mode{
	name: "idle", only: ownPelton, once: true, run: withPelton(runIdle),
	metrics: []metric{{Name: idleMetric, Unit: ofACore, Less: true}, {Name: idleServer, Unit: ofACore, Less: true}},
}

func runIdle(ctx context.Context, p *peltonTCP, s scale) ([]measured, error) {
	queues := make([]string, 16)
	for i := range queues {
		queues[i] = fmt.Sprintf("idle-%02d", i)
	}
	ofWorker, ofServer, err := idleShares(ctx, p.binary, p.server, queues, s.Idle)
	return []measured{{idleMetric, ofWorker}, {idleServer, ofServer}}, err
}

// idleShares is what a worker that serves queues with all four priorities, and its
// server, take of a core while there is nothing to do, in per cent.
func idleShares(ctx context.Context, binary string, s *server, queues []string, window time.Duration) (ofWorker, ofServer float64, err error) {
	w, err := start(ctx, binary, "worker", "run", "--nats", s.nats, "--demo", "--queues", strings.Join(queues, ","), "--log-format", "json")
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, w.stop()) }()
	for _, queue := range queues { // so that all lanes are there
		for _, priority := range pelton.Priorities() {
			if err := post(ctx, s.http, fmt.Sprintf(`{"kind":"demo.echo","queue":%q,"priority":%q}`, queue, priority), "20s"); err != nil {
				return 0, 0, err
			}
		}
	}
	if err := wait(ctx, settleFor); err != nil {
		return 0, 0, err
	}
	pids := []int{w.cmd.Process.Pid, s.cmd.Process.Pid}
	began := time.Now()
	before, err := ticksOf(pids)
	if err != nil {
		return 0, 0, err
	}
	if err := wait(ctx, window); err != nil {
		return 0, 0, err
	}
	after, err := ticksOf(pids)
	if err != nil {
		return 0, 0, err
	}
	took := time.Since(began).Seconds() // 100 ticks are a second: per cent
	return (after[0] - before[0]) / took, (after[1] - before[1]) / took, nil
}

func ticksOf(pids []int) ([]float64, error) {
	all := make([]float64, len(pids))
	errs := make([]error, len(pids))
	for i, pid := range pids {
		all[i], errs[i] = ticks(pid)
	}
	return all, errors.Join(errs...)
}

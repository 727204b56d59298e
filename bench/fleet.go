package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// fleetSlots are those of each worker of the fleet mode: Pelton's default.
	fleetSlots = 16
	// fleetProcesses is how many processes they are spread over at most: 64 of them
	// would measure what processes cost the machine.
	fleetProcesses = 4
)

func withWorkers(what string, n int) string {
	if n == 1 {
		return what + ", 1 worker connected"
	}
	return fmt.Sprintf("%s, %d workers connected", what, n)
}

// fleetMode has more and more workers connected, each with a connection and slots of
// its own, in a few processes: how fast all together drain the same tasks, and how
// long a call that enqueues takes at 100 a second while they wait for what it sends.
func fleetMode(numbers ...int) mode {
	m := mode{name: "workers", only: ownPelton, once: true}
	for _, n := range numbers {
		m.metrics = append(m.metrics, metric{Name: withWorkers("drain", n), Unit: rateUnit})
		m.metrics = append(m.metrics, quantiles(withWorkers("call that enqueues", n))...)
	}
	m.run = withPelton(func(ctx context.Context, p *peltonTCP, s scale) ([]measured, error) {
		var got []measured
		for _, n := range numbers {
			more, err := p.fleet(ctx, n, s)
			if err != nil {
				return nil, fmt.Errorf("%d workers: %w", n, err)
			}
			got = append(got, more...)
		}
		return got, nil
	})
	return m
}

func (p *peltonTCP) fleet(ctx context.Context, workers int, s scale) (_ []measured, err error) {
	queue := fmt.Sprintf("by-%d", workers)
	if err := p.fillQueues(ctx, []string{queue}, s.Tasks); err != nil {
		return nil, err
	}
	processes := min(fleetProcesses, workers)
	crew := newCrew()
	stop, err := p.hireAs(ctx, crew, processes, staff{Workers: workers / processes, Slots: fleetSlots, Queues: []string{queue}})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	rate, err := crew.rate(ctx, s.Tasks, s.DrainFor)
	if err != nil {
		return nil, err
	}
	if _, _, err := crew.await(ctx, s.Tasks); err != nil {
		return nil, err
	}
	calls := sender{one: peltonTo(p.client, queue, "")}
	took, err := calls.timed(ctx, s.Samples, 10*time.Millisecond)
	if err != nil {
		return nil, err
	}
	return append(quantilesOf(withWorkers("call that enqueues", workers), took), measured{withWorkers("drain", workers), rate}), nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/peltonq/pelton"
)

func drainOfQueues(n int) string {
	if n == 1 {
		return "drain, tasks in 1 queue"
	}
	return fmt.Sprintf("drain, tasks in %d queues", n)
}

// queuesMode drains the same number of tasks out of more and more queues, which take
// turns task by task, with one worker process that serves them all. Which number of
// queues is first is another one in each repetition.
func queuesMode(numbers ...int) mode {
	m := mode{name: "queues", only: ownPelton}
	for _, n := range numbers {
		m.metrics = append(m.metrics, metric{Name: drainOfQueues(n), Unit: rateUnit})
	}
	m.run = withPelton(func(ctx context.Context, p *peltonTCP, s scale) ([]measured, error) {
		var got []measured
		for i := range numbers {
			n := numbers[(i+s.turn)%len(numbers)]
			rate, err := p.drainQueues(ctx, n, s)
			if err != nil {
				return nil, fmt.Errorf("%d queues: %w", n, err)
			}
			got = append(got, measured{drainOfQueues(n), rate})
		}
		return got, nil
	})
	return m
}

// withPelton is the run of a mode that measures `pelton serve` alone.
func withPelton(run func(context.Context, *peltonTCP, scale) ([]measured, error)) func(context.Context, contestant, scale, int) ([]measured, error) {
	return func(ctx context.Context, c contestant, s scale, _ int) ([]measured, error) {
		p, ours := c.(*peltonTCP)
		if !ours {
			return nil, errors.New("it measures Pelton alone")
		}
		return run(ctx, p, s)
	}
}

func (p *peltonTCP) drainQueues(ctx context.Context, n int, s scale) (_ float64, err error) {
	queues := make([]string, n)
	for i := range queues {
		queues[i] = fmt.Sprintf("of%d-%02d", n, i)
	}
	if err := p.fillQueues(ctx, queues, s.Drain); err != nil {
		return 0, err
	}
	crew := newCrew()
	stop, err := p.hireAs(ctx, crew, 1, staff{Slots: workerSlots, Queues: queues})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	return crew.rate(ctx, s.Drain, s.DrainFor)
}

// fillQueues enqueues n tasks, one in each queue after the other.
func (p *peltonTCP) fillQueues(ctx context.Context, queues []string, n int) error {
	ctx, cancel := context.WithTimeout(ctx, max(modeWithin/2, time.Duration(n)*slowestFill))
	defer cancel()
	for at := 0; at < n; at += batchSize {
		specs := make([]pelton.Spec, min(batchSize, n-at))
		for i := range specs {
			specs[i] = pelton.Spec{Kind: benchKind, Payload: payload, Queue: queues[(at+i)%len(queues)]}
		}
		if err := enqueueMany(ctx, p.client, specs); err != nil {
			return err
		}
	}
	return nil
}

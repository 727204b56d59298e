package main

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/producer"
)

const criticalMetric = "critical at 100/s beside 64 callers of low"

// criticalMode is latency of tasks of the highest priority while 64 callers enqueue
// tasks of the lowest as fast as they can and one worker process handles both.
var criticalMode = mode{name: "critical", only: ownPelton, metrics: quantiles(criticalMetric), run: withPelton(runCritical)}

// peltonTo sends tasks to a queue, with a priority. Empty ones are the defaults.
func peltonTo(client *producer.Client, queue string, priority pelton.Priority) func(context.Context, []byte) error {
	return func(ctx context.Context, payload []byte) error {
		_, err := client.Enqueue(ctx, pelton.Spec{Kind: benchKind, Payload: payload, Queue: queue, Priority: priority})
		return err
	}
}

func runCritical(ctx context.Context, p *peltonTCP, s scale) (_ []measured, err error) {
	nc, err := nats.Connect(p.server.nats) // another producer than the one with the load
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	client, err := producer.New(ctx, nc, producer.Config{})
	if err != nil {
		return nil, err
	}
	defer client.Close()
	criticals := sender{one: peltonTo(client, "", pelton.Critical)}
	if _, err := criticals.timed(ctx, 1, time.Millisecond); err != nil { // the lane is there
		return nil, err
	}
	crew := newCrew()
	stop, err := p.hire(ctx, crew, 1)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	loading, enough := context.WithCancel(ctx)
	loaded := make(chan error, 1)
	go func() {
		lows := sender{one: peltonTo(p.client, "", pelton.Low)}
		_, _, err := lows.enqueue(loading, load{callers: 64, n: million * batchSize, within: modeWithin})
		if loading.Err() != nil { // the calls that were under way
			err = nil
		}
		loaded <- err
	}()
	defer func() {
		enough()
		err = errors.Join(err, <-loaded)
	}()
	if _, _, err := crew.await(ctx, warmTasks+batchSize); err != nil { // the load is there
		return nil, err
	}
	if err := criticals.paced(ctx, s.Critical, 10*time.Millisecond); err != nil {
		return nil, err
	}
	took, err := crew.awaitTimed(ctx, s.Critical)
	if err != nil {
		return nil, err
	}
	return quantilesOf(criticalMetric, took), nil
}

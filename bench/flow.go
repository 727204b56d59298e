package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/admin"
	"github.com/peltonq/pelton/producer"
	"github.com/peltonq/pelton/worker"
)

// flow measures what limits cost that never bind: how fast one worker drains n tasks
// without any, in a queue with a rate, and with concurrency keys. They take
// turns; the figures are medians.
func flow(ctx context.Context, binary, data string, n int) (_ []figure, err error) {
	_, nc, client, stopAll, err := connected(ctx, binary, data)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stopAll()) }()
	operator, err := admin.New(ctx, nc, admin.Config{})
	if err != nil {
		return nil, err
	}
	defer operator.Close()
	if _, err := operator.PatchQueue(ctx, "rated", []byte(`{"rate":{"limit":1000000,"per":"1s","burst":1000000}}`)); err != nil {
		return nil, err
	}
	variants := []struct {
		name string
		spec func(i int) pelton.Spec
	}{
		{"no limits", func(int) pelton.Spec { return pelton.Spec{Queue: "plain"} }},
		{"a rate of the queue", func(int) pelton.Spec { return pelton.Spec{Queue: "rated"} }},
		{"1,000 concurrency keys", keys(1000)},
		{"50 concurrency keys", keys(50)},
		{"one concurrency key", keys(1)},
	}
	rates := make([][]float64, len(variants))
	for range 3 {
		for i, v := range variants {
			rate, err := drainOf(ctx, nc, client, n, v.spec)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", v.name, err)
			}
			rates[i] = append(rates[i], rate)
		}
	}
	var figures []figure
	plain := quantile(rates[0], 0.5)
	for i, v := range variants {
		median := quantile(rates[i], 0.5)
		figures = append(figures, figure{Name: "drain, " + v.name, Value: median, Unit: "tasks/s"})
		if i > 0 {
			figures = append(figures, figure{Name: "drain, " + v.name + ", share of none", Value: 100 * median / plain, Unit: "%"})
		}
	}
	return figures, nil
}

// keys are tasks of so many concurrency keys, one key's after another's.
func keys(n int) func(i int) pelton.Spec {
	return func(i int) pelton.Spec {
		return pelton.Spec{Queue: "keyed", ConcurrencyKey: fmt.Sprint(n, "/", i%n)}
	}
}

// drainOf enqueues n tasks and then times one worker with 64 slots that runs them.
func drainOf(ctx context.Context, nc *nats.Conn, client *producer.Client, n int, spec func(i int) pelton.Spec) (float64, error) {
	batch := make([]pelton.Spec, 0, pelton.MaxBatch)
	for i := range n {
		s := spec(i)
		s.Kind, s.Payload = "bench.noop", payload
		if batch = append(batch, s); len(batch) < pelton.MaxBatch && i+1 < n {
			continue
		}
		items, err := client.EnqueueMany(ctx, batch)
		for _, item := range items {
			err = errors.Join(err, item.Err)
		}
		if err != nil {
			return 0, err
		}
		batch = batch[:0]
	}
	var left atomic.Int64
	left.Store(int64(n))
	done := make(chan struct{})
	mux := worker.NewMux()
	mux.Handle("bench.noop", worker.HandlerFunc(func(context.Context, *pelton.Task) (json.RawMessage, error) {
		if left.Add(-1) == 0 {
			close(done)
		}
		return nil, nil
	}))
	began := time.Now()
	stop, err := work(ctx, nc, mux, 64, spec(0).Queue)
	if err != nil {
		return 0, err
	}
	select {
	case <-done:
	case <-ctx.Done():
		return 0, errors.Join(context.Cause(ctx), stop())
	}
	return float64(n) / time.Since(began).Seconds(), stop()
}

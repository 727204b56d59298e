package main

import (
	"cmp"
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

// flow measures what limits cost: how fast one worker drains n tasks without any, in a queue with a rate that never
// binds, with concurrency keys, and of a kind of which as many may run as the worker has slots, and how fast three
// do. They take turns; the figures are medians. The share is that of as many workers without limits.
func flow(ctx context.Context, binary, data string, n int) (_ []figure, err error) {
	s, nc, client, stopAll, err := connected(ctx, binary, data)
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
	for _, limit := range []pelton.Limit{{Name: "ten", ConcurrencyKey: ten + "*", MaxRunning: 10}, {Name: "few", Kind: fewKind, MaxRunning: flowSlots}} {
		if _, err := operator.SetLimit(ctx, limit); err != nil {
			return nil, err
		}
	}
	in := func(queue string) func(int) pelton.Spec {
		return func(int) pelton.Spec { return pelton.Spec{Queue: queue} }
	}
	const several = 3
	variants := []struct {
		name    string
		workers int
		spec    func(i int) pelton.Spec
	}{
		{"no limits", 1, in("plain")},
		{"a rate of the queue", 1, in("rated")},
		{"1,000 concurrency keys", 1, keys("", 1000)},
		{"50 concurrency keys", 1, keys("", 50)},
		{"50 concurrency keys, ten at a time", 1, keys(ten, 50)},
		{"one concurrency key", 1, keys("", 1)},
		{"a kind, 64 at a time", 1, few},
		{"no limits, 3 workers", several, in("plain")},
		{"1,000 concurrency keys, 3 workers", several, keys("", 1000)},
		{"50 concurrency keys, 3 workers", several, keys("", 50)},
		{"50 concurrency keys, ten at a time, 3 workers", several, keys(ten, 50)},
		{"a kind, 64 at a time, 3 workers", several, few},
		{"a key for each task", 1, keys("", n)},
		{"a key for each task, 3 workers", several, keys("", 2*n)},
	}
	rates := make([][]float64, len(variants))
	for range 3 {
		for i, v := range variants {
			rate, err := drainOf(ctx, s.nats, client, n, v.workers, v.spec)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", v.name, err)
			}
			rates[i] = append(rates[i], rate)
		}
	}
	var figures []figure
	plain := map[int]float64{} // by the number of workers: the first variant that has so many
	for i, v := range variants {
		median := quantile(rates[i], 0.5)
		figures = append(figures, figure{Name: "drain, " + v.name, Value: median, Unit: "tasks/s"})
		if none, ok := plain[v.workers]; ok {
			figures = append(figures, figure{Name: "drain, " + v.name + ", share of none", Value: 100 * median / none, Unit: "%"})
		} else {
			plain[v.workers] = median
		}
	}
	return figures, nil
}

const (
	flowSlots = 64
	ten       = "ten/"      // keys of which ten tasks may run at a time
	fewKind   = "bench.few" // of which flowSlots may
)

// keys are tasks of so many concurrency keys, one key's after another's.
func keys(prefix string, n int) func(i int) pelton.Spec {
	return func(i int) pelton.Spec {
		return pelton.Spec{Queue: "keyed", ConcurrencyKey: fmt.Sprint(prefix, n, "/", i%n)}
	}
}

// few are tasks of the kind that has a limit.
func few(int) pelton.Spec { return pelton.Spec{Queue: "few", Kind: fewKind} }

// drainOf enqueues n tasks and then times workers with 64 slots each, and a connection of their own,
// that run them.
func drainOf(ctx context.Context, address string, client *producer.Client, n, workers int, spec func(i int) pelton.Spec) (_ float64, err error) {
	batch := make([]pelton.Spec, 0, pelton.MaxBatch)
	for i := range n {
		s := spec(i)
		s.Kind, s.Payload = cmp.Or(s.Kind, benchKind), payload
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
	for _, kind := range []string{benchKind, fewKind} {
		mux.Handle(kind, worker.HandlerFunc(func(context.Context, *pelton.Task) (json.RawMessage, error) {
			if left.Add(-1) == 0 {
				close(done)
			}
			return nil, nil
		}))
	}
	conns := make([]*nats.Conn, workers)
	for i := range conns {
		if conns[i], err = nats.Connect(address); err != nil {
			return 0, err
		}
		defer conns[i].Close()
	}
	began := time.Now()
	for _, own := range conns {
		stop, failed := work(ctx, own, mux, flowSlots, spec(0).Queue)
		if failed != nil {
			return 0, failed
		}
		defer func() { err = errors.Join(err, stop()) }()
	}
	select {
	case <-done:
		return float64(n) / time.Since(began).Seconds(), nil
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

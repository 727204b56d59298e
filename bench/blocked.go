package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/producer"
	"github.com/peltonq/pelton/worker"
)

const (
	blockedSamples = 500
	blockedHold    = 20 * time.Millisecond // how long each task of the saturated key runs
)

// blocked measures what n tasks that wait for one key cost the tasks of another: the
// time from the enqueue to the start, without them and beside them. The key is
// worked off meanwhile, one task at a time.
func blocked(ctx context.Context, binary, data string, n int) (_ []figure, err error) {
	_, nc, client, stopAll, err := connected(ctx, binary, data)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stopAll()) }()
	starts := &starts{at: map[pelton.ID]time.Time{}, wake: make(chan struct{}, 1)}
	mux := worker.NewMux()
	mux.Handle("bench.hold", worker.HandlerFunc(func(ctx context.Context, _ *pelton.Task) (json.RawMessage, error) {
		select {
		case <-time.After(blockedHold):
		case <-ctx.Done():
		}
		return nil, nil
	}))
	mux.Handle("bench.start", worker.HandlerFunc(func(_ context.Context, task *pelton.Task) (json.RawMessage, error) {
		starts.add(task.ID)
		return nil, nil
	}))
	stop, err := work(ctx, nc, mux, 16, "default")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stop()) }()

	var figures []figure
	var medians []float64
	for _, waiting := range []int{0, n} {
		if err := fillKey(ctx, client, waiting); err != nil {
			return nil, err
		}
		if _, err := starts.latencies(ctx, client, 50); err != nil { // warm
			return nil, err
		}
		took, err := starts.latencies(ctx, client, blockedSamples)
		if err != nil {
			return nil, err
		}
		medians = append(medians, quantile(took, 0.5))
		for _, q := range []float64{0.5, 0.99} {
			figures = append(figures, figure{Name: fmt.Sprintf("start of a task with a key, %d wait for another, p%.0f", waiting, 100*q), Value: quantile(took, q), Unit: "ms"})
		}
	}
	return append(figures, figure{Name: "ratio of the medians", Value: medians[1] / medians[0], Unit: "×"}), nil
}

// fillKey enqueues n tasks of one key.
func fillKey(ctx context.Context, client *producer.Client, n int) error {
	batch := make([]pelton.Spec, pelton.MaxBatch)
	for i := range batch {
		batch[i] = pelton.Spec{Kind: "bench.hold", Payload: payload, ConcurrencyKey: "saturated"}
	}
	return callers(4, n/len(batch), func() error {
		items, err := client.EnqueueMany(ctx, batch)
		for _, item := range items {
			err = errors.Join(err, item.Err)
		}
		return err
	})
}

// starts are the times at which tasks came to their handler.
type starts struct {
	mu   sync.Mutex
	at   map[pelton.ID]time.Time
	wake chan struct{}
}

func (s *starts) add(id pelton.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at[id] = time.Now()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// latencies enqueues n tasks with keys of their own, one each 10 ms, and answers how
// many milliseconds each took from the call to the handler.
func (s *starts) latencies(ctx context.Context, client *producer.Client, n int) ([]float64, error) {
	began := make(map[pelton.ID]time.Time, n)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for i := range n {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		at := time.Now()
		task, err := client.Enqueue(ctx, pelton.Spec{Kind: "bench.start", Payload: payload, ConcurrencyKey: fmt.Sprint("free-", i%10)})
		if err != nil {
			return nil, err
		}
		began[task.ID] = at
	}
	for {
		s.mu.Lock()
		var took []float64
		for id, at := range began {
			if start, ok := s.at[id]; ok {
				took = append(took, float64(start.Sub(at).Microseconds())/1000)
			}
		}
		s.mu.Unlock()
		if len(took) == n {
			return took, nil
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
			return nil, fmt.Errorf("%d of %d tasks started: %w", len(took), n, context.Cause(ctx))
		}
	}
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/producer"
	"github.com/peltonq/pelton/worker"
)

// startTime is from exec to ready, on a fresh and on an existing data folder.
func startTime(ctx context.Context, binary, data string) ([]figure, error) {
	var took []float64
	for range 6 {
		s, err := serve(ctx, binary, data)
		if err != nil {
			return nil, err
		}
		took = append(took, float64(s.took.Milliseconds()))
		if err := s.stop(); err != nil {
			return nil, err
		}
	}
	return []figure{
		{Name: "start to ready, fresh folder", Value: took[0], Unit: "ms"},
		{Name: "start to ready, existing folder (median of 5)", Value: quantile(took[1:], 0.5), Unit: "ms"},
	}, nil
}

// idleWorker is the share of a core that a worker with nothing to do takes.
func idleWorker(ctx context.Context, binary, data string) (_ []figure, err error) {
	s, err := serve(ctx, binary, data)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	ofWorker, ofServer, err := idleShares(ctx, binary, s, []string{pelton.DefaultQueue}, 15*time.Second)
	if err != nil {
		return nil, err
	}
	return []figure{
		{Name: "idle worker, four lanes", Value: ofWorker, Unit: ofACore},
		{Name: "idle server", Value: ofServer, Unit: ofACore},
	}, nil
}

// post sends a task and waits for its answer.
func post(ctx context.Context, base, body, wait string) error {
	return postBy(ctx, http.DefaultClient, base, body, wait)
}

func postBy(ctx context.Context, client *http.Client, base, body, wait string) error {
	url := base + "/tasks"
	if wait != "" {
		url += "?wait=" + wait
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader([]byte(body)))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("POST /tasks: %s: %s", resp.Status, answer)
	}
	return err
}

// latency is from before the call that enqueues to the first line of the handler,
// with the worker in this process and the server in another, at 100 tasks a
// second: by the Go client over TCP, and by POST.
func latency(ctx context.Context, binary, data string, samples int) (_ []figure, err error) {
	s, nc, client, stopAll, err := connected(ctx, binary, data)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stopAll()) }()

	started := make(chan time.Time, 1)
	mux := worker.NewMux()
	mux.Handle("bench.start", worker.HandlerFunc(func(context.Context, *pelton.Task) (json.RawMessage, error) {
		started <- time.Now()
		return nil, nil
	}))
	stop, err := work(ctx, nc, mux, 16)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stop()) }()

	var figures []figure
	for name, send := range map[string]func() error{
		"Go client over TCP": func() error {
			_, err := client.Enqueue(ctx, pelton.Spec{Kind: "bench.start", Payload: payload})
			return err
		},
		"POST /tasks": func() error {
			err := post(ctx, s.http, `{"kind":"bench.start","payload":`+string(payload)+`}`, "")
			return err
		},
	} {
		var took []float64
		pace := time.NewTicker(10 * time.Millisecond)
		for i := range samples + 20 {
			select {
			case <-pace.C:
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
			began := time.Now()
			if err := send(); err != nil {
				return nil, err
			}
			at := <-started
			if i >= 20 { // the first ones open lanes and connections
				took = append(took, float64(at.Sub(began).Microseconds())/1000)
			}
		}
		pace.Stop()
		for _, q := range []float64{0.5, 0.99} {
			figures = append(figures, figure{Name: fmt.Sprintf("start latency at 100/s, %s, p%.0f", name, 100*q), Value: quantile(took, q), Unit: "ms"})
		}
	}
	return figures, nil
}

// throughput is tasks per second with a no-op handler: enqueued by 64 callers and
// in batches, and drained by one worker process over TCP.
func throughput(ctx context.Context, binary, data string, tasks int) (_ []figure, err error) {
	_, nc, client, stopAll, err := connected(ctx, binary, data)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stopAll()) }()
	spec := pelton.Spec{Kind: "bench.noop", Payload: payload}

	rate := func(n int, began time.Time) float64 { return float64(n) / time.Since(began).Seconds() }
	began := time.Now()
	if err := callers(64, tasks/2, func() error { _, err := client.Enqueue(ctx, spec); return err }); err != nil {
		return nil, err
	}
	single := rate(tasks/2, began)

	batch := slices.Repeat([]pelton.Spec{spec}, pelton.MaxBatch)
	began = time.Now()
	batches := max(1, tasks/2/pelton.MaxBatch)
	for range batches {
		items, err := client.EnqueueMany(ctx, batch)
		if err != nil {
			return nil, err
		}
		for _, item := range items {
			if item.Err != nil {
				return nil, item.Err
			}
		}
	}
	batched := rate(batches*pelton.MaxBatch, began)

	var left atomic.Int64
	left.Store(int64(tasks/2 + batches*pelton.MaxBatch))
	total := int(left.Load())
	done := make(chan struct{})
	mux := worker.NewMux()
	mux.Handle("bench.noop", worker.HandlerFunc(func(context.Context, *pelton.Task) (json.RawMessage, error) {
		if left.Add(-1) == 0 {
			close(done)
		}
		return nil, nil
	}))
	began = time.Now()
	stop, err := work(ctx, nc, mux, 64)
	if err != nil {
		return nil, err
	}
	select {
	case <-done:
	case <-ctx.Done():
		return nil, errors.Join(context.Cause(ctx), stop())
	}
	drained := rate(total, began)
	return []figure{
		{Name: "enqueue awaited, 64 callers over TCP", Value: single, Unit: "tasks/s"},
		{Name: "EnqueueMany of 1,000 over TCP", Value: batched, Unit: "tasks/s"},
		{Name: "drain, one worker, 64 slots, over TCP", Value: drained, Unit: "tasks/s"},
	}, stop()
}

// connected starts a server and connects a producer to its broker over TCP, until
// stop.
func connected(ctx context.Context, binary, data string) (s *server, nc *nats.Conn, client *producer.Client, stop func() error, err error) {
	if s, err = serve(ctx, binary, data); err != nil {
		return nil, nil, nil, nil, err
	}
	if nc, err = nats.Connect(s.nats); err == nil {
		if client, err = producer.New(ctx, nc, producer.Config{}); err == nil {
			return s, nc, client, func() error { client.Close(); nc.Close(); return s.stop() }, nil
		}
		nc.Close()
	}
	return nil, nil, nil, nil, errors.Join(err, s.stop())
}

// callers shares n calls among that many goroutines and joins their errors.
func callers(goroutines, n int, call func() error) error {
	var left atomic.Int64
	left.Store(int64(n))
	var group sync.WaitGroup
	errs := make([]error, goroutines)
	for i := range goroutines {
		group.Go(func() {
			for left.Add(-1) >= 0 && errs[i] == nil {
				errs[i] = call()
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

// work runs a worker in this process until stop, for the default queue if none is named.
func work(ctx context.Context, nc *nats.Conn, mux *worker.Mux, concurrency int, queues ...string) (stop func() error, err error) {
	w, err := worker.New(nc, mux, worker.Config{Concurrency: concurrency, Queues: queues})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	return func() error { cancel(); return <-ended }, nil
}

func quantile(values []float64, q float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

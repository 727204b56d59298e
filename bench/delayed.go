package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/admin"
	"github.com/peltonq/pelton/producer"
	"github.com/peltonq/pelton/worker"
)

const kindDelayed = "bench.delayed"

// punctual measures how late 1,000 tasks start that are due over two seconds, from the
// time that they were given to the first line of their handler, five times. Figures
// are medians.
func punctual(ctx context.Context, binary, data string) (_ []figure, err error) {
	_, nc, client, stopAll, err := connected(ctx, binary, data)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stopAll()) }()
	const n = 1000
	late := make(chan time.Duration, n)
	mux := worker.NewMux()
	mux.Handle(kindDelayed, worker.HandlerFunc(func(_ context.Context, task *pelton.Task) (json.RawMessage, error) {
		late <- time.Since(task.RunAt)
		return nil, nil
	}))
	stop, err := work(ctx, nc, mux, 64)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	var p50, p99 []float64
	early := 0.0
	for range 5 {
		start := time.Now().Add(2 * time.Second)
		err = delay(ctx, client, n, pelton.DefaultQueue, func() time.Time { return start.Add(time.Duration(rand.Int64N(int64(2 * time.Second)))) })
		if err != nil {
			return nil, err
		}
		var took []float64
		for range n {
			select {
			case by := <-late:
				if by < 0 {
					early++
				}
				took = append(took, float64(by.Microseconds())/1000)
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}
		p50, p99 = append(p50, quantile(took, 0.5)), append(p99, quantile(took, 0.99))
	}
	return []figure{
		{Name: "1,000 due over 2 s: started early, of 5,000", Value: early, Unit: "tasks"},
		{Name: "1,000 due over 2 s: late, p50", Value: quantile(p50, 0.5), Unit: "ms"},
		{Name: "1,000 due over 2 s: late, p99", Value: quantile(p99, 0.5), Unit: "ms"},
		{Name: "1,000 due over 2 s: late, p99 of the best of five", Value: slices.Min(p99), Unit: "ms"},
	}, nil
}

// delay enqueues n tasks that are due when at says, by four callers.
func delay(ctx context.Context, client *producer.Client, n int, queue string, at func() time.Time) error {
	var left atomic.Int64
	left.Store(int64(n))
	return callers(4, (n+pelton.MaxBatch-1)/pelton.MaxBatch, func() error {
		size := pelton.MaxBatch
		if rest := int(left.Add(-pelton.MaxBatch)); rest < 0 {
			size += rest
		}
		batch := make([]pelton.Spec, size)
		for i := range batch {
			batch[i] = pelton.Spec{Kind: kindDelayed, Queue: queue, Payload: payload, RunAt: at()}
		}
		items, err := client.EnqueueMany(ctx, batch)
		for _, item := range items {
			err = errors.Join(err, item.Err)
		}
		return err
	})
}

// together measures when n tasks are ready that are due in the same second, and how
// the API answers meanwhile.
func together(ctx context.Context, binary, data string, n int) (_ []figure, err error) {
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
	due := time.Now().Add(10*time.Second + time.Duration(n)*400*time.Microsecond).Truncate(time.Second)
	if err := delay(ctx, client, n, pelton.DefaultQueue, func() time.Time { return due.Add(time.Duration(rand.Int64N(int64(time.Second)))) }); err != nil {
		return nil, err
	}
	if time.Until(due) < time.Second {
		return nil, fmt.Errorf("enqueuing %d tasks took too long for them to be due together", n)
	}
	probe, err := client.Enqueue(ctx, pelton.Spec{Kind: kindDelayed, Queue: "probe", Payload: payload})
	if err != nil {
		return nil, err
	}
	select {
	case <-time.After(time.Until(due) - 200*time.Millisecond):
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	calling, stopCalling := context.WithCancel(ctx)
	defer stopCalling()
	var (
		calls      sync.WaitGroup
		reads      []float64
		writes     []float64
		err1, err2 error
	)
	calls.Go(func() {
		reads, err1 = timed(calling, func() error { return request(ctx, http.MethodGet, s.http+"/tasks/"+probe.ID.String()) })
	})
	calls.Go(func() {
		writes, err2 = timed(calling, func() error {
			err := post(ctx, s.http, `{"kind":"bench.noop","queue":"probe","payload":`+string(payload)+`}`, "")
			return err
		})
	})
	ready := uint64(0)
	for ready < uint64(n) {
		q, err := operator.Queue(ctx, pelton.DefaultQueue)
		if err != nil {
			return nil, err
		}
		ready = q.Ready
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	took := time.Since(due)
	stopCalling()
	calls.Wait()
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	prefix := fmt.Sprintf("%d due in one second: ", n)
	return []figure{
		{Name: prefix + "all ready after its beginning", Value: took.Seconds(), Unit: "s"},
		{Name: prefix + "GET /tasks/{id}, p99", Value: quantile(reads, 0.99), Unit: "ms"},
		{Name: prefix + "POST /tasks, p99", Value: quantile(writes, 0.99), Unit: "ms"},
	}, nil
}

// timed makes a call every 5 ms until ctx ends, and tells how long each took, in ms.
func timed(ctx context.Context, call func() error) (took []float64, err error) {
	pace := time.NewTicker(5 * time.Millisecond)
	defer pace.Stop()
	for ctx.Err() == nil {
		began := time.Now()
		if err := call(); err != nil {
			return took, err
		}
		took = append(took, float64(time.Since(began).Microseconds())/1000)
		select {
		case <-pace.C:
		case <-ctx.Done():
		}
	}
	return took, nil
}

// pending measures what n delayed tasks that wait cost: enqueuing, calls beside them,
// memory, and a restart. They are due over a day.
func pending(ctx context.Context, binary, data string, n int) (_ []figure, err error) {
	s, _, client, stopAll, err := connected(ctx, binary, data)
	if err != nil {
		return nil, err
	}
	stopped := false
	defer func() {
		if !stopped {
			err = errors.Join(err, stopAll())
		}
	}()
	at := func() time.Time { return time.Now().Add(time.Hour + time.Duration(rand.Int64N(int64(24*time.Hour)))) }
	var (
		figures []figure
		memory  [2]float64
		have    int
	)
	for i, want := range []int{1000, n} {
		began := time.Now()
		if err := delay(ctx, client, want-have, pelton.DefaultQueue, at); err != nil {
			return nil, err
		}
		prefix := fmt.Sprintf("%d delayed: ", want)
		figures = append(figures, figure{Name: prefix + "EnqueueMany of 1,000", Value: float64(want-have) / time.Since(began).Seconds(), Unit: "tasks/s"})
		have = want
		got, err := besideDelayed(ctx, s, client, prefix)
		if err != nil {
			return nil, err
		}
		figures = append(figures, got...)
		select { // the broker's caches go
		case <-time.After(15 * time.Second):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if memory[i], err = residentMiB(s.cmd.Process.Pid); err != nil {
			return nil, err
		}
		if got, err = listing(ctx, s, prefix); err != nil {
			return nil, err
		}
		figures = append(figures, got...)
	}
	figures = append(figures, figure{Name: "memory of the server for each delayed task", Value: (memory[1] - memory[0]) * 1024 / float64(n-1000), Unit: "KiB"})
	stopped = true
	if err := stopAll(); err != nil {
		return nil, err
	}
	again, err := serve(ctx, binary, data)
	if err != nil {
		return nil, err
	}
	figures = append(figures, figure{Name: fmt.Sprintf("%d delayed: start to ready", n), Value: again.took.Seconds(), Unit: "s"})
	return figures, again.stop()
}

// besideDelayed times calls beside delayed tasks.
func besideDelayed(ctx context.Context, s *server, client *producer.Client, prefix string) ([]figure, error) {
	const calls = 300
	var delayed []string
	return timeSteps(prefix, []step{
		{"enqueue", calls, func(int) error {
			task, err := client.Enqueue(ctx, pelton.Spec{Kind: kindDelayed, Payload: payload, Delay: 12 * time.Hour})
			if err == nil {
				delayed = append(delayed, task.ID.String())
			}
			return err
		}},
		{"GET /queues/default", calls, func(int) error { return request(ctx, http.MethodGet, s.http+"/queues/default") }},
		{"cancel", calls, func(i int) error { return request(ctx, http.MethodPost, s.http+"/tasks/"+delayed[i]+"/cancel") }},
	})
}

// listing times the first page of a list, when the server knows nothing of it, and
// again.
func listing(ctx context.Context, s *server, prefix string) ([]figure, error) {
	page := func(int) error { return request(ctx, http.MethodGet, s.http+"/tasks?state=scheduled") }
	return timeSteps(prefix, []step{{"list of 50, the first time", 1, page}, {"list of 50", 50, page}})
}

// step is a call that is made n times, one after the other.
type step struct {
	name string
	n    int
	call func(i int) error
}

func timeSteps(prefix string, steps []step) ([]figure, error) {
	var figures []figure
	for _, step := range steps {
		var took []float64
		for i := range step.n {
			began := time.Now()
			if err := step.call(i); err != nil {
				return nil, fmt.Errorf("%s: %w", step.name, err)
			}
			took = append(took, float64(time.Since(began).Microseconds())/1000)
		}
		if step.n == 1 {
			figures = append(figures, figure{Name: prefix + step.name, Value: took[0], Unit: "ms"})
			continue
		}
		for _, q := range []float64{0.5, 0.99} {
			figures = append(figures, figure{Name: fmt.Sprintf("%s%s, p%.0f", prefix, step.name, 100*q), Value: quantile(took, q), Unit: "ms"})
		}
	}
	return figures, nil
}

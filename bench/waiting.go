package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/producer"
)

// waiting measures what calls and the sweep cost while few tasks wait, and while n
// do, nine in ten of them ready and the others delayed.
func waiting(ctx context.Context, binary, data string, n int) (_ []figure, err error) {
	s, _, client, stopAll, err := connected(ctx, binary, data)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stopAll()) }()
	var figures []figure
	have := 0
	for _, want := range []int{1000, n} {
		if err := fill(ctx, client, want-have); err != nil {
			return nil, err
		}
		have = want
		got, err := whileWaiting(ctx, s, client, fmt.Sprintf("%d waiting: ", want))
		if err != nil {
			return nil, err
		}
		figures = append(figures, got...)
	}
	return figures, nil
}

// fill enqueues n tasks that nobody works off.
func fill(ctx context.Context, client *producer.Client, n int) error {
	batch := make([]pelton.Spec, pelton.MaxBatch)
	for i := range batch {
		batch[i] = pelton.Spec{Kind: "bench.noop", Payload: payload}
		if i%10 == 0 {
			batch[i].Delay = 24 * time.Hour
		}
	}
	return callers(4, n/len(batch), func() error {
		items, err := client.EnqueueMany(ctx, batch)
		for _, item := range items {
			err = errors.Join(err, item.Err)
		}
		return err
	})
}

// whileWaiting times calls over HTTP, one after the other, and then looks at the
// server while nobody calls: what it takes then is the sweep's, and little else.
func whileWaiting(ctx context.Context, s *server, client *producer.Client, prefix string) ([]figure, error) {
	const calls = 300
	var ready, delayed []string
	for range calls {
		for delay, into := range map[time.Duration]*[]string{0: &ready, time.Hour: &delayed} {
			task, err := client.Enqueue(ctx, pelton.Spec{Kind: "bench.noop", Payload: payload, Delay: delay})
			if err != nil {
				return nil, err
			}
			*into = append(*into, task.ID.String())
		}
	}
	var figures []figure
	for _, step := range []struct {
		name string
		call func(i int) error
	}{
		{"GET /tasks/{id}", func(i int) error { return request(ctx, http.MethodGet, s.http+"/tasks/"+ready[i]) }},
		{"GET /queues/default", func(int) error { return request(ctx, http.MethodGet, s.http+"/queues/default") }},
		{"cancel of a ready task", func(i int) error { return request(ctx, http.MethodPost, s.http+"/tasks/"+ready[i]+"/cancel") }},
		{"cancel of a delayed task", func(i int) error { return request(ctx, http.MethodPost, s.http+"/tasks/"+delayed[i]+"/cancel") }},
	} {
		var took []float64
		for i := range calls {
			began := time.Now()
			if err := step.call(i); err != nil {
				return nil, err
			}
			took = append(took, float64(time.Since(began).Microseconds())/1000)
		}
		for _, q := range []float64{0.5, 0.99} {
			figures = append(figures, figure{Name: fmt.Sprintf("%s%s, p%.0f", prefix, step.name, 100*q), Value: quantile(took, q), Unit: "ms"})
		}
	}
	const window = 20 * time.Second
	before, err := ticks(s.cmd.Process.Pid)
	if err != nil {
		return nil, err
	}
	select {
	case <-time.After(window):
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	after, err1 := ticks(s.cmd.Process.Pid)
	resident, err2 := residentMiB(s.cmd.Process.Pid)
	return append(figures,
		figure{Name: prefix + "server that sweeps", Value: (after - before) / window.Seconds(), Unit: "% of a core"},
		figure{Name: prefix + "memory of the server", Value: resident, Unit: "MiB"},
	), errors.Join(err1, err2)
}

// request makes a call without a body and wants it to go well.
func request(ctx context.Context, method, url string) error {
	return answered(ctx, method, url, func(body io.Reader) error {
		_, err := io.Copy(io.Discard, io.LimitReader(body, 1<<20))
		return err
	})
}

// answered is request with what reads the answer.
func answered(ctx context.Context, method, url string, read func(body io.Reader) error) error {
	req, err := http.NewRequestWithContext(ctx, method, url, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		answer, err := io.ReadAll(io.LimitReader(resp.Body, 1000))
		return errors.Join(fmt.Errorf("%s %s: %s: %s", method, url, resp.Status, answer), err)
	}
	return read(resp.Body)
}

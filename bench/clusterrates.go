package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton/admin"
	"github.com/peltonq/pelton/producer"
)

const (
	clusterWithin  = 10 * time.Second // of each step
	clusterWorkers = 3                // processes, each with workerSlots
)

// clusterShards are the numbers of shards that are measured.
var clusterShards = []int{1, 2, 4}

// clusterRates is how many tasks a second a cluster of three brokers takes and hands out,
// with so many copies of everything and so many shards, and what each task costs who takes part.
func clusterRates(ctx context.Context, dir string, tasks, copies, shards int, profiles string) (_ []figure, err error) {
	c, err := startCluster(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.stop()) }()
	nc, err := nats.Connect(c.urls)
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	if err := spread(ctx, nc, copies, shards); err != nil {
		return nil, err
	}
	client, err := producer.New(ctx, nc, producer.Config{Replicas: copies})
	if err != nil {
		return nil, err
	}
	defer client.Close()
	calls := peltonSender(client)
	if err := calls.many(ctx, warmTasks); err != nil {
		return nil, err
	}
	have := warmTasks
	r := &ratesOf{cluster: c, prefix: fmt.Sprintf("%d of 3 copies, %s: ", copies, plural(shards, "shard"))}
	for _, step := range []struct {
		name string
		send func() (int, time.Duration, error)
	}{
		{enqueueBy(64), func() (int, time.Duration, error) {
			return calls.enqueue(ctx, load{callers: 64, n: tasks, within: clusterWithin})
		}},
		{batchMetric, func() (int, time.Duration, error) {
			return calls.batch(ctx, load{n: tasks, within: clusterWithin})
		}},
	} {
		before, err := r.read(os.Getpid())
		if err != nil {
			return nil, err
		}
		n, took, err := step.send()
		if err != nil {
			return nil, err
		}
		have += n
		if err := r.note(step.name, "client", perSecond(n, took), n, before); err != nil {
			return nil, err
		}
	}

	crew := newCrew()
	stop, err := workers(ctx, crew, clusterWorkers, filepath.Join(dir, "drain"), "pelton", c.urls, fmt.Sprintf(`{"slots":%d}`, workerSlots))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	if _, _, err := crew.await(ctx, 1); err != nil {
		return nil, err
	}
	before, err := r.read(crew.processes()...)
	if err != nil {
		return nil, err
	}
	had, _, _ := crew.total()
	profiled := make(chan error, 1)
	go func() {
		if profiles == "" {
			profiled <- nil
			return
		}
		profiled <- c.profile(ctx, profiles, fmt.Sprintf("drain-%d-%d", copies, shards), time.Second)
	}()
	rate, err := crew.rate(ctx, have, clusterWithin)
	if err != nil {
		return nil, err
	}
	now, _, _ := crew.total()
	if err := r.note("drain, 3 worker processes", "workers together", rate, now-had, before); err != nil {
		return nil, err
	}
	return r.figures, <-profiled
}

// spread makes an installation with so many copies and shards.
func spread(ctx context.Context, nc *nats.Conn, copies, shards int) error {
	client, err := admin.New(ctx, nc, admin.Config{Replicas: copies})
	if err != nil {
		return err
	}
	defer client.Close()
	_, err = client.GrowShards(ctx, shards)
	return err
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// ratesOf gathers the figures of one cluster.
type ratesOf struct {
	*cluster

	prefix  string
	figures []figure
}

// reading is the CPU time of brokers, one by one, and of others together, in ticks.
type reading struct {
	nodes  []float64
	others float64
	pids   []int // the others
}

func (r *ratesOf) read(pids ...int) (reading, error) {
	nodes, err1 := ticksOf(r.pids())
	others, err2 := ticksOf(pids)
	return reading{nodes, sum(others), pids}, errors.Join(err1, err2)
}

// note adds a rate, and the CPU time of each of its n tasks since a reading.
func (r *ratesOf) note(step, other string, rate float64, n int, before reading) error {
	now, err := r.read(before.pids...)
	if err != nil {
		return err
	}
	each := make([]float64, len(now.nodes))
	for i := range each {
		each[i] = now.nodes[i] - before.nodes[i]
	}
	perTask := func(ticks float64) float64 { return ticks * 10_000 / float64(max(n, 1)) } // a tick is 10 ms
	r.figures = append(r.figures,
		figure{Name: r.prefix + step, Value: rate, Unit: rateUnit},
		figure{Name: "⋯ brokers together", Value: perTask(sum(each)), Unit: "µs of CPU/task"},
		figure{Name: "⋯ busiest broker", Value: perTask(slices.Max(each)), Unit: "µs of CPU/task"},
		figure{Name: "⋯ " + other, Value: perTask(now.others - before.others), Unit: "µs of CPU/task"})
	return nil
}

func sum(values []float64) (all float64) {
	for _, v := range values {
		all += v
	}
	return all
}

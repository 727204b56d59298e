package main

import (
	"context"
	"fmt"
	"os"
)

// figure is one line of the table.
type figure struct {
	Name   string  `json:"name"`
	Value  float64 `json:"value"`
	Unit   string  `json:"unit"`
	Others float64 `json:"others"` // share of the machine's CPU time taken by other processes
}

// measure runs everything in order and returns what it has got when it fails.
func measure(ctx context.Context, o options) ([]figure, error) {
	dir, err := os.MkdirTemp("", "pelton-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	var figures []figure
	for _, step := range o.steps(dir) {
		before, err := readCPU()
		if err != nil {
			return figures, err
		}
		got, err := step(ctx)
		if err != nil {
			return figures, err
		}
		others, err := before.others()
		if err != nil {
			return figures, err
		}
		for i := range got {
			got[i].Others = others
		}
		figures = append(figures, got...)
	}
	return figures, nil
}

// steps are what the flags ask for: the most particular one counts.
func (o options) steps(dir string) []func(context.Context) ([]figure, error) {
	type step = func(context.Context) ([]figure, error)
	binary := o.pelton
	switch {
	case o.cluster > 0:
		var all []step
		for _, copies := range []int{1, clusterSize} {
			for _, shards := range clusterShards {
				all = append(all, func(ctx context.Context) ([]figure, error) {
					return clusterRates(ctx, fmt.Sprintf("%s/copies-%d-%d", dir, copies, shards), o.cluster, copies, shards, o.profile)
				})
			}
		}
		return all
	case o.fleet > 0:
		return []step{func(ctx context.Context) ([]figure, error) {
			return idleFleet(ctx, binary, dir+"/fleet", o.fleet, o.profile)
		}}
	case o.delayed > 0:
		return []step{
			func(ctx context.Context) ([]figure, error) { return punctual(ctx, binary, dir+"/punctual") },
			func(ctx context.Context) ([]figure, error) {
				return together(ctx, binary, dir+"/together", max(1, o.delayed/4))
			},
			func(ctx context.Context) ([]figure, error) { return pending(ctx, binary, dir+"/pending", o.delayed) },
		}
	case o.blocked > 0:
		return []step{func(ctx context.Context) ([]figure, error) { return blocked(ctx, binary, dir+"/blocked", o.blocked) }}
	case o.flow > 0:
		return []step{func(ctx context.Context) ([]figure, error) { return flow(ctx, binary, dir+"/flow", o.flow) }}
	case o.waiting > 0:
		return []step{func(ctx context.Context) ([]figure, error) { return waiting(ctx, binary, dir+"/waiting", o.waiting) }}
	default:
		return []step{
			func(ctx context.Context) ([]figure, error) { return startTime(ctx, binary, dir+"/start") },
			func(ctx context.Context) ([]figure, error) { return idleWorker(ctx, binary, dir+"/idle") },
			func(ctx context.Context) ([]figure, error) { return latency(ctx, binary, dir+"/latency", o.samples) },
			func(ctx context.Context) ([]figure, error) {
				return throughput(ctx, binary, dir+"/throughput", o.tasks)
			},
		}
	}
}

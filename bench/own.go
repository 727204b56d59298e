package main

import (
	"context"
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
	binary := o.pelton
	var figures []figure
	steps := []func(context.Context) ([]figure, error){
		func(ctx context.Context) ([]figure, error) { return startTime(ctx, binary, dir+"/start") },
		func(ctx context.Context) ([]figure, error) { return idleWorker(ctx, binary, dir+"/idle") },
		func(ctx context.Context) ([]figure, error) { return latency(ctx, binary, dir+"/latency", o.samples) },
		func(ctx context.Context) ([]figure, error) {
			return throughput(ctx, binary, dir+"/throughput", o.tasks)
		},
	}
	if o.waiting > 0 {
		steps = []func(context.Context) ([]figure, error){
			func(ctx context.Context) ([]figure, error) { return waiting(ctx, binary, dir+"/waiting", o.waiting) },
		}
	}
	if o.flow > 0 {
		steps = []func(context.Context) ([]figure, error){
			func(ctx context.Context) ([]figure, error) { return flow(ctx, binary, dir+"/flow", o.flow) },
		}
	}
	if o.blocked > 0 {
		steps = []func(context.Context) ([]figure, error){
			func(ctx context.Context) ([]figure, error) { return blocked(ctx, binary, dir+"/blocked", o.blocked) },
		}
	}
	if o.delayed > 0 {
		steps = []func(context.Context) ([]figure, error){
			func(ctx context.Context) ([]figure, error) { return punctual(ctx, binary, dir+"/punctual") },
			func(ctx context.Context) ([]figure, error) {
				return together(ctx, binary, dir+"/together", max(1, o.delayed/4))
			},
			func(ctx context.Context) ([]figure, error) { return pending(ctx, binary, dir+"/pending", o.delayed) },
		}
	}
	for _, step := range steps {
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

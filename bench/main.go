// Command bench measures a pelton binary on this machine: how fast it starts, what
// an idle worker costs, how soon a task starts on an idle system, and how many
// tasks go through. It starts and ends its own server on loopback ports.
//
//	go run . -pelton ../bin/pelton
//
// Figures of shared machines vary; the share of the machine that others took
// while each was measured is printed beside it.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"text/tabwriter"
	"time"
)

// figure is one line of the table.
type figure struct {
	Name   string  `json:"name"`
	Value  float64 `json:"value"`
	Unit   string  `json:"unit"`
	Others float64 `json:"others"` // share of the machine's CPU time taken by other processes
}

func main() {
	pelton := flag.String("pelton", "../bin/pelton", "the binary to measure")
	samples := flag.Int("samples", 1000, "tasks of the latency measurement")
	tasks := flag.Int("tasks", 20000, "tasks of the throughput measurement")
	many := flag.Int("waiting", 0, "measure calls and the sweep beside so many waiting tasks, and nothing else")
	flowing := flag.Int("flow", 0, "measure what limits cost that never bind with so many tasks, and nothing else")
	blocking := flag.Int("blocked", 0, "measure what so many tasks that wait for one key cost those of another, and nothing else")
	delayed := flag.Int("delayed", 0, "measure delayed tasks, with so many pending, and nothing else")
	asJSON := flag.Bool("json", false, "print JSON instead of a table")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	figures, err := measure(ctx, *pelton, *samples, *tasks, *many, *flowing, *blocking, *delayed)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	if *asJSON {
		enc := json.NewEncoder(os.Stdout)
		enc.SetIndent("", "  ")
		_ = enc.Encode(figures)
		return
	}
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "WHAT\tVALUE\tUNIT\tOTHERS")
	for _, f := range figures {
		fmt.Fprintf(table, "%s\t%.4g\t%s\t%.0f %%\n", f.Name, f.Value, f.Unit, 100*f.Others)
	}
	_ = table.Flush()
}

// measure runs everything in order and returns what it has got when it fails.
func measure(ctx context.Context, binary string, samples, tasks, many, flowing, blocking, delayed int) ([]figure, error) {
	dir, err := os.MkdirTemp("", "pelton-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	var figures []figure
	steps := []func(context.Context) ([]figure, error){
		func(ctx context.Context) ([]figure, error) { return startTime(ctx, binary, dir+"/start") },
		func(ctx context.Context) ([]figure, error) { return idleWorker(ctx, binary, dir+"/idle") },
		func(ctx context.Context) ([]figure, error) { return latency(ctx, binary, dir+"/latency", samples) },
		func(ctx context.Context) ([]figure, error) { return throughput(ctx, binary, dir+"/throughput", tasks) },
	}
	if many > 0 {
		steps = []func(context.Context) ([]figure, error){
			func(ctx context.Context) ([]figure, error) { return waiting(ctx, binary, dir+"/waiting", many) },
		}
	}
	if flowing > 0 {
		steps = []func(context.Context) ([]figure, error){
			func(ctx context.Context) ([]figure, error) { return flow(ctx, binary, dir+"/flow", flowing) },
		}
	}
	if blocking > 0 {
		steps = []func(context.Context) ([]figure, error){
			func(ctx context.Context) ([]figure, error) { return blocked(ctx, binary, dir+"/blocked", blocking) },
		}
	}
	if delayed > 0 {
		steps = []func(context.Context) ([]figure, error){
			func(ctx context.Context) ([]figure, error) { return punctual(ctx, binary, dir+"/punctual") },
			func(ctx context.Context) ([]figure, error) {
				return together(ctx, binary, dir+"/together", max(1, delayed/4))
			},
			func(ctx context.Context) ([]figure, error) { return pending(ctx, binary, dir+"/pending", delayed) },
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

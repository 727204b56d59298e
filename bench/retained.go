package main

import (
	"context"
	"errors"
	"time"
)

func memoryOfQueued(n int) string { return "memory, " + number(float64(n)) + " queued" }

func diskOfQueued(n int) string { return "disk, " + number(float64(n)) + " queued" }

// queuedMode is what each queued task takes of a server that had none before, of
// memory and disk, with as many as the growth mode ends with.
func queuedMode() mode {
	m := mode{name: "queued", only: []string{namePelton, nameFloor}, once: true, within: 15 * time.Minute, run: runQueued}
	for _, depths := range [][]int{shortDepths, fullDepths} {
		most := depths[len(depths)-1]
		m.metrics = append(
			m.metrics, metric{Name: memoryOfQueued(most), Unit: onePerTask, Less: true}, metric{Name: diskOfQueued(most), Unit: onePerTask, Less: true},
		)
	}
	return m
}

func runQueued(ctx context.Context, c contestant, s scale, have int) ([]measured, error) {
	depth := s.Depths[len(s.Depths)-1]
	memory0, disk0, err := takes(ctx, c)
	if err != nil {
		return nil, err
	}
	all, err := fillUp(ctx, c, depth-have, have)
	if err != nil {
		return nil, err
	}
	filled := time.Now()
	s.later(func(ctx context.Context) ([]measured, error) {
		memory1, disk1, err := takesAfter(ctx, c, filled, s.Quiet)
		n := float64(all - have)
		return []measured{{memoryOfQueued(depth), (memory1 - memory0) / n}, {diskOfQueued(depth), (disk1 - disk0) / n}}, err
	})
	return nil, nil
}

// takesAfter is takes when a broker has been idle for a while: Go collects garbage
// after two minutes without, and gives it back bit by bit.
func takesAfter(ctx context.Context, c contestant, since time.Time, quiet time.Duration) (memory, disk float64, err error) {
	if err := wait(ctx, quiet-time.Since(since)); err != nil {
		return 0, 0, err
	}
	return takes(ctx, c)
}

const (
	workerMemory   = "memory of a worker process, at most, in a full drain"
	retainedMemory = "memory of the server, finished"
	retainedDisk   = "disk of the server, finished"
)

// retainedMode is what a worker process takes of memory while it drains, and what
// each finished task that is kept takes of the server's, and of disk.
var retainedMode = mode{
	name: "retained", only: ownPelton, once: true, within: 15 * time.Minute, run: withPelton(runRetained),
	metrics: []metric{
		{Name: workerMemory, Unit: "MB", Less: true},
		{Name: retainedMemory, Unit: onePerTask, Less: true},
		{Name: retainedDisk, Unit: onePerTask, Less: true},
	},
}

// runRetained looks at the server before there are tasks, and when all are finished,
// the worker is gone and the server has been idle for a while.
func runRetained(ctx context.Context, p *peltonTCP, s scale) (_ []measured, err error) {
	memory0, disk0, err := takes(ctx, p)
	if err != nil {
		return nil, err
	}
	all, err := fillUp(ctx, p, s.Retained, warmTasks)
	if err != nil {
		return nil, err
	}
	crew := newCrew()
	stop, err := p.hire(ctx, crew, 1)
	if err != nil {
		return nil, err
	}
	_, _, err = crew.await(ctx, all)
	most := 0.0
	for _, pid := range crew.processes() {
		peak, err1 := statusMiB(pid, "VmHWM:")
		most, err = max(most, peak), errors.Join(err, err1)
	}
	if err = errors.Join(err, stop()); err != nil {
		return nil, err
	}
	drained := time.Now()
	s.later(func(ctx context.Context) ([]measured, error) {
		memory1, disk1, err := takesAfter(ctx, p, drained, s.Quiet)
		n := float64(all)
		return []measured{{retainedMemory, (memory1 - memory0) / n}, {retainedDisk, (disk1 - disk0) / n}}, err
	})
	return []measured{{workerMemory, most * (1 << 20) / 1e6}}, nil
}

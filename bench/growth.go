package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

func enqueueBeside(depth int) string {
	return "enqueue, 64 callers, " + number(float64(depth)) + " queued"
}

func drainBeside(depth int) string { return "drain, " + number(float64(depth)) + " queued" }

// growthMode measures what a queue does while so many tasks are in it: how fast one
// worker process drains some of them, and how fast 64 callers enqueue.
func growthMode() mode {
	m := mode{name: "growth", once: true, within: 25 * time.Minute, brief: ownPelton, run: runGrowth}
	depths := slices.Concat(shortDepths, fullDepths)
	slices.Sort(depths)
	for _, depth := range slices.Compact(depths) {
		m.metrics = append(m.metrics, metric{Name: drainBeside(depth), Unit: rateUnit}, metric{Name: enqueueBeside(depth), Unit: rateUnit})
	}
	return m
}

// runGrowth drains as many tasks beside each depth, as often, each time with a new
// worker and the depth filled up before: nine tenths of the least depth. Then it
// enqueues.
func runGrowth(ctx context.Context, c contestant, s scale, have int) ([]measured, error) {
	var got []measured
	for _, depth := range s.Depths {
		var rates []float64
		for range s.Rounds {
			var err error
			if have < depth {
				if have, err = fillUp(ctx, c, depth-have, have); err != nil {
					return nil, err
				}
			}
			drained, rate, err := drainSome(ctx, c, s.Depths[0]*9/10)
			if err != nil {
				return nil, fmt.Errorf("%d queued: %w", depth, err)
			}
			rates, have = append(rates, rate), have-drained
		}
		n, took, err := c.enqueue(ctx, load{callers: 64, n: s.Tasks, within: s.Within})
		if err != nil {
			return nil, err
		}
		have += n
		got = append(got, measured{drainBeside(depth), median(rates)}, measured{enqueueBeside(depth), perSecond(n, took)})
	}
	return got, nil
}

// drainSome has one worker process handle n tasks or a few more, and tells how many
// and how fast.
func drainSome(ctx context.Context, c contestant, n int) (drained int, rate float64, err error) {
	crew := newCrew()
	stop, err := c.hire(ctx, crew, 1)
	if err != nil {
		return 0, 0, err
	}
	first, last, err := crew.await(ctx, n)
	had, _, _ := crew.total()
	if err1 := stop(); err == nil {
		err = err1
	}
	drained, _, _ = crew.total()
	return drained, perSecond(had-1, last.Sub(first)), err
}

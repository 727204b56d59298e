package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// growthMode measures what a queue does while so many tasks are in it: how fast 64
// callers enqueue, and how fast one worker process drains the first of them. Depths
// grow.
func growthMode(depths ...int) mode {
	enqueue := func(depth int) string { return "enqueue, 64 callers, " + number(float64(depth)) + " queued" }
	drain := func(depth int) string { return "drain, " + number(float64(depth)) + " queued" }
	m := mode{name: "growth", once: true, long: true, within: 8 * time.Minute}
	for _, depth := range depths {
		m.metrics = append(m.metrics, metric{Name: enqueue(depth), Unit: rateUnit}, metric{Name: drain(depth), Unit: rateUnit})
	}
	m.run = func(ctx context.Context, c contestant, s scale, have int) ([]measured, error) {
		var got []measured
		for _, depth := range depths {
			var err error
			if depth > have {
				if have, err = fillUp(ctx, c, depth-have, have); err != nil {
					return nil, err
				}
			}
			n, took, err := c.enqueue(ctx, load{callers: 64, n: s.Tasks, within: s.Within})
			if err != nil {
				return nil, err
			}
			drained, rate, err := drainSome(ctx, c, min(s.Tasks, depth/2))
			if err != nil {
				return nil, fmt.Errorf("%d queued: %w", depth, err)
			}
			have += n - drained
			got = append(got, measured{enqueue(depth), perSecond(n, took)}, measured{drain(depth), rate})
		}
		return got, nil
	}
	return m
}

// drainSome has one worker process handle n tasks or a few more, and tells how many
// and how fast.
func drainSome(ctx context.Context, c contestant, n int) (drained int, rate float64, err error) {
	crew := newCrew()
	stop, err := c.hire(ctx, crew, 1)
	if err != nil {
		return 0, 0, err
	}
	if _, _, err := crew.await(ctx, n); err != nil {
		return 0, 0, errors.Join(err, stop())
	}
	had, first, last := crew.total()
	err = stop()
	drained, _, _ = crew.total()
	return drained, perSecond(had-1, last.Sub(first)), err
}

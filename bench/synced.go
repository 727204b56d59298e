package main

import (
	"context"
	"errors"
	"time"
)

const (
	syncedMode    = "synced"
	syncedEnqueue = "synced: enqueue, 64 callers"
	syncedBatch   = "synced: " + batchMetric
	syncedDrain   = "synced: " + drainMetric
	syncedLone    = "synced: a call alone"
)

// syncedModeOf compares what is safe from a power cut: every write is on disk before
// it is confirmed.
var syncedModeOf = mode{
	name: syncedMode, only: []string{nameSynced, nameFloorSynced, nameRiver}, briefly: true,
	metrics: append([]metric{
		{Name: syncedEnqueue, Unit: rateUnit}, {Name: syncedBatch, Unit: rateUnit}, {Name: syncedDrain, Unit: rateUnit},
	}, quantiles(syncedLone)...),
	run: runSynced,
}

func runSynced(ctx context.Context, c contestant, s scale, have int) (_ []measured, err error) {
	able, ok := c.(interface {
		timed(ctx context.Context, n int, gap time.Duration) ([]float64, error)
	})
	if !ok {
		return nil, errors.New("its calls cannot be timed")
	}
	lone, err := able.timed(ctx, s.Samples, 10*time.Millisecond)
	if err != nil {
		return nil, err
	}
	one, tookOne, err := c.enqueue(ctx, load{callers: 64, n: 2 * s.Tasks, within: 2 * s.Within})
	if err != nil {
		return nil, err
	}
	many, tookMany, err := c.batch(ctx, load{n: 2 * s.Tasks, within: 2 * s.Within})
	if err != nil {
		return nil, err
	}
	have += len(lone) + one + many
	if have < s.Synced {
		if have, err = fillUp(ctx, c, s.Synced-have, have); err != nil {
			return nil, err
		}
	}
	crew := newCrew()
	stop, err := c.hire(ctx, crew, 1)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	drained, err := crew.rate(ctx, min(have, s.Synced), 5*s.DrainFor)
	if err != nil {
		return nil, err
	}
	return append(
		quantilesOf(syncedLone, lone),
		measured{syncedEnqueue, perSecond(one, tookOne)}, measured{syncedBatch, perSecond(many, tookMany)}, measured{syncedDrain, drained},
	), nil
}

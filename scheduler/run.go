package scheduler

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
)

const (
	// reconcileEvery is how often a server looks for schedules whose next tick has no
	// message, give or take a fifth.
	reconcileEvery = 12 * time.Second
	// reconcilePace is the rest after each schedule that it looks at.
	reconcilePace = 2 * time.Millisecond
	// overdue is how long a tick may be due before the reconciler deals with it: its
	// message is with another server, or on its way.
	overdue = 5 * time.Second
)

// Run turns ticks into tasks until ctx ends. Any number of processes may do so: each
// tick has one task all the same. It returns nil when ctx has ended and what was under
// way is finished or left to others.
func (c *Client) Run(ctx context.Context) error {
	var parts sync.WaitGroup
	parts.Go(func() { c.b.ServeTicks(ctx, c.fire) })
	parts.Go(func() { c.reconcile(ctx) })
	parts.Wait()
	return nil
}

// reconcile goes round all schedules, again and again, and mends what a crash between
// a definition and the message of its first tick left, or a loss of messages.
func (c *Client) reconcile(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		if err := c.reconcileAll(ctx); err != nil && ctx.Err() == nil {
			c.log.Debug("schedules not looked through, trying again", "error", err)
		}
		timer.Reset(reconcileEvery*4/5 + rand.N(reconcileEvery*2/5)) //nolint:gosec // spreads servers, no secret
	}
}

func (c *Client) reconcileAll(ctx context.Context) error {
	pace := time.NewTicker(reconcilePace)
	defer pace.Stop()
	for from := uint64(1); ; {
		doc, next, err := c.b.NextSchedule(ctx, from)
		if errors.Is(err, pelton.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		from = next
		if doc != nil && !doc.Schedule.Paused {
			if err := c.reconcileOne(ctx, doc.Schedule.Name); err != nil {
				return err
			}
		}
		select {
		case <-pace.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (c *Client) reconcileOne(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	v, err := c.load(ctx, name)
	if errors.Is(err, pelton.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if v.broken != nil || v.doc.Schedule.Paused {
		return nil
	}
	tick := v.rule.next(v.after())
	if tick.IsZero() {
		return nil
	}
	now, err := c.b.Now(ctx)
	if err != nil {
		return err
	}
	due := v.rule.due(tick)
	switch late := now.Sub(due); {
	case late > overdue:
		c.log.Warn("overdue tick found", "schedule", name, "tick", tick)
		if err := c.fire(ctx, broker.DueTick{Schedule: name, Due: now}); err != nil {
			c.log.Warn("overdue tick not finished", "schedule", name, "error", err) // the others go on
		}
		return nil
	case late > 0:
		return nil // somebody has it
	}
	missing, err := c.b.MissesTick(ctx, name, tick)
	if err != nil || !missing {
		return err
	}
	c.log.Debug("next tick had no message", "schedule", name, "tick", tick)
	return c.b.PublishTick(ctx, name, tick, due)
}

package producer

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
)

// Watch follows a task: it gives the task as it stands, then again after every
// change, and ends after a terminal state. Changes in quick succession are given
// as one, the newest; a loop that takes its time misses those in between, and
// nothing is kept for it. Beyond its own goroutine it costs a read of the record after
// each change and every 2 s, which it shares with others who watch the task: payload, result
// and labels are not to be changed. Where more than 200 tasks are watched, the reads
// without a change come less often: all together, 100 a second.
//
// An error ends it: pelton.ErrNotFound for a task that is not there, or no longer;
// pelton.ErrUnavailable when the broker is out of reach at the beginning (later,
// Watch waits for it to come back); or ctx's cause. The error comes with the task
// as last seen, nil if it was never.
func (c *Client) Watch(ctx context.Context, id pelton.ID) iter.Seq2[*pelton.Task, error] {
	return func(yield func(*pelton.Task, error) bool) {
		last, err := c.watch(ctx, id, func(task *pelton.Task) bool { return yield(task, nil) })
		switch {
		case err == nil:
		case ctx.Err() != nil:
			yield(last, fmt.Errorf("watch task %s: %w", id, context.Cause(ctx)))
		default:
			yield(last, fmt.Errorf("watch: %w", err))
		}
	}
}

// watch calls show for each news until it returns false or the task is over.
func (c *Client) watch(ctx context.Context, id pelton.ID, show func(*pelton.Task) bool) (last *pelton.Task, err error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	// The first look answers for a task that is over or not there, and for a broker
	// that is out of reach, which a subscription would wait for.
	r, err := c.reading(ctx, id, c.b.ReadRecord)
	if err != nil {
		return nil, err
	}
	last = r.Task(c.now())
	if !show(last) || last.State.Terminal() {
		return last, nil
	}
	// First subscribe, then read: whatever happens after the read is announced.
	events, stop, err := c.b.Watch(ctx, id)
	if err != nil {
		return last, err
	}
	defer stop()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		task, err := c.look(ctx, id)
		switch {
		case err == nil && changed(last, task):
			if last = task; !show(last) || last.State.Terminal() {
				return last, nil
			}
		case err != nil && ctx.Err() == nil && !errors.Is(err, pelton.ErrUnavailable):
			return last, err
		}
		timer.Reset(c.untilLook(last))
		if err := nextChange(ctx, last, events, timer.C); err != nil {
			return last, err
		}
	}
}

// untilLook is how long to wait for an event after last was seen. Nobody announces that the
// time of a delayed task has come.
func (c *Client) untilLook(last *pelton.Task) time.Duration {
	d := rereadAfter(c.b.Watching())
	if last.State == pelton.Scheduled || last.State == pelton.Retrying {
		d = min(d, max(last.RunAt.Sub(c.now())+time.Millisecond, time.Millisecond))
	}
	return d
}

// look reads from the leader: a follower may not have what was just announced.
func (c *Client) look(ctx context.Context, id pelton.ID) (*pelton.Task, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	r, err := c.looks.at(ctx, id, func(ctx context.Context, id pelton.ID) (*broker.Record, error) {
		return c.reading(ctx, id, c.b.LoadRecord)
	})
	if err != nil {
		return nil, err
	}
	return r.Task(c.now()), nil
}

// changed reports whether task is news after last. A scheduled task reads queued
// when its time has come, without a new revision.
func changed(last, task *pelton.Task) bool {
	return task.Revision > last.Revision || task.Revision == last.Revision && task.State != last.State
}

// nextChange returns when there may be news after last. The error is ctx's cause.
func nextChange(ctx context.Context, last *pelton.Task, events <-chan broker.Event, timer <-chan time.Time) error {
	for {
		select {
		case e := <-events:
			if e.Revision > last.Revision {
				return nil
			}
		case <-timer:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

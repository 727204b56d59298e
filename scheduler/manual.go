package scheduler

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
)

// RunNow enqueues the schedule's task at once, paused or not. That is no tick: the next
// one stays where it is, and the overlap policies skip and cancel do not ask about it;
// with queue the task waits its turn. Errors are those of producer.Client.Enqueue, and
// pelton.ErrNotFound.
func (c *Client) RunNow(ctx context.Context, name string) (*pelton.Task, error) {
	ctx, cancel, err := c.begin(ctx, name)
	defer cancel()
	if err != nil {
		return nil, err
	}
	v, err := c.load(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("run: %w", err)
	}
	now, err := c.b.Now(ctx)
	if err != nil {
		return nil, err
	}
	asked := now.Truncate(time.Millisecond)
	made, _, err := c.enqueue(ctx, &v.doc.Schedule, pelton.NewID(asked, 0), pelton.TaskSchedule{Name: name, Tick: asked, Manual: true}, now)
	if err != nil {
		return nil, fmt.Errorf("run schedule %s: %w", name, err)
	}
	c.noteManual(context.WithoutCancel(ctx), v, pelton.ScheduleRun{Tick: asked, TaskID: made.ID, Manual: true})
	return made.Task(now), nil
}

// noteManual adds a run to the schedule's history, if it can: nothing rests on it.
func (c *Client) noteManual(ctx context.Context, v *view, run pelton.ScheduleRun) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	for range casTries {
		v.state.Note(run)
		err := c.b.SaveScheduleState(ctx, v.state)
		if err == nil {
			return
		}
		if !errors.Is(err, broker.ErrStale) {
			c.log.Debug("manual run not noted", "schedule", v.doc.Schedule.Name, "error", err)
			return
		}
		if v, err = c.load(ctx, v.doc.Schedule.Name); err != nil {
			return
		}
	}
}

// Backfill enqueues the tasks of the ticks of a past interval, each once: under the ids
// that its tasks have, so that a tick that has a task gets no second one while that
// task's record is there. A tick whose record has expired runs again. The overlap policy
// does not apply. What a call did not come to, because of its limit or an error, the next
// one does from NextFrom on; with an error, the result says how far it came.
func (c *Client) Backfill(ctx context.Context, name string, ask pelton.Backfill) (*pelton.BackfillResult, error) {
	if c.closed.Load() {
		return nil, fmt.Errorf("scheduler: %w", pelton.ErrClosed)
	}
	if err := pelton.ValidateScheduleName(name); err != nil {
		return nil, err
	}
	v, err := c.load(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("backfill: %w", err)
	}
	if v.broken != nil {
		return nil, fmt.Errorf("backfill schedule %s: %w", name, v.broken)
	}
	now, err := c.b.Now(ctx)
	if err != nil {
		return nil, err
	}
	if err := checkBackfill(&ask, now); err != nil {
		return nil, err
	}
	result := &pelton.BackfillResult{Ticks: []pelton.BackfillTick{}}
	for tick := v.rule.next(ask.From.Add(-1)); !tick.IsZero() && tick.Before(ask.To); tick = v.rule.next(tick) {
		if len(result.Ticks) == ask.Limit {
			result.NextFrom = tick
			break
		}
		one, err := c.backfillTick(ctx, v, tick, now, ask.DryRun)
		if err != nil {
			result.NextFrom = tick
			return result, fmt.Errorf("backfill schedule %s: %w", name, err)
		}
		switch result.Ticks = append(result.Ticks, one); {
		case one.Error != "":
			result.Failed++
		case one.Existing:
			result.Existing++
		default:
			result.Enqueued++
		}
	}
	return result, nil
}

func checkBackfill(ask *pelton.Backfill, now time.Time) error {
	var bad []pelton.FieldError
	fail := func(field, message string) { bad = append(bad, pelton.FieldError{Field: field, Message: message}) }
	switch {
	case ask.From.IsZero():
		fail("from", "is required")
	case ask.From.Year() < 1970:
		fail("from", "is before the year 1970")
	}
	switch {
	case ask.To.IsZero():
		fail("to", "is required")
	case ask.To.After(now):
		fail("to", "is in the future: those ticks come by themselves")
	case !ask.From.Before(ask.To):
		fail("to", "is not after from")
	}
	switch {
	case ask.Limit == 0:
		ask.Limit = pelton.DefaultBackfill
	case ask.Limit < 0 || ask.Limit > pelton.MaxBackfill:
		fail("limit", fmt.Sprintf("%d is not between 1 and %d", ask.Limit, pelton.MaxBackfill))
	}
	if len(bad) > 0 {
		return &pelton.ValidationError{Fields: bad}
	}
	return nil
}

func (c *Client) backfillTick(ctx context.Context, v *view, tick, now time.Time, dry bool) (pelton.BackfillTick, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	s := &v.doc.Schedule
	one := pelton.BackfillTick{Tick: tick, TaskID: pelton.TickID(s.Name, v.doc.Incarnation, tick, 0)}
	if dry {
		r, err := c.b.LoadRecord(ctx, one.TaskID)
		if err == nil {
			one.Existing, one.State = true, r.Task(now).State
		} else if !errors.Is(err, pelton.ErrNotFound) {
			return one, err
		}
		return one, nil
	}
	made, created, err := c.enqueue(ctx, s, one.TaskID, pelton.TaskSchedule{Name: s.Name, Tick: tick}, now)
	switch {
	case err == nil && made == nil:
		one.Existing = true
	case err == nil:
		one.TaskID, one.Existing, one.State = made.ID, !created, made.Task(now).State
	case retryable(err), errors.Is(err, pelton.ErrOverloaded):
		return one, err
	default:
		one.TaskID, one.Error = pelton.ID{}, clipped(err.Error())
	}
	return one, nil
}

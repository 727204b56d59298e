package scheduler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
	"github.com/peltonq/pelton/internal/failpoint"
)

// overloadedFor is how long a tick waits for a place in a full queue before it is
// refused.
const overloadedFor = 4 * time.Second

// view is a schedule as it was read.
type view struct {
	doc    *broker.ScheduleDoc
	state  *broker.ScheduleState // of the doc's incarnation
	rule   *rule
	broken error // why there is no rule: nobody could have stored it with this version
}

func (c *Client) load(ctx context.Context, name string) (*view, error) {
	doc, err := c.b.LoadSchedule(ctx, name)
	if err != nil {
		return nil, err
	}
	state, err := c.b.LoadScheduleState(ctx, name)
	if err != nil {
		return nil, err
	}
	if state.Incarnation != doc.Incarnation { // of a schedule that was deleted
		state = &broker.ScheduleState{Name: name, Incarnation: doc.Incarnation, Revision: state.Revision}
	}
	v := &view{doc: doc, state: state}
	v.rule, v.broken = newRule(&doc.Schedule)
	return v, nil
}

// after is the moment after which nothing is decided.
func (v *view) after() time.Time { return latest(v.state.Last, v.doc.InForce()) }

// arm leaves the message of the first tick that is not decided, in place of those that
// wait. Others may do so at the same time for an earlier definition: who was last looks
// again. A server that fires a tick meanwhile loses nothing: it advances the state before
// it leaves a message, and the state is read here after messages were removed.
func (c *Client) arm(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	for range casTries {
		var v *view
		err := c.b.DropTicks(ctx, name)
		if err == nil {
			v, err = c.load(ctx, name)
		}
		if errors.Is(err, pelton.ErrNotFound) {
			return nil
		}
		if err == nil && v.broken == nil && !v.doc.Schedule.Paused {
			if tick := v.rule.next(v.after()); !tick.IsZero() {
				err = c.b.PublishTick(ctx, name, tick, v.rule.due(tick))
			}
		}
		if err != nil {
			return fmt.Errorf("%w: the schedule is stored, its next tick is left to the reconciler: %w", pelton.ErrUnknownOutcome, err)
		}
		if now, err := c.b.LoadSchedule(ctx, name); err != nil || now.Revision == v.doc.Revision {
			return nil // whoever deleted or changed it does the rest
		}
	}
	return nil
}

// fire deals with a schedule of which a tick is due. Written are, in this order: the
// tasks of the ticks that are to be enqueued (broker.EnqueueTick), the schedule's state,
// the message of the next tick. Then the message that brought this one is acknowledged.
//
// Crash windows: until it is acknowledged, another server gets the message again after
// 2 s, and does the same:
//
//   - before the first task: nothing has happened.
//   - between tasks, and before the state: it decides the same ticks, whose ids are the
//     same, and finds their tasks.
//   - after the state: it finds the ticks decided, and leaves the message of the next.
//   - after that message: it finds that, too.
//
// Two servers at once do no harm for the same reasons. The state is written by
// compare-and-swap, and who loses reads it again: a tick that it has is dropped, also
// when its task is over and forgotten. Until the state has it, the task's record does,
// which is kept for an hour at least.
//
// A change of the rule while a tick is in flight: the tick is decided by whichever rule
// was read. Ticks of the earlier rule that nobody had read are none any more.
func (c *Client) fire(ctx context.Context, due broker.DueTick) error {
	for range casTries {
		v, err := c.load(ctx, due.Schedule)
		if errors.Is(err, pelton.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		failpoint.At(failpoint.TickRead)
		if v.broken != nil {
			c.log.Error("schedule has no ticks: its rule cannot be read", "schedule", due.Schedule, "error", v.broken)
			return nil //nolint:nilerr // it is shown as failing, and another try reads the same
		}
		if v.doc.Schedule.Paused {
			return nil
		}
		now, err := c.b.Now(ctx)
		if err != nil {
			return err
		}
		now = latest(now, due.Due) // what was published then was due
		err = c.step(ctx, v, now, due.Again)
		if !errors.Is(err, broker.ErrStale) {
			return err
		}
	}
	return fmt.Errorf("schedule %s: %w: it keeps changing", due.Schedule, pelton.ErrUnavailable)
}

// step decides and acts. ErrStale means that another server did, too.
func (c *Client) step(ctx context.Context, v *view, now time.Time, again bool) error {
	slack := onTime
	if again {
		slack = onRedelivery
	}
	s, state := &v.doc.Schedule, v.state
	p := decide(v.rule, s.CatchUp, s.CatchUpWindow, v.after(), now, slack)
	if !p.missed.IsZero() {
		c.log.Warn("ticks were missed and are left out", "schedule", s.Name, "last", p.missed)
		state.Note(pelton.ScheduleRun{Tick: p.missed, Skipped: pelton.SkippedMissed})
	}
	var unfinished error // why the rest of the ticks is left to another try
	for i, tick := range p.ticks {
		run, err := c.enqueueTick(ctx, v, tick, now)
		if err != nil {
			unfinished = fmt.Errorf("tick %s of schedule %s: %w", tick.Format(time.RFC3339Nano), s.Name, err)
			if i == 0 {
				return unfinished
			}
			p.last = p.ticks[i-1] // what was done is kept
			break
		}
		state.Note(run)
	}
	if !p.last.IsZero() {
		failpoint.At(failpoint.TickEnqueued)
		state.Last = p.last
		err := c.b.SaveScheduleState(ctx, state)
		if errors.Is(err, pelton.ErrUnknownOutcome) {
			err = errors.Join(broker.ErrStale, err) // only a read can tell
		}
		if err != nil {
			return err
		}
		failpoint.At(failpoint.TickAdvanced)
	}
	if unfinished != nil {
		return unfinished // the message that brought this comes again
	}
	if !p.next.IsZero() {
		if err := c.b.PublishTick(ctx, s.Name, p.next, p.wake); err != nil {
			return err
		}
	}
	if !p.last.IsZero() {
		failpoint.At(failpoint.TickPublished)
	}
	return nil
}

// enqueueTick does what the overlap policy says, then enqueues the tick's task. A task
// that is refused makes the schedule fail; an error is for what another try may mend.
func (c *Client) enqueueTick(ctx context.Context, v *view, tick, now time.Time) (pelton.ScheduleRun, error) {
	s, state := &v.doc.Schedule, v.state
	run := pelton.ScheduleRun{Tick: tick, TaskID: pelton.TickID(s.Name, v.doc.Incarnation, tick, 0)}
	free, err := c.makeWay(ctx, v, run.TaskID)
	if err != nil {
		return run, err
	}
	if !free {
		c.log.Debug("tick skipped: an earlier task is not over", "schedule", s.Name, "tick", tick)
		return pelton.ScheduleRun{Tick: tick, Skipped: pelton.SkippedOverlap}, nil
	}
	task := pelton.TaskSchedule{Name: s.Name, Tick: tick}
	made, _, err := c.enqueue(ctx, s, run.TaskID, task, now)
	switch {
	case err == nil:
		if made != nil {
			run.TaskID = made.ID
		}
		state.Failing = nil
		return run, nil
	case retryable(err), errors.Is(err, pelton.ErrOverloaded) && now.Sub(v.rule.due(tick)) < overloadedFor:
		return run, err
	}
	level := slog.LevelWarn
	if state.Failing != nil { // which was said when it began
		level = slog.LevelDebug
	}
	c.log.Log(ctx, level, "task of a schedule refused", "schedule", s.Name, "tick", tick, "error", err)
	state.Failing = &pelton.ScheduleFailing{Reason: clipped(err.Error()), At: now, Tick: tick}
	return pelton.ScheduleRun{Tick: tick, Skipped: pelton.SkippedRefused}, nil
}

// retryable reports an error after which nothing is known to be wrong with the task.
func retryable(err error) bool {
	for _, passing := range []error{
		pelton.ErrUnavailable, pelton.ErrUnknownOutcome, pelton.ErrClosed, broker.ErrStale, context.Canceled, context.DeadlineExceeded,
	} {
		if errors.Is(err, passing) {
			return true
		}
	}
	return false
}

// clipped bounds what a state holds of an error.
func clipped(text string) string {
	const most = 500
	if len(text) <= most {
		return text
	}
	for cut := most; ; cut-- {
		if text[cut]&0xc0 != 0x80 { // the first byte of a character
			return text[:cut] + "…"
		}
	}
}

// makeWay reports whether the task of a tick may be enqueued, and cancels those that
// are in its way if they are to be. Of the two that OverlapQueue lets be unfinished, the
// second waits: they have one concurrency key, whose line starts it when the first is
// over, whatever becomes of this server.
func (c *Client) makeWay(ctx context.Context, v *view, id pelton.ID) (bool, error) {
	policy := v.doc.Schedule.Overlap
	if policy == pelton.OverlapAllow {
		return true, nil
	}
	unfinished := 0
	for _, run := range v.state.Runs {
		if run.TaskID.IsZero() || run.TaskID == id {
			continue
		}
		r, err := c.b.LoadRecord(ctx, run.TaskID)
		if errors.Is(err, pelton.ErrNotFound) || err == nil && r.State.Terminal() {
			continue
		}
		if err != nil {
			return false, err
		}
		unfinished++
		if policy != pelton.OverlapCancel {
			continue
		}
		_, err = c.b.Cancel(ctx, run.TaskID)
		if err != nil && !errors.Is(err, pelton.ErrConflict) && !errors.Is(err, pelton.ErrNotFound) {
			return false, err
		}
	}
	switch policy {
	case pelton.OverlapSkip:
		return unfinished == 0, nil
	case pelton.OverlapQueue:
		return unfinished < 2, nil
	case pelton.OverlapAllow, pelton.OverlapCancel:
		return true, nil
	default:
		return true, nil
	}
}

// enqueue enqueues the schedule's task under an id. made is nil if the task was
// enqueued before and is forgotten.
func (c *Client) enqueue(ctx context.Context, s *pelton.Schedule, id pelton.ID, of pelton.TaskSchedule, now time.Time) (made *broker.Record, created bool, err error) {
	spec := s.Task
	if s.Overlap == pelton.OverlapQueue {
		spec.ConcurrencyKey = broker.ScheduleKey + s.Name
	}
	if err := c.b.HasPlace(ctx, &spec); err != nil {
		if made, loadErr := c.b.LoadRecord(ctx, id); loadErr == nil { // it has its place
			return made, false, nil
		}
		return nil, false, err
	}
	spec, err = spec.Normalized(now)
	if err != nil {
		return nil, false, err
	}
	r := broker.NewRecord(id, spec, now)
	r.Schedule = &of
	return c.b.EnqueueTick(ctx, r)
}

package admin

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
)

// Why says why a task does not run: what it waits for, with numbers, and when it may
// start where that can be told. The cost does not depend on the number of tasks.
// pelton.ErrNotFound is a task that never was, or is over and forgotten.
func (c *Client) Why(ctx context.Context, id pelton.ID) (*pelton.Why, error) {
	standing, err := c.b.Standing(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("why of task %s: %w", id, err)
	}
	return explain(standing, time.Now()), nil
}

// explain decides what keeps a task from running, from what is known of it.
func explain(s *broker.Standing, now time.Time) *pelton.Why {
	task := s.Record.Task(now)
	why := &pelton.Why{TaskID: task.ID, State: task.State}
	switch {
	case task.State.Terminal():
		why.Reasons = []pelton.WhyReason{finished(task)}
	case task.State == pelton.Running:
		why.Reasons = running(s, task, now)
	default:
		why.Reasons = waiting(s, task, now)
	}
	why.Code, why.Message = why.Reasons[0].Code, why.Reasons[0].Message
	why.Estimate = estimate(why.Reasons, now)
	return why
}

func finished(task *pelton.Task) pelton.WhyReason {
	return pelton.WhyReason{
		Code: pelton.WhyFinished, Since: task.FinishedAt,
		Message: fmt.Sprintf("it is over: %s at %s", task.State, moment(task.FinishedAt)),
	}
}

// running tells a task that runs from one whose worker is gone. What keeps another
// worker from taking over is among the reasons of the second.
func running(s *broker.Standing, task *pelton.Task, now time.Time) []pelton.WhyReason {
	r := pelton.WhyReason{Code: pelton.WhyRunning, Worker: task.Worker, Since: task.StartedAt, Attempt: task.Attempt, MaxAttempts: task.MaxAttempts}
	if slices.ContainsFunc(s.Workers, func(p broker.Presence) bool { return p.ID == task.Worker }) {
		r.Message = fmt.Sprintf("it runs on worker %s since %s, attempt %d of %d", task.Worker, moment(task.StartedAt), task.Attempt, task.MaxAttempts)
		return []pelton.WhyReason{r}
	}
	r.Code = pelton.WhyWorkerLost
	r.Message = fmt.Sprintf("its worker %s shows no sign of life: the task runs again when the lease is over", task.Worker)
	if lease := s.Queue.Lease(); lease > 0 {
		r.Until = now.Add(lease).UTC()
		r.Message += fmt.Sprintf(", in %s at the latest", pelton.FormatDuration(lease))
	}
	return append([]pelton.WhyReason{r}, unserved(s, task)...)
}

// waiting lists what holds a task that waits, in the order in which it binds: its
// time, its line, then its queue and the workers, then its lane. What only holds
// those in the lane is not said of the others.
func waiting(s *broker.Standing, task *pelton.Task, now time.Time) []pelton.WhyReason {
	var rs []pelton.WhyReason
	if task.State != pelton.Queued {
		rs = append(rs, timed(s, task, now)...)
	} else if s.Line != nil {
		rs = append(rs, inLine(s, task))
	}
	if !task.ExpiresAt.IsZero() && !task.ExpiresAt.After(now) {
		rs = append(rs, pelton.WhyReason{
			Code: pelton.WhyExpiring, Since: task.ExpiresAt,
			Message: fmt.Sprintf("its expires_at passed at %s: it ends as expired when a worker comes to it", moment(task.ExpiresAt)),
		})
	}
	rs = append(rs, unserved(s, task)...)
	if task.State == pelton.Queued {
		rs = append(rs, paused(s, task, now)...)
	}
	if s.Lane != nil {
		rs = append(rs, inLane(s, task)...)
	}
	if len(rs) == 0 {
		rs = append(rs, pelton.WhyReason{
			Code:    pelton.WhyReady,
			Message: "nothing is known that keeps it from starting: a worker has it in hand, or is about to",
		})
	}
	return rs
}

// timed is why a task waits for a time.
func timed(s *broker.Standing, task *pelton.Task, now time.Time) []pelton.WhyReason {
	rec := s.Record
	at := moment(task.RunAt)
	switch {
	case task.State == pelton.Retrying:
		r := pelton.WhyReason{
			Code: pelton.WhyBackingOff, Until: task.RunAt, Attempt: task.Attempt, MaxAttempts: task.MaxAttempts,
			Message: fmt.Sprintf("attempt %d of %d failed; it is tried again at %s", task.Attempt, task.MaxAttempts, at),
		}
		return append([]pelton.WhyReason{r}, paused(s, task, now)...)
	case rec.Deferrals > 0:
		return []pelton.WhyReason{{
			Code: pelton.WhyUnknownKind, LookAt: task.RunAt, Since: rec.DeferredAt, Kind: task.Kind, Queue: task.Queue, Deferrals: rec.Deferrals,
			Message: fmt.Sprintf("a worker did not know its kind %s, %d times in a row since %s; the next looks at it at %s", task.Kind, rec.Deferrals, moment(rec.DeferredAt), at),
		}}
	case rec.Limited != nil && rec.Limited.By != "":
		return []pelton.WhyReason{rateLimited(s, task)}
	case rec.Limited != nil:
		// A pause put it off until the pause's end, so it comes after it.
		if rs := paused(s, task, now); len(rs) > 0 {
			return rs
		}
		return []pelton.WhyReason{{
			Code: pelton.WhyScheduled, Until: task.RunAt,
			Message: fmt.Sprintf("a pause that is over put it off until %s", at),
		}}
	case rec.Epoch > 0:
		return []pelton.WhyReason{{
			Code: pelton.WhyScheduled, Until: task.RunAt,
			Message: fmt.Sprintf("its handler or worker put it off until %s; no attempt counted", at),
		}}
	default:
		return []pelton.WhyReason{{Code: pelton.WhyScheduled, Until: task.RunAt, Message: "it is scheduled for " + at}}
	}
}

// rateLimited is where a task stands with the limit that put it off.
func rateLimited(s *broker.Standing, task *pelton.Task) pelton.WhyReason {
	by := s.Record.Limited.By
	r := pelton.WhyReason{Code: pelton.WhyRateLimited, LookAt: task.RunAt, Limit: by, Key: task.RateKey}
	r.Message = fmt.Sprintf("limit %s", by)
	if s.Limit != nil && s.Limit.Rated() {
		r.Rate = &s.Limit.Rate
		r.Message += fmt.Sprintf(" lets %d start in %s", r.Rate.Limit, pelton.FormatDuration(r.Rate.Per))
	} else {
		r.Message += ", which was deleted, put it off"
	}
	passes := s.Record.Limited.Passes
	i := slices.IndexFunc(passes, func(p broker.Pass) bool { return p.Limit == by })
	switch {
	case i < 0:
		r.Message += "; it has no place yet, because the limit is closed or too many are before it"
	case passes[i].Booked:
		r.Until = passes[i].At
		r.Message += fmt.Sprintf("; its start is booked for %s", moment(r.Until))
	default:
		r.Until = passes[i].At
		r.Message += fmt.Sprintf("; its place in the limit's line comes at %s", moment(r.Until))
	}
	r.Message += fmt.Sprintf("; it is looked at again at %s", moment(r.LookAt))
	return r
}

// paused is who stopped the task's kind and rate key. A task whose time is at the
// end of a pause or later waits for that only if the pause put it off.
func paused(s *broker.Standing, task *pelton.Task, now time.Time) []pelton.WhyReason {
	var rs []pelton.WhyReason
	for _, p := range []*broker.Pause{s.KindPause, s.KeyPause} {
		if p == nil || !p.Until.After(now) {
			continue
		}
		putOff := task.State == pelton.Scheduled
		if !putOff && !task.RunAt.Before(p.Until) {
			continue
		}
		r := pelton.WhyReason{Code: pelton.WhyPausedKind, Until: p.Until, Kind: p.Kind, Key: p.RateKey}
		what := "kind " + p.Kind
		if p.Kind == "" {
			r.Code, what = pelton.WhyPausedRateKey, fmt.Sprintf("rate key %q", p.RateKey)
		}
		r.Message = fmt.Sprintf("a handler paused %s for the whole fleet until %s", what, moment(p.Until))
		if putOff {
			r.LookAt = task.RunAt
		}
		rs = append(rs, r)
	}
	return rs
}

// inLine is who has the turns that the task waits for.
func inLine(s *broker.Standing, task *pelton.Task) pelton.WhyReason {
	l := s.Line
	r := pelton.WhyReason{
		Code: pelton.WhyWaitingForKey, Key: task.ConcurrencyKey, Running: len(l.Holders), MaxRunning: l.Limit,
		Holders: slices.Clip(l.Holders[:min(len(l.Holders), pelton.MaxWhyHolders)]), Ahead: l.Ahead,
	}
	what := fmt.Sprintf("concurrency key %q", task.ConcurrencyKey)
	if l.Of == broker.OfKind {
		r.Code, r.Key, r.Kind = pelton.WhyWaitingForKind, "", task.Kind
		what = "kind " + task.Kind
	}
	r.Message = fmt.Sprintf("%d of %d turns of %s are taken", len(l.Holders), l.Limit, what)
	switch {
	case len(l.Holders) == 1:
		r.Message += fmt.Sprintf(", by task %s", l.Holders[0])
	case len(l.Holders) > 1:
		r.Message += fmt.Sprintf(", the first by task %s", l.Holders[0])
	}
	if l.Ahead != nil {
		r.Message += fmt.Sprintf("; %s before it in the line", count(*l.Ahead))
	}
	return r
}

// unserved is what keeps every worker from the task, now and when its time comes.
func unserved(s *broker.Standing, task *pelton.Task) []pelton.WhyReason {
	var rs []pelton.WhyReason
	if s.Queue.IsPaused(task.Priority) || s.Lane != nil && s.Lane.Paused {
		rs = append(rs, pelton.WhyReason{
			Code: pelton.WhyPausedQueue, Queue: task.Queue, Priority: task.Priority,
			Message: fmt.Sprintf("priority %s of queue %s is paused", task.Priority, task.Queue),
		})
	}
	serving, able := servers(s, task)
	switch {
	case len(serving) == 0:
		rs = append(rs, pelton.WhyReason{
			Code: pelton.WhyNoWorkerQueue, Queue: task.Queue, Workers: len(s.Workers),
			Message: fmt.Sprintf("no worker serves queue %s; %d serve others", task.Queue, len(s.Workers)),
		})
	case len(able) == 0:
		rs = append(rs, pelton.WhyReason{
			Code: pelton.WhyNoWorkerKind, Queue: task.Queue, Kind: task.Kind, Workers: len(serving),
			Message: fmt.Sprintf("none of the workers that serve queue %s (%d) knows kind %s", task.Queue, len(serving), task.Kind),
		})
	}
	return rs
}

// servers are the workers that serve the task's queue, and those of them that know
// its kind.
func servers(s *broker.Standing, task *pelton.Task) (serving, able []broker.Presence) {
	for _, p := range s.Workers {
		if slices.Contains(p.Queues, task.Queue) {
			serving = append(serving, p)
			if slices.Contains(p.Kinds, task.Kind) {
				able = append(able, p)
			}
		}
	}
	return serving, able
}

// inLane is what holds a task that is ready.
func inLane(s *broker.Standing, task *pelton.Task) []pelton.WhyReason {
	var rs []pelton.WhyReason
	lane := s.Lane
	if lane.Ahead != nil {
		if lane.MaxRunning > 0 && lane.Running >= lane.MaxRunning {
			rs = append(rs, pelton.WhyReason{
				Code: pelton.WhyLaneFull, Queue: task.Queue, Priority: task.Priority, Running: lane.Running, MaxRunning: lane.MaxRunning,
				Message: fmt.Sprintf("%d of %d tasks of priority %s in queue %s run", lane.Running, lane.MaxRunning, task.Priority, task.Queue),
			})
		}
		ahead := pelton.Between{AtLeast: lane.Ahead.AtLeast, AtMost: lane.Ahead.AtMost + lane.Higher}
		if ahead.AtMost > 0 {
			r := pelton.WhyReason{
				Code: pelton.WhyWaitingBehind, Queue: task.Queue, Priority: task.Priority, Ahead: &ahead,
				Message: fmt.Sprintf("%s before it in queue %s", count(ahead), task.Queue),
			}
			if lane.Higher > 0 {
				r.Message += fmt.Sprintf(", %d of them of a higher priority", lane.Higher)
			}
			rs = append(rs, r)
		}
		if r, busy := workersBusy(s, task); busy {
			rs = append(rs, r)
		}
	}
	if rate := s.Queue.Settings.Rate; rate != nil {
		filled := rate.Filled()
		rs = append(rs, pelton.WhyReason{
			Code: pelton.WhyQueueRate, Queue: task.Queue, Rate: &filled,
			Message: fmt.Sprintf("queue %s starts at most %d tasks in %s", task.Queue, filled.Limit, pelton.FormatDuration(filled.Per)),
		})
	}
	return rs
}

// workersBusy goes by the last signs of life, which are some seconds old.
func workersBusy(s *broker.Standing, task *pelton.Task) (r pelton.WhyReason, busy bool) {
	_, able := servers(s, task)
	taken, slots := 0, 0
	for _, p := range able {
		taken, slots = taken+len(p.Running), slots+p.Concurrency
	}
	return pelton.WhyReason{
		Code: pelton.WhyWorkersBusy, Running: taken, MaxRunning: slots, Workers: len(able),
		Message: fmt.Sprintf("%d of %d slots are taken on the workers that could run it (%d), by their last signs of life", taken, slots, len(able)),
	}, len(able) > 0 && taken >= slots
}

// estimate is when a task may start, if every reason says so by itself: by its time,
// or by a queue's rate and the number of tasks before it.
func estimate(rs []pelton.WhyReason, now time.Time) time.Time {
	var at time.Time
	rated := slices.IndexFunc(rs, func(r pelton.WhyReason) bool { return r.Code == pelton.WhyQueueRate })
	for _, r := range rs {
		var then time.Time
		switch r.Code {
		case pelton.WhyScheduled, pelton.WhyBackingOff, pelton.WhyPausedKind, pelton.WhyPausedRateKey, pelton.WhyWorkerLost:
			then = r.Until
		case pelton.WhyRateLimited:
			if then = r.Until; then.IsZero() {
				return time.Time{}
			}
		case pelton.WhyWaitingBehind:
			if rated < 0 {
				return time.Time{}
			}
			rate := rs[rated].Rate
			then = now.Add(time.Duration(float64(r.Ahead.AtMost) * float64(rate.Per) / float64(rate.Limit)))
		case pelton.WhyQueueRate:
		case pelton.WhyFinished, pelton.WhyRunning, pelton.WhyUnknownKind, pelton.WhyWaitingForKey, pelton.WhyWaitingForKind, pelton.WhyExpiring,
			pelton.WhyPausedQueue, pelton.WhyNoWorkerQueue, pelton.WhyNoWorkerKind, pelton.WhyLaneFull, pelton.WhyWorkersBusy, pelton.WhyReady:
			return time.Time{}
		default:
			return time.Time{}
		}
		for _, t := range []time.Time{then, r.LookAt} {
			if t.After(at) {
				at = t
			}
		}
	}
	return at.UTC()
}

func moment(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z07:00") }

// count is a number of tasks, for people.
func count(n pelton.Between) string {
	switch {
	case n.AtLeast == n.AtMost && n.AtMost == 1:
		return "1 task is"
	case n.AtLeast == n.AtMost:
		return fmt.Sprintf("%d tasks are", n.AtMost)
	case n.AtLeast == 0:
		return fmt.Sprintf("at most %d tasks are", n.AtMost)
	default:
		return fmt.Sprintf("%d to %d tasks are", n.AtLeast, n.AtMost)
	}
}

package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
)

const (
	maxBulk  = 1000 // tasks or letters that one bulk call acts on
	bulkTime = 10 * time.Second
	// bulkRate is how many tasks or letters a second all bulk calls of a client act on
	// together, so that a retry of thousands does not crowd out other work.
	bulkRate = 500
)

// bulkVerb is what a call by filter does to each task, and to those of which states. A
// query that names no state goes over all of them, in their order: that in which a task goes
// from one to the next, so that none is missed that moves on meanwhile.
type bulkVerb struct {
	name   string
	states []pelton.State
	also   []pelton.State // only if the query names them
	act    func(ctx context.Context, id pelton.ID) error
}

// bulkStep is a list that a call by filter goes over.
type bulkStep struct {
	name  string // in cursors
	state pelton.State
	part  broker.ListPart
}

func stepsOf(states []pelton.State) (steps []bulkStep) {
	for _, s := range states {
		if s == pelton.Queued {
			steps = append(steps, bulkStep{"in_lines", s, broker.InLines}, bulkStep{"in_lanes", s, broker.InLanes})
			continue
		}
		steps = append(steps, bulkStep{string(s), s, broker.Everywhere})
	}
	return steps
}

// CancelTasks cancels the tasks that a query selects, as a cancel of each would: at most
// q.Limit (1,000 when zero, and at most), 500 a second, for at most 10 s. Without a state it
// goes over all that are not over: those that wait for a time, the queued and the running
// ones. Go on with NextCursor until it is empty. A dry run only counts.
//
// A task that cannot be cancelled counts as failed, and the call goes on; one that was
// over before does not count. When the broker is out of reach, the call ends: with the
// counts so far and the cursor, or with the error if nothing was done yet. Errors otherwise:
// a *pelton.ValidationError for a query that makes no sense.
func (c *Client) CancelTasks(ctx context.Context, q pelton.TaskQuery, dryRun bool) (*pelton.BulkResult, error) {
	return c.bulkTasks(ctx, q, dryRun, bulkVerb{
		name:   "cancelled",
		states: []pelton.State{pelton.Scheduled, pelton.Retrying, pelton.Queued, pelton.Running},
		act: func(ctx context.Context, id pelton.ID) error {
			_, err := c.b.Cancel(ctx, id)
			return err
		},
	})
}

// RetryTasks puts the tasks that a query selects back into their queues, as a retry of
// each would; otherwise it is as CancelTasks. Without a state it takes the failed ones:
// those that ended otherwise only if their state is named.
func (c *Client) RetryTasks(ctx context.Context, q pelton.TaskQuery, dryRun bool) (*pelton.BulkResult, error) {
	return c.bulkTasks(ctx, q, dryRun, bulkVerb{
		name:   "retried",
		states: []pelton.State{pelton.Failed},
		also:   []pelton.State{pelton.Succeeded, pelton.Cancelled, pelton.Expired},
		act: func(ctx context.Context, id pelton.ID) error {
			_, err := c.b.Requeue(ctx, id)
			return err
		},
	})
}

// bulkTasks goes over one list after the other. Its cursor is the list's name, a colon, and
// the cursor of that list.
func (c *Client) bulkTasks(ctx context.Context, q pelton.TaskQuery, dryRun bool, verb bulkVerb) (*pelton.BulkResult, error) {
	limit, err := readTaskQuery(q, maxBulk, maxBulk)
	if err != nil {
		return nil, err
	}
	steps, cursor, err := verb.start(q)
	if err != nil {
		return nil, err
	}
	k := &bulkCall{c: c, limit: limit, dryRun: dryRun, end: time.Now().Add(bulkTime)}
	for ; len(steps) > 0 && !k.over(); steps = steps[1:] {
		f := q.TaskFilter
		f.State = steps[0].state
		next, err := c.eachTask(ctx, f, steps[0].part, cursor, limit-k.result.Matched, func(task *pelton.Task) bool {
			return k.visit(ctx, task, func(ctx context.Context) error { return verb.act(ctx, task.ID) })
		})
		var invalid *pelton.ValidationError
		if errors.As(err, &invalid) {
			return nil, err
		}
		if k.broken == nil {
			k.broken = err
		}
		if cursor = next; next != "" || err != nil {
			break
		}
	}
	if len(steps) > 0 {
		return k.done(steps[0].name + ":" + cursor)
	}
	return k.done("")
}

// start gives the lists that are left to go over, and where to go on with the first.
func (v *bulkVerb) start(q pelton.TaskQuery) (steps []bulkStep, cursor string, err error) {
	states := v.states
	if q.State != "" {
		states = nil
		for _, s := range append(append([]pelton.State{}, v.states...), v.also...) {
			if s == q.State {
				states = []pelton.State{s}
			}
		}
		if states == nil {
			return nil, "", invalidField("state", fmt.Sprintf("%s tasks cannot be %s", q.State, v.name))
		}
	}
	steps = stepsOf(states)
	if q.Cursor == "" {
		return steps, "", nil
	}
	name, cursor, _ := strings.Cut(q.Cursor, ":")
	for i, s := range steps {
		if s.name == name {
			return steps[i:], cursor, nil
		}
	}
	return nil, "", invalidField("cursor", "is not one of an answer")
}

// bulkCall is one call by filter: how far it came, and why it stopped.
type bulkCall struct {
	c      *Client
	limit  int
	dryRun bool
	end    time.Time
	result pelton.BulkResult
	met    map[pelton.ID]bool // by a dry run: what is called meanwhile is in two lists
	broken error              // what ended it early
}

// over reports whether the call has done its share.
func (k *bulkCall) over() bool {
	return k.broken != nil || k.result.Matched == k.limit || time.Now().After(k.end)
}

// visit acts on one task or letter that was selected; false means that it did not, and
// that the call is over.
func (k *bulkCall) visit(ctx context.Context, task *pelton.Task, act func(context.Context) error) bool {
	switch {
	case k.over():
		return false
	case k.met[task.ID]:
		return true
	case k.dryRun:
		if k.met == nil {
			k.met = make(map[pelton.ID]bool)
		}
		k.met[task.ID] = true
		k.result.Matched++
		return true
	}
	if err := k.c.bulkPace.Wait(ctx); err != nil {
		k.broken = fmt.Errorf("by filter: %w: %w", pelton.ErrUnavailable, err)
		return false
	}
	err := act(ctx)
	var held *pelton.UniqueError
	switch {
	case err == nil:
		k.result.Matched++
		k.result.Done++
	case errors.As(err, &held):
		k.skipped(ctx, task, err)
	case errors.Is(err, pelton.ErrNotFound), errors.Is(err, pelton.ErrConflict):
		// Somebody else was faster: it is not what was selected any more.
	case ctx.Err() != nil, errors.Is(err, pelton.ErrUnavailable), errors.Is(err, pelton.ErrUnknownOutcome), errors.Is(err, pelton.ErrClosed):
		k.broken = err
		return false
	default:
		k.skipped(ctx, task, err)
	}
	return true
}

func (k *bulkCall) skipped(ctx context.Context, task *pelton.Task, err error) {
	k.result.Matched++
	k.result.Failed++
	k.c.logger.WarnContext(ctx, "skipped by a call by filter", slog.String("task_id", task.ID.String()), slog.String("queue", task.Queue), slog.Any("error", err))
}

// done is the answer, with where to go on. What broke the call is told if nothing was done.
func (k *bulkCall) done(next string) (*pelton.BulkResult, error) {
	if k.broken != nil && k.result.Matched == 0 {
		return nil, k.broken
	}
	k.result.NextCursor = next
	return &k.result, nil
}

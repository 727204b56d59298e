package admin

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
)

const (
	taskPage    = 50  // tasks of a page, when the query does not say
	maxTaskPage = 500 // tasks of a page
)

// Tasks lists the tasks that a query selects, in the order that its state has (see
// pelton.TaskQuery), at most q.Limit (50 when zero, 500 at most). One call reads a bounded
// number of messages and records, 1,000 or four for each of the limit, for about 2 s at
// most: a page may be short, or empty, while there is a next one.
//
// What is listed was read from its record, or is a ready task that has none as yet. The
// other way round a list is best effort:
//
//   - scheduled and retrying tasks go by an index that is written beside the tasks: for a
//     moment after a task was put off it may be missing, and for longer after the broker
//     refused to write there, until the sweep has been round. Those whose time has come
//     read queued and are not among them;
//   - running tasks are those that workers said last that they run, every few seconds;
//   - failed tasks have a dead letter: one whose letter was deleted is among all tasks only;
//   - a task that changes while it is listed page by page may be left out.
//
// The error is a *pelton.ValidationError for a query that makes no sense, and
// pelton.ErrUnavailable.
func (c *Client) Tasks(ctx context.Context, q pelton.TaskQuery) (*pelton.TaskPage, error) {
	limit, err := readTaskQuery(q, taskPage, maxTaskPage)
	if err != nil {
		return nil, err
	}
	page := &pelton.TaskPage{}
	size := 0
	page.NextCursor, err = c.eachTask(ctx, q.TaskFilter, broker.Everywhere, q.Cursor, limit, func(task *pelton.Task) bool {
		size += len(task.Payload) + len(task.Result)
		if len(page.Items) == limit || size > deadPageBytes && len(page.Items) > 0 {
			return false
		}
		page.Items = append(page.Items, task)
		return true
	})
	if err != nil {
		return nil, err
	}
	return page, nil
}

// eachTask calls visit for the tasks that a filter selects, from a cursor on, until it
// returns false (that task counts as not visited), after a bounded number of looks, or at
// the end, where next is "".
func (c *Client) eachTask(ctx context.Context, f pelton.TaskFilter, part broker.ListPart, cursor string, want int, visit func(*pelton.Task) bool) (next string, err error) {
	switch f.State {
	case pelton.Scheduled, pelton.Retrying:
		return c.eachTimed(ctx, f, cursor, want, visit)
	case pelton.Running:
		return c.eachRunning(ctx, f, cursor, visit)
	case pelton.Queued, pelton.Succeeded, pelton.Failed, pelton.Cancelled, pelton.Expired:
	default: // all states
	}
	listed := broker.ListFilter{State: f.State, Part: part, Queue: f.Queue, Priority: f.Priority, Kind: f.Kind, Since: f.Since, Until: f.Until}
	return c.b.EachListed(ctx, listed, cursor, func(r *broker.Record) bool {
		task := r.Task(time.Now())
		return !f.Matches(task) || visit(task)
	})
}

// eachTimed is eachTask for tasks that wait for a time.
func (c *Client) eachTimed(ctx context.Context, f pelton.TaskFilter, cursor string, want int, visit func(*pelton.Task) bool) (next string, err error) {
	after, err := readDuePoint(cursor)
	if err != nil {
		return "", invalidField("cursor", "is not one of an answer")
	}
	if since := f.Since.Add(-1); !f.Since.IsZero() && since.After(after.At) {
		after = broker.DuePoint{At: since}
	}
	over := false
	point, err := c.b.EachDue(ctx, broker.DueFilter{State: f.State, Queue: f.Queue, Kind: f.Kind, Priority: f.Priority}, after, want, func(r *broker.Record) bool {
		if over = !f.Until.IsZero() && !r.RunAt.Before(f.Until); over {
			return false
		}
		task := r.Task(time.Now()) // of another state if its time has just come
		return !f.InTime(task.RunAt) || !f.Matches(task) || visit(task)
	})
	if err != nil || over {
		return "", err
	}
	return writeDuePoint(point), nil
}

// fromNewest is the cursor of a list of running tasks of which none was visited.
const fromNewest = "0"

// eachRunning is eachTask for running tasks.
func (c *Client) eachRunning(ctx context.Context, f pelton.TaskFilter, cursor string, visit func(*pelton.Task) bool) (next string, err error) {
	var after pelton.ID
	if cursor != "" && cursor != fromNewest {
		if after, err = pelton.ParseID(cursor); err != nil {
			return "", invalidField("cursor", "is not one of an answer")
		}
	}
	after, over, err := c.b.EachRunning(ctx, after, func(r *broker.Record) bool {
		task := r.Task(time.Now())
		return !f.InTime(task.StartedAt) || !f.Matches(task) || visit(task)
	})
	switch {
	case err != nil, over:
		return "", err
	case after.IsZero():
		return fromNewest, nil
	default:
		return after.String(), nil
	}
}

func invalidField(field, message string) error {
	return &pelton.ValidationError{Fields: []pelton.FieldError{{Field: field, Message: message}}}
}

// readTaskQuery checks a query and gives its limit.
func readTaskQuery(q pelton.TaskQuery, usual, most int) (limit int, err error) {
	var bad []pelton.FieldError
	var invalid *pelton.ValidationError
	if errors.As(q.Check(), &invalid) {
		bad = invalid.Fields
	}
	if limit = q.Limit; limit == 0 {
		limit = usual
	}
	if limit < 1 || limit > most {
		bad = append(bad, pelton.FieldError{Field: "limit", Message: fmt.Sprintf("%d is not between 1 and %d", limit, most)})
	}
	if len(bad) > 0 {
		return 0, &pelton.ValidationError{Fields: bad}
	}
	return limit, nil
}

// A cursor is the time of the last task, in nanoseconds in base 36, and its id.

func writeDuePoint(p broker.DuePoint) string {
	if p.At.IsZero() {
		return ""
	}
	return strconv.FormatInt(p.At.UnixNano(), 36) + "." + p.ID.String()
}

func readDuePoint(cursor string) (p broker.DuePoint, err error) {
	if cursor == "" {
		return p, nil
	}
	at, id, _ := strings.Cut(cursor, ".")
	nanos, err := strconv.ParseInt(at, 36, 64)
	if err != nil {
		return p, err
	}
	p.At = time.Unix(0, nanos).UTC()
	if id == (pelton.ID{}).String() { // from a moment on
		return p, nil
	}
	p.ID, err = pelton.ParseID(id)
	return p, err
}

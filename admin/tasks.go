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

// Tasks lists tasks that wait for a time that is to come, the soonest first: delayed
// and deferred ones (pelton.Scheduled) or those that wait for their next attempt
// (pelton.Retrying), at most q.Limit (50 when zero, 500 at most). Those whose time has
// come read queued and are not among them. One call looks at no more than 1,000, or four
// for each of the limit: a page may be short, or empty, while there is a next one.
//
// The list goes by an index that is written beside the tasks: for a moment after a
// task was put off it may be missing, and for longer after the broker refused to write
// there, until the sweep has been round. What is listed was read from its record.
//
// The error is a *pelton.ValidationError for a query that makes no sense,
// pelton.ErrNotSupported for other states, and pelton.ErrUnavailable.
func (c *Client) Tasks(ctx context.Context, q pelton.TaskQuery) (*pelton.TaskPage, error) {
	after, limit, err := readTaskQuery(q)
	if err != nil {
		return nil, err
	}
	page := &pelton.TaskPage{}
	size := 0
	next, err := c.b.EachDue(ctx, broker.DueFilter{State: q.State, Queue: q.Queue, Kind: q.Kind, Priority: q.Priority}, after, limit, func(r *broker.Record) bool {
		task := r.Task(time.Now())
		if task.State != q.State {
			return true // its time has just come
		}
		size += len(task.Payload)
		if len(page.Items) == limit || size > deadPageBytes && len(page.Items) > 0 {
			return false
		}
		page.Items = append(page.Items, task)
		return true
	})
	if err != nil {
		return nil, err
	}
	page.NextCursor = writeDuePoint(next)
	return page, nil
}

func readTaskQuery(q pelton.TaskQuery) (after broker.DuePoint, limit int, err error) {
	var invalid *pelton.ValidationError
	if err := q.Check(); err != nil && !errors.As(err, &invalid) {
		return after, 0, err
	}
	var bad []pelton.FieldError
	if invalid != nil {
		bad = invalid.Fields
	}
	if limit = q.Limit; limit == 0 {
		limit = taskPage
	}
	if limit < 1 || limit > maxTaskPage {
		bad = append(bad, pelton.FieldError{Field: "limit", Message: fmt.Sprintf("%d is not between 1 and %d", limit, maxTaskPage)})
	}
	if after, err = readDuePoint(q.Cursor); err != nil {
		bad = append(bad, pelton.FieldError{Field: "cursor", Message: "is not one of an answer"})
	}
	if len(bad) > 0 {
		return after, 0, &pelton.ValidationError{Fields: bad}
	}
	return after, limit, nil
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

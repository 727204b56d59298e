package admin

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
)

const (
	deadPage      = 50      // letters of a page, when the query does not say
	maxDeadPage   = 500     // letters of a page
	deadPageBytes = 8 << 20 // payloads and results of a page; one letter always fits
)

// DeadLetters lists dead letters, newest first, at most q.Limit (50 when zero, 500
// at most). One call looks at no more than 1,000 letters and reads for no more
// than 2 s, whether they match or not; it answers what it found and where to go
// on. The error is a *pelton.ValidationError for a query that makes no sense.
func (c *Client) DeadLetters(ctx context.Context, q pelton.DeadQuery) (*pelton.DeadPage, error) {
	before, limit, err := readQuery(q, deadPage, maxDeadPage)
	if err != nil {
		return nil, err
	}
	page := &pelton.DeadPage{}
	size := 0
	next, err := c.b.EachDead(ctx, before, func(r *broker.Record) bool {
		letter := r.Task(time.Now())
		if !q.Matches(letter) {
			return true
		}
		size += len(letter.Payload) + len(letter.Result)
		if len(page.Items) == limit || size > deadPageBytes && len(page.Items) > 0 {
			return false
		}
		page.Items = append(page.Items, letter)
		return true
	})
	if err != nil {
		return nil, err
	}
	page.NextCursor = writeCursor(next)
	return page, nil
}

// DeadLetter reads the dead letter of a task: the task as it was when it failed.
// pelton.ErrNotFound means that there is none.
func (c *Client) DeadLetter(ctx context.Context, id pelton.ID) (*pelton.Task, error) {
	r, err := c.b.FindDead(ctx, id)
	if err != nil {
		return nil, err
	}
	return r.Task(time.Now()), nil
}

// DeleteDeadLetter deletes the dead letter of a task; the task's record stays
// readable as long as it would have. pelton.ErrNotFound means that there is none.
func (c *Client) DeleteDeadLetter(ctx context.Context, id pelton.ID) error {
	r, err := c.b.FindDead(ctx, id)
	if err != nil {
		return err
	}
	return c.b.DropDead(ctx, r)
}

// RetryDeadLetter puts a dead task back into its lane and deletes the letter. The
// task keeps its id, payload and error history; its attempts start anew. When its
// record is gone, the letter makes a new one.
//
// Repeating an interrupted call finishes it. pelton.ErrNotFound means that there
// is no letter, pelton.ErrConflict that the letter was out of date (the task was
// retried before and has ended otherwise) and is gone now.
func (c *Client) RetryDeadLetter(ctx context.Context, id pelton.ID) (*pelton.Task, error) {
	letter, err := c.b.FindDead(ctx, id)
	if err != nil {
		return nil, err
	}
	r, err := c.b.RequeueDead(ctx, letter)
	if r == nil {
		return nil, err
	}
	return r.Task(time.Now()), err
}

// RetryDeadLetters retries the letters that q selects, newest first, as
// RetryDeadLetter does: at most q.Limit (1,000 when zero, and at most), 500 a
// second, for at most 10 s. Go on with NextCursor until it is empty; letters that
// come meanwhile are newer than the cursor and not acted on. A dry run only counts.
//
// A letter that cannot be retried counts as failed and stays, and the call goes
// on. When the broker is out of reach, it ends: with the counts so far and the
// cursor, or with the error if nothing was done yet.
func (c *Client) RetryDeadLetters(ctx context.Context, q pelton.DeadQuery, dryRun bool) (*pelton.BulkResult, error) {
	return c.bulk(ctx, q, dryRun, func(ctx context.Context, letter *broker.Record) error {
		_, err := c.b.RequeueDead(ctx, letter)
		return err
	})
}

// PurgeDeadLetters deletes the letters that q selects; otherwise it is as
// RetryDeadLetters. The tasks' records stay readable as long as they would have.
func (c *Client) PurgeDeadLetters(ctx context.Context, q pelton.DeadQuery, dryRun bool) (*pelton.BulkResult, error) {
	return c.bulk(ctx, q, dryRun, func(ctx context.Context, letter *broker.Record) error {
		return c.b.DropDead(ctx, letter)
	})
}

// bulk acts on each letter that q selects.
func (c *Client) bulk(ctx context.Context, q pelton.DeadQuery, dryRun bool, act func(context.Context, *broker.Record) error) (*pelton.BulkResult, error) {
	before, limit, err := readQuery(q, maxBulk, maxBulk)
	if err != nil {
		return nil, err
	}
	k := &bulkCall{c: c, limit: limit, dryRun: dryRun, end: time.Now().Add(bulkTime)}
	next, err := c.b.EachDead(ctx, before, func(letter *broker.Record) bool {
		task := letter.Task(k.end)
		return !q.Matches(task) || k.visit(ctx, task, func(ctx context.Context) error { return act(ctx, letter) })
	})
	if err != nil {
		k.broken = err
	}
	return k.done(writeCursor(next))
}

// readQuery gives where to start and the limit.
func readQuery(q pelton.DeadQuery, usual, most int) (before uint64, limit int, err error) {
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
	if before, err = readCursor(q.Cursor); err != nil {
		bad = append(bad, pelton.FieldError{Field: "cursor", Message: "is not one of an answer"})
	}
	if len(bad) > 0 {
		return 0, 0, &pelton.ValidationError{Fields: bad}
	}
	return before, limit, nil
}

// A cursor is the stream sequence below which to go on, in base 36.

func writeCursor(before uint64) string {
	if before == 0 {
		return ""
	}
	return strconv.FormatUint(before, 36)
}

func readCursor(cursor string) (uint64, error) {
	if cursor == "" {
		return 0, nil
	}
	before, err := strconv.ParseUint(cursor, 36, 64)
	if err == nil && before == 0 {
		err = strconv.ErrRange
	}
	return before, err
}

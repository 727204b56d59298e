package scheduler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
)

// Get reads a schedule with its next ticks and last runs. pelton.ErrNotFound means that
// there is none.
func (c *Client) Get(ctx context.Context, name string) (*pelton.Schedule, error) {
	ctx, cancel, err := c.begin(ctx, name)
	defer cancel()
	if err != nil {
		return nil, err
	}
	return c.get(ctx, name, -1)
}

// get shows up to so many runs, or all that are remembered.
func (c *Client) get(ctx context.Context, name string, runs int) (*pelton.Schedule, error) {
	v, err := c.load(ctx, name)
	if err != nil {
		return nil, err
	}
	s := v.doc.Schedule
	s.Revision, s.CreatedAt, s.UpdatedAt, s.Failing = v.doc.Revision, v.doc.Created(), v.doc.Written(), v.state.Failing
	now, err := c.b.Now(ctx)
	if err != nil {
		return nil, err
	}
	switch {
	case v.broken != nil:
		s.Failing = &pelton.ScheduleFailing{Reason: v.broken.Error(), At: now}
	case !s.Paused:
		s.Next = v.rule.preview(latest(now, v.after()), shownNext)
	}
	for _, run := range slices.Backward(v.state.Runs) {
		if runs >= 0 && len(s.Last) == runs {
			break
		}
		if !run.TaskID.IsZero() {
			r, err := c.b.ReadRecord(ctx, run.TaskID)
			switch {
			case err == nil:
				run.State = r.Task(now).State
			case !errors.Is(err, pelton.ErrNotFound):
				return nil, err
			}
		}
		s.Last = append(s.Last, run)
	}
	return &s, nil
}

// List reads a page of schedules, sorted by name, each as Get does but with fewer of
// its last runs. A page ends early when its payloads become large.
func (c *Client) List(ctx context.Context, q pelton.ScheduleQuery) (pelton.SchedulePage, error) {
	var page pelton.SchedulePage
	if q.Limit < 0 || q.Limit > maxPage {
		return page, invalid("limit", "%d is not between 1 and %d", q.Limit, maxPage)
	}
	if q.Limit == 0 {
		q.Limit = pageLimit
	}
	ctx, cancel, err := c.begin(ctx, "list") // any name
	defer cancel()
	if err != nil {
		return page, err
	}
	names, err := c.b.ScheduleNames(ctx)
	if err != nil {
		return page, err
	}
	size := 0
	for _, name := range names {
		if name <= q.Cursor {
			continue
		}
		if len(page.Items) == q.Limit || size > pageBytes {
			page.NextCursor = page.Items[len(page.Items)-1].Name
			break
		}
		s, err := c.get(ctx, name, shownInLists)
		switch {
		case errors.Is(err, pelton.ErrNotFound): // deleted meanwhile
		case errors.Is(err, broker.ErrMalformed), errors.Is(err, broker.ErrNewer):
			c.log.Error("schedule is unreadable and not listed", "schedule", name, "error", err)
		case err != nil:
			return pelton.SchedulePage{}, err
		case q.Owner == "" || q.Owner == s.Owner:
			page.Items = append(page.Items, s)
			size += len(s.Task.Payload)
		}
	}
	return page, nil
}

// Preview lists the next n ticks, 1,000 at most, that a schedule would have from now
// on, whether it is stored, paused, or neither. The error is a *pelton.ValidationError
// for one that Put would refuse.
func (c *Client) Preview(ctx context.Context, s pelton.Schedule, n int) ([]time.Time, error) {
	if n < 1 || n > maxPreview {
		return nil, invalid("n", "%d is not between 1 and %d", n, maxPreview)
	}
	ctx, cancel, err := c.begin(ctx, s.Name)
	defer cancel()
	if err != nil {
		return nil, err
	}
	now, err := c.b.Now(ctx)
	if err != nil {
		return nil, err
	}
	_, r, err := normalize(s, now)
	if err == nil {
		err = r.check(now)
	}
	if err != nil {
		return nil, fmt.Errorf("preview: %w", err)
	}
	return r.preview(now, n), nil
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

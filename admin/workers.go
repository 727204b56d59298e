package admin

import (
	"cmp"
	"context"
	"slices"

	"github.com/peltonq/pelton"
)

// Workers lists the workers that are there, sorted by id, at most q.Limit (50 when
// zero, 500 at most). A worker that dies stays on the list until its last sign is too
// old: 15 s, or half the shortest lease that it serves if that is less. One that
// ends in order goes at once. A call reads the signs of all workers, whatever its
// page is. The error is a *pelton.ValidationError for a query that makes no sense.
func (c *Client) Workers(ctx context.Context, q pelton.WorkerQuery) (*pelton.WorkerPage, error) {
	after, limit, bad := readPage(q.Cursor, q.Limit)
	if len(bad) > 0 {
		return nil, &pelton.ValidationError{Fields: bad}
	}
	signs, err := c.b.Presences(ctx)
	if err != nil {
		return nil, err
	}
	workers := make([]pelton.Worker, len(signs))
	for i, p := range signs {
		workers[i] = pelton.Worker{
			ID: p.ID, Host: p.Host, PID: p.PID, Version: p.Version, Kinds: list(p.Kinds), Queues: list(p.Queues),
			Concurrency: p.Concurrency, Running: list(p.Running), Leaked: p.Leaked, StartedAt: p.StartedAt, SeenAt: p.SeenAt,
		}
		slices.SortFunc(workers[i].Running, func(a, b pelton.ID) int { return cmp.Compare(a.String(), b.String()) })
	}
	slices.SortFunc(workers, func(a, b pelton.Worker) int { return cmp.Compare(a.ID, b.ID) })
	page := &pelton.WorkerPage{}
	page.Items, page.NextCursor = cutPage(workers, after, limit, func(w pelton.Worker) string { return w.ID })
	return page, nil
}

// list is never nil: an empty list of JSON is [].
func list[T any](items []T) []T {
	if items == nil {
		return []T{}
	}
	return items
}

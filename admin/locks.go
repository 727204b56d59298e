package admin

import (
	"context"
	"errors"
	"strings"

	"github.com/peltonq/pelton"
)

// Locks lists the named locks that handlers hold, sorted by name, at most q.Limit
// (50 when zero, 500 at most). A call reads all locks of the installation, whatever
// its page is. The error is a *pelton.ValidationError for a query that makes no sense.
func (c *Client) Locks(ctx context.Context, q pelton.LockQuery) (*pelton.LockPage, error) {
	after, limit, err := readLockQuery(q)
	if err != nil {
		return nil, err
	}
	locks, err := c.lockList(ctx, q.Name)
	if err != nil {
		return nil, err
	}
	page := &pelton.LockPage{}
	page.Items, page.NextCursor = cutPage(locks, after, limit, func(l pelton.Lock) string { return l.Name })
	return page, nil
}

// lockList is all locks, or the one of that name.
func (c *Client) lockList(ctx context.Context, name string) ([]pelton.Lock, error) {
	if name == "" {
		return c.b.Locks(ctx)
	}
	lock, err := c.b.Lock(ctx, name)
	switch {
	case errors.Is(err, pelton.ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, err
	default:
		return []pelton.Lock{*lock}, nil
	}
}

// readLockQuery gives the name after which to start, and the limit.
func readLockQuery(q pelton.LockQuery) (after string, limit int, err error) {
	var bad []pelton.FieldError
	if q.Name != "" {
		if err := pelton.ValidateLock(q.Name); err != nil {
			bad = append(bad, pelton.FieldError{Field: "name", Message: strings.TrimPrefix(err.Error(), pelton.ErrInvalid.Error()+": ")})
		}
	}
	after, limit, wrong := readPage(q.Cursor, q.Limit)
	if bad = append(bad, wrong...); len(bad) > 0 {
		return "", 0, &pelton.ValidationError{Fields: bad}
	}
	return after, limit, nil
}

// ReleaseLock takes a lock from all who hold it, or from those with the given
// fencing tokens alone, and gives who that was. Their handlers are told: the ctx of
// the lock ends with pelton.ErrLockLost. What they do about it is theirs, so
// somebody else may have the lock while they still work; the tokens tell them apart.
// Who takes the lock meanwhile keeps it.
//
// pelton.ErrNotFound means that nobody holds the lock, or none with those tokens,
// pelton.ErrInvalid a name that no lock can have. With another error, some may have
// lost it; repeating the call finishes it.
func (c *Client) ReleaseLock(ctx context.Context, name string, tokens ...uint64) (*pelton.Lock, error) {
	if err := pelton.ValidateLock(name); err != nil {
		return nil, err
	}
	lock, err := c.b.BreakLock(ctx, name, tokens...)
	if lock != nil {
		for _, holder := range lock.Holders {
			c.logger.WarnContext(ctx, "lock released by force", "lock", name, "task_id", holder.TaskID.String(),
				"kind", holder.Kind, "worker", holder.Worker, "token", holder.Token)
		}
	}
	if err != nil {
		return nil, err
	}
	return lock, nil
}

package admin

import (
	"context"
	"fmt"

	"github.com/peltonq/pelton"
)

// Limits lists the limits per kind, rate key and concurrency key, sorted by name.
func (c *Client) Limits(ctx context.Context) ([]pelton.Limit, error) {
	limits, err := c.b.Limits(ctx)
	if err != nil {
		return nil, fmt.Errorf("list limits: %w", err)
	}
	return limits, nil
}

// SetLimit creates or replaces a limit and returns it with its defaults. Workers
// follow within a second. Replacing a limit by another form of it starts with full
// buckets. A limit that cannot be is a *pelton.ValidationError.
func (c *Client) SetLimit(ctx context.Context, l pelton.Limit) (*pelton.Limit, error) {
	l, err := l.Normalized()
	if err != nil {
		return nil, err
	}
	if err := c.b.SaveLimit(ctx, l); err != nil {
		return nil, fmt.Errorf("set limit %s: %w", l.Name, err)
	}
	return &l, nil
}

// DeleteLimit lifts a limit; pelton.ErrNotFound if there is none. Tasks that wait
// for their place in its line start when they look next: within half of the time
// that they have left.
func (c *Client) DeleteLimit(ctx context.Context, name string) error {
	if err := pelton.ValidateLimitName(name); err != nil {
		return err
	}
	if err := c.b.DeleteLimit(ctx, name); err != nil {
		return fmt.Errorf("delete limit %s: %w", name, err)
	}
	return nil
}

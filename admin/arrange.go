package admin

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
)

// Arrangement is where a cluster keeps an installation, and how many copies of it.
type Arrangement struct {
	// Replicas is from 1 to 5; 3 survive the loss of one server. Zero leaves it as it is.
	Replicas int
	// Tags are those that a server must have to hold a copy. Nil leaves them as they are, an empty
	// slice is any server.
	Tags []string
}

// Arrange changes that of all streams and buckets while they are in use, and reports whether
// anything was different. It takes some seconds, on a busy cluster up to 30 for a stream, and the cluster copies what there is in the
// background after that: see AwaitArranged. The task stream refuses everything for about ten of them,
// before its copies begin (nats-server 2.15). Repeating it goes on where it failed. Errors: pelton.ErrInvalid;
// pelton.ErrConflict for a cluster that has not so many servers, or none with such tags; pelton.ErrUnavailable.
func (c *Client) Arrange(ctx context.Context, to Arrangement) (changed bool, err error) {
	return c.b.Arrange(ctx, broker.Arrangement{Replicas: to.Replicas, Tags: to.Tags})
}

// GrowShards spreads tasks over so many shards, while the installation is in use, and reports whether there were
// fewer. New tasks use the new ones within 2 s; those that there are stay where they are. Repeating it goes
// on where it failed. Errors: pelton.ErrInvalid for a number that cannot be; pelton.ErrConflict where there are more,
// for they never become fewer; pelton.ErrUnavailable.
func (c *Client) GrowShards(ctx context.Context, n int) (grown bool, err error) {
	return c.b.GrowShards(ctx, n)
}

// PrepareShards makes what so many shards need, without anybody using them yet, and reports whether there are
// fewer: GrowShards does so too, and then lets them be used. Its errors are those of GrowShards.
func (c *Client) PrepareShards(ctx context.Context, n int) (fewer bool, err error) {
	there, _, err := c.b.PrepareShards(ctx, n)
	return err == nil && there < n, err
}

// Shards is over how many shards tasks are spread.
func (c *Client) Shards() int { return c.b.Shards() }

// Between two looks at the copies: 200 ms at first, twice as long each time, up to 5 s.
const (
	arrangedLook    = 200 * time.Millisecond
	maxArrangedLook = 5 * time.Second
)

// AwaitArranged waits until the cluster has all copies of everything where they belong. Until
// then, the loss of one server may be that of the only copy. Errors: pelton.ErrUnavailable, with what
// is missing, when ctx ends.
func (c *Client) AwaitArranged(ctx context.Context) error {
	look := time.NewTimer(0)
	defer look.Stop()
	for wait := arrangedLook; ; wait = min(2*wait, maxArrangedLook) {
		missing, err := c.b.Unsettled(ctx)
		if err == nil && len(missing) == 0 {
			return nil
		}
		if err == nil {
			err = fmt.Errorf("%w: %s", pelton.ErrUnavailable, strings.Join(missing, ", "))
		}
		look.Reset(wait)
		select {
		case <-look.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for copies: %w", err)
		}
	}
}

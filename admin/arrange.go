package admin

import (
	"context"

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
// anything was different. It takes some seconds, and the cluster copies what there is in the
// background after that. Repeating it goes on where it failed. Errors: pelton.ErrInvalid;
// pelton.ErrConflict for a cluster that has not so many servers, or none with such tags; pelton.ErrUnavailable.
func (c *Client) Arrange(ctx context.Context, to Arrangement) (changed bool, err error) {
	return c.b.Arrange(ctx, broker.Arrangement{Replicas: to.Replicas, Tags: to.Tags})
}

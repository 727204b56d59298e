package redislimit

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/peltonq/pelton"
)

// Check asks the Redis at url whether it is there and how long that took. A url that
// cannot be one is pelton.ErrInvalid; other errors are of a Redis that does not answer
// or refuses us. None has the password in it.
func Check(ctx context.Context, url string) (took time.Duration, err error) {
	options, err := redis.ParseURL(url)
	if err != nil { // its text may have the password in it
		return 0, fmt.Errorf("%w: not the URL of a Redis such as redis://127.0.0.1:6379", pelton.ErrInvalid)
	}
	options.MaxRetries, options.DialerRetries = -1, 1
	options.ContextTimeoutEnabled, options.DisableIdentity = true, true
	client := redis.NewClient(options)
	defer func() { _ = client.Close() }() // it was only asked
	begin := time.Now()
	if err := client.Ping(ctx).Err(); err != nil {
		return 0, fmt.Errorf("ask Redis at %s: %w", options.Addr, err)
	}
	return time.Since(begin), nil
}

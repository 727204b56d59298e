package redislimit

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// OpenPatient is Open for a Limiter that waits that long for each answer.
func OpenPatient(ctx context.Context, url string, cfg Config, answer time.Duration) (*Limiter, error) {
	return open(ctx, url, cfg, answer)
}

// TripFor is how long no questions are asked.
const TripFor = tripFor

// SettleFor is how long a process keeps to its share after Redis is back.
const SettleFor = settleFor

// CountQuestions counts what is asked of Redis from now on.
func (l *Limiter) CountQuestions() (asked func() int64) {
	hook := &counting{}
	l.client.AddHook(hook)
	return hook.n.Load
}

type counting struct{ n atomic.Int64 }

func (*counting) DialHook(next redis.DialHook) redis.DialHook { return next }

func (c *counting) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		c.n.Add(1)
		return next(ctx, cmd)
	}
}

func (*counting) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

package redislimit

import (
	"context"

	"github.com/redis/go-redis/v9"
)

// Silence keeps go-redis, in this whole process, from writing a line to stderr for
// every connection that fails: a Limiter says once that Redis is gone. It is for
// programs; go-redis has one logger for all who use it.
func Silence() { redis.SetLogger(silent{}) }

type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}

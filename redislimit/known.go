package redislimit

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-redis/redis_rate/v10"
	"github.com/redis/go-redis/v9"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/limit"
)

// What was booked starts, whatever becomes of Redis: workers hold tasks for up to half
// a second, and records name starts that lie further ahead. So a bucket must not be
// full again when Redis forgets it, and not when a process goes on alone; else all that
// was booked would start beside all that is booked anew, twice the rate for as long as
// the bookings reach. Therefore:
//
//   - Each process remembers until when it has heard that the fleet's starts are booked.
//     An answer that knows of less comes from a Redis that has forgotten; what is known
//     is put back, and the question asked again. Putting back never takes anything away,
//     so it does not matter how many do so.
//   - What others have booked since its last answer it cannot know: a burst at a time. A Redis
//     that is back is first told of so much more than what is known. That loses starts, once.
//   - A process that goes on alone begins where its share of the fleet's bookings ends,
//     and adds to the fleet's what it has booked alone before its next question.
//   - Processes hear at different times that Redis is back, tripFor apart at most. For
//     twice that long each counts for itself as well: its share bounds it while others
//     may not count in Redis yet. What its share puts off is put off in Redis, too. A restart
//     that a process did not notice, because it had no question just then, it sees by the run id
//     of the Redis that its next connection goes to.
//
// What remains: a Redis that dies with bookings of which no process has heard that asks
// now, because it was they that died too. That is one burst at most, as of an empty Redis.

// settleFor is how long a process keeps to its share after Redis is back.
const settleFor = 2 * tripFor

// knownBucket is what a process knows of a bucket of the fleet. As many are kept as of
// its own buckets; of one that was forgotten nothing is known, as of a process that died.
type knownBucket struct {
	mu     sync.Mutex
	booked time.Time // until then at least starts are booked
	// alone is until when this process's share is booked, if it has booked anything
	// that Redis was not told of, and last the last of those starts.
	alone, last time.Time
	// held is the backAt for which the process's own bucket was prepared, met that for which
	// Redis was told what it may have forgotten.
	held, met int64
}

func (l *Limiter) knownOf(b limit.Bucket) *knownBucket {
	found, known := l.known.Get(b.Key)
	if !known {
		found = &knownBucket{}
		if earlier, raced, _ := l.known.PeekOrAdd(b.Key, found); raced {
			found = earlier
		}
	}
	return found
}

// settling reports whether the process is to keep to its share of a limit, whatever
// Redis says: it is not back yet, or others may still count without it.
func (l *Limiter) settling(ctx context.Context, b limit.Bucket, known *knownBucket) bool {
	if b.Rate.OnError != "" && b.Rate.OnError != pelton.OnErrorLocal {
		return false
	}
	if l.down.Load() {
		_ = l.ask(ctx, func(ctx context.Context) error { return l.client.Ping(ctx).Err() }) // it is down, or back
	}
	if l.down.Load() {
		l.hold(b, known)
		return true
	}
	backAt := l.backAt.Load()
	if time.Since(l.began)-time.Duration(backAt) >= settleFor {
		return false
	}
	known.mu.Lock()
	prepared := known.held == backAt
	known.held = backAt
	known.mu.Unlock()
	if !prepared { // it may not have been used for long, and be full
		l.hold(b, known)
	}
	return true
}

// connected looks which Redis a new connection goes to, before anything is asked on it. Another one
// than the last may have forgotten everything, and others may have noticed that it was away. One
// that does not tell is taken for the same.
func (l *Limiter) connected(ctx context.Context, cn *redis.Conn) error {
	info, err := cn.Info(ctx, "server").Result()
	if err != nil {
		return nil //nolint:nilerr // documented
	}
	_, rest, found := strings.Cut(info, "run_id:")
	if !found {
		return nil
	}
	id, _, _ := strings.Cut(rest, "\r")
	if was := l.run.Swap(&id); was != nil && *was != id {
		l.backAt.Store(int64(time.Since(l.began)))
	}
	return nil
}

// hold prepares the bucket of this process for a question that Redis does not answer.
func (l *Limiter) hold(b limit.Bucket, known *knownBucket) {
	known.mu.Lock()
	reset := time.Until(known.booked)
	known.mu.Unlock()
	l.local.Hold(b, reset)
}

// owe notes that this process has booked n alone, which start after wait.
func (l *Limiter) owe(b limit.Bucket, known *knownBucket, n int, wait time.Duration) {
	if n == 0 {
		return
	}
	known.mu.Lock()
	defer known.mu.Unlock()
	now := time.Now()
	share := time.Duration(float64(n) * float64(interval(b)) / l.cfg.Share)
	known.alone = later(known.alone, known.booked, now).Add(share)
	known.last = later(known.last, now.Add(wait))
}

// reserve keeps Redis from booking anything of the bucket before this process's own
// booking starts, which its share has put off for so long.
func (l *Limiter) reserve(ctx context.Context, b limit.Bucket, known *knownBucket, wait time.Duration) error {
	full := wait + time.Duration(b.Rate.Burst)*interval(b)
	known.mu.Lock()
	reserved := wait == 0 || time.Until(known.booked) >= full
	known.mu.Unlock()
	if reserved {
		return nil
	}
	_, err := l.restore(ctx, b, 0, 0, full)
	return err
}

// interval is what one start takes of the fleet's time.
func interval(b limit.Bucket) time.Duration { return b.Rate.Per / time.Duration(b.Rate.Limit) }

func later(times ...time.Time) time.Time { return slices.MaxFunc(times, time.Time.Compare) }

// allow is AllowN of a Redis that knows what this process does. wait is for how long its
// own share has put off what it asks for.
func (l *Limiter) allow(ctx context.Context, b limit.Bucket, known *knownBucket, rate redis_rate.Limit, n int, wait time.Duration) (*redis_rate.Result, error) {
	if err := l.settle(ctx, b, known); err != nil {
		return nil, err
	}
	if err := l.reserve(ctx, b, known, wait); err != nil {
		return nil, err
	}
	for again := false; ; again = true {
		asked := time.Now()
		r, err := l.fleet.AllowN(ctx, b.Key, rate, n)
		if err != nil {
			return nil, fmt.Errorf("ask redis: %w", err)
		}
		known.mu.Lock()
		booked, unmet := known.booked, known.met != l.backAt.Load()
		known.mu.Unlock()
		if !again && unmet { // it was the first question on a new connection
			if err := l.settle(ctx, b, known); err != nil {
				return nil, err
			}
			continue
		}
		// Redis was at its answer somewhere between the two times.
		known.mu.Lock()
		if at := asked.Add(r.ResetAfter); at.After(known.booked) {
			known.booked = at
		}
		known.mu.Unlock()
		if again || !time.Now().Add(r.ResetAfter).Before(booked) {
			return r, nil
		}
		// It has forgotten, or answers of this process came in another order.
		if moved, err := l.restore(ctx, b, time.Until(booked), 0, 0); err != nil || !moved {
			return r, err
		}
	}
}

// settle tells Redis what the process has booked alone, and one that is back what it may have
// forgotten.
func (l *Limiter) settle(ctx context.Context, b limit.Bucket, known *knownBucket) error {
	known.mu.Lock()
	defer known.mu.Unlock() // others of the process wait: their questions come after it
	if backAt := l.backAt.Load(); known.met != backAt {
		others := known.booked.Add(time.Duration(b.Rate.Burst) * interval(b))
		if backAt > 0 && time.Until(others) > 0 { // else it never was away, or nothing is known
			if _, err := l.restore(ctx, b, time.Until(others), 0, 0); err != nil {
				return err
			}
		}
		known.met = backAt
	}
	if known.alone.IsZero() {
		return nil
	}
	now := time.Now()
	owed := time.Duration(float64(known.alone.Sub(later(known.booked, now))) * l.cfg.Share)
	var last time.Duration
	if known.last.After(now) {
		last = known.last.Sub(now) + time.Duration(b.Rate.Burst)*interval(b)
	}
	if _, err := l.restore(ctx, b, known.booked.Sub(now), owed, last); err != nil {
		return err
	}
	known.alone, known.last = time.Time{}, time.Time{}
	return nil
}

// moveBooked moves a bucket's arrival time, which redis_rate keeps in seconds since
// 2017, to ARGV[1] seconds from now if it is not as far, then ARGV[2] seconds further,
// and to ARGV[3] seconds from now if it still is not as far as that. It returns whether
// that moved it by more than a millisecond.
const moveBooked = `
local time = redis.call("TIME")
local now = (time[1] - 1483228800) + (time[2] / 1000000)
local was = math.max(tonumber(redis.call("GET", KEYS[1]) or now), now)
local tat = math.max(math.max(was, now + tonumber(ARGV[1])) + tonumber(ARGV[2]), now + tonumber(ARGV[3]))
if tat - was <= 0.001 then
  return 0
end
redis.call("SET", KEYS[1], string.format("%.6f", tat), "EX", math.ceil(tat - now))
return 1
`

// restore books in Redis what it does not know of.
func (l *Limiter) restore(ctx context.Context, b limit.Bucket, booked, more, atLeast time.Duration) (moved bool, err error) {
	n, err := l.move.Run(ctx, l.client, []string{redisKey(b)}, max(0, booked.Seconds()), max(0, more.Seconds()), atLeast.Seconds()).Int()
	if err != nil {
		return false, fmt.Errorf("tell redis what is booked: %w", err)
	}
	return n == 1, nil
}

// redisKey is where redis_rate keeps a bucket.
func redisKey(b limit.Bucket) string { return "rate:" + b.Key }

// Package redislimit counts rate limits in Redis, so that all processes of an
// installation hold them together. Give its Limiter to worker.Config.Limiter.
//
// While Redis is out of reach each limit goes on as its on_error says: by this
// process's share of it (local), without a bound (open), or not at all (closed).
package redislimit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync/atomic"
	"time"

	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/go-redis/redis_rate/v10"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/limit"
)

const (
	// answerTimeout bounds one question to Redis, a new connection included.
	answerTimeout = 50 * time.Millisecond
	// dialTimeout bounds a connection, which is made beside the question that
	// needed it: one that takes longer than answerTimeout serves the next.
	dialTimeout = 200 * time.Millisecond
	// tripAfter is how many questions in a row go unanswered before no more are
	// asked for tripFor. Then one question tries.
	tripAfter = 3
	tripFor   = time.Second
)

// Config says how a Limiter goes on without Redis, and who hears of it.
type Config struct {
	// Share of each limit that this process may use alone while Redis is out of
	// reach: above 0 and at most 1. Zero means 1, the whole of it.
	Share float64
	// Observer is told of what happens without Redis, for metrics. Nil is nobody.
	Observer Observer
	// Logger gets a line when Redis goes and one when it is back. Nil discards.
	Logger *slog.Logger
}

// Observer is told what a Limiter does. Its methods are called from many
// goroutines and must not block.
type Observer interface {
	// RedisUp: Redis is in use from now on, or is not.
	RedisUp(up bool)
	// LimitFellBack: a question about a limit was answered without Redis.
	LimitFellBack(limit string, mode string)
}

// Limiter asks Redis. It is safe for concurrent use, and never takes longer than
// 50 ms to answer. Close it when nobody asks any more.
type Limiter struct {
	cfg     Config
	answer  time.Duration // answerTimeout
	client  *redis.Client
	fleet   *redis_rate.Limiter
	local   *limit.Local
	breaker circuitbreaker.CircuitBreaker[any]
	down    atomic.Bool
	backAt  atomic.Int64           // when Redis was last back, or another one was met, in nanoseconds since began
	run     atomic.Pointer[string] // of the Redis that was last connected to: see connected
	began   time.Time
	known   *lru.Cache[string, *knownBucket]
	move    *redis.Script // moveBooked
}

// Open makes a Limiter for the Redis at url, such as redis://host:6379/0 or
// rediss://user:password@host. A Redis that is out of reach is no error, it is
// asked again every second. A url that cannot be one is pelton.ErrInvalid.
func Open(ctx context.Context, url string, cfg Config) (*Limiter, error) {
	return open(ctx, url, cfg, answerTimeout)
}

func open(ctx context.Context, url string, cfg Config, answer time.Duration) (*Limiter, error) {
	if cfg.Share == 0 {
		cfg.Share = 1
	}
	if cfg.Observer == nil {
		cfg.Observer = nobody{}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	local, err := limit.NewLocal(cfg.Share)
	if err != nil {
		return nil, fmt.Errorf("redislimit.Config: %w", err)
	}
	options, err := redis.ParseURL(url)
	if err != nil { // its text may have the password in it
		return nil, fmt.Errorf("%w: not the URL of a Redis such as redis://127.0.0.1:6379", pelton.ErrInvalid)
	}
	// What the client would repeat, wait for or tell the server by itself makes a
	// question without an answer 1.7 s long.
	options.MaxRetries, options.DialerRetries = -1, 1
	options.DialTimeout, options.ReadTimeout, options.WriteTimeout, options.PoolTimeout = max(dialTimeout, answer), answer, answer, answer
	options.ContextTimeoutEnabled = true
	options.DisableIdentity = true
	options.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	known, err := lru.New[string, *knownBucket](limit.MaxBuckets)
	if err != nil {
		return nil, fmt.Errorf("make limiter: %w", err)
	}
	l := &Limiter{cfg: cfg, answer: answer, local: local, began: time.Now(), known: known, move: redis.NewScript(moveBooked)}
	options.OnConnect = l.connected
	l.client = redis.NewClient(options)
	l.fleet = redis_rate.NewLimiter(l.client)
	l.backAt.Store(-int64(settleFor)) // it never was away
	l.breaker = circuitbreaker.NewBuilder[any]().
		WithFailureThreshold(tripAfter).WithSuccessThreshold(1).WithDelay(tripFor).
		OnStateChanged(l.changed).Build()
	cfg.Observer.RedisUp(true)
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := l.client.Ping(ctx).Err(); err != nil {
		l.lost(err)
		l.breaker.Open()
	}
	return l, nil
}

// Close ends the connections to Redis.
func (l *Limiter) Close() error {
	if err := l.client.Close(); err != nil {
		return fmt.Errorf("close limiter: %w", err)
	}
	return nil
}

// changed tells of Redis going and coming. A breaker that is half open tries, and
// nothing has changed yet.
func (l *Limiter) changed(e circuitbreaker.StateChangedEvent) {
	if e.NewState == circuitbreaker.ClosedState && l.down.Load() {
		l.backAt.Store(int64(time.Since(l.began))) // before anybody sees that it is not down
		l.down.Store(false)
		l.cfg.Observer.RedisUp(true)
		l.cfg.Logger.Info("redis is back, rate limits hold for the whole fleet again")
	}
}

// lost tells once that Redis is out of reach.
func (l *Limiter) lost(err error) {
	if l.down.Swap(true) {
		return
	}
	l.cfg.Observer.RedisUp(false)
	l.cfg.Logger.Warn("redis is out of reach, every rate limit goes on as its on_error says", "share", l.cfg.Share, "error", err)
}

// errTripped is a question that was not asked.
var errTripped = errors.New("redis does not answer")

// ask asks Redis if that makes sense.
func (l *Limiter) ask(ctx context.Context, question func(context.Context) error) error {
	if !l.breaker.TryAcquirePermit() {
		return errTripped
	}
	// A caller that goes away says nothing about Redis.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.answer)
	defer cancel()
	err := question(ctx)
	if err == nil {
		l.breaker.RecordSuccess()
		return nil
	}
	l.breaker.RecordFailure()
	if !l.breaker.IsClosed() {
		l.lost(err)
	}
	return err
}

func redisLimit(r pelton.RateLimit) redis_rate.Limit {
	return redis_rate.Limit{Rate: r.Limit, Burst: r.Burst, Period: r.Per}
}

// Take takes up to n tokens, as many as there are now.
//
// redis_rate's AllowAtMost would also take the fraction of a token that is there:
// who asks often would get far less than the rate. So this asks for n, and if
// there are fewer, for as many as the refusal says there are.
func (l *Limiter) Take(ctx context.Context, b limit.Bucket, n int) limit.Decision {
	var d, own limit.Decision
	known := l.knownOf(b)
	if l.settling(ctx, b, known) {
		if own = l.local.Take(ctx, b, n); own.Allowed == 0 {
			l.countAlone(b)
			return own
		}
		n = own.Allowed
	}
	err := l.ask(ctx, func(ctx context.Context) error {
		r, err := l.allow(ctx, b, known, redisLimit(b.Rate), n, 0)
		if err != nil {
			return err
		}
		if have := available(b.Rate, r.ResetAfter); r.Allowed == 0 && n > 1 && have >= 1 {
			if r, err = l.allow(ctx, b, known, redisLimit(b.Rate), min(n, int(have)), 0); err != nil {
				return err
			}
		}
		d = decision(b.Rate, r)
		return nil
	})
	if err == nil {
		return d
	}
	mode := l.fellBack(b)
	switch mode {
	case pelton.OnErrorOpen:
		return limit.Decision{Allowed: n, Remaining: b.Rate.Burst}
	case pelton.OnErrorClosed:
		return limit.Decision{RetryAfter: l.again(), ResetAfter: l.again()}
	case pelton.OnErrorLocal:
	}
	if own.Allowed == 0 {
		l.hold(b, known)
		own = l.local.Take(ctx, b, n)
	}
	l.owe(b, known, own.Allowed, 0)
	return own
}

// Book books n tokens at the first time at which they may be used together, if
// that is not further than ahead.
//
// redis_rate has no such call, but its arithmetic has: with a burst that reaches
// ahead, it moves the bucket's arrival time just as much, and tells where it is.
func (l *Limiter) Book(ctx context.Context, b limit.Bucket, n int, ahead time.Duration) limit.Booking {
	var booking limit.Booking
	interval := b.Rate.Per.Seconds() / float64(b.Rate.Limit)
	known := l.knownOf(b)
	var own limit.Booking
	if l.settling(ctx, b, known) {
		if own = l.local.Book(ctx, b, n, ahead); !own.OK {
			l.countAlone(b)
			return own
		}
	}
	err := l.ask(ctx, func(ctx context.Context) error {
		reaching := redisLimit(b.Rate)
		reaching.Burst += int(math.Min(ahead.Seconds()/interval, 1<<40))
		r, err := l.allow(ctx, b, known, reaching, n, own.Wait)
		if err != nil {
			return err
		}
		until := r.ResetAfter.Seconds()
		if r.Allowed == 0 { // the arrival time was not moved
			until += interval * float64(n)
		}
		wait := time.Duration(math.Ceil((until - interval*float64(b.Rate.Burst)) * float64(time.Second)))
		booking = limit.Booking{OK: r.Allowed > 0, Wait: max(0, wait, own.Wait)}
		return nil
	})
	if err == nil {
		return booking
	}
	switch l.fellBack(b) {
	case pelton.OnErrorOpen:
		return limit.Booking{OK: true}
	case pelton.OnErrorClosed:
		return limit.Booking{Closed: true, Wait: l.again()}
	case pelton.OnErrorLocal:
	}
	if !own.OK {
		l.hold(b, known)
		own = l.local.Book(ctx, b, n, ahead)
	}
	if own.OK {
		l.owe(b, known, n, own.Wait)
	}
	return own
}

// countAlone counts an answer without Redis, if it is one.
func (l *Limiter) countAlone(b limit.Bucket) {
	if l.down.Load() {
		l.fellBack(b)
	}
}

func (l *Limiter) fellBack(b limit.Bucket) string {
	mode := b.Rate.OnError
	if mode == "" {
		mode = pelton.OnErrorLocal
	}
	l.cfg.Observer.LimitFellBack(b.Limit, mode)
	return mode
}

// again is when it makes sense to ask for what is closed without Redis.
func (l *Limiter) again() time.Duration { return max(l.breaker.RemainingDelay(), tripFor/4) }

// available is how many tokens a bucket holds that will be full after reset; below
// zero when some are booked.
func available(r pelton.RateLimit, reset time.Duration) float64 {
	interval := r.Per.Seconds() / float64(r.Limit)
	return float64(r.Burst) - math.Max(0, reset.Seconds())/interval
}

func decision(rate pelton.RateLimit, r *redis_rate.Result) limit.Decision {
	d := limit.Decision{Allowed: r.Allowed, Remaining: r.Remaining, ResetAfter: max(0, r.ResetAfter)}
	if have := available(rate, r.ResetAfter); have < 1 {
		interval := rate.Per.Seconds() / float64(rate.Limit)
		d.RetryAfter = time.Duration(math.Ceil((1 - have) * interval * float64(time.Second)))
	}
	if d.Allowed == 0 { // rounding must not say "again, at once"
		d.RetryAfter = max(d.RetryAfter, time.Millisecond)
	}
	return d
}

// nobody is the Observer of a Limiter that has none.
type nobody struct{}

func (nobody) RedisUp(bool)                 {}
func (nobody) LimitFellBack(string, string) {}

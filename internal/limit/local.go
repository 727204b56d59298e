package limit

import (
	"context"
	"fmt"
	"math"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"

	"github.com/peltonq/pelton"
)

// MaxBuckets bounds what a process remembers, about 20 MB with the longest keys.
// Beyond it the bucket that was used longest ago is forgotten, and starts full.
const MaxBuckets = 65_536

// Local limits what this process starts, to a share of each rate. It is safe for
// concurrent use, and its calls never fail or wait.
type Local struct {
	share   float64
	buckets *lru.Cache[string, *localBucket]
}

// localBucket is locked for each step, because taking back a reservation is exact
// only while no other was made since.
type localBucket struct {
	mu sync.Mutex
	*rate.Limiter
}

// NewLocal makes a limiter that allows a share of each rate and burst, above 0 and
// at most 1. A share of 1/n in each of n processes is the whole rate.
func NewLocal(share float64) (*Local, error) {
	return newLocal(share, MaxBuckets)
}

func newLocal(share float64, most int) (*Local, error) {
	if !(share > 0 && share <= 1) {
		return nil, fmt.Errorf("%w: a share of %v is not above 0 and at most 1", pelton.ErrInvalid, share)
	}
	buckets, err := lru.New[string, *localBucket](most)
	if err != nil {
		return nil, fmt.Errorf("make local limiter: %w", err)
	}
	return &Local{share: share, buckets: buckets}, nil
}

// bucket gives the bucket for at least n at once.
func (l *Local) bucket(b Bucket, n int) *localBucket {
	burst := max(int(math.Floor(float64(b.Rate.Burst)*l.share)), 1, n)
	found, known := l.buckets.Get(b.Key)
	if !known {
		perSecond := rate.Limit(l.share * float64(b.Rate.Limit) / b.Rate.Per.Seconds())
		found = &localBucket{Limiter: rate.NewLimiter(perSecond, burst)}
		if earlier, raced, _ := l.buckets.PeekOrAdd(b.Key, found); raced {
			found = earlier
		}
	}
	found.mu.Lock()
	if found.Burst() < n { // a share of the burst that is less than one task's cost
		found.SetBurst(n)
	}
	found.mu.Unlock()
	return found
}

// Take takes up to n tokens, as many as there are now.
func (l *Local) Take(_ context.Context, b Bucket, n int) Decision {
	bucket := l.bucket(b, 1)
	bucket.mu.Lock()
	defer bucket.mu.Unlock()
	now := time.Now()
	// A token that lacks only what rounding took is there: without this, who comes
	// back exactly at RetryAfter would be told to wait for a nanosecond.
	const rounding = 1e-6
	have := bucket.TokensAt(now)
	taken := min(n, int(math.Floor(have+rounding)))
	if taken > 0 {
		bucket.ReserveN(now, taken)
		have -= float64(taken)
	}
	taken = max(taken, 0)
	d := Decision{Allowed: taken, Remaining: max(0, int(math.Floor(have+rounding)))}
	if missing := 1 - have; missing > rounding {
		d.RetryAfter = seconds(missing / float64(bucket.Limit()))
	}
	d.ResetAfter = seconds((float64(bucket.Burst()) - have) / float64(bucket.Limit()))
	return d
}

// Book books n tokens at the first time at which they may be used together, if
// that is not further than ahead.
func (l *Local) Book(_ context.Context, b Bucket, n int, ahead time.Duration) Booking {
	bucket := l.bucket(b, n)
	bucket.mu.Lock()
	defer bucket.mu.Unlock()
	now := time.Now()
	r := bucket.ReserveN(now, n)
	wait := r.DelayFrom(now)
	if !r.OK() || wait > ahead {
		r.CancelAt(now)
		return Booking{Wait: wait}
	}
	return Booking{OK: true, Wait: wait}
}

// Hold makes the bucket as empty as it would be if this process had started its share
// of what the fleet has, whose bucket will be full after reset. It never fills it.
func (l *Local) Hold(b Bucket, reset time.Duration) {
	bucket := l.bucket(b, 1)
	bucket.mu.Lock()
	defer bucket.mu.Unlock()
	now := time.Now()
	burst := bucket.Burst()
	spend := bucket.TokensAt(now) - (float64(burst) - l.shareOf(b, reset))
	if spend <= 0 {
		return
	}
	// A larger burst lets it reserve what is not there; it adds no tokens.
	n := int(math.Ceil(spend))
	bucket.SetBurstAt(now, max(burst, n))
	bucket.ReserveN(now, n)
	bucket.SetBurstAt(now, burst)
}

// shareOf is how many tokens of this process's share come back in that time.
func (l *Local) shareOf(b Bucket, reset time.Duration) float64 {
	return max(0, reset.Seconds()) * l.share * float64(b.Rate.Limit) / b.Rate.Per.Seconds()
}

// seconds rounds up, so that nobody comes too early.
func seconds(s float64) time.Duration {
	if s <= 0 {
		return 0
	}
	return time.Duration(math.Ceil(s * float64(time.Second)))
}

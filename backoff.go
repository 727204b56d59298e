package pelton

import "time"

const (
	backoffBase   = time.Second
	backoffMax    = time.Hour
	backoffJitter = 0.25
)

// Backoff is the default delay after the n-th attempt (n counts from 1) failed:
// min(1 h, 1 s · 2^(n−1)), spread by ±25 % so that tasks that failed together
// do not come back together. random is a number in [0,1), drawn by the caller,
// which keeps the function pure. The default 20 attempts span about nine hours.
func Backoff(n int, random float64) time.Duration {
	delay := backoffMax
	// 2^12 s is already over an hour; the bound keeps the shift in range.
	if n = max(n, 1); n <= 12 {
		delay = min(backoffBase<<(n-1), backoffMax)
	}
	return time.Duration(float64(delay) * (1 - backoffJitter + 2*backoffJitter*random))
}

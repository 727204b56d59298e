// Package limit counts what starts against rates: what a decision is, and the
// limiter of a single process. The one that the whole fleet shares is in
// package redislimit.
//
// Both are the generic cell rate algorithm (ITU-T I.371, virtual scheduling): a
// bucket is one number, the theoretical arrival time TAT. Starting n moves it to
// max(TAT, now) + n·T, which is allowed while it stays within Burst·T of now. A
// token bucket of size Burst that gains a token every T allows the same.
package limit

import (
	"time"

	"github.com/peltonq/pelton"
)

// Bucket is one thing that is counted.
type Bucket struct {
	// Limit names the limit in metrics and logs.
	Limit string
	// Key tells the bucket from all others, also from that of an earlier form of
	// the same limit.
	Key  string
	Rate pelton.RateLimit
}

// Decision is the answer to who wants to start something now.
type Decision struct {
	// Allowed is how many may start.
	Allowed int
	// Remaining is how many more could start at once after them.
	Remaining int
	// RetryAfter is when the next one can start; zero while some remain.
	RetryAfter time.Duration
	// ResetAfter is when the bucket will be as if it had never been used.
	ResetAfter time.Duration
}

// Booking is the answer to who wants to know when something may start.
type Booking struct {
	// OK is false when nothing was booked: the time lies further ahead than the
	// caller would wait, or the limit is closed.
	OK bool
	// Closed means that the limiter is out of reach and the limit lets nothing start.
	Closed bool
	// Wait is until the start; without a booking, until it makes sense to ask again.
	Wait time.Duration
}

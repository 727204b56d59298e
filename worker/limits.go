package worker

import (
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/peltonq/pelton/internal/broker"
	"github.com/peltonq/pelton/internal/limit"
)

// Limiter counts what starts against rate limits: a *redislimit.Limiter, which all
// processes share.
// Its answers take no longer than some 50 ms, whatever ctx says.
type Limiter interface {
	// Take takes up to n tokens, as many as there are now.
	Take(ctx context.Context, b limit.Bucket, n int) limit.Decision
	// Book books n tokens at the first time at which they may be used together, if
	// that is not further than ahead.
	Book(ctx context.Context, b limit.Bucket, n int, ahead time.Duration) limit.Booking
}

const (
	// nearBy is what a task waits for in the worker's hand. The broker's schedules
	// fire up to a quarter of a second late, and together, so anything less would
	// come back too late to be spaced.
	nearBy = 500 * time.Millisecond
	// early is how long before its place or its booked start a task is to come back, so
	// that it is there in time: schedules are late, and a start that nobody was there
	// for is lost to the rate.
	early = 400 * time.Millisecond
	// fullHand is how long a task is put off that no worker's hand has a place for.
	fullHand = 250 * time.Millisecond
	// closedTurn is when a queue is asked again whose limit is closed.
	closedTurn = 2 * time.Second
	// staleAfter is how late a booked start may be used: a worker or broker that was
	// away must not let all that was booked meanwhile start at once.
	staleAfter = time.Second
	// farthestPlace bounds the line of a limit, farthestStart what is booked.
	farthestPlace = 24 * time.Hour
	farthestStart = time.Hour
	// beyondPlace is when a task looks again that found no place in the line.
	beyondPlace = time.Hour
	// firmPlace is when a task goes to its place without looking again before.
	firmPlace = time.Minute
	// mostLooks bounds the looks before the place: 24 h halved to a minute are 11.
	mostLooks = 12
	// longestClosed bounds the wait for a limit that is closed without its limiter.
	longestClosed = 30 * time.Second
)

// A limited task goes through two buckets of each limit. The first is the line: it
// gives every task a place of its own, as far ahead as the tasks before it need.
// The second is the gate, which counts real starts. A line alone would let start
// at once all tasks whose place has passed while the broker or the workers were
// away; a gate alone would answer all of a backlog "in 10 ms", and all would come
// back together, again and again.
//
// So a task is put off once for its place, and a second time if those before it
// are late. A far place is gone to by halves, so that a limit that was raised or
// lifted meanwhile is noticed: at most mostLooks times in all.

// limitVerdict is what the limits say about a task that could start.
type limitVerdict struct {
	// until is when it starts, or is to look again; zero is now.
	until time.Time
	// putOff says that it is to be put off until then; else it is to be held.
	putOff bool
	// giveBack says that it is to be given back, and its queue not to be asked before
	// until.
	giveBack bool
	// by names the limit that said so; paused says that it was a pause instead.
	by     string
	paused bool
}

// hand is what a worker can hold of a task until it starts.
type hand struct {
	near time.Duration // so long at most
	free bool          // there is a place
}

// limits hold tasks against the rules of an installation.
type limits struct {
	limiter   Limiter
	namespace string
}

// check takes a task through its limits. way is where it stands, and is changed
// to where it stands then, so that nothing is counted twice if it is asked again.
// queue is the rate of its queue, or nil; hand says how it may be held.
func (l *limits) check(ctx context.Context, r *rules, queue *broker.RevisedLimit, kind, key string, way *broker.Limited, h hand) limitVerdict {
	applying := r.applying(kind, key)
	way.Passes = slices.DeleteFunc(way.Passes, func(p broker.Pass) bool {
		counts := func(a *broker.RevisedLimit) bool { return a.Name == p.Limit && a.Revision == p.Revision }
		return !slices.ContainsFunc(applying, counts) && (queue == nil || !counts(queue))
	})
	for _, a := range applying {
		if v := l.line(ctx, a, key, way, h); v.putOff {
			return v
		}
	}
	var last limitVerdict
	if queue != nil { // before what books further ahead, so that nothing is booked in vain
		if last = l.turn(ctx, queue, way, h); last.giveBack {
			return last
		}
	}
	for _, a := range applying {
		v := l.gate(ctx, a, key, way, h)
		if v.putOff {
			return v
		}
		if v.until.After(last.until) {
			last = v
		}
	}
	return last
}

// line gives a task its place, and puts it off while that is far.
func (l *limits) line(ctx context.Context, a *broker.RevisedLimit, key string, way *broker.Limited, h hand) limitVerdict {
	pass := passOf(way, a)
	if pass == nil {
		booking := l.limiter.Book(ctx, l.bucket(a, key, "line"), a.Cost, farthestPlace)
		if !booking.OK {
			return refused(a, booking, way.Times, beyondPlace)
		}
		way.Passes = append(way.Passes, broker.Pass{Limit: a.Name, Revision: a.Revision, At: fromNow(booking.Wait)})
		pass = &way.Passes[len(way.Passes)-1]
	}
	// Its last look is over when it comes back, whatever this process's clock says:
	// a broker whose clock is ahead would send it back and forth.
	if pass.Booked || pass.Last {
		return limitVerdict{}
	}
	left := time.Until(pass.At)
	if left <= h.near {
		return limitVerdict{}
	}
	pass.Looks++
	at := pass.At.Add(-min(early, h.near))
	if pass.Last = left <= firmPlace || pass.Looks >= mostLooks; !pass.Last {
		at = pass.At.Add(-left / 2)
	}
	return limitVerdict{until: at, putOff: true, by: a.Name}
}

// gate books the task's start. Without a place in the hand it books nothing that
// is near: it would come back too late to be spaced.
func (l *limits) gate(ctx context.Context, a *broker.RevisedLimit, key string, way *broker.Limited, h hand) limitVerdict {
	pass := passOf(way, a)
	if !pass.Booked || time.Since(pass.At) > staleAfter {
		var booking limit.Booking
		if !h.free {
			booking = l.limiter.Book(ctx, l.bucket(a, key, "start"), a.Cost, 0)
			if !booking.OK && !booking.Closed && booking.Wait <= h.near {
				return limitVerdict{until: fromNow(max(booking.Wait, fullHand)), putOff: true, by: a.Name}
			}
		}
		if !booking.OK && !booking.Closed {
			booking = l.limiter.Book(ctx, l.bucket(a, key, "start"), a.Cost, farthestStart)
		}
		if !booking.OK {
			return refused(a, booking, way.Times, beyondPlace)
		}
		pass.Booked, pass.At, pass.Last = true, fromNow(booking.Wait), false
	}
	switch left := time.Until(pass.At); {
	case left <= 0:
		return limitVerdict{}
	case left <= h.near || pass.Last: // it was put off until then: see line
		return limitVerdict{until: fromNow(min(left, h.near)), putOff: !h.free, by: a.Name}
	default:
		pass.Last = true
		return limitVerdict{until: pass.At.Add(-min(early, h.near)), putOff: true, by: a.Name}
	}
}

// turn books a start of the queue, no further ahead than the task can be held. The
// tasks of a queue are not put off: they wait in it, in order, until its limiter
// has something left.
func (l *limits) turn(ctx context.Context, a *broker.RevisedLimit, way *broker.Limited, h hand) limitVerdict {
	pass := passOf(way, a)
	if pass == nil || time.Since(pass.At) > staleAfter {
		ahead := h.near
		if !h.free {
			ahead = 0
		}
		booking := l.limiter.Book(ctx, l.bucket(a, "", "start"), a.Cost, ahead)
		if !booking.OK {
			wait := booking.Wait - h.near/2 // by then the first half of a hand can be booked
			if booking.Closed {
				wait = max(booking.Wait, closedTurn)
			}
			return limitVerdict{until: fromNow(max(wait, fullHand)), giveBack: true, by: a.Name}
		}
		if pass == nil {
			way.Passes = append(way.Passes, broker.Pass{Limit: a.Name, Revision: a.Revision})
			pass = &way.Passes[len(way.Passes)-1]
		}
		pass.Booked, pass.At = true, fromNow(booking.Wait)
	}
	if left := time.Until(pass.At); left > 0 {
		return limitVerdict{until: fromNow(min(left, h.near)), by: a.Name}
	}
	return limitVerdict{}
}

// refused is the verdict on a booking that was not made: again later, and later
// each time while the limit is closed.
func refused(a *broker.RevisedLimit, booking limit.Booking, times int, far time.Duration) limitVerdict {
	wait := far
	if booking.Closed {
		wait = min(time.Second<<min(times, 5), longestClosed) + booking.Wait
	}
	return limitVerdict{until: fromNow(wait), putOff: true, by: a.Name}
}

// bucket is what a limit counts: everything it applies to, or each key by itself.
func (l *limits) bucket(a *broker.RevisedLimit, key, which string) limit.Bucket {
	name := l.namespace + ":limit:" + a.Name + ":" + strconv.FormatUint(a.Revision, 10) + ":" + which
	if a.RateKey != "" {
		name += ":" + key
	}
	return limit.Bucket{Limit: a.Name, Key: name, Rate: a.Rate}
}

func passOf(way *broker.Limited, a *broker.RevisedLimit) *broker.Pass {
	for i := range way.Passes {
		if way.Passes[i].Limit == a.Name {
			return &way.Passes[i]
		}
	}
	return nil
}

func fromNow(d time.Duration) time.Time { return time.Now().Add(d) }

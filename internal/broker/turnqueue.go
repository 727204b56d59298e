package broker

import (
	"slices"
	"sync"
	"time"
)

const (
	// turnWait is how long a run waits for its turn at most, in a slot. After that it takes a place in the line.
	turnWait = 500 * time.Millisecond
	// turnPace is the time in which turns are counted, turnPaces how many of those are remembered: a process that gets little of the
	// machine for a moment is not to take its runs for slow ones.
	turnPace  = 50 * time.Millisecond
	turnPaces = 8
	// firstPace is taken for the pace of a line of which nothing is known.
	firstPace = 32
	// turnTry is how often one waits where nobody gets a turn.
	turnTry = 250 * time.Millisecond
	// turnLook is how often those who wait look for room that another process has made.
	turnLook = 5 * time.Millisecond
)

// turnQueue says how many runs of a line may wait for a turn, each in a slot: as many as get one in twice turnPace, by the best
// of late. So all wait where tasks are short, for which the way through the line would be long; and hardly one where they are
// long, and slots are for others. At first nobody knows, and many wait for a moment.
type turnQueue struct {
	mu    sync.Mutex
	waits int
	since time.Time      // when the present count began
	taken int            // since then
	paces [turnPaces]int // turns in turnPace, the latest first
	tried time.Time      // when one waited though nobody gets a turn
}

// join reports whether one more may wait: until leave.
func (q *turnQueue) join(now time.Time) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.count(now)
	may := q.waits < q.may()
	if !may && q.waits == 0 && now.Sub(q.tried) >= turnTry {
		may, q.tried = true, now
	}
	if may {
		q.waits++
	}
	return may
}

// stay reports whether those who wait may go on with it.
func (q *turnQueue) stay(now time.Time) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.count(now)
	return q.waits <= q.may()
}

func (q *turnQueue) leave() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waits--
}

// took counts a turn.
func (q *turnQueue) took(now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.count(now)
	q.taken++
}

func (q *turnQueue) may() int { return 2 * max(q.taken, slices.Max(q.paces[:])) }

// count ends the count of a turnPace that is over. After a long time without any, nothing is known.
func (q *turnQueue) count(now time.Time) {
	past := now.Sub(q.since)
	switch {
	case past >= 2*turnPaces*turnPace:
		q.paces = [turnPaces]int{turnPaces - 1: firstPace} // soon forgotten
	case past >= turnPace:
		copy(q.paces[1:], q.paces[:])
		q.paces[0] = int(int64(q.taken) * int64(turnPace) / int64(past))
	default:
		return
	}
	q.since, q.taken = now, 0
}

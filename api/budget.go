package api

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/peltonq/pelton"
)

const (
	// DefaultMemory is what requests may hold of memory if Config.Memory is nil.
	DefaultMemory = 256 << 20
	// MinMemory lets the largest body of a single task in.
	MinMemory = 8 << 20
	// DefaultHeld is how many answers are held if Config.Held is nil.
	DefaultHeld = 10_000
)

// What a request holds for each byte of its body and of the tasks that it answers,
// measured with batches of 16 MiB: the body, the tasks made of it, what is on its
// way to the broker, the answer; and for a task that is read, its record, the task
// and the answer. A task whose answer is held is there twice while it changes.
const (
	bodyWeight = 4
	readWeight = 3
	heldWeight = 2
)

// Budget bounds what all requests of a server hold of something: bytes of memory,
// or a number. It is safe for concurrent use. It never waits: who does not fit is
// refused at once, and nobody stands in a line behind a large one.
type Budget struct {
	most    int64
	used    atomic.Int64
	refused atomic.Int64
}

// NewBudget makes a budget of most.
func NewBudget(most int64) *Budget { return &Budget{most: most} }

// Most is the bound, InUse what is held now, and Refused how many requests did not
// fit.
func (b *Budget) Most() int64    { return b.most }
func (b *Budget) InUse() int64   { return b.used.Load() }
func (b *Budget) Refused() int64 { return b.refused.Load() }

// take takes n unless all together would then hold more than ceiling.
func (b *Budget) take(n, ceiling int64) bool {
	if b.try(n, ceiling) {
		return true
	}
	b.refused.Add(1)
	return false
}

// try is take by who tries again.
func (b *Budget) try(n, ceiling int64) bool {
	for {
		used := b.used.Load()
		if used+n > ceiling {
			return false
		}
		if b.used.CompareAndSwap(used, used+n) {
			return true
		}
	}
}

// fits is take without taking.
func (b *Budget) fits(n, ceiling int64) bool {
	if b.used.Load()+n <= ceiling {
		return true
	}
	b.refused.Add(1)
	return false
}

func (b *Budget) give(n int64) { b.used.Add(-n) }

// The ceilings order requests by what they are to each other: while memory is
// short, held answers and then batches are refused before single tasks and reads.
func (b *Budget) forHeld() int64  { return b.most / 2 }
func (b *Budget) forBatch() int64 { return b.most - b.most/8 }

// claim is what one request holds. It belongs to the request's goroutine, except
// for unreserve.
type claim struct {
	s    *server
	held bool

	mu    sync.Mutex
	bytes int64
	needs int64 // of bytes; the rest is reserved
}

type claimKey struct{}

// claimOf is the claim of the request that ctx is of.
func claimOf(ctx context.Context) *claim { return ctx.Value(claimKey{}).(*claim) }

// account gives every request a claim, which ends with the request: also with one
// that panicked, or whose caller has gone.
func (s *server) account(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := &claim{s: s}
		defer c.release()
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), claimKey{}, c)))
	})
}

func (c *claim) release() {
	c.shrink(0)
	if c.held {
		c.s.Held.give(1)
		c.held = false
	}
}

// grow makes the claim one of n bytes, if it is less. The error is a problem: all
// requests together would hold more than ceiling.
func (c *claim) grow(n, ceiling int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.needs = max(c.needs, n)
	if n <= c.bytes {
		return nil
	}
	if !c.s.Memory.take(n-c.bytes, ceiling) {
		return c.full()
	}
	c.bytes = n
	return nil
}

// reserve claims n bytes of which nothing is in use yet, until unreserve.
func (c *claim) reserve(n, ceiling int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.s.Memory.take(n-c.bytes, ceiling) {
		return c.full()
	}
	c.bytes = n
	return nil
}

// unreserve leaves what has been asked for since with grow.
func (c *claim) unreserve() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shrinkLocked(c.needs)
}

func (c *claim) full() error {
	return busy("what the server may hold for requests (%d bytes) is in use: try again", c.s.Memory.most)
}

// shrink makes the claim one of n bytes, if it is more.
func (c *claim) shrink(n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.needs = min(c.needs, n)
	c.shrinkLocked(n)
}

func (c *claim) shrinkLocked(n int64) {
	if n < c.bytes {
		c.s.Memory.give(c.bytes - n)
		c.bytes = n
	}
}

// batch is for a batch of so many tasks, beside its body. The error is a problem.
func (c *claim) batch(tasks int) error {
	return c.grow(c.needs+int64(tasks)*itemBytes, c.s.Memory.forBatch())
}

// read is for a task that was read and is to be answered.
func (c *claim) read(task *pelton.Task) error {
	return c.grow(readWeight*weigh(task), c.s.Memory.most)
}

const (
	roomWait = 5 * time.Second
	roomLook = 20 * time.Millisecond
)

// readHeld is read for an answer that was held. Many may have waited for the same
// task and answer with its result at once: they wait for room, up to roomWait. That takes
// no memory, because Tasks gives all of them the same payload and result.
func (c *claim) readHeld(ctx context.Context, task *pelton.Task) error {
	n := readWeight * weigh(task)
	if c.fits(n) { // as nearly always: nothing else is to be made for it
		return nil
	}
	tick := time.NewTicker(roomLook)
	defer tick.Stop()
	for end := time.Now().Add(roomWait); time.Now().Before(end); {
		if c.fits(n) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return c.read(task)
		}
	}
	return c.read(task)
}

// fits makes the claim one of n bytes, if there is room for that now.
func (c *claim) fits(n int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n > c.bytes && !c.s.Memory.try(n-c.bytes, c.s.Memory.most) {
		return false
	}
	c.bytes, c.needs = max(c.bytes, n), max(c.needs, n)
	return true
}

// hold is for an answer that is held, with n bytes that are not given back before.
// The error is a problem.
func (c *claim) hold(n int64) error {
	if !c.s.Memory.fits(n, c.s.Memory.forHeld()) {
		return c.full()
	}
	if err := c.grow(c.needs+n, c.s.Memory.forHeld()); err != nil {
		return err
	}
	if !c.s.Held.take(1, c.s.Held.most) {
		return busy("%d answers are held already: ask without waiting, or later", c.s.Held.most)
	}
	c.held = true
	return nil
}

// schedule is for one schedule, which is read or written and answered, or its task: the
// largest that there can be, because a change that was made must not be refused its
// answer.
func (c *claim) schedule() error {
	return c.grow(c.needs+readWeight*(taskBytes+pelton.MaxPayload), c.s.Memory.most)
}

// ticks is for the answer of a backfill of so many.
func (c *claim) ticks(limit int) error {
	if limit < 1 || limit > pelton.MaxBackfill {
		limit = pelton.MaxBackfill // by default less
	}
	return c.grow(c.needs+int64(limit)*tickBytes, c.s.Memory.most)
}

// page is for a page of tasks with payloads and results of at most size bytes, of
// which one more may be read.
func (c *claim) page(tasks int, size int64) error {
	const most = 2 * pelton.MaxPayload // and a result
	n := readWeight * (min(int64(tasks)*most, size+most) + int64(tasks)*taskBytes)
	return c.grow(min(n, c.s.Memory.forBatch()), c.s.Memory.forBatch())
}

const (
	// tickBytes is for a tick of a backfill and its part of the answer.
	tickBytes = 512
	// taskBytes is for what a task has beside its texts.
	taskBytes = 2 << 10
	// itemBytes is for what a task of a batch has beside its part of the body: its
	// record, messages and answer, without what waits for the garbage collector.
	itemBytes = 3 << 10
)

// weigh is how much of memory a task takes, in bytes.
func weigh(task *pelton.Task) int64 {
	n := taskBytes + len(task.Payload) + len(task.Result)
	for _, e := range task.Errors {
		n += len(e.Message) + len(e.Stack)
	}
	for name, value := range task.Labels {
		n += len(name) + len(value)
	}
	return int64(n)
}

// busy is the problem of a request that does not fit now.
func busy(format string, args ...any) *problem {
	return newProblem(kindUnavailable, format, args...).withHeader("Retry-After", retryAfter)
}

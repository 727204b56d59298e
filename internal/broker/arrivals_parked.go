package broker

import (
	"context"
	"sync"
	"time"
)

const (
	mostParked = 1 << 13                // arrivals that wait for a line to be settled anyway
	parkedFor  = 250 * time.Millisecond // at most: far less than the time after which the broker hands them out again
)

// parkedArrivals are those in lines that were full when this process last saw them. The
// next time that the line is settled here, for whatever reason, they are dealt with as well:
// that began after they had come. So while tasks of a line end here, its arrivals cost no
// read of its document.
//
// A line that somebody else made room in has nobody to settle it until parkedFor is over.
// So only a process that takes all arrivals parks any: it is most likely the only one that
// ends tasks.
type parkedArrivals struct {
	mu    sync.Mutex
	lines map[Line]*parkedLine
	n     int
}

type parkedLine struct {
	since    time.Time // of the first
	arrivals []*Delivery
}

// add is false if there is no room.
func (p *parkedArrivals) add(line Line, d *Delivery) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.n >= mostParked {
		return false
	}
	at := p.lines[line]
	if at == nil {
		if p.lines == nil {
			p.lines = make(map[Line]*parkedLine)
		}
		at = &parkedLine{since: time.Now()}
		p.lines[line] = at
	}
	at.arrivals = append(at.arrivals, d)
	p.n++
	return true
}

// take hands the line's arrivals to the caller.
func (p *parkedArrivals) take(line Line) []*Delivery {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := p.lines[line]
	if at == nil {
		return nil
	}
	delete(p.lines, line)
	p.n -= len(at.arrivals)
	return at.arrivals
}

// since are the lines whose first arrival came before then; a zero time means all.
func (p *parkedArrivals) since(then time.Time) []Line {
	p.mu.Lock()
	defer p.mu.Unlock()
	var lines []Line
	for line, at := range p.lines {
		if then.IsZero() || at.since.Before(then) {
			lines = append(lines, line)
		}
	}
	return lines
}

// park keeps an arrival for the next time that its line is settled; false means that it
// is to be settled now.
func (c *caller) park(line Line, d *Delivery) bool {
	return c.b.seen.full(c.conn, line, c.b.limits.of(line)) && c.b.known.alone() && c.b.parked.add(line, d)
}

// settleParked settles the lines in which nothing happened while an arrival waited for that,
// until ctx ends.
func (c *caller) settleParked(ctx context.Context) {
	tick := time.NewTicker(parkedFor / 2)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		for _, line := range c.b.parked.since(time.Now().Add(-parkedFor / 2)) {
			select {
			case c.room <- struct{}{}:
			case <-ctx.Done():
				return
			}
			c.settling.Go(func() {
				defer func() { <-c.room }()
				if _, err := c.b.settleLine(ctx, line, lineSettling{}); err != nil && ctx.Err() == nil {
					c.b.cfg.Logger.Warn("line not settled, trying again", "concurrency_key", line.Key, "kind", line.Kind, "error", err)
				}
			})
		}
	}
}

// unpark gives back what is still parked.
func (c *caller) unpark() {
	for _, line := range c.b.parked.since(time.Time{}) {
		for _, d := range c.b.parked.take(line) {
			c.b.giveBackArrival(d, 0)
		}
	}
}

// dealtWithArrivals acknowledges arrivals whose line was settled after they came, or gives
// them back if that failed.
func (b *Broker) dealtWithArrivals(arrivals []*Delivery, err error) {
	for _, d := range arrivals {
		if err != nil {
			b.giveBackArrival(d, time.Second)
		} else if err := d.Ack(); err != nil {
			b.cfg.Logger.Debug("acknowledgement not sent", "error", err)
		}
	}
}

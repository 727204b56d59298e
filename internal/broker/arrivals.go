package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/peltonq/pelton"
)

const (
	arrivalsAtOnce = 256              // arrivals of one request
	arrivalsHeld   = 32768            // arrivals that a process holds
	arrivalsWait   = 30 * time.Second // how long a request for them stays open
	linesAtOnce    = 32               // lines that a process settles at a time
	lookBefore     = time.Second      // between looks for places before those that are known, at first
	lookBeforeMost = time.Minute      // later
)

// CallLines takes arrivals in lines and settles them, until ctx ends: every worker
// does so, whatever queues it serves. An arrival is acknowledged when its line was
// settled after it; one whose worker dies comes to another after 5 s. Many arrivals
// of one line are settled as one, so that a line with thousands of tasks that nobody
// can run yet does not slow the others down.
func (b *Broker) CallLines(ctx context.Context) {
	for ctx.Err() == nil {
		if err := b.serveArrivals(ctx); err != nil && ctx.Err() == nil {
			b.cfg.Logger.Debug("arrivals not served, trying again", "error", err)
			_ = waitFor(ctx, time.Second) // fails only where ctx ends
		}
	}
}

// serveArrivals ends with ctx, with an error, and when the connection is back after
// it was lost, or the consumer has another leader: the open request may be lost.
func (b *Broker) serveArrivals(ctx context.Context) error {
	up, forget, err := b.interrupted(b.keyed(0), arrivalsConsumer)
	if err != nil {
		return err
	}
	defer forget()
	conn := b.connections()
	if err := b.createConsumer(ctx, b.keyed(0), b.arrivals(b.cfg.Lease)); err != nil {
		return err
	}
	arrived := make(chan *Delivery, arrivalsAtOnce) // a request brings no more
	ended := make(chan PullEnd, 1)
	p, err := b.openPuller(Lane{}, b.keyed(0), arrivalsConsumer,
		func(d *Delivery) {
			select {
			case arrived <- d:
			case <-ctx.Done(): // its time will come again
			}
		},
		func(end PullEnd) {
			select {
			case ended <- end:
			default:
			}
		})
	if err != nil {
		return err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		p.Close(closing)
		for {
			select {
			case d := <-arrived:
				b.giveBackArrival(d, 0)
			default:
				return
			}
		}
	}()
	c := &caller{b: b, conn: conn, waiting: map[Line][]*Delivery{}, room: make(chan struct{}, linesAtOnce), held: make(chan struct{}, arrivalsHeld)}
	defer c.unpark()
	defer c.settling.Wait()
	parking, stop := context.WithCancel(ctx)
	defer stop()
	c.settling.Go(func() { c.settleParked(parking) })
	for {
		batch, err := p.collect(ctx, arrivalsAtOnce, up, arrived, ended)
		for _, d := range batch {
			if err != nil || ctx.Err() != nil {
				b.giveBackArrival(d, 0)
				continue
			}
			c.serve(ctx, d)
		}
		if err != nil || ctx.Err() != nil {
			return err
		}
		c.lookBefore(ctx)
	}
}

// collect makes one request for so many and gives what it brought.
func (p *Puller) collect(ctx context.Context, most int, up <-chan struct{}, arrived <-chan *Delivery, ended <-chan PullEnd) (batch []*Delivery, err error) {
	if err := p.Pull(most, arrivalsWait); err != nil {
		return nil, err
	}
	lost := time.NewTimer(arrivalsWait + callTimeout)
	defer lost.Stop()
	for len(batch) < most {
		select {
		case d := <-arrived:
			batch = append(batch, d)
		case end := <-ended:
			for { // what came before the end
				select {
				case d := <-arrived:
					batch = append(batch, d)
				default:
					return batch, end.Err
				}
			}
		case <-up:
			return batch, fmt.Errorf("%w: the connection was lost", pelton.ErrUnavailable)
		case <-lost.C:
			return batch, fmt.Errorf("%w: a request was not answered", pelton.ErrUnavailable)
		case <-ctx.Done():
			return batch, nil
		}
	}
	return batch, nil
}

// caller settles lines in which somebody arrived, several at a time, so that one
// that takes long does not hold up the others. What arrives in a line while it is
// settled is settled with it next.
type caller struct {
	b        *Broker
	conn     uint64        // how often the connection was made anew, when it began
	room     chan struct{} // for lines
	held     chan struct{} // arrivals
	settling sync.WaitGroup
	looked   time.Time     // for places before those that are known
	pause    time.Duration // until it looks again

	mu      sync.Mutex
	waiting map[Line][]*Delivery // by line that somebody settles
}

// serve deals with one arrival.
func (c *caller) serve(ctx context.Context, d *Delivery) {
	data := d.data
	line, ok := c.b.lineOf(d.subject, func() (*Envelope, error) { d.decode(); return d.Envelope, d.Err })
	d.data = nil
	switch {
	case ok || c.b.isNoPlace(d.subject):
		c.b.known.arrived(c.conn, d, line, data)
	default:
		c.b.known.unreadable(c.conn, d)
	}
	switch {
	case !ok:
		// A schedule, whose place will arrive in its time, or what a line holds until it is
		// reached, and says so then.
		c.b.dealtWithArrivals([]*Delivery{d}, nil)
	case d.again(): // whoever had it may have died before the deletion of a place was sent
		c.take(ctx, line, d)
	case c.b.seen.reached(c.conn, line) >= d.Seq: // somebody was faster
		c.b.dealtWithArrivals([]*Delivery{d}, nil)
	case c.park(line, d):
	default:
		c.take(ctx, line, d)
	}
}

// lookBefore finds out, now and then, whether places are left that came before those that this
// process knows.
func (c *caller) lookBefore(ctx context.Context) {
	to, asks := c.b.known.asksBefore()
	if !asks || time.Since(c.looked) < c.pause {
		return
	}
	first := to + 1 // if none is left
	switch msg, err := c.b.get(ctx, c.b.keyed(0), getRequest{Seq: 1, NextFor: c.b.places()}, false); {
	case err == nil:
		first = msg.seq
	case !errors.Is(err, pelton.ErrNotFound):
		first = 0
	}
	c.looked, c.pause = time.Now(), max(lookBefore, min(2*c.pause, lookBeforeMost))
	if c.b.known.begins(c.conn, first) {
		c.pause = 0
	}
}

// take blocks while too many arrivals are held.
func (c *caller) take(ctx context.Context, line Line, d *Delivery) {
	select {
	case c.held <- struct{}{}:
	case <-ctx.Done():
		c.b.giveBackArrival(d, 0)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	others, settled := c.waiting[line]
	c.waiting[line] = append(others, d)
	if !settled {
		c.settling.Go(func() {
			c.room <- struct{}{}
			defer func() { <-c.room }()
			for c.settle(ctx, line) { //nolint:revive // does the work
			}
		})
	}
}

// settle deals with what has arrived in the line; false means nothing, and that
// nobody settles it from here on.
func (c *caller) settle(ctx context.Context, line Line) bool {
	c.mu.Lock()
	arrivals := c.waiting[line]
	if len(arrivals) == 0 {
		delete(c.waiting, line)
		c.mu.Unlock()
		return false
	}
	c.waiting[line] = nil
	c.mu.Unlock()
	_, err := c.b.settleLine(ctx, line, lineSettling{came: arrivals, redone: slices.ContainsFunc(arrivals, (*Delivery).again)})
	if err != nil && ctx.Err() == nil {
		c.b.cfg.Logger.Warn("line not settled, trying again", "concurrency_key", line.Key, "kind", line.Kind, "error", err)
	}
	c.b.dealtWithArrivals(arrivals, err)
	for range arrivals {
		<-c.held
	}
	return true
}

// giveBackArrival lets another worker have it. Without a connection it does
// nothing: nats.go would keep the nak for later.
func (b *Broker) giveBackArrival(d *Delivery, delay time.Duration) {
	if !b.conn.nc.IsConnected() {
		return
	}
	giveBack := d.Nak
	if delay > 0 {
		giveBack = func() error { return d.NakWithDelay(delay) }
	}
	if err := giveBack(); err != nil {
		b.cfg.Logger.Debug("arrival not given back", "error", err)
	}
}

package worker

import (
	"context"
	"sync"
	"time"
)

// nextLook is when overdue, expire and fill have to be called even if nothing
// happens.
func (d *dispatcher) nextLook() time.Duration {
	now := d.now()
	d.wake(now) // else what is over would be looked at again at once
	at := now.Add(knockWait)
	if len(d.waiting) > 0 { // the first has waited longest
		at = d.waiting[0].since.Add(staleAfter)
	}
	if d.probing != nil && d.probing.deadline.Before(at) {
		at = d.probing.deadline
	}
	for _, t := range []time.Time{d.ranking.knocks, d.ranking.wakes} {
		if !t.IsZero() && t.Before(at) {
			at = t
		}
	}
	for _, l := range d.ranking.stocked {
		since := l.stock[0].since
		if stale := since.Add(d.patience(l)); stale.Before(at) {
			at = stale
		}
		if slower := since.Add(waitsAhead); slower.After(now) && slower.Before(at) { // if it is by then
			at = slower
		}
	}
	return max(at.Sub(now), time.Millisecond)
}

// run dispatches until ctx ends, then takes back all requests and gives back what
// they still bring, and what waits.
func (d *dispatcher) run(ctx context.Context, reconnected <-chan struct{}) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var rings time.Time // when the timer does; sooner than it has to is well
	for ctx.Err() == nil {
		d.overdue() // not only when the timer fires: under load it never gets to
		d.expire()
		d.fill()
		now, look := d.now(), d.nextLook()
		if !rings.After(now) || now.Add(look).Before(rings) {
			timer.Reset(look)
			rings = now.Add(look)
		}
		select {
		case <-d.inbox.more:
		case h := <-d.resumed:
			h.since = d.now()
			d.waiting = append(d.waiting, h)
		case p := <-d.paced:
			d.slow(p)
		case rank := <-d.freed:
			d.meter.pass(d.running, d.now())
			d.release(rank)
		case l := <-d.added:
			d.add(l)
		case c := <-d.changed:
			d.change(c)
		case <-reconnected:
			d.reset()
		case <-timer.C:
		case <-ctx.Done():
		}
		d.collect()
	}
	d.drain(context.WithoutCancel(ctx))
}

// release notes that a slot became free.
func (d *dispatcher) release(rank int) {
	d.running[rank]--
	d.meter.count[rank]++
}

// collect takes what has come by now: slots that became free, then what pullers
// report.
func (d *dispatcher) collect() {
	d.meter.pass(d.running, d.now())
	for freed := true; freed; {
		select {
		case rank := <-d.freed:
			d.release(rank)
		default:
			freed = false
		}
	}
	d.read = d.inbox.look(d.read)
	for _, e := range d.read {
		d.on(e)
	}
}

// drainWait bounds the taking back of requests at shutdown.
const drainWait = time.Second

func (d *dispatcher) drain(ctx context.Context) {
	defer close(d.stopped)
	ctx, cancel := context.WithTimeout(ctx, drainWait)
	defer cancel()
	for _, h := range d.waiting {
		d.giveBack(h.lane, h.delivery)
	}
	for _, l := range d.lanes {
		d.returnStock(l)
	}
	var closing sync.WaitGroup
	for _, l := range d.lanes {
		closing.Go(func() { l.puller.Close(ctx) })
	}
	closed := make(chan struct{})
	go func() { closing.Wait(); close(closed) }()
	for open := true; open; {
		select {
		case <-d.inbox.more:
			d.read = d.inbox.look(d.read)
			d.refuse(d.read)
		case h := <-d.resumed:
			d.giveBack(h.lane, h.delivery)
		case <-d.paced:
		case <-closed:
			open = false
		}
	}
	d.refuse(d.inbox.close())
}

// refuse gives back the deliveries among events.
func (d *dispatcher) refuse(events []laneEvent) {
	for _, e := range events {
		if e.delivery != nil {
			d.giveBack(e.lane, e.delivery)
		}
	}
}

package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/failpoint"
)

// How ticks come. The next tick of a schedule waits in the TICKS stream as a message
// schedule, which the broker publishes to one subject when it is due, by its own clock.
// All servers pull from that. The message only says which schedule to look at: what is
// to be done is decided from the schedule's two documents. So a message too many is
// harmless, whoever left it, and a message that is missing is left again by whoever
// notices (MissesTick).

const (
	ticksAtOnce   = 32               // ticks that a process deals with at a time
	tickHandling  = 15 * time.Second // bounds the work on one
	tickGrace     = time.Second      // of work that is under way when its server stops
	clockInterval = 5 * time.Second  // after which the broker is asked for the time again
)

// DueTick says that a schedule is to be looked at.
type DueTick struct {
	Schedule string
	// Due is when the broker published it, by its clock.
	Due time.Time
	// Again says that another server had it before, and did not finish.
	Again bool
}

// tickBody is the body of a tick's message. Tick is for people.
type tickBody struct {
	Schedule string    `json:"schedule"`
	Tick     time.Time `json:"tick"`
}

// farthest is the last moment for which the broker keeps a schedule. It counts in
// nanoseconds since 1970, and fires at once what is due after the year 2262
// (TestFactSchedulesOfTheFarFuture).
var farthest = time.Date(2262, 1, 1, 0, 0, 0, 0, time.UTC) //nolint:gochecknoglobals // a constant

// PublishTick leaves the message of a tick, to be published when it is due; one that
// is due already is at once. If it is there already, nothing changes.
func (b *Broker) PublishTick(ctx context.Context, schedule string, tick, due time.Time) error {
	if due.After(farthest) {
		due = farthest
	}
	data, err := json.Marshal(tickBody{schedule, tick})
	if err != nil {
		return fmt.Errorf("publish tick of schedule %s: %w", schedule, err)
	}
	_, err = b.do(ctx, write{
		subject: b.tick(schedule, tick), data: data, expect: 0,
		header: nats.Header{
			headerSchedule:       {"@at " + due.UTC().Format(time.RFC3339Nano)},
			headerScheduleTarget: {b.dueTicks()},
		},
	})
	if err != nil && !errors.Is(err, ErrStale) {
		return fmt.Errorf("publish tick of schedule %s: %w", schedule, err)
	}
	return nil
}

// MissesTick reports whether the message of a tick is not there. It may have been
// published a moment ago.
func (b *Broker) MissesTick(ctx context.Context, schedule string, tick time.Time) (bool, error) {
	_, err := b.get(ctx, b.ticks(), getRequest{LastFor: b.tick(schedule, tick)}, false)
	if errors.Is(err, pelton.ErrNotFound) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for the tick of schedule %s: %w", schedule, err)
	}
	return false, nil
}

// DropTicks removes the messages of all ticks of a schedule that are not due.
func (b *Broker) DropTicks(ctx context.Context, schedule string) error {
	return b.purge(ctx, b.ticks(), b.ticksOf(schedule))
}

// ServeTicks calls handle for each tick that is due, for several at a time, until ctx
// ends. A nil error acknowledges it. Otherwise, or if this process dies, somebody gets
// it again after 2 s.
func (b *Broker) ServeTicks(ctx context.Context, handle func(context.Context, DueTick) error) {
	var handling sync.WaitGroup
	defer handling.Wait()
	room := make(chan struct{}, ticksAtOnce)
	for ctx.Err() == nil {
		err := b.serveTicks(ctx, room, func(d *Delivery) {
			handling.Go(func() {
				defer func() { <-room }()
				b.handleTick(ctx, d, handle)
			})
		})
		if err != nil && ctx.Err() == nil {
			b.cfg.Logger.Debug("ticks not served, trying again", "error", err)
			_ = waitFor(ctx, time.Second) // fails only where ctx ends
		}
	}
}

func (b *Broker) handleTick(ctx context.Context, d *Delivery, handle func(context.Context, DueTick) error) {
	var body tickBody
	if err := json.Unmarshal(d.data, &body); err != nil || pelton.ValidateScheduleName(body.Schedule) != nil {
		b.cfg.Logger.Warn("message among ticks is none of ours and is dropped", "sequence", d.Seq)
		_ = d.Ack() // fails only without a connection, and then it comes again
		return
	}
	work, cancel := context.WithTimeout(context.WithoutCancel(ctx), tickHandling)
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(tickGrace, cancel) })()
	if err := handle(work, DueTick{body.Schedule, d.Published.UTC(), d.times > 1}); err != nil {
		if ctx.Err() == nil {
			b.cfg.Logger.Warn("tick not finished, trying again", "schedule", body.Schedule, "error", err)
		}
		return
	}
	if err := d.Ack(); err != nil {
		b.cfg.Logger.Debug("acknowledgement not sent", "error", err)
	}
}

// serveTicks ends with ctx, with an error, and when the connection is back after it
// was lost, or the consumer has another leader: the open request may be lost. It asks for no more than
// there is room for, and what it takes has room.
func (b *Broker) serveTicks(ctx context.Context, room chan struct{}, take func(*Delivery)) error {
	up, forget, err := b.interrupted(b.ticks(), ticksConsumer)
	if err != nil {
		return err
	}
	defer forget()
	if err := b.createConsumer(ctx, b.ticks(), b.firing()); err != nil {
		return err
	}
	arrived := make(chan *Delivery, ticksAtOnce) // a request brings no more
	ended := make(chan PullEnd, 1)
	p, err := b.openPuller(Lane{}, b.ticks(), ticksConsumer,
		func(d *Delivery) {
			select {
			case arrived <- d:
			case <-ctx.Done(): // another server gets it
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
	for {
		batch, err := p.takeTicks(ctx, room, up, arrived, ended)
		for _, d := range batch {
			if ctx.Err() != nil {
				b.giveBackArrival(d, 0)
				<-room
			} else {
				take(d)
			}
		}
		if err != nil || ctx.Err() != nil {
			return err
		}
	}
}

// takeTicks waits for room, then makes one request for what there is room for. Room
// that it leaves taken is that of the batch.
func (p *Puller) takeTicks(ctx context.Context, room chan struct{}, up <-chan struct{}, arrived <-chan *Delivery, ended <-chan PullEnd) ([]*Delivery, error) {
	select {
	case room <- struct{}{}:
	case <-ctx.Done():
		return nil, nil
	}
	most := 1
	for more := true; more && most < ticksAtOnce; {
		select {
		case room <- struct{}{}:
			most++
		default:
			more = false
		}
	}
	batch, err := p.collect(ctx, most, up, arrived, ended)
	for range most - len(batch) {
		<-room
	}
	return batch, err
}

// brokerClock is the broker's time as of the last answer that had it, and what this
// process has counted since: its own clock may be wrong, but runs at the right speed.
type brokerClock struct {
	mu   sync.Mutex
	told time.Time // by the broker
	at   time.Time // of this process
}

// Now is the broker's time, at most a few milliseconds behind it. It asks the broker
// every few seconds; a suspended process may be behind by as long as it was.
func (b *Broker) Now(ctx context.Context) (time.Time, error) {
	if failpoint.Broken(failpoint.OwnClock) {
		return failpoint.Now().UTC(), nil
	}
	c := &b.clock
	c.mu.Lock()
	if since := failpoint.Now().Sub(c.at); !c.told.IsZero() && since < clockInterval {
		defer c.mu.Unlock()
		return c.told.Add(since).UTC(), nil
	}
	c.mu.Unlock()
	if err := b.ensureCounter(ctx, b.ticks(), b.firing()); err != nil {
		return time.Time{}, err
	}
	info, err := b.consumer(ctx, b.ticks(), ticksConsumer)
	if err != nil {
		return time.Time{}, fmt.Errorf("ask the broker for the time: %w", err)
	}
	if info == nil {
		b.ensured.Delete(b.ticks() + "." + ticksConsumer)
		return time.Time{}, fmt.Errorf("ask the broker for the time: %w: the consumer %s was deleted", pelton.ErrUnavailable, ticksConsumer)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.told, c.at = info.TimeStamp, failpoint.Now()
	return info.TimeStamp.UTC(), nil
}

package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/peltonq/pelton"
)

const (
	// pauseFor is how long a paused lane is paused: for good.
	pauseFor = 100 * 365 * 24 * time.Hour
	// pauseOver is what may be left of the pause of a lane that is being resumed.
	pauseOver = 10 * time.Second
	// leaseSettle is how long workers have to follow a shorter lease before the
	// broker does.
	leaseSettle = time.Second
	// settleTries bounds how often a lane that does not follow is told again.
	settleTries = 8
)

// SetQueue changes a queue's settings, and which of its priorities are paused, and
// lets its lanes follow. create says whether a queue that does not exist is made.
// change may be called several times.
//
// The entry in the configuration bucket comes first: it decides, and workers and
// producers follow it by their watches. The lanes' consumers come after it:
//
//   - dying in between leaves consumers that differ from the entry. Workers look
//     after their lanes when they open them and a few seconds after every change,
//     and settle them; so does repeating the call, and every later change.
//   - two changes at once: whoever touches a consumer looks at the entry again
//     after it, until both agree, so that the later entry wins.
//   - a lane that is being opened at the same time: whoever opens it lists it in the
//     entry and then looks again (EnsureLane), so one of the two sees the other.
//
// pelton.ErrUnknownOutcome means that the entry was written, or may have been, and
// that not all lanes follow it yet.
func (b *Broker) SetQueue(ctx context.Context, name string, create bool, change func(*QueueConfig) error) (*QueueConfig, error) {
	if err := pelton.ValidateQueue(name); err != nil {
		return nil, err
	}
	cfg, err := b.changeQueue(ctx, name, create, change)
	if err != nil {
		return nil, err
	}
	if err := b.settleQueue(ctx, cfg); err != nil {
		return nil, fmt.Errorf("settings of queue %s are stored, but not in force on every lane: %w: %w", name, pelton.ErrUnknownOutcome, err)
	}
	return cfg, nil
}

// settleQueue settles all lanes of the queue. A shorter lease comes last, after a
// wait: AckWait holds for messages that are out already, so a worker whose
// heartbeats still follow the longer one would lose its tasks.
func (b *Broker) settleQueue(ctx context.Context, cfg *QueueConfig) error {
	shorten := false
	lanes := b.Lanes(cfg)
	for _, lane := range lanes {
		settled, err := b.SettleLane(ctx, lane, false)
		if errors.Is(err, pelton.ErrNotFound) { // deleted by hand; made as it should be when it is used again
			continue
		}
		if err != nil {
			return err
		}
		shorten = shorten || settled.Shorten
	}
	if !shorten {
		return nil
	}
	if err := waitFor(ctx, leaseSettle); err != nil {
		return err
	}
	for _, lane := range lanes {
		if _, err := b.SettleLane(ctx, lane, true); err != nil && !errors.Is(err, pelton.ErrNotFound) {
			return err
		}
	}
	return nil
}

// Lanes are a queue's lanes in all shards: of bounded ones that whose turn it is comes last, when the
// others are paused.
func (b *Broker) Lanes(cfg *QueueConfig) (lanes []Lane) {
	for _, p := range cfg.Lanes {
		last := len(lanes)
		for shard := range b.Shards() {
			lanes = append(lanes, Lane{cfg.Name, p, uint8(shard)})
		}
		if at := last + int(cfg.turns[p].Shard); at < len(lanes) {
			own := lanes[at]
			lanes = append(slices.Delete(lanes, at, at+1), own)
		}
	}
	return lanes
}

// Settled is a lane whose consumer follows its queue's entry.
type Settled struct {
	// Lease by which tasks of the lane are to be kept: the shorter of what the entry
	// says and what the broker waits.
	Lease time.Duration
	// Shorten means that the broker still waits longer than the entry says.
	Shorten bool
	// Again means that it is to be settled once more in a while: see bounded.go.
	Again bool
}

// SettleLane makes the lane's consumer what the queue's entry says it should be:
// paused or not, its bound, its lease. A lease is shortened only if shorten says
// so. It costs two reads when there is nothing to do.
func (b *Broker) SettleLane(ctx context.Context, lane Lane, shorten bool) (Settled, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	name := laneConsumer(lane.Queue, lane.Priority)
	wake := waking{within: b.wakeWithin}
	for try := range settleTries {
		// The entry, then the consumer: if they agree now, whoever changes the entry
		// later settles the lane later.
		cfg, err := b.loadQueue(ctx, lane.Queue)
		if err != nil {
			return Settled{}, err
		}
		info, err := b.consumer(ctx, b.tasks(lane.Shard), name)
		if err != nil {
			return Settled{}, err
		}
		if info == nil {
			return Settled{}, fmt.Errorf("lane %s/%s: %w", lane.Queue, lane.Priority, pelton.ErrNotFound)
		}
		want, alone, again := cfg.lane(lane.Priority, lane.Shard), true, false
		if b.Shards() > 1 && cfg.bounded(lane.Priority) && !cfg.WaitsForTurn(lane.Priority, lane.Shard) {
			if want, alone, again, err = b.awaitTurn(ctx, lane, cfg, info, want); err != nil {
				return Settled{}, err
			}
		}
		step := nextSettling(info, want, shorten)
		switch {
		case !alone: // others are told to pause, and looked at again
		case step == settleResume, step == settleNothing && !want.paused && wake.missed:
			step = settleResume
			if err := b.resume(ctx, lane.Shard, info, &wake); err != nil {
				return Settled{}, err
			}
		case step == settleNothing:
			return Settled{Lease: leaseOf(info.Config.AckWait, want.lease), Shorten: want.lease > 0 && info.Config.AckWait > want.lease, Again: again}, nil
		default:
			if err := b.settle(ctx, lane.Shard, step, info, want, shorten); err != nil {
				return Settled{}, err
			}
		}
		b.cfg.Logger.Debug("lane settled", "queue", lane.Queue, "priority", string(lane.Priority), "step", int(step))
		// A replica may show the change only a moment later.
		if err := waitFor(ctx, time.Duration(try)*20*time.Millisecond); err != nil {
			return Settled{}, err
		}
	}
	return Settled{}, fmt.Errorf("settle lane %s/%s: %w: its consumer does not follow", lane.Queue, lane.Priority, pelton.ErrUnavailable)
}

// wanted is what a lane's consumer should be.
type wanted struct {
	lease      time.Duration // 0: as it is
	maxPending int           // -1: any number
	paused     bool
}

// lane is what the consumer of a priority in a shard should be, whatever is out in others.
func (c *QueueConfig) lane(p pelton.Priority, shard uint8) wanted {
	w := wanted{lease: c.Lease(), maxPending: -1, paused: c.IsPaused(p) || c.WaitsForTurn(p, shard)}
	if n := c.Settings.MaxRunning[p]; n > 0 {
		w.maxPending = n
	}
	return w
}

// settling is one thing to change about a consumer.
type settling int

const (
	settleNothing settling = iota
	settlePause
	settleResume
	settleConfig // bound and lease
)

// nextSettling decides what to change next.
func nextSettling(info *jetstream.ConsumerInfo, want wanted, shorten bool) settling {
	longer := want.lease > info.Config.AckWait
	shorter := want.lease > 0 && want.lease < info.Config.AckWait
	switch {
	case want.paused && (!info.Paused || info.PauseRemaining < pauseFor/2):
		return settlePause
	case want.maxPending != info.Config.MaxAckPending, longer, shorter && shorten:
		return settleConfig
	case !want.paused && isPaused(info): // last: nothing goes out before its bound is right
		return settleResume
	default:
		return settleNothing
	}
}

// isPaused reports whether a consumer hands out nothing, and will not in a moment.
func isPaused(info *jetstream.ConsumerInfo) bool {
	return info.Paused && info.PauseRemaining > pauseOver
}

// leaseOf is the shorter of what the broker waits and what it is to wait.
func leaseOf(waits, want time.Duration) time.Duration {
	if want > 0 {
		return min(waits, want)
	}
	return waits
}

func (b *Broker) settle(ctx context.Context, shard uint8, step settling, info *jetstream.ConsumerInfo, want wanted, shorten bool) error {
	switch step {
	case settlePause:
		_, err := b.js.PauseConsumer(ctx, b.tasks(shard), info.Name, info.TimeStamp.Add(pauseFor))
		return translate("pause lane "+info.Name, err)
	case settleConfig:
		cfg := info.Config
		cfg.MaxAckPending = want.maxPending
		if want.lease > cfg.AckWait || want.lease > 0 && shorten {
			cfg.AckWait = want.lease
		}
		_, err := b.js.UpdateConsumer(ctx, b.tasks(shard), cfg) // leaves the pause alone
		return translate("configure lane "+info.Name, err)
	case settleResume, settleNothing: // see resume.go
	}
	return nil
}

// waitFor waits for d or for the end of ctx, which is pelton.ErrUnavailable.
func waitFor(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return errors.Join(pelton.ErrUnavailable, context.Cause(ctx))
	}
}

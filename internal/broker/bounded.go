package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/peltonq/pelton"
)

// A lane whose queue has max_running is bounded by its consumer, which counts exactly what is out;
// with more than one shard it has as many consumers. So one shard at a time has the lane's turn: its
// consumer hands out, those of the others are paused. New tasks of a bounded lane go to the first shard, which
// has the turn unless something waits elsewhere: tasks from before the bound, and what becomes of them.
//
// The bound is exact because of three rules, which every process keeps that touches the consumers
// (SettleLane):
//
//   - only the shard whose turn the queue's entry says it is hands out, and only while all others
//     are paused;
//   - its bound is max_running less what is still out in the others. That only gets less while they are
//     paused, so what was read a moment ago is never too little;
//   - when the turn has changed, nobody hands out for a grace, longer than anybody works by an entry
//     that was read before.
//
// The turn changes when nothing is left where it is, or after a while, for what waits elsewhere; a server's sweep
// sees to that, every few seconds (TendTurns), and gives back to their lane those that a dead worker holds in a
// paused shard, to whom their leases would never come back. Dying on the way leaves an entry that others
// go on from.
//
// So a queue whose max_running is set while tasks wait in all shards stands still for some seconds
// before each shard's. When it is taken away, all shards hand out at once.

// straysAtOnce bounds the messages that one look for strays passes.
const straysAtOnce = 100

// turnTimes are those of turns.
type turnTimes struct {
	// grace is how long nobody hands out after the turn has changed.
	grace time.Duration
	// most is how long a shard has the turn while something waits elsewhere.
	most time.Duration
	// stray is how much longer than a lease something must be out in a paused shard, and its task
	// not run, before it is taken back.
	stray time.Duration
}

func usualTurns() turnTimes {
	return turnTimes{grace: callTimeout + time.Second, most: 15 * time.Second, stray: 5 * time.Second}
}

// turn says which shard a bounded lane hands out from, and since when, by the broker's clock.
type turn struct {
	Shard uint8     `json:"shard"`
	Since time.Time `json:"since"`
}

// bounded reports whether the priority has max_running.
func (c *QueueConfig) bounded(p pelton.Priority) bool { return c.Settings.MaxRunning[p] > 0 }

// Bounded reports whether new tasks of the priority go to the first shard.
func (c *QueueConfig) Bounded(p pelton.Priority) bool { return c.bounded(p) }

// WaitsForTurn reports whether the priority hands out nothing from a shard, because it is
// bounded and the turn is another shard's.
func (c *QueueConfig) WaitsForTurn(p pelton.Priority, shard uint8) bool {
	return c.bounded(p) && c.turns[p].Shard != shard
}

func decodeTurns(raw json.RawMessage) (turns map[pelton.Priority]turn, err error) {
	if raw == nil {
		return turns, nil
	}
	return turns, json.Unmarshal(raw, &turns)
}

// awaitTurn is what the consumer of the shard with the turn may be by now: its bound without what
// is out elsewhere. settled says that all others are paused; those that are not are told so. again
// says that it is to be looked at once more in a while.
func (b *Broker) awaitTurn(ctx context.Context, lane Lane, cfg *QueueConfig, info *jetstream.ConsumerInfo, want wanted) (_ wanted, settled, again bool, err error) {
	out, settled := 0, true
	err = b.eachShard(func(shard uint8) error {
		if shard == lane.Shard {
			return nil
		}
		other, err := b.consumer(ctx, b.tasks(shard), info.Name)
		if err != nil || other == nil {
			return err
		}
		if !isPaused(other) {
			settled = false
			return b.settle(ctx, shard, settlePause, other, want, false)
		}
		out += max(other.NumAckPending, 0)
		return nil
	})
	if err != nil || !settled {
		return want, false, true, err
	}
	since := cfg.turns[lane.Priority].Since
	switch {
	case want.paused:
	case want.maxPending <= out, isPaused(info) && info.TimeStamp.Sub(since) < b.turnTimes.grace:
		want.paused, again = true, true
	default:
		want.maxPending -= out
		again = out > 0
	}
	return want, true, again, nil
}

// TendTurns lets the turn of every bounded lane go on, where it has to. It costs a listing of the queues,
// and a read for each shard of each bounded lane; nothing with one shard.
func (b *Broker) TendTurns(ctx context.Context) error {
	if b.Shards() == 1 {
		return nil
	}
	queues, err := b.queueConfigs(ctx)
	if err != nil {
		return err
	}
	for _, cfg := range queues {
		for _, p := range cfg.Lanes {
			if p == "" || p.Rank() < 0 || !cfg.bounded(p) || cfg.IsPaused(p) {
				continue
			}
			if err := b.tendTurn(ctx, cfg, p); err != nil {
				err = fmt.Errorf("turn of lane %s/%s: %w", cfg.Name, p, err)
				b.cfg.Logger.Debug("turn not looked after", "error", err)
				if ctx.Err() != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (b *Broker) tendTurn(ctx context.Context, cfg *QueueConfig, p pelton.Priority) error {
	ctx, cancel := context.WithTimeout(ctx, 2*callTimeout)
	defer cancel()
	infos := make([]*jetstream.ConsumerInfo, b.Shards())
	for shard := range infos {
		lane := Lane{cfg.Name, p, uint8(shard)}
		info, err := b.consumer(ctx, b.tasks(lane.Shard), laneConsumer(lane.Queue, p))
		if err != nil {
			return err
		}
		infos[shard] = info
		if info == nil || !cfg.WaitsForTurn(p, lane.Shard) || info.NumAckPending == 0 {
			continue
		}
		if err := b.takeBackStrays(ctx, lane, info); err != nil {
			return err
		}
	}
	now := cfg.turns[p]
	next, move := nextTurn(infos, now, b.turnTimes.most)
	if move {
		after, err := b.changeQueue(ctx, cfg.Name, false, func(c *QueueConfig) error {
			if c.turns[p] != now {
				return nil // somebody else did
			}
			turns := map[pelton.Priority]turn{}
			for other, t := range c.turns {
				turns[other] = t
			}
			turns[p] = turn{next, infos[next].TimeStamp.UTC()}
			c.turns = turns
			return nil
		})
		if err != nil {
			return err
		}
		b.cfg.Logger.Info("bounded lane goes on in another shard", "queue", cfg.Name, "priority", string(p), "shard", after.turns[p].Shard)
		cfg = after
	}
	_, err := b.SettleLane(ctx, Lane{cfg.Name, p, cfg.turns[p].Shard}, false)
	if errors.Is(err, pelton.ErrNotFound) {
		return nil
	}
	return err
}

// nextTurn decides whose turn is next: of those in which something waits the next one after now; the
// first shard's, where new tasks come, if nothing does.
func nextTurn(infos []*jetstream.ConsumerInfo, now turn, most time.Duration) (next uint8, move bool) {
	if int(now.Shard) >= len(infos) {
		return 0, infos[0] != nil
	}
	own := infos[now.Shard]
	idle := own == nil || own.NumPending == 0 && own.NumAckPending == 0
	if own != nil && !idle && own.TimeStamp.Sub(now.Since) < most {
		return 0, false
	}
	for i := 1; i < len(infos); i++ {
		shard := (int(now.Shard) + i) % len(infos)
		if info := infos[shard]; info != nil && info.NumPending > 0 {
			return uint8(shard), true
		}
	}
	return 0, idle && now.Shard != 0 && infos[0] != nil
}

// takeBackStrays gives tasks whose messages are out in a paused shard back to their lane there, if nobody runs
// them: as a redelivery would, which a paused consumer does not make. The record is changed
// first, to the next epoch, so that whoever may still have the message cannot start it, then the
// new message is published, then the old one goes. Dying before the publish leaves a queued task without a
// message, which the sweep knows; dying after it an old message, which is dropped at the next look.
func (b *Broker) takeBackStrays(ctx context.Context, lane Lane, info *jetstream.ConsumerInfo) error {
	if info.Config.PauseUntil == nil {
		return nil
	}
	paused := info.Config.PauseUntil.Add(-pauseFor)
	if !isPaused(info) || info.TimeStamp.Sub(paused) < info.Config.AckWait+b.turnTimes.stray {
		return nil
	}
	next := uint64(1)
	var failed []error // of one, which must not hold up the others
	for range straysAtOnce {
		msg, err := b.get(ctx, b.tasks(lane.Shard), getRequest{Seq: next, NextFor: b.ready(lane.Shard, lane.Queue, lane.Priority)}, false)
		if errors.Is(err, pelton.ErrNotFound) || err == nil && msg.seq > info.Delivered.Stream {
			break // what is behind has never been out
		}
		if err != nil {
			return err
		}
		failed = append(failed, b.takeBackStray(ctx, msg))
		next = msg.seq + 1
	}
	return errors.Join(failed...)
}

func (b *Broker) takeBackStray(ctx context.Context, msg *stored) error {
	env, err := decodeMessage(msg.data, msg.seq)
	if err != nil {
		return nil //nolint:nilerr // for a worker that can read it, when it is this shard's turn
	}
	r, err := b.LoadRecord(ctx, env.ID)
	switch {
	case errors.Is(err, ErrNewer), errors.Is(err, ErrMalformed):
		return nil
	case errors.Is(err, pelton.ErrNotFound):
		return b.leaveAndDrop(ctx, nil, env, msg, msg.seq)
	case err != nil:
		return err
	case r.State.Terminal(), r.Epoch > env.Epoch:
		if r.State != pelton.Running && !r.State.Terminal() { // who wrote that may have died before the message
			if err := b.Publish(ctx, r); err != nil {
				return err
			}
		}
		return b.leaveAndDrop(ctx, r, env, msg, msg.seq)
	case r.State != pelton.Running && r.State != pelton.Queued || r.InLine:
		return nil
	}
	if r.State == pelton.Running {
		if present, err := b.Present(ctx, r.Owner); err != nil || present {
			return err
		}
		r.Attempt = r.Ended
		r.Crashes++
	}
	r.State = pelton.Queued
	r.Epoch++
	if err := b.SaveRecord(ctx, r); err != nil {
		if errors.Is(err, ErrStale) {
			return nil // somebody has it after all
		}
		return err
	}
	if _, err := b.PublishReady(ctx, r.Envelope()); err != nil {
		return err
	}
	b.cfg.Logger.Warn("task that nobody runs taken back from a paused shard", "task_id", r.ID.String(), "queue", r.Queue)
	return b.DeleteMessage(ctx, r.ID.Shard(), msg.seq)
}

package broker

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// wakeWithin is how long a lane's consumer has to learn of the end of its pause, at first.
	wakeWithin = 50 * time.Millisecond
	// wakeLook is the pause between looks whether it did.
	wakeLook = 5 * time.Millisecond
)

// waking is how far the resumption of a lane is.
type waking struct {
	within time.Duration // from the request to the end of the pause
	missed bool          // the end was over, or may have been, when the consumer learned of it
}

// resume ends a pause a moment from now, by the server's clock: the end of a pause
// wakes up the pulls that wait, lifting it does not, nor does an end that is over when the consumer's leader
// learns of it (nats-server 2.15, updatePauseState). One server answers when it has it; a cluster before, when
// it has proposed it to the others. So the consumer is looked at until it has it, and
// a lane that may have missed it is to be resumed again, with more time: by the caller, who looks first whether it is
// still to be. Dying before that leaves pulls asleep until a task or another pull comes to the lane: for as long as
// workers let a pull wait, at most.
func (b *Broker) resume(ctx context.Context, shard uint8, info *jetstream.ConsumerInfo, wake *waking) error {
	read := time.Now() // a little after info.TimeStamp
	until := info.TimeStamp.Add(wake.within).UTC()
	if _, err := b.js.PauseConsumer(ctx, b.tasks(shard), info.Name, until); err != nil {
		return translate("resume lane "+info.Name, err)
	}
	wake.missed = true
	for over := false; !over && wake.missed; over = time.Since(read) > wake.within {
		now, err := b.consumer(ctx, b.tasks(shard), info.Name)
		if err != nil {
			return err
		}
		wake.missed = now != nil && (!now.Paused || !now.Config.PauseUntil.Equal(until))
		if wake.missed {
			if err := waitFor(ctx, wakeLook); err != nil {
				return err
			}
		}
	}
	wake.within = min(4*wake.within, pauseOver/4)
	return nil
}

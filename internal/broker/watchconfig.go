package broker

import (
	"context"
	"fmt"
	"sync"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/peltonq/pelton"
)

// feeding passes on what a watch of the configuration brings. It ends with ctx, with the updates,
// and when up receives: the connection was lost and is back, and nats.go notices only after many
// seconds that the broker has forgotten a watch.
type feeding func(ctx context.Context, up <-chan struct{}, updates <-chan jetstream.KeyValueEntry)

// watchConfig follows keys of the configuration: what there is, a nil, then what changes. stop
// waits for the end of feed, for up to 5 s while the connection is lost.
func (b *Broker) watchConfig(ctx context.Context, what string, keys []string, feed feeding) (stop func(), err error) {
	if !b.conn.nc.IsConnected() {
		return nil, fmt.Errorf("watch %s: %w: not connected", what, pelton.ErrUnavailable)
	}
	up, forgetUp := b.conn.reconnected() // from before the watch, so that no loss is missed
	watcher, err := b.config.WatchFiltered(ctx, keys)
	if err != nil {
		forgetUp()
		return nil, translate("watch "+what, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() {
		defer forgetUp()
		defer endWatch(watcher)
		feed(ctx, up, watcher.Updates())
	})
	return func() {
		cancel()
		running.Wait()
	}, nil
}

// endWatch stops a watch and takes what it still holds: nats.go blocks on an
// entry that nobody takes, with locks that closing the connection needs.
func endWatch(watcher jetstream.KeyWatcher) {
	var draining sync.WaitGroup
	draining.Go(func() {
		for range watcher.Updates() { //nolint:revive // drained to the end
		}
	})
	_ = watcher.Stop() // fails only where the consumer or the connection is gone
	draining.Wait()
}

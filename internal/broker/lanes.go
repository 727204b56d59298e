package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/peltonq/pelton"
)

// Lane is one (queue, priority) pair.
type Lane struct {
	Queue    string
	Priority pelton.Priority
}

// queueConfig is what the configuration bucket holds on a queue, under
// queue.<name>: the priorities that were ever used. Workers watch it.
type queueConfig struct {
	Lanes []pelton.Priority `json:"lanes"`
}

const queueKeyPrefix = "queue."

// EnsureLane makes sure that the lane's consumer exists and that workers learn
// of it. Only the first call for a lane in a process asks the broker. A queue
// beyond the installation's bound is pelton.ErrInvalid.
func (b *Broker) EnsureLane(ctx context.Context, queue string, p pelton.Priority) error {
	name := laneConsumer(queue, p)
	if _, known := b.ensured.Load(name); known {
		return nil
	}
	if !b.conn.nc.IsConnected() {
		return fmt.Errorf("open lane %s/%s: %w: not connected", queue, p, pelton.ErrUnavailable)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	// One at a time: a burst of first tasks makes one call, not one each.
	select {
	case b.opening <- struct{}{}:
		defer func() { <-b.opening }()
	case <-ctx.Done():
		return fmt.Errorf("open lane %s/%s: %w: %w", queue, p, pelton.ErrUnavailable, context.Cause(ctx))
	}
	if _, known := b.ensured.Load(name); known {
		return nil
	}
	if err := b.checkQueueBound(ctx, queue); err != nil {
		return err
	}
	// The consumer first: a lane that is listed can be pulled.
	if err := b.createConsumer(ctx, b.tasks(0), b.lane(0, queue, p, b.cfg.Lease)); err != nil {
		return err
	}
	if err := b.listLane(ctx, queue, p); err != nil {
		return err
	}
	b.ensured.Store(name, struct{}{})
	return nil
}

// EnsureScheduled makes sure that the queue's delayed tasks are counted.
func (b *Broker) EnsureScheduled(ctx context.Context, queue string, p pelton.Priority) error {
	if err := b.EnsureLane(ctx, queue, p); err != nil { // where the task will go, and the bound
		return err
	}
	return b.ensureCounter(ctx, b.tasks(0), counter(scheduledConsumer(queue), b.scheduledIn(0, queue)))
}

func (b *Broker) ensureCounter(ctx context.Context, stream string, cfg jetstream.ConsumerConfig) error {
	if _, known := b.ensured.Load(cfg.Durable); known {
		return nil
	}
	if err := b.createConsumer(ctx, stream, cfg); err != nil {
		return err
	}
	b.ensured.Store(cfg.Durable, struct{}{})
	return nil
}

// createConsumer creates a consumer; one of that name that exists is success,
// whatever its settings: CreateOrUpdate would revert what an operator changed.
func (b *Broker) createConsumer(ctx context.Context, stream string, cfg jetstream.ConsumerConfig) error {
	if !b.conn.nc.IsConnected() {
		return fmt.Errorf("create consumer %s: %w: not connected", cfg.Durable, pelton.ErrUnavailable)
	}
	_, err := b.js.CreateConsumer(ctx, stream, cfg)
	var api *jetstream.APIError
	if err == nil || errors.Is(err, jetstream.ErrConsumerExists) ||
		errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeConsumerNameExists {
		return nil
	}
	return translate("create consumer "+cfg.Durable, err)
}

func (b *Broker) checkQueueBound(ctx context.Context, queue string) error {
	if _, err := b.config.Get(ctx, queueKeyPrefix+queue); err == nil {
		return nil
	} else if !errors.Is(err, jetstream.ErrKeyNotFound) {
		return translate("read queue "+queue, err)
	}
	queues, err := b.queueNames(ctx)
	if err != nil {
		return err
	}
	if len(queues) >= b.maxQueues {
		return &pelton.ValidationError{Fields: []pelton.FieldError{{
			Field: "queue", Message: fmt.Sprintf("%q would be queue %d, more than the %d that this installation holds", queue, len(queues)+1, b.maxQueues),
		}}}
	}
	return nil
}

func (b *Broker) queueNames(ctx context.Context) ([]string, error) {
	// Not ListKeysFiltered, which tells a broken listing from a whole one by nothing.
	watcher, err := b.config.Watch(ctx, queueKeyPrefix+"*", jetstream.IgnoreDeletes(), jetstream.MetaOnly())
	if err != nil {
		return nil, translate("list queues", err)
	}
	defer endWatch(watcher)
	var queues []string
	for {
		select {
		case entry, ok := <-watcher.Updates():
			switch {
			case !ok:
				return nil, fmt.Errorf("list queues: %w: the listing broke off", pelton.ErrUnavailable)
			case entry == nil: // the end of what is there
				slices.Sort(queues)
				return slices.Compact(queues), nil
			default:
				queues = append(queues, strings.TrimPrefix(entry.Key(), queueKeyPrefix))
			}
		case <-ctx.Done():
			return nil, fmt.Errorf("list queues: %w: %w", pelton.ErrUnavailable, context.Cause(ctx))
		}
	}
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

// listLane adds the lane to its queue's configuration by compare-and-swap.
func (b *Broker) listLane(ctx context.Context, queue string, p pelton.Priority) error {
	key := queueKeyPrefix + queue
	for {
		var cfg queueConfig
		var revision uint64
		entry, err := b.config.Get(ctx, key)
		switch {
		case errors.Is(err, jetstream.ErrKeyNotFound):
		case err != nil:
			return translate("read queue "+queue, err)
		default:
			revision = entry.Revision()
			if err := json.Unmarshal(entry.Value(), &cfg); err != nil {
				return fmt.Errorf("read queue %s: %w: %w", queue, ErrMalformed, err)
			}
		}
		if slices.Contains(cfg.Lanes, p) {
			return nil
		}
		cfg.Lanes = append(cfg.Lanes, p)
		value, err := json.Marshal(cfg)
		if err != nil {
			return fmt.Errorf("list lane %s/%s: %w", queue, p, err)
		}
		if revision == 0 {
			_, err = b.config.Create(ctx, key, value)
		} else {
			_, err = b.config.Update(ctx, key, value, revision)
		}
		if err == nil {
			return nil
		}
		var api *jetstream.APIError
		if !errors.Is(err, jetstream.ErrKeyExists) && (!errors.As(err, &api) || !wrongLast(api.ErrorCode)) {
			return translate("list lane "+queue+"/"+string(p), err)
		}
		// Another process changed the queue: read it again. ctx bounds the loop.
	}
}

// WatchLanes sends the lanes of the given queues, those that exist and those
// that come, each once or more. The channel is closed after stop, when ctx ends,
// and when the watch breaks down, as it does with the connection: watch again
// then. stop waits for its end, for up to 5 s while the connection is lost.
func (b *Broker) WatchLanes(ctx context.Context, queues []string) (lanes <-chan Lane, stop func(), err error) {
	if !b.conn.nc.IsConnected() {
		return nil, nil, fmt.Errorf("watch lanes: %w: not connected", pelton.ErrUnavailable)
	}
	up, forgetUp := b.conn.reconnected() // from before the watch, so that no loss is missed
	watcher, err := b.config.Watch(ctx, queueKeyPrefix+"*", jetstream.IgnoreDeletes())
	if err != nil {
		forgetUp()
		return nil, nil, translate("watch lanes", err)
	}
	out := make(chan Lane)
	ctx, cancel := context.WithCancel(ctx)
	var feeding sync.WaitGroup
	feeding.Go(func() {
		defer forgetUp()
		defer endWatch(watcher)
		defer close(out)
		b.feedLanes(ctx, up, watcher.Updates(), queues, out)
	})
	return out, func() {
		cancel()
		feeding.Wait()
	}, nil
}

// feedLanes ends with its ctx, with the updates, and when the connection is back
// after it was lost: nats.go notices only after many seconds that the broker has
// forgotten a watch.
func (b *Broker) feedLanes(ctx context.Context, up <-chan struct{}, updates <-chan jetstream.KeyValueEntry, queues []string, out chan<- Lane) {
	for {
		var entry jetstream.KeyValueEntry
		select {
		case <-ctx.Done():
			return
		case <-up:
			return
		case e, ok := <-updates:
			if !ok {
				return
			}
			entry = e
		}
		if entry == nil { // the end of what was there at the start
			continue
		}
		queue := strings.TrimPrefix(entry.Key(), queueKeyPrefix)
		if !slices.Contains(queues, queue) {
			continue
		}
		var cfg queueConfig
		if err := json.Unmarshal(entry.Value(), &cfg); err != nil {
			b.cfg.Logger.Error("configuration of a queue is unreadable", "queue", queue, "error", err)
			continue
		}
		for _, p := range cfg.Lanes {
			if p == "" || p.Rank() < 0 {
				continue
			}
			select {
			case out <- Lane{queue, p}:
			case <-ctx.Done():
				return
			}
		}
	}
}

package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/peltonq/pelton"
)

// Lane is one (queue, priority) pair, in one shard.
type Lane struct {
	Queue    string
	Priority pelton.Priority
	Shard    uint8
}

// String is what the lane's consumer is called, and of a further shard its number.
func (l Lane) String() string { return inShard(laneConsumer(l.Queue, l.Priority), l.Shard) }

func inShard(name string, shard uint8) string {
	if shard == 0 {
		return name
	}
	return name + "@" + strconv.Itoa(int(shard))
}

// EnsureLane makes sure that the lane's consumer exists and that workers learn
// of it. Only the first call for a lane in a process asks the broker. A queue
// beyond the installation's bound is pelton.ErrInvalid.
func (b *Broker) EnsureLane(ctx context.Context, lane Lane) error {
	if _, known := b.ensured.Load(lane); known {
		return nil
	}
	queue, p := lane.Queue, lane.Priority
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
	if _, known := b.ensured.Load(lane); known {
		return nil
	}
	if err := b.openLane(ctx, lane); err != nil {
		return err
	}
	b.ensured.Store(lane, struct{}{})
	return nil
}

// openLane creates the lane's consumer as its queue's entry wants it, then lists
// the lane there: one that is listed can be pulled. If the entry changed in
// between, the lane that is now listed is settled, since whoever changed it may not
// have seen it. Dying before that leaves it to the workers that open the lane.
func (b *Broker) openLane(ctx context.Context, lane Lane) error {
	queue, p := lane.Queue, lane.Priority
	cfg, err := b.loadQueue(ctx, queue)
	if errors.Is(err, pelton.ErrNotFound) {
		err = b.checkQueueBound(ctx, queue)
	}
	if err != nil {
		return err
	}
	if err := b.createConsumer(ctx, b.tasks(lane.Shard), b.laneConfig(cfg, p, lane.Shard)); err != nil {
		return err
	}
	if slices.Contains(cfg.Lanes, p) {
		return nil
	}
	_, err = b.changeQueue(ctx, queue, true, func(cfg *QueueConfig) error {
		if !slices.Contains(cfg.Lanes, p) {
			cfg.Lanes = append(cfg.Lanes, p)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("list lane %s/%s: %w", queue, p, err)
	}
	_, err = b.SettleLane(ctx, lane, false)
	return err
}

// laneConfig is the lane's consumer in a shard as the entry wants it.
func (b *Broker) laneConfig(cfg *QueueConfig, p pelton.Priority, shard uint8) jetstream.ConsumerConfig {
	want := cfg.lane(p, shard)
	if want.lease == 0 {
		want.lease = b.cfg.Lease
	}
	lane := b.lane(shard, cfg.Name, p, want.lease)
	lane.MaxAckPending = want.maxPending
	if want.paused {
		until := time.Now().Add(pauseFor)
		lane.PauseUntil = &until
	}
	return lane
}

// EnsureScheduled makes sure that the queue's delayed tasks are counted.
func (b *Broker) EnsureScheduled(ctx context.Context, lane Lane) error {
	if err := b.EnsureLane(ctx, lane); err != nil { // where the task will go, and the bound
		return err
	}
	return b.ensureCounter(ctx, b.tasks(lane.Shard), counter(scheduledConsumer(lane.Queue), b.scheduledIn(lane.Shard, lane.Queue)))
}

// EnsurePlaces makes sure that the queue's tasks in lines are counted.
func (b *Broker) EnsurePlaces(ctx context.Context, queue string) error {
	if err := b.ensureCounter(ctx, b.keyed(0), counter(waitingConsumer(queue), b.placesOf(0, queue))); err != nil {
		return err
	}
	return b.ensureCounter(ctx, b.keyed(0), counter(laterConsumer(queue), b.laterPlacesIn(0, queue)))
}

func (b *Broker) ensureCounter(ctx context.Context, stream string, cfg jetstream.ConsumerConfig) error {
	name := stream + "." + cfg.Durable
	if _, known := b.ensured.Load(name); known {
		return nil
	}
	if err := b.createConsumer(ctx, stream, cfg); err != nil {
		return err
	}
	b.ensured.Store(name, struct{}{})
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

// checkQueueBound refuses a new queue beyond the installation's bound.
func (b *Broker) checkQueueBound(ctx context.Context, queue string) error {
	queues, err := b.queueConfigs(ctx)
	if err != nil {
		return err
	}
	if most := b.queueLimit(); len(queues) >= most {
		return &pelton.ValidationError{Fields: []pelton.FieldError{{
			Field: "queue", Message: fmt.Sprintf("%q would be queue %d, more than the %d that this installation holds", queue, len(queues)+1, most),
		}}}
	}
	return nil
}

// queueConfigs reads the entries of all queues, sorted by name.
func (b *Broker) queueConfigs(ctx context.Context) ([]*QueueConfig, error) {
	entries, err := b.configEntries(ctx, "queues", queueKeyPrefix)
	if err != nil {
		return nil, err
	}
	queues := make([]*QueueConfig, 0, len(entries))
	for _, entry := range entries {
		name := strings.TrimPrefix(entry.Key(), queueKeyPrefix)
		cfg, err := decodeQueue(name, entry.Value(), entry.Revision())
		if err != nil {
			b.cfg.Logger.Error("configuration of a queue is unreadable", "queue", name, "error", err)
			cfg = &QueueConfig{Name: name}
		}
		queues = append(queues, cfg)
	}
	return queues, nil
}

// WatchQueues sends the entries of the given queues, nil being all: those that
// exist, then a nil, then each that comes or changes. The channel is closed after
// stop, when ctx ends, and when the watch breaks down, as it does with the
// connection: watch again then. stop waits for its end, for up to 5 s while the
// connection is lost.
func (b *Broker) WatchQueues(ctx context.Context, queues []string) (changes <-chan *QueueConfig, stop func(), err error) {
	out := make(chan *QueueConfig)
	stop, err = b.watchConfig(ctx, "queues", []string{queueKeyPrefix + "*"}, func(ctx context.Context, up <-chan struct{}, updates <-chan jetstream.KeyValueEntry) {
		defer close(out)
		b.feedQueues(ctx, up, updates, queues, out)
	})
	return out, stop, err
}

func (b *Broker) feedQueues(ctx context.Context, up <-chan struct{}, updates <-chan jetstream.KeyValueEntry, queues []string, out chan<- *QueueConfig) {
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
		var cfg *QueueConfig // nil for the end of what was there at the start
		if entry != nil {
			if cfg = b.queueOf(entry, queues); cfg == nil {
				continue
			}
		}
		select {
		case out <- cfg:
		case <-ctx.Done():
			return
		}
	}
}

package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/singleflight"

	"github.com/peltonq/pelton"
)

// How many copies a cluster keeps of everything can be changed while the installation is in use.
// It matters to whoever reads: of a stream with one copy any read is as good as the leader's, of
// one with more only the leader's is (nats-server 2.15 has no read after write). So before there are
// more, every process is told, by a subject that is not stored, for some seconds; a process that was
// away looks when its connection is back. Who has not heard reads what was true a moment ago, and
// what it decides by that is refused by compare-and-swap.

const (
	// replicasTold is how long all processes are told before there are more copies, and
	// replicasTell how often.
	replicasTold = 2 * time.Second
	replicasTell = 200 * time.Millisecond
	// arrangeFor bounds how long a cluster may take to agree to the change of one stream.
	arrangeFor = 30 * time.Second
	// meetAgain is when brokers are asked again that had not all met.
	meetAgain = 200 * time.Millisecond
)

// MaxReplicas is how many copies there may be at most (nats-server 2.15).
const MaxReplicas = 5

// replication is what a process knows of the copies that there are.
type replication struct {
	many atomic.Bool // more than one, of some stream
	sub  *nats.Subscription
	// led is when the records of a shard last took a write of this process's confirming.
	led        [MaxShards]atomic.Pointer[time.Time]
	confirming singleflight.Group // by shard
}

// trustFollowers is for how long after a write any copy may be read. It bounds how old a record may
// be that a reader gets from a server that was cut off from the others, and does not know.
const trustFollowers = time.Second

// anyCopy reports whether a record of a shard may be read from any copy.
func (r *replication) anyCopy(shard uint8) bool {
	if !r.many.Load() {
		return true
	}
	if shard >= MaxShards {
		return false
	}
	led := r.led[shard].Load()
	return led != nil && time.Since(*led) < trustFollowers
}

// confirmMajority finds out whether the records of a shard have a leader with a majority behind it, by a
// write: one that was cut off goes on answering reads for some ten seconds. A store that
// is full tells nothing of that, and no record is kept from its readers. Errors: pelton.ErrUnavailable.
func (b *Broker) confirmMajority(ctx context.Context, shard uint8) error {
	if int(shard) >= b.Shards() {
		return nil // what there is of it, the leader of the settings says
	}
	_, err, _ := b.replication.confirming.Do(b.state(shard), func() (any, error) {
		began := time.Now()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		defer cancel()
		_, err := b.do(ctx, write{subject: "$KV." + b.state(shard) + "." + probeKey, expect: anyRevision, ttl: probeTTL})
		if err == nil {
			b.replication.led[shard].Store(&began)
		}
		return nil, err
	})
	var api *jetstream.APIError
	if err == nil || errors.As(err, &api) && (api.ErrorCode == errResources || api.ErrorCode == errStorage || api.ErrorCode == errAccountFull) {
		return nil
	}
	return fmt.Errorf("%w: no majority of the brokers: %w", pelton.ErrUnavailable, err)
}

func (r *replication) listen(nc *nats.Conn, subject string) error {
	sub, err := nc.Subscribe(subject, func(msg *nats.Msg) {
		if n, err := strconv.Atoi(string(msg.Data)); err == nil && n > 0 {
			r.many.Store(n > 1)
		}
	})
	if err != nil {
		return fmt.Errorf("%w: listen for changes of replicas: %w", pelton.ErrUnavailable, err)
	}
	r.sub = sub
	return nil
}

func (r *replication) close() { _ = r.sub.Unsubscribe() } // fails only where the connection is gone

// lookForReplicas finds out how many copies there are, after the connection was lost. Arrange
// goes through the streams in their order, so the first has more copies before any other has, and
// the last as long as any other has.
func (b *Broker) lookForReplicas(ctx context.Context) {
	many, all := false, b.streams(1)
	for _, want := range []string{all[0].Name, all[len(all)-1].Name} {
		stream, err := b.js.Stream(ctx, want)
		if err != nil {
			b.cfg.Logger.Debug("replicas not read, the leaders are asked", "stream", want, "error", err)
			many = true // the slower reads are always right
			break
		}
		many = many || stream.CachedInfo().Config.Replicas > 1
	}
	b.replication.many.Store(many)
}

// queueLimit is how many queues the installation holds: with more copies, consumers cost more.
func (b *Broker) queueLimit() int {
	if b.replication.many.Load() {
		return min(b.maxQueues, maxQueuesR3)
	}
	return b.maxQueues
}

// Arrangement is where a cluster keeps an installation, and how many copies of it.
type Arrangement struct {
	Replicas int // 1 to 5, of which odd numbers make sense; zero leaves it as it is
	// Tags are those that a server must have to hold a copy; nil leaves it as it is, and an empty
	// slice is any server.
	Tags []string
}

func (a Arrangement) check() error {
	if a.Replicas < 0 || a.Replicas > MaxReplicas {
		return fmt.Errorf("%w: %d replicas are not between 1 and %d", pelton.ErrInvalid, a.Replicas, MaxReplicas)
	}
	return nil
}

// apply changes a stream's configuration, and reports whether that made a difference.
func (a Arrangement) apply(cfg *jetstream.StreamConfig) bool {
	var is jetstream.Placement
	if cfg.Placement != nil {
		is = *cfg.Placement
	}
	copies, placed := a.Replicas > 0 && cfg.Replicas != a.Replicas, a.Tags != nil && !equalTags(is.Tags, a.Tags)
	if copies {
		cfg.Replicas = a.Replicas
	}
	if placed {
		is.Tags = a.Tags
		cfg.Placement = &is
	}
	return copies || placed
}

func equalTags(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

// Arrange changes the copies and the place of all streams, and reports whether any was
// different. The cluster copies what there is in the background. Repeating it goes on where it
// failed. Errors: pelton.ErrInvalid; pelton.ErrConflict for a cluster that has not so many
// servers, or none with such tags; pelton.ErrUnavailable.
func (b *Broker) Arrange(ctx context.Context, to Arrangement) (changed bool, err error) {
	if err := to.check(); err != nil {
		return false, err
	}
	var differ []jetstream.StreamConfig
	if err := b.lookForShards(ctx); err != nil {
		return false, err
	}
	for _, want := range b.whole(b.Shards()) {
		stream, err := b.js.Stream(ctx, want.Name)
		if !b.cfg.Access && errors.Is(err, jetstream.ErrStreamNotFound) {
			continue // of what nobody has needed so far
		}
		if err != nil {
			return false, translate("open stream "+want.Name, err)
		}
		if cfg := stream.CachedInfo().Config; to.apply(&cfg) {
			differ = append(differ, cfg)
		}
	}
	if len(differ) == 0 {
		return false, nil
	}
	if to.Replicas > 1 { // also when some stream has them already
		if err := b.tellReplicas(ctx, to.Replicas, replicasTold); err != nil {
			return false, err
		}
	}
	for _, cfg := range differ {
		if err := b.rearrange(ctx, cfg); err != nil {
			return true, err
		}
	}
	if to.Replicas == 0 {
		return true, nil
	}
	return true, b.tellReplicas(ctx, to.Replicas, 0)
}

// rearrange changes a stream. While a cluster makes and moves the copies of others, its answer may
// take longer than a call waits for it: it is asked again then, for arrangeFor. The same change once more is none.
func (b *Broker) rearrange(ctx context.Context, cfg jetstream.StreamConfig) error {
	ctx, cancel := context.WithTimeout(ctx, arrangeFor)
	defer cancel()
	for {
		asking, stop := context.WithTimeout(ctx, callTimeout)
		_, err := b.js.UpdateStream(asking, cfg)
		stop()
		if err == nil {
			return nil
		}
		if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			return arrangeError(cfg, err)
		}
	}
}

// Unsettled are the streams that the cluster still copies or moves, with what is missing: until there
// are none, the loss of one server may be that of the only copy. Errors: pelton.ErrUnavailable.
func (b *Broker) Unsettled(ctx context.Context) (streams []string, err error) {
	for _, want := range b.whole(b.Shards()) {
		stream, err := b.js.Stream(ctx, want.Name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			continue
		}
		if err != nil {
			return nil, translate("look at stream "+want.Name, err)
		}
		if missing := unsettled(stream.CachedInfo()); missing != "" {
			streams = append(streams, want.Name+" "+missing)
		}
	}
	return streams, nil
}

// unsettled says what a stream lacks to be as its configuration wants it; "" for nothing. A server
// calls a new copy current before it has everything, but not the change done (nats-server 2.15).
func unsettled(info *jetstream.StreamInfo) string {
	cluster := info.Cluster
	switch {
	case cluster == nil:
		return ""
	case cluster.Desired != nil:
		return fmt.Sprintf("has not got its %d copies yet", info.Config.Replicas)
	case cluster.Leader == "":
		return "has no leader"
	}
	have := 1 // the leader
	for _, copied := range cluster.Replicas {
		if copied.Current && !copied.Offline {
			have++
		}
	}
	if have < info.Config.Replicas {
		return fmt.Sprintf("has %d of %d copies", have, info.Config.Replicas)
	}
	return ""
}

// arrangeError tells what a cluster cannot do from what it cannot do now.
func arrangeError(cfg jetstream.StreamConfig, err error) error {
	var api *jetstream.APIError
	if errors.As(err, &api) && (api.ErrorCode == errNoPeers && !isPeerOffline(err) || api.ErrorCode == errReplicasNotSupported) {
		return fmt.Errorf("%w: the broker cannot keep %d copies of stream %s: %s", pelton.ErrConflict, cfg.Replicas, cfg.Name, api.Description)
	}
	return translate("arrange stream "+cfg.Name, err)
}

// untilBrokersMeet does something, and again for that long while it fails because brokers are not online
// that the cluster counts with.
func untilBrokersMeet(ctx context.Context, patience time.Duration, do func() error) error {
	err := do()
	meeting, stop := context.WithTimeout(ctx, patience)
	defer stop()
	for isPeerOffline(err) && waitFor(meeting, meetAgain) == nil {
		err = do()
	}
	return err
}

// isPeerOffline reports whether there would be peers enough if all were online: the brokers of a
// cluster have not all met yet, or some are down.
func isPeerOffline(err error) bool {
	const reason = "peer offline" // one of errNoPeers
	var (
		api *jetstream.APIError
		raw *apiError
	)
	return errors.As(err, &api) && api.ErrorCode == errNoPeers && strings.Contains(api.Description, reason) ||
		errors.As(err, &raw) && raw.ErrorCode == errNoPeers && strings.Contains(raw.Description, reason)
}

// JSClusterNoPeersErrF, JSStreamReplicasNotSupportedErr, JSInsufficientResourcesErr and
// JSStorageResourcesExceededErr of the server's errors.json.
const (
	errResources            jetstream.ErrorCode = 10023
	errStorage              jetstream.ErrorCode = 10047
	errNoPeers              jetstream.ErrorCode = 10005
	errReplicasNotSupported jetstream.ErrorCode = 10074
)

// tellReplicas tells every process, at once and then for so long.
func (b *Broker) tellReplicas(ctx context.Context, n int, during time.Duration) error {
	for told := time.Duration(0); ; told += replicasTell {
		if err := b.conn.nc.Publish(b.replicasSignal(), []byte(strconv.Itoa(n))); err != nil {
			return fmt.Errorf("%w: tell of replicas: %w", pelton.ErrUnavailable, err)
		}
		if told >= during {
			return nil
		}
		if err := waitFor(ctx, replicasTell); err != nil {
			return err
		}
	}
}

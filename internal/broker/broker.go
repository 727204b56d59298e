package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/singleflight"

	"github.com/peltonq/pelton"
)

// DefaultLease is how long the broker waits for a sign of life from the worker
// that holds a task before it hands the task to another.
const DefaultLease = 30 * time.Second

// Config says which installation is meant. Every process of an installation
// must agree on it.
type Config struct {
	// Namespace prefixes everything in the broker. Empty means DefaultNamespace.
	Namespace string
	// Lease is given to queues that this process creates; a queue that exists keeps
	// its own. Zero means DefaultLease; less than a second is an error.
	Lease time.Duration
	// Replicas of streams and buckets that this process creates. Zero means 1.
	Replicas int
	// Tags that the servers must have which hold what this process creates. None are
	// any servers.
	Tags []string
	// Access opens what tokens and the audit log are kept in, too. Without it, calls
	// on those are pelton.ErrUnavailable.
	Access bool
	// Logger gets what an operator may want to know. Nil discards.
	Logger *slog.Logger
}

func (c Config) withDefaults() (Config, error) {
	if c.Namespace == "" {
		c.Namespace = DefaultNamespace
	}
	if !namespaceName.MatchString(c.Namespace) {
		return c, fmt.Errorf("%w: namespace %q must match %s", pelton.ErrInvalid, c.Namespace, namespaceName)
	}
	if c.Lease == 0 {
		c.Lease = DefaultLease
	}
	if c.Lease < time.Second || c.Lease > time.Hour {
		return c, fmt.Errorf("%w: lease %s is not between 1s and 1h", pelton.ErrInvalid, c.Lease)
	}
	if c.Replicas == 0 {
		c.Replicas = 1
	}
	if err := (Arrangement{Replicas: c.Replicas}).check(); err != nil {
		return c, err
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// Broker is an open installation. It is safe for concurrent use.
type Broker struct {
	names
	cfg    Config
	conn   *conn
	js     jetstream.JetStream
	config jetstream.KeyValue
	room   room
	clock  brokerClock
	// schedules counts those that there are.
	schedules   scheduleCount
	replication replication
	maxQueues   int
	keyGrace    time.Duration // see unique.go
	deadReads   time.Duration // see maxDeadReading
	// cancelWait is how long a cancel waits for the holder of a running task.
	cancelWait time.Duration
	wakeWithin time.Duration // see resume.go

	watching  watching
	shards    shards
	turnTimes turnTimes
	horizon   atomic.Pointer[horizon]
	groups    groups
	buffers   bufferPool
	pagers    pagers
	seals     seals
	// background is what Open started, until Close calls stop.
	background sync.WaitGroup
	stop       context.CancelFunc
	limits     runningLimits
	lineDoors  doors
	seen       *seenDocs
	leaving    leavers
	desks      desks
	lasts      oneQueue
	lineNames  *lru.Cache[string, Line] // by the subject of places
	reading    chan struct{}            // of the stream of places
	known      knownPlaces
	parked     parkedArrivals
	finishing  singleflight.Group // by task and epoch: see finishHolder

	due        dueMemory
	noDueIndex bool     // of a benchmark that tells what the index costs
	doubt      struct { // in the due index
		mu    sync.Mutex
		open  bool // and nobody was told as yet
		tried time.Time
	}

	ensured sync.Map      // lanes and counters known to exist: Lane, or stream.consumer → struct{}
	opening chan struct{} // held by whoever opens a lane
}

// Open opens the installation on nc and creates what is missing; any number of
// processes may do so at once. A stream or bucket that exists with a setting
// Pelton cannot live with is an error that names both, and is left as it is.
// Close ends what Open started, not nc.
func Open(ctx context.Context, nc *nats.Conn, cfg Config) (*Broker, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if !nc.IsConnected() {
		return nil, fmt.Errorf("%w: not connected to NATS", pelton.ErrUnavailable)
	}
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(callTimeout))
	if err != nil {
		return nil, fmt.Errorf("open JetStream: %w", err)
	}
	if limit := nc.MaxPayload(); limit < minMessageSize {
		return nil, fmt.Errorf("%w: max_payload of the NATS server is %d, must be at least %d", pelton.ErrConflict, limit, minMessageSize)
	}
	b := &Broker{
		names: names{cfg.Namespace}, cfg: cfg, js: js,
		opening: make(chan struct{}, 1), maxQueues: maxQueuesR1, keyGrace: keyGrace, deadReads: maxDeadReading, cancelWait: cancelWait,
		turnTimes: usualTurns(), wakeWithin: wakeWithin, known: knownPlaces{aloneAfter: aloneAfter, keptBehind: keptBehind},
	}
	b.limits.ready = make(chan struct{})
	if b.seen, err = newSeenDocs(); err != nil {
		return nil, err
	}
	if b.lasts, err = newOneQueue(); err != nil {
		return nil, err
	}
	if b.lineNames, err = lru.New[string, Line](seenLines); err != nil {
		return nil, fmt.Errorf("remember lines: %w", err)
	}
	if err = b.seals.open(); err != nil {
		return nil, err
	}
	b.pagers.open()
	b.reading = make(chan struct{}, 1)
	var made []string
	streams := b.streams(cfg.Replicas)
	if cfg.Access {
		streams = append(streams, b.accessStreams(cfg.Replicas)...)
	}
	for _, want := range streams {
		if len(cfg.Tags) > 0 {
			want.Placement = &jetstream.Placement{Tags: cfg.Tags}
		}
		created, err := b.openStream(ctx, want)
		if err != nil {
			return nil, err
		}
		if created {
			made = append(made, want.Name)
		}
	}
	if b.config, err = js.KeyValue(ctx, b.names.config()); err != nil {
		return nil, translate("open bucket "+b.names.config(), err)
	}
	if b.conn, err = newConn(nc, b.seals.forget); err != nil {
		return nil, err
	}
	if slices.Contains(made, bucketStream(b.state(0))) { // a new installation: all who read it know pages
		if err = b.SavePages(ctx); err != nil {
			b.conn.close()
			return nil, err
		}
	}
	if err = b.listen(ctx, nc, slices.Contains(made, b.dueIndex()) && !slices.Contains(made, b.tasks(0))); err != nil {
		b.conn.close()
		return nil, err
	}
	ctx, b.stop = context.WithCancel(context.WithoutCancel(ctx))
	b.groups.open(ctx, b)
	b.background.Go(func() { b.followHorizon(ctx) })
	again, forget := b.conn.reconnected() // here, so that none is missed
	b.background.Go(func() {
		defer forget()
		b.wakeWatchers(ctx, again)
	})
	back, ignore := b.conn.reconnected()
	b.background.Go(func() {
		defer ignore()
		b.followShards(ctx, back)
	})
	return b, nil
}

// listen begins to hear what other processes tell. doubted says that tasks are there that an earlier
// version enqueued, which the due index does not have.
func (b *Broker) listen(ctx context.Context, nc *nats.Conn, doubted bool) error {
	err := b.room.listen(nc, b.diskSignal())
	if err != nil {
		return err
	}
	if err = b.replication.listen(nc, b.replicasSignal()); err == nil {
		if err = b.openShards(ctx); err == nil && doubted {
			if err = b.doubtDue(ctx); err != nil {
				b.shards.close()
			}
		}
		if err != nil {
			b.replication.close()
		}
	}
	if err != nil {
		b.room.close()
	}
	return err
}

// Close ends open calls. The NATS connection stays open: it is the caller's.
func (b *Broker) Close() {
	b.stop()
	b.room.close()
	b.replication.close()
	b.shards.close()
	b.conn.close()
	b.limits.close()
	b.background.Wait()
}

// Namespace is the installation's name in the broker.
func (b *Broker) Namespace() string { return b.ns }

// Reconnected gives a channel that receives after each reconnection to NATS;
// stop ends it. What was pulled or subscribed before may have been lost.
func (b *Broker) Reconnected() (ch <-chan struct{}, stop func()) { return b.conn.reconnected() }

// errSubjectsOverlap is JSStreamSubjectOverlapErr of the server's errors.json.
const errSubjectsOverlap jetstream.ErrorCode = 10065

// brokersMeet is how long a cluster may take until its brokers, which know each other, have heard
// from each other.
const brokersMeet = 5 * time.Second

// createStream waits for brokers that the cluster counts with and has not heard from.
func (b *Broker) createStream(ctx context.Context, want jetstream.StreamConfig) (stream jetstream.Stream, err error) {
	err = untilBrokersMeet(ctx, brokersMeet, func() error {
		stream, err = b.js.CreateStream(ctx, want)
		return err //nolint:wrapcheck // translated by openStream
	})
	return stream, err
}

// openStream reports whether this very call created the stream.
func (b *Broker) openStream(ctx context.Context, want jetstream.StreamConfig) (created bool, err error) {
	stream, err := b.js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		stream, err = b.createStream(ctx, want)
		if err != nil && isConsumersLimit(err) { // the account has a bound, which counts then
			want.MaxConsumers = -1
			stream, err = b.createStream(ctx, want)
		}
		created = err == nil
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			stream, err = b.js.Stream(ctx, want.Name) // another process was first
		}
	}
	var api *jetstream.APIError
	if errors.As(err, &api) && api.ErrorCode == errSubjectsOverlap {
		return false, fmt.Errorf("%w: stream %s cannot be created: another stream takes %s", pelton.ErrConflict, want.Name, strings.Join(want.Subjects, ", "))
	}
	if err != nil {
		return false, translate("open stream "+want.Name, err)
	}
	got := stream.CachedInfo().Config
	if bad := misfits(want, got); len(bad) > 0 {
		return false, fmt.Errorf("%w: stream %s exists with settings that Pelton cannot use: %s", pelton.ErrConflict, want.Name, strings.Join(bad, "; "))
	}
	if got.Replicas > 1 {
		b.replication.many.Store(true)
	}
	return created, nil
}

// isConsumersLimit reports whether a stream or an account has as many consumers as it may.
// A watch of nats.go tells so by an error of its older API.
func isConsumersLimit(err error) bool {
	var (
		api   *jetstream.APIError
		older *nats.APIError
	)
	return errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeMaximumConsumersLimit ||
		errors.As(err, &older) && uint16(older.ErrorCode) == uint16(jetstream.JSErrCodeMaximumConsumersLimit)
}

// translate wraps an error of the jetstream package, whose calls here read or
// are idempotent: whatever did not succeed can be tried again.
func translate(doing string, err error) error {
	var api *jetstream.APIError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrJetStreamNotEnabled):
		return fmt.Errorf("%s: %w: JetStream is not enabled on the NATS server, or not up yet", doing, pelton.ErrUnavailable)
	case errors.Is(err, jetstream.ErrStreamNotFound):
		// Of a cluster, one broker may refuse a name that is taken before another knows its stream.
		return fmt.Errorf("%s: %w: the stream is not there, or not yet", doing, pelton.ErrUnavailable)
	case isPeerOffline(err):
		return fmt.Errorf("%s: %w: too few brokers of the cluster are online: %w", doing, pelton.ErrUnavailable, err)
	case errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		return fmt.Errorf("%s: %w: JetStream is not enabled for the account", doing, pelton.ErrUnavailable)
	case isConsumersLimit(err):
		return fmt.Errorf("%s: %w; the stream's max_consumers, or the account's, says how many", doing, err)
	case errors.As(err, &api) && api.Code < 500:
		return fmt.Errorf("%s: %w", doing, err)
	default:
		return fmt.Errorf("%s: %w: %w", doing, pelton.ErrUnavailable, err)
	}
}

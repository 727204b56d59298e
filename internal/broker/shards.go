package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/failpoint"
)

// Tasks are spread over shards. A shard is a stream of tasks and a bucket of their records, each
// with a leader of its own in a cluster; a task's id has its shard. Everything else there is once:
// lines of keys with their places and turns, the due index, dead letters, schedules' ticks, settings.
// So the order of a key does not depend on where its tasks lie.
//
// How many shards there are is a document of the configuration bucket, and never becomes less.
// Growing (GrowShards) makes the streams first, then the consumers of the lanes that there are, and
// writes the document last, by compare-and-swap:
//
//   - dying before the document leaves streams that nobody uses, empty, which the next one
//     who grows takes as they are;
//   - of two who grow at once, both make the same streams; who loses the compare-and-swap reads again,
//     and goes on from there, or is refused where there are more by then than it wanted;
//   - a lane that is used for the first time meanwhile has its consumer in the shards that its
//     process knows; in the others, whoever is the first to send a task there, or to ask there for
//     one, makes it. What comes before lies in the stream;
//   - a process that has not heard yet goes on with the shards it knows. If it meets the id of a task in
//     another one, it reads the document before it says that there is no such task. A worker
//     that has not heard leaves those tasks to others, or to the moment when it has: 2 s at most.
//
// The document is watched by a plain subscription to its subject, which costs the broker
// nothing: a message there is a hint to read it. A hint that got lost is made up for after
// a reconnection, and every shardsLook in any case.

// MaxShards is how many shards there may be: each has a consumer for every lane, and a request that
// waits of every idle worker there.
const MaxShards = 64

const (
	shardsKey  = "shards"
	shardsLook = time.Minute
	// After a hint the document is read until it has changed: it was seen before it was stored.
	shardsHint    = 20 * time.Millisecond
	maxShardsHint = 2 * time.Second
)

// commonShard is the one that is in the names of what there is once: lines, their places and turns, and the due
// index.
const commonShard = 0

// shardsDoc is the document.
type shardsDoc struct {
	Shards int `json:"shards"`
}

// shards are those that a process knows of.
type shards struct {
	n    atomic.Int32
	next atomic.Uint32 // of Place
	hint chan struct{}
	sub  *nats.Subscription

	mu   sync.Mutex
	told map[chan struct{}]struct{} // when there are more
}

// Shards is how many this process knows of: 1 at least.
func (b *Broker) Shards() int { return max(1, int(b.shards.n.Load())) }

// Place is the shard of a new task: one after the other, and of a lane that is bounded the first.
func (b *Broker) Place(bounded bool) uint8 {
	n := b.shards.n.Load()
	if bounded || n <= 1 {
		return 0
	}
	return uint8((b.shards.next.Add(1) - 1) % uint32(n))
}

// eachShard calls f for every shard until one fails.
func (b *Broker) eachShard(f func(shard uint8) error) error {
	for shard := range b.Shards() {
		if err := f(uint8(shard)); err != nil {
			return err
		}
	}
	return nil
}

// Growth gives a channel that receives after there are more shards; stop ends it.
func (b *Broker) Growth() (ch <-chan struct{}, stop func()) {
	told := make(chan struct{}, 1)
	s := &b.shards
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.told == nil {
		s.told = make(map[chan struct{}]struct{})
	}
	s.told[told] = struct{}{}
	return told, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.told, told)
	}
}

// knows reports whether there is such a shard, after a look at the document if the process has not
// heard of it.
func (b *Broker) knows(ctx context.Context, shard uint8) (bool, error) {
	if int(shard) < b.Shards() {
		return true, nil
	}
	if shard >= MaxShards {
		return false, nil
	}
	err := b.lookForShards(ctx)
	return int(shard) < b.Shards(), err
}

// lookForShards reads how many there are from the leader.
func (b *Broker) lookForShards(ctx context.Context) error {
	n, _, err := b.loadShards(ctx)
	if err != nil {
		return err
	}
	s := &b.shards
	for was := s.n.Load(); int32(n) > was; was = s.n.Load() {
		if !s.n.CompareAndSwap(was, int32(n)) {
			continue
		}
		if was == 0 { // the first look; processes that place one task each begin anywhere
			s.next.Store(rand.Uint32()) //nolint:gosec // only where to begin
		} else {
			b.cfg.Logger.Info("tasks are spread over more shards", "shards", n)
		}
		s.mu.Lock()
		for told := range s.told {
			select {
			case told <- struct{}{}:
			default:
			}
		}
		s.mu.Unlock()
	}
	return nil
}

// loadShards reads the document; without one there is one shard.
func (b *Broker) loadShards(ctx context.Context) (n int, revision uint64, err error) {
	msg, err := b.get(ctx, bucketStream(b.names.config()), getRequest{LastFor: b.configKey(shardsKey)}, false)
	switch {
	case errors.Is(err, pelton.ErrNotFound):
		return 1, 0, nil
	case err != nil:
		return 0, 0, fmt.Errorf("read number of shards: %w", err)
	case msg.deleted():
		return 1, msg.seq, nil
	}
	n, err = decodeShards(msg.data)
	return n, msg.seq, err
}

func decodeShards(data []byte) (int, error) {
	var doc shardsDoc
	if err := json.Unmarshal(data, &doc); err != nil || doc.Shards < 1 || doc.Shards > MaxShards {
		return 0, fmt.Errorf("read number of shards: %w: %q", ErrMalformed, truncate(string(data), 80))
	}
	return doc.Shards, nil
}

// openShards opens the streams of the shards that there are, and begins to listen for more.
func (b *Broker) openShards(ctx context.Context) (err error) {
	s := &b.shards
	s.hint = make(chan struct{}, 1)
	s.sub, err = b.conn.nc.Subscribe(b.configKey(shardsKey), func(*nats.Msg) {
		select {
		case s.hint <- struct{}{}:
		default:
		}
	})
	if err != nil {
		return fmt.Errorf("%w: listen for more shards: %w", pelton.ErrUnavailable, err)
	}
	if err = b.lookForShards(ctx); err == nil {
		err = b.makeShards(ctx, 1, b.Shards())
	}
	if err != nil {
		s.close()
	}
	return err
}

func (s *shards) close() { _ = s.sub.Unsubscribe() } // fails only where the connection is gone

// makeShards opens the streams of shards from one on and below another, and makes those that are
// missing as the first shard's are.
func (b *Broker) makeShards(ctx context.Context, from, to int) error {
	if from >= to {
		return nil
	}
	first, err := b.js.Stream(ctx, b.tasks(0))
	if err != nil {
		return translate("open stream "+b.tasks(0), err)
	}
	like := first.CachedInfo().Config
	for shard := from; shard < to; shard++ {
		for _, want := range b.shardStreams(uint8(shard), like.Replicas) {
			want.Placement = like.Placement
			created, err := b.openStream(ctx, want)
			if err != nil {
				return err
			}
			if created {
				failpoint.At(failpoint.ShardMade)
			}
		}
	}
	return nil
}

// PrepareShards makes what so many shards need, without anybody using them, and gives how many there
// are, with the revision of the document. Errors are those of GrowShards.
func (b *Broker) PrepareShards(ctx context.Context, n int) (there int, revision uint64, err error) {
	if n < 1 || n > MaxShards {
		return 0, 0, fmt.Errorf("%w: %d shards are not between 1 and %d", pelton.ErrInvalid, n, MaxShards)
	}
	there, revision, err = b.loadShards(ctx)
	switch {
	case err != nil:
		return 0, 0, err
	case there > n:
		return 0, 0, fmt.Errorf("%w: there are %d shards, and they cannot become %d: the number never shrinks", pelton.ErrConflict, there, n)
	case there == n:
		return there, revision, nil
	}
	if err := b.makeShards(ctx, 1, n); err != nil {
		return 0, 0, err
	}
	return there, revision, b.restoreLanes(ctx, there, n)
}

// GrowShards makes as many shards as asked for, while the installation is in use, and reports
// whether there were fewer. See above for what happens if it is interrupted: repeating it goes on.
// Errors: pelton.ErrInvalid for a number that cannot be, pelton.ErrConflict where there are more,
// pelton.ErrUnavailable.
func (b *Broker) GrowShards(ctx context.Context, n int) (grown bool, err error) {
	for {
		there, revision, err := b.PrepareShards(ctx, n)
		switch {
		case err != nil:
			return false, err
		case there == n:
			return grown, b.lookForShards(ctx)
		}
		failpoint.At(failpoint.ShardsReady)
		data, err := json.Marshal(shardsDoc{n})
		if err != nil {
			return false, fmt.Errorf("encode number of shards: %w", err)
		}
		_, err = b.do(ctx, write{subject: b.configKey(shardsKey), data: data, expect: revision})
		if err != nil && (ctx.Err() != nil || !errors.Is(err, ErrStale) && !errors.Is(err, pelton.ErrUnknownOutcome)) {
			return false, fmt.Errorf("write number of shards: %w", err)
		}
		grown = grown || err == nil
		// Else somebody else wrote it, or nobody knows: read it again. ctx bounds the loop.
	}
}

// followShards reads the document when there is reason to, until ctx ends.
func (b *Broker) followShards(ctx context.Context, again <-chan struct{}) {
	timer := time.NewTimer(shardsLook)
	defer timer.Stop()
	var wait time.Duration // between two looks after a hint; zero without
	for {
		select {
		case <-b.shards.hint:
			wait = shardsHint
		case <-again:
			wait = 0
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		before := b.Shards()
		if err := b.lookForShards(ctx); err != nil {
			b.cfg.Logger.Debug("number of shards not read", "error", err)
		}
		switch {
		case wait == 0:
		case b.Shards() > before || wait > maxShardsHint:
			wait = 0
		}
		next := shardsLook
		if wait > 0 {
			next = wait
			wait *= 2
		}
		timer.Reset(next)
	}
}

// shardsWritten is what the document says; 1 where there is none, or no installation. It is for whoever has
// not opened it.
func shardsWritten(ctx context.Context, js jetstream.JetStream, n names) (int, error) {
	stream, err := js.Stream(ctx, bucketStream(n.config()))
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return 1, nil
	}
	if err != nil {
		return 0, translate("read number of shards", err)
	}
	msg, err := stream.GetLastMsgForSubject(ctx, n.configKey(shardsKey))
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound), err == nil && len(msg.Data) == 0:
		return 1, nil
	case err != nil:
		return 0, translate("read number of shards", err)
	default:
		return decodeShards(msg.Data)
	}
}

// shardsOf is how many shards an installation may have, as far as its streams tell: with those of a
// growth that was not finished. It is for whoever has not opened it.
func shardsOf(ctx context.Context, js jetstream.JetStream, n names) (int, error) {
	for shard := 1; shard < MaxShards; shard++ {
		there := false
		for _, s := range n.shardStreams(uint8(shard), 1) {
			switch _, err := js.Stream(ctx, s.Name); {
			case err == nil:
				there = true
			case !errors.Is(err, jetstream.ErrStreamNotFound):
				return 0, translate("look for stream "+s.Name, err)
			}
		}
		if !there {
			return shard, nil
		}
	}
	return MaxShards, nil
}

// withShards are streams with those of further shards behind the first one: see lookForReplicas.
func (n names) withShards(streams []jetstream.StreamConfig, shards, replicas int) []jetstream.StreamConfig {
	var more []jetstream.StreamConfig
	for shard := 1; shard < shards; shard++ {
		more = append(more, n.shardStreams(uint8(shard), replicas)...)
	}
	return slices.Insert(streams, 1, more...)
}

package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/peltonq/pelton"
)

// A broker that syncs every write (--sync always) syncs one message after the other,
// however many callers there are: two to three thousand a second. An atomic batch is
// one sync, whatever is in it. So writes that come while another one is being synced are
// gathered and sent as one batch, one at a time: group commit. With two under way the next one travels
// while one is synced, and both are half as large: that took more of the processor than it saved
// (`POST /tasks` of 64 connections 9,500 a second, with one 10,800, medians of five in turns).
//
// One write in a batch that is refused, because its revision is stale, refuses all; then the
// batch is halved, until the write is alone and gets its own answer. A batch of one is the
// slowest way to write, so a write that is alone goes as an ordinary message.
//
// Crash windows: those of each write. A batch whose answer is lost is of unknown outcome for
// all of its writes. Nothing here needs a batch to be whole: a broker that dies while it commits
// one may keep the first of its writes alone, see embed.Server.StageBatches.

const (
	headerBatchID     = "Nats-Batch-Id"
	headerBatchSeq    = "Nats-Batch-Sequence"
	headerBatchCommit = "Nats-Batch-Commit"

	// largestGroup bounds the writes of a batch (nats-server: 1,000), largestGroupBytes
	// their size: the broker holds a batch in memory until it is complete.
	largestGroup      = 500
	largestGroupBytes = 4 << 20
)

// batchErrors are the answers to a batch that was not stored as such: JSAtomicPublish… of
// the server's errors.json, and JSStreamExpectedLastSeqPerSubjectInvalid.
func batchErrors() []jetstream.ErrorCode {
	return []jetstream.ErrorCode{10164, 10174, 10175, 10176, 10177, 10179, 10199, 10200, 10201, 10210}
}

// groups are those of the streams whose writes can be grouped.
type groups struct {
	ctx          context.Context //nolint:containedctx // of the broker
	tasks, state string          // subjects begin with them, and go on with the shard

	shards [MaxShards]struct{ tasks, records atomic.Pointer[group] }
}

func (gs *groups) open(ctx context.Context, b *Broker) {
	gs.ctx, gs.tasks, gs.state = ctx, b.ns+".t.", "$KV."+b.ns+"_STATE_"
}

// at is the group that a pointer is for, made by whoever is the first to need it.
func (gs *groups) at(b *Broker, p *atomic.Pointer[group]) *group {
	g := p.Load()
	if g == nil {
		g = &group{}
		g.open(gs.ctx, b)
		if !p.CompareAndSwap(nil, g) {
			g = p.Load()
		}
	}
	return g
}

// shardOf reads the shard that a subject goes on with behind a prefix, and gives what is behind it.
func shardOf(subject, prefix string) (shard uint8, rest string, ok bool) {
	digits, ok := strings.CutPrefix(subject, prefix)
	if !ok {
		return 0, "", false
	}
	digits, rest, _ = strings.Cut(digits, ".")
	n, err := strconv.ParseUint(digits, 10, 8)
	return uint8(n), rest, err == nil && n < MaxShards
}

// GroupedStreams are the streams whose writes are grouped where the broker syncs every write: none
// of their batches needs to be whole after a crash of the broker.
func (b *Broker) GroupedStreams() (streams []string) {
	for shard := range b.Shards() {
		streams = append(streams, b.tasks(uint8(shard)), bucketStream(b.state(uint8(shard))))
	}
	return streams
}

// of is the group of a write, nil if it goes by itself: what has further headers, because
// batches refuse some of them, and everything where the broker does not sync every write.
func (gs *groups) of(b *Broker, w *write) *group {
	if h := b.horizon.Load(); h == nil || !h.Always || len(w.header) > 0 {
		return nil
	}
	if shard, rest, ok := shardOf(w.subject, gs.tasks); ok && strings.HasPrefix(rest, "r.") && w.expectOn == "" {
		return gs.at(b, &gs.shards[shard].tasks)
	}
	if shard, _, ok := shardOf(w.subject, gs.state); ok {
		return gs.at(b, &gs.shards[shard].records)
	}
	return nil
}

// grouped is a write that waits to be sent.
type grouped struct {
	w    write
	done func(seq uint64, err error)
}

// group gathers the writes to one stream.
type group struct {
	b    *Broker
	ctx  context.Context //nolint:containedctx // of the broker
	name string          // of its batches, with a number
	once sync.Once

	mu      sync.Mutex
	waiting []grouped
	busy    bool // a batch is under way
	number  uint64
	kick    chan struct{} // told that there is something to send
	room    chan struct{} // one for each write that waits or is under way
}

func (g *group) open(ctx context.Context, b *Broker) {
	g.b, g.ctx, g.name = b, ctx, strings.TrimPrefix(nats.NewInbox(), nats.InboxPrefix)
	g.kick, g.room = make(chan struct{}, 1), make(chan struct{}, window)
}

// add gathers a write. done gets its outcome, and must not block. An error means that it will
// not be called, and nothing was written.
func (g *group) add(ctx context.Context, w write, done func(seq uint64, err error)) error {
	select {
	case g.room <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", pelton.ErrUnavailable, context.Cause(ctx))
	}
	g.once.Do(func() { g.b.background.Go(func() { g.run(g.ctx) }) })
	g.mu.Lock()
	closed := g.ctx.Err() != nil
	if !closed {
		g.waiting = append(g.waiting, grouped{w, func(seq uint64, err error) {
			<-g.room
			done(seq, err)
		}})
	}
	g.mu.Unlock()
	if closed {
		<-g.room
		return pelton.ErrClosed
	}
	g.wake()
	return nil
}

// write is add that waits.
func (g *group) write(ctx context.Context, w write) (uint64, error) {
	type answer struct {
		seq uint64
		err error
	}
	answers := make(chan answer, 1)
	if err := g.add(ctx, w, func(seq uint64, err error) { answers <- answer{seq, err} }); err != nil {
		return 0, err
	}
	select {
	case a := <-answers:
		return a.seq, a.err
	case <-ctx.Done():
		return 0, fmt.Errorf("%w: %w", pelton.ErrUnknownOutcome, context.Cause(ctx))
	}
}

func (g *group) wake() {
	select {
	case g.kick <- struct{}{}:
	default:
	}
}

// run sends what was gathered, until ctx ends; what waits then was not sent.
func (g *group) run(ctx context.Context) {
	for {
		select {
		case <-g.kick:
		case <-ctx.Done():
			g.mu.Lock()
			left := g.waiting
			g.waiting = nil
			g.mu.Unlock()
			for _, one := range left {
				one.done(0, pelton.ErrClosed)
			}
			return
		}
		for {
			next := g.take()
			if len(next) == 0 {
				break
			}
			g.send(ctx, next, func() {
				g.mu.Lock()
				g.busy = false
				g.mu.Unlock()
				g.wake()
			})
		}
	}
}

// take takes the next batch, unless one is under way. No two writes of it are of the
// same subject with an expectation, which the broker would refuse.
func (g *group) take() []grouped {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.busy || len(g.waiting) == 0 {
		return nil
	}
	size, n := 0, 0
	expecting := make(map[string]struct{})
	for ; n < len(g.waiting) && n < largestGroup; n++ {
		w := &g.waiting[n].w
		of := cmp.Or(w.expectOn, w.subject)
		if _, twice := expecting[of]; twice {
			break
		}
		if size += len(w.data); size > largestGroupBytes && n > 0 {
			break
		}
		if w.expect != anyRevision {
			expecting[of] = struct{}{}
		}
	}
	next := slices.Clone(g.waiting[:n])
	g.waiting = slices.Delete(g.waiting, 0, n)
	g.busy = true
	return next
}

// send sends writes as one batch, and calls over when all have their outcome.
func (g *group) send(ctx context.Context, writes []grouped, over func()) {
	last := len(writes) - 1
	if last == 0 {
		one := writes[0]
		err := g.b.startAlone(ctx, one.w, func(seq uint64, err error) {
			one.done(seq, err)
			over()
		})
		if err != nil {
			one.done(0, err)
			over()
		}
		return
	}
	g.mu.Lock()
	g.number++
	id := g.name + strconv.FormatUint(g.number, 36)
	g.mu.Unlock()
	for i, one := range writes[:last] {
		if err := g.b.conn.nc.PublishMsg(inBatch(one.w, id, i+1, false)); err != nil {
			// The batch is never complete, so none of it is stored.
			g.finish(writes, 0, fmt.Errorf("%w: %w", pelton.ErrUnavailable, err))
			over()
			return
		}
	}
	answered := func(reply *nats.Msg, err error) {
		seq, err := outcome(reply, err)
		switch {
		case err == nil:
			g.finish(writes, seq, nil)
			over()
		case errors.Is(err, ErrStale), isBatchError(err):
			// Not on the reader: sending may have to wait for it.
			go g.halve(ctx, writes, over)
		default:
			g.finish(writes, 0, err)
			over()
		}
	}
	if _, err := g.b.conn.begin(ctx, inBatch(writes[last].w, id, last+1, true), callTimeout, answered); err != nil {
		g.finish(writes, 0, err)
		over()
	}
}

// finish tells all writes of a batch their outcome. Their sequences follow each other,
// seq is the last one's.
func (g *group) finish(writes []grouped, seq uint64, err error) {
	for i, one := range writes {
		if err != nil {
			one.done(0, err)
			continue
		}
		one.done(seq-uint64(len(writes)-1-i), nil)
	}
}

// halve sends the halves of a batch that was refused, one after the other.
func (g *group) halve(ctx context.Context, writes []grouped, over func()) {
	middle := len(writes) / 2
	g.send(ctx, writes[:middle], func() {
		go g.send(ctx, writes[middle:], over)
	})
}

// inBatch is the message of a write that is the n-th of a batch.
func inBatch(w write, id string, n int, last bool) *nats.Msg {
	msg := w.msg()
	if msg.Header == nil {
		msg.Header = nats.Header{}
	}
	msg.Header[headerBatchID] = []string{id}
	msg.Header[headerBatchSeq] = []string{strconv.Itoa(n)}
	if last {
		msg.Header[headerBatchCommit] = []string{"1"}
	}
	return msg
}

// isBatchError reports an answer that is about the batch, not about what is in it.
func isBatchError(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && slices.Contains(batchErrors(), api.ErrorCode)
}

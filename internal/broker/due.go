package broker

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
	"unique"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
)

// The index of delayed and retrying tasks by due time. Schedules have ids in their
// subjects and cannot be listed in the order of time, so beside each schedule a small
// entry is published, on the subject of its queue and of a span of time. Spans are
// the wider the further they are ahead, so that there are few subjects and none holds
// much more than what is due in a fraction of the time until then. Entries go by
// themselves when they are due.
//
// An entry is a hint: the record decides whether the task still waits. It is sent
// beside the schedule, and its failure does not fail the schedule. What was not
// written is found by the sweep, which is told by a key in the configuration bucket
// that entries may be missing (doubtDue) and writes all of them anew in its next round
// over the records.

const (
	// dueAtLeast is how far ahead a task must be due to be listed: a wait that is over
	// before anybody could look is not worth a write.
	dueAtLeast = time.Second
	// dueKept is how long an entry outlives its time.
	dueKept = 5 * time.Second
	// dueWait is how long a call waits for the answer to an entry after its own write
	// was answered.
	dueWait = time.Second
	// doubtEvery bounds how often a process writes that entries may be missing.
	doubtEvery = time.Second
	doubtKey   = "due.doubt"
)

// dueSpan is a sort of spans of time, for what is due no further ahead than within.
type dueSpan struct {
	letter byte
	within time.Duration
	width  time.Duration
}

// dueSpans by how far ahead they reach. Widths and letters are a promise: a change
// would hide entries that are there.
var dueSpans = [...]dueSpan{ //nolint:gochecknoglobals // a table
	{'a', 10 * time.Minute, 10 * time.Second},
	{'b', 3 * time.Hour, time.Minute},
	{'c', 4 * 24 * time.Hour, 30 * time.Minute},
	{'d', 120 * 24 * time.Hour, 24 * time.Hour},
	{'e', 5 * 365 * 24 * time.Hour, 30 * 24 * time.Hour},
	{'f', 1<<63 - 1, 365 * 24 * time.Hour},
}

// dueBucket names the span in which a task is listed that is due at a time.
func dueBucket(due, now time.Time) string {
	ahead := due.Sub(now) // saturates
	for _, s := range dueSpans {
		if ahead <= s.within {
			return s.name(due)
		}
	}
	return "" // not reached: the last span has no end
}

// dueBucketsOf are the buckets in which a task that is due at a time may be listed.
func dueBucketsOf(due time.Time) (names []string) {
	for _, s := range dueSpans {
		names = append(names, s.name(due))
	}
	return names
}

func (s *dueSpan) name(due time.Time) string {
	return string(s.letter) + strconv.FormatInt(due.Unix()/int64(s.width/time.Second), 10)
}

// dueBounds is the span of a bucket's name, from its first moment to the first after
// it.
func dueBounds(bucket string) (from, to time.Time, ok bool) {
	if bucket == "" {
		return from, to, false
	}
	n, err := strconv.ParseInt(bucket[1:], 10, 64)
	if err != nil || n < 0 {
		return from, to, false
	}
	for _, s := range dueSpans {
		if s.letter == bucket[0] {
			width := int64(s.width / time.Second)
			return time.Unix(n*width, 0), time.Unix((n+1)*width, 0), true
		}
	}
	return from, to, false
}

// dueEntry is what the index says of a task.
type dueEntry struct {
	due      int64 // nanoseconds since 1970
	id       pelton.ID
	epoch    uint32
	state    pelton.State
	priority pelton.Priority
	kind     string
}

func (e *dueEntry) encode() []byte {
	return fmt.Appendf(nil, "%d %s %d %s %s %s", e.due, e.id, e.epoch, e.state, e.priority, e.kind)
}

// decodeDue reads an entry. What a later version adds at its end is ignored.
func decodeDue(data []byte) (e dueEntry, err error) {
	parts := strings.SplitN(string(data), " ", 7)
	if len(parts) < 6 {
		return e, fmt.Errorf("%w: entry of the due index %q", ErrMalformed, truncate(string(data), 80))
	}
	due, err1 := strconv.ParseInt(parts[0], 10, 64)
	id, err2 := pelton.ParseID(parts[1])
	epoch, err3 := strconv.ParseUint(parts[2], 10, 32)
	if err := errors.Join(err1, err2, err3); err != nil {
		return e, fmt.Errorf("%w: entry of the due index: %w", ErrMalformed, err)
	}
	// The words are shared: many thousand entries may be held.
	state, priority, kind := unique.Make(parts[3]), unique.Make(parts[4]), unique.Make(parts[5])
	return dueEntry{due, id, uint32(epoch), pelton.State(state.Value()), pelton.Priority(priority.Value()), kind.Value()}, nil
}

// dueWrite is the entry of a record; listed is false for one that does not wait for a
// time, or not for long.
func (b *Broker) dueWrite(r *Record, now time.Time) (w write, listed bool) {
	ahead := r.RunAt.Sub(now)
	if !r.waitsForTime() || ahead < dueAtLeast || b.noDueIndex {
		return write{}, false
	}
	e := dueEntry{r.RunAt.UnixNano(), r.ID, r.Epoch, r.State, r.Priority, r.Kind}
	return write{
		subject: b.dueIn(commonShard, r.Queue, dueBucket(r.RunAt, now)),
		data:    e.encode(), expect: anyRevision, ttl: ahead + dueKept,
	}, true
}

// telling are entries that were sent and not answered yet.
type telling struct {
	b    *Broker
	done chan struct{} // closed when all are answered

	mu      sync.Mutex
	left    int
	forgets []func() bool
}

// tellDue sends the entries of those records that are to have one. settle waits for the
// answers, but not for long: what is answered later, or not, is taken in then.
func (b *Broker) tellDue(ctx context.Context, records ...*Record) (settle func()) {
	now := time.Now()
	var writes []write
	for _, r := range records {
		if w, listed := b.dueWrite(r, now); listed {
			writes = append(writes, w)
		}
	}
	if len(writes) == 0 {
		return func() {}
	}
	t := &telling{b: b, done: make(chan struct{}), left: len(writes), forgets: make([]func() bool, 0, len(writes))}
	for _, w := range writes {
		forget, err := b.conn.send(ctx, w.msg(), func(reply *nats.Msg, err error) {
			_, err = outcome(reply, err)
			t.answer(err)
		})
		if err != nil {
			t.answer(err)
			continue
		}
		t.mu.Lock()
		t.forgets = append(t.forgets, forget)
		t.mu.Unlock()
	}
	late := time.AfterFunc(callTimeout, t.giveUp)
	return func() {
		timer := time.NewTimer(dueWait)
		defer timer.Stop()
		select {
		case <-t.done:
			late.Stop()
		case <-timer.C: // late looks after the rest
		}
		b.tellDoubt(ctx)
	}
}

func (t *telling) answer(err error) {
	if err != nil {
		t.b.missedDue(err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.left--; t.left == 0 {
		close(t.done)
	}
}

// giveUp ends the calls that are still open.
func (t *telling) giveUp() {
	t.mu.Lock()
	forgets := t.forgets
	t.mu.Unlock()
	for _, forget := range forgets {
		if forget() {
			t.answer(errSent)
		}
	}
}

// missedDue notes that an entry was not written.
func (b *Broker) missedDue(err error) {
	b.doubt.mu.Lock()
	defer b.doubt.mu.Unlock()
	b.doubt.open = true
	b.cfg.Logger.Debug("entry of the due index not written", "error", err)
}

// tellDoubt tells others that entries of this process were not written, if that is so,
// as soon as it can.
func (b *Broker) tellDoubt(ctx context.Context) {
	b.doubt.mu.Lock()
	open := b.doubt.open && time.Since(b.doubt.tried) >= doubtEvery
	if open {
		b.doubt.open, b.doubt.tried = false, time.Now()
	}
	b.doubt.mu.Unlock()
	if !open {
		return
	}
	if err := b.doubtDue(ctx); err != nil {
		b.missedDue(err)
		return
	}
	b.cfg.Logger.Warn("entries of the due index were not written: tasks may be missing from lists until the sweep has been round")
}

// doubtDue writes that entries of the index may be missing.
func (b *Broker) doubtDue(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), doubtEvery)
	defer cancel()
	w := write{subject: b.configKey(doubtKey), data: []byte(time.Now().UTC().Format(time.RFC3339Nano)), expect: anyRevision}
	if _, err := b.do(ctx, w); err != nil {
		return fmt.Errorf("doubt the due index: %w", err)
	}
	return nil
}

// dueDoubt is the revision of the doubt, 0 if there is none.
func (b *Broker) dueDoubt(ctx context.Context) (uint64, error) {
	msg, err := b.get(ctx, bucketStream(b.names.config()), getRequest{LastFor: b.configKey(doubtKey)}, false)
	switch {
	case errors.Is(err, pelton.ErrNotFound), err == nil && msg.deleted():
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("read the doubt in the due index: %w", err)
	default:
		return msg.seq, nil
	}
}

// dispelDue takes the doubt back, unless somebody doubted again since.
func (b *Broker) dispelDue(ctx context.Context, revision uint64) error {
	_, err := b.do(ctx, write{subject: b.configKey(doubtKey), expect: revision, ttl: markerTTL, header: deleteMarker()})
	if err != nil && !errors.Is(err, ErrStale) {
		return fmt.Errorf("dispel the doubt in the due index: %w", err)
	}
	return nil
}

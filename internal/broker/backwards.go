package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/peltonq/pelton"
)

const (
	// backAtOnce is how many messages are read at a time, as long as they are small:
	// backBytes is about what they may have together.
	backAtOnce = 16
	backBytes  = 1 << 20
	backFirst  = 8 // before it is known how large they are
)

// errEnough says that a list has read as much as one call may.
var errEnough = errors.New("enough was read")

// looks bounds what one call reads, over all streams that it reads.
type looks struct {
	left int
	end  time.Time
}

// take takes n reads; false means that the call has had its share.
func (l *looks) take(n int) bool {
	if l.left <= 0 || time.Now().After(l.end) {
		return false
	}
	l.left -= n
	return true
}

// backwards reads the messages of a stream on some subjects from its end to its
// beginning. The server reads forwards only; so sequences are asked for one by one, 16
// at a time, where most of them have a message that is wanted, and where they have
// not, the message before is searched for: about 2·log2(n) reads for n others in between.
type backwards struct {
	b      *Broker
	stream string
	filter string // of subjects, with wildcards

	looks  *looks
	first  uint64    // below which there is nothing
	before uint64    // from which on all was passed
	ahead  []*stored // read and not passed, the newest first
	low    uint64    // there is no other wanted message from it on and before ahead
	size   int       // messages to read at a time
	sparse bool      // wanted messages lie far apart
}

// readBackwards starts below a sequence, or, for 0, at the end.
func (b *Broker) readBackwards(ctx context.Context, stream, filter string, before uint64, l *looks) (*backwards, error) {
	first, end, err := b.streamBounds(ctx, stream)
	if err != nil {
		return nil, err
	}
	if before == 0 || before > end {
		before = end
	}
	return &backwards{b: b, stream: stream, filter: filter, looks: l, first: first, before: before, size: backFirst}, nil
}

// seek goes on with what was stored before a moment.
func (w *backwards) seek(ctx context.Context, until time.Time) error {
	reply, err := w.b.get(ctx, w.stream, getRequest{NextFor: w.filter, From: &until}, true)
	switch {
	case errors.Is(err, pelton.ErrNotFound):
		return nil // all was
	case err != nil:
		return err
	default:
		w.before = min(w.before, reply.seq)
		return nil
	}
}

// peek is the next message, nil at the end. errEnough means that the call may not read on.
func (w *backwards) peek(ctx context.Context) (*stored, error) {
	for len(w.ahead) == 0 {
		if w.before <= w.first {
			return nil, nil //nolint:nilnil // documented
		}
		if err := w.read(ctx); err != nil {
			return nil, fmt.Errorf("read stream %s backwards: %w", w.stream, err)
		}
	}
	return w.ahead[0], nil
}

// pass passes the message that peek gave.
func (w *backwards) pass() {
	w.before = w.ahead[0].seq
	if w.ahead = w.ahead[1:]; len(w.ahead) == 0 {
		w.before = w.low
	}
}

// finish passes all that is left.
func (w *backwards) finish() { w.ahead, w.before = nil, w.first }

func (w *backwards) read(ctx context.Context) error {
	if w.sparse {
		return w.search(ctx)
	}
	w.low = w.first
	if n := uint64(w.size); w.before-w.first > n {
		w.low = w.before - n
	}
	n := int(w.before - w.low)
	if !w.looks.take(n) {
		return errEnough
	}
	found := make([]*stored, n)
	errs := make([]error, n)
	var reading sync.WaitGroup
	for i := range n {
		reading.Go(func() {
			found[i], errs[i] = w.b.get(ctx, w.stream, getRequest{Seq: w.before - 1 - uint64(i)}, true)
			if errors.Is(errs[i], pelton.ErrNotFound) {
				errs[i] = nil
			}
		})
	}
	reading.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	bytes, there := 0, 0
	for _, msg := range found {
		if msg == nil {
			continue
		}
		there++
		bytes += len(msg.data)
		if covers(w.filter, msg.subject) {
			w.ahead = append(w.ahead, msg)
		}
	}
	if there > 0 {
		w.size = min(max(backBytes/(bytes/there+1), 1), backAtOnce)
	}
	if len(w.ahead) == 0 {
		w.before, w.sparse = w.low, true
	}
	return nil
}

// search finds the next message alone.
func (w *backwards) search(ctx context.Context) error {
	if !w.looks.take(backFirst) {
		return errEnough
	}
	msg, err := w.b.lastBefore(ctx, w.stream, w.filter, w.before, w.first)
	if err != nil {
		return err
	}
	if msg == nil {
		w.before = w.first
		return nil
	}
	w.sparse = w.before-msg.seq > backAtOnce
	w.ahead, w.low = append(w.ahead, msg), msg.seq
	return nil
}

// covers reports whether a filter of subjects matches one.
func covers(filter, subject string) bool {
	for filter != "" {
		want, filterRest, _ := strings.Cut(filter, ".")
		if want == ">" {
			return subject != ""
		}
		has, rest, _ := strings.Cut(subject, ".")
		if subject == "" || want != "*" && want != has {
			return false
		}
		filter, subject = filterRest, rest
	}
	return subject == ""
}

// streamBounds gives a stream's first sequence and the one after its last.
func (b *Broker) streamBounds(ctx context.Context, name string) (first, end uint64, err error) {
	if !b.conn.nc.IsConnected() {
		return 0, 0, fmt.Errorf("read stream %s: %w: not connected", name, pelton.ErrUnavailable)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	stream, err := b.js.Stream(ctx, name)
	if err != nil {
		return 0, 0, translate("read stream "+name, err)
	}
	state := stream.CachedInfo().State
	return max(state.FirstSeq, 1), state.LastSeq + 1, nil
}

// lastBefore is the message that a filter of subjects covers with the highest sequence
// in [first, before), or nil.
func (b *Broker) lastBefore(ctx context.Context, stream, filter string, before, first uint64) (*stored, error) {
	// Nothing lies in [high, before), and found is the first message at or after low.
	var found *stored
	high := before
	for step := uint64(1); found == nil; step *= 2 {
		if high <= first {
			return nil, nil //nolint:nilnil // documented
		}
		low := first
		if high-first > step {
			low = high - step
		}
		msg, err := b.firstFrom(ctx, stream, filter, low)
		if err != nil {
			return nil, err
		}
		if msg != nil && msg.seq < high {
			found = msg
		} else {
			high = low
		}
	}
	for found.seq+1 < high {
		middle := found.seq + 1 + (high-found.seq-1)/2
		msg, err := b.firstFrom(ctx, stream, filter, middle)
		switch {
		case err != nil:
			return nil, err
		case msg != nil && msg.seq < high:
			found = msg
		default:
			high = middle
		}
	}
	return found, nil
}

// firstFrom is the first message that a filter of subjects covers from a sequence on, or
// nil.
func (b *Broker) firstFrom(ctx context.Context, stream, filter string, seq uint64) (*stored, error) {
	msg, err := b.get(ctx, stream, getRequest{Seq: seq, NextFor: filter}, true)
	if errors.Is(err, pelton.ErrNotFound) {
		return nil, nil //nolint:nilnil // documented
	}
	return msg, err
}

// readAtOnce reads the records of n tasks at the same time: nil for one that is gone or
// that this version cannot read.
func (b *Broker) readAtOnce(ctx context.Context, n int, id func(i int) pelton.ID) ([]*Record, error) {
	records := make([]*Record, n)
	errs := make([]error, n)
	var reading sync.WaitGroup
	for i := range n {
		reading.Go(func() {
			r, err := b.ReadRecord(ctx, id(i))
			if records[i] = r; err != nil && !unreadable(err) {
				errs[i] = err
			}
		})
	}
	reading.Wait()
	return records, errors.Join(errs...)
}

// unreadable reports whether an error says that there is no task to show.
func unreadable(err error) bool {
	return errors.Is(err, pelton.ErrNotFound) || errors.Is(err, ErrNewer) || errors.Is(err, ErrMalformed)
}

package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/peltonq/pelton"
)

// The successes of plain tasks (located.go) that come together are written as one entry of the state
// bucket, a page, instead of one by one: a write and its answer are most of what a task that does
// nothing costs. The tasks of a page are of one segment, which is 32 consecutive sequences of the stream
// of tasks, so that a reader finds the page by the id alone: it is one of the entries under its segment.
//
// A page has no revision that says what it replaces. What a compare-and-swap does for records, two rules do
// for pages, and they hold for every writer of a task that has nothing in the bucket as yet:
//
//   - a page is refused by the broker if its segment is sealed, which is an entry of the bucket, too (the
//     write expects that there is none);
//   - a record of a plain task is created only after its segment was sealed, and all its pages were
//     read after that, and the task was in none of them (seal.go).
//
// So a task is in a page or has a record, never both, whoever writes at the same time, and however late: once there
// is a seal, there will be no more pages. After it, everything is as it was without pages. A task that is put
// back after it was over gets a record in spite of its page, and then the record alone counts.
//
// Successes that come alone are records as before, created by compare-and-swap, which are read faster, and need no seal: only who runs a task writes it into
// a page. Two workers to whom the broker hands a task as if nobody had had it (located.go says when) may both write their success:
// into two pages, or one into a page and one as such a record, which says of itself that it is one. The first one counts.
//
// Crash windows:
//
//   - between a page and the acknowledgements of its tasks' messages: the next delivery finds the page;
//   - between a seal and the record that it was for: the segment is without pages, which costs time alone.
//
// A seal is needed as long as there may be somebody who starts a task of its segment without a look, and so longer than
// any message of it: see Sweeper.seal.

// segmentSize is the number of sequences in a segment: a reader of one task reads its pages whole.
const segmentSize = 32

// mostPaged bounds payload and result of a task in a page, in bytes.
const mostPaged = 1 << 10

// segment is where a plain task's page is, if it has one.
type segment struct {
	shard uint8
	n     uint64
}

func segmentOf(id pelton.ID) segment { return segment{id.Shard(), id.Sequence() / segmentSize} }

// from and to are the segment's sequences, without to.
func (s segment) from() uint64 { return s.n * segmentSize }
func (s segment) to() uint64   { return s.from() + segmentSize }

// inSegment is a subject of the segment's, without what may follow.
func (n names) inSegment(what string, s segment) string {
	return "$KV." + n.state(s.shard) + "." + what + "." + strconv.FormatUint(s.n, 10)
}

func (n names) pagesOf(s segment) string     { return n.inSegment("page", s) + ".*" }
func (n names) sealSubject(s segment) string { return n.inSegment("seal", s) }

// eventsOf is the subject of the events of a segment's pages: beside those of tasks, whose last token is an id.
func (n names) eventsOf(s segment) string {
	return n.ns + ".e.p" + strconv.Itoa(int(s.shard)) + "-" + strconv.FormatUint(s.n, 10)
}

// pageOf is the segment of a page, by its subject.
func (n names) pageOf(shard uint8, subject string) (segment, bool) {
	return n.segmentIn(shard, "page", subject)
}

// sealOf is the segment that a seal is of, by its subject.
func (n names) sealOf(shard uint8, subject string) (segment, bool) {
	return n.segmentIn(shard, "seal", subject)
}

func (n names) segmentIn(shard uint8, what, subject string) (segment, bool) {
	rest, found := strings.CutPrefix(subject, "$KV."+n.state(shard)+"."+what+".")
	digits, _, _ := strings.Cut(rest, ".")
	number, err := strconv.ParseUint(digits, 10, 64)
	return segment{shard, number}, found && err == nil
}

// pageIn is the page in a message of a state bucket, nil if it is none.
func (b *Broker) pageIn(msg *stored) (*page, error) {
	shard, rest, ok := shardOf(msg.subject, b.groups.state)
	if !ok || !strings.HasPrefix(rest, "page.") {
		return nil, nil //nolint:nilnil // documented
	}
	s, ok := b.pageOf(shard, msg.subject)
	if !ok {
		return nil, fmt.Errorf("page %s: %w", msg.subject, ErrMalformed)
	}
	return decodePage(s, msg)
}

// inPages is the record of a task in what was read of its segment: the first that has it.
func inPages(s segment, id pelton.ID, pages []*stored) (*Record, error) {
	slices.SortFunc(pages, func(x, y *stored) int { return cmp.Compare(x.seq, y.seq) })
	for _, msg := range pages {
		if msg.deleted() {
			continue
		}
		var r *Record
		p, err := decodePage(s, msg)
		if err == nil {
			r, err = p.has(id)
		}
		if r != nil || err != nil && !errors.Is(err, ErrMalformed) {
			return r, err
		}
	}
	return nil, fmt.Errorf("page of task %s: %w", id, pelton.ErrNotFound)
}

// loadLocated reads the record or the page of a plain task, whichever it has.
func (b *Broker) loadLocated(ctx context.Context, id pelton.ID, stale bool) (*Record, error) {
	s := segmentOf(id)
	subject := b.record(id)
	found, err := b.lastOfEach(ctx, s, stale, subject, b.pagesOf(s))
	if err != nil {
		return nil, fmt.Errorf("load record of task %s: %w", id, err)
	}
	var record *Record
	if i := slices.IndexFunc(found, func(msg *stored) bool { return msg.subject == subject }); i >= 0 {
		if !found[i].deleted() {
			if record, err = recordIn(id, found[i], nil); err != nil || !record.Lone {
				return record, err
			}
		}
		found = slices.Delete(found, i, i+1)
	}
	r, err := inPages(s, id, found)
	switch {
	case record != nil && (errors.Is(err, pelton.ErrNotFound) || err == nil && r.Revision > record.Revision):
		return record, nil
	case err != nil:
		return nil, fmt.Errorf("load record of task %s: %w", id, err)
	case record != nil:
		r.Over = record.Revision
	}
	return r, nil
}

// lastOfEach reads the last messages of a literal subject and of all under a wildcard, which belong to a segment: from the
// leader, unless stale allows a follower that is behind.
func (b *Broker) lastOfEach(ctx context.Context, s segment, stale bool, literal, wildcard string) ([]*stored, error) {
	stream := bucketStream(b.state(s.shard))
	if stale || !b.replication.many.Load() {
		body := append(make([]byte, 0, 160), `{"multi_last":["`...)
		body = append(append(append(append(body, literal...), `","`...), wildcard...), `"]}`...) // names need no escapes
		return b.getMany(ctx, stream, body, mostLasts)
	}
	// A leader is asked for one at a time. What there is under the wildcard is there for good.
	var found []*stored
	switch msg, err := b.get(ctx, stream, getRequest{LastFor: literal}, false); {
	case err == nil:
		found = append(found, msg)
	case !errors.Is(err, pelton.ErrNotFound):
		return nil, err
	}
	for next := uint64(1); ; {
		msg, err := b.get(ctx, stream, getRequest{Seq: next, NextFor: wildcard}, false)
		if errors.Is(err, pelton.ErrNotFound) {
			return found, nil
		}
		if err != nil {
			return nil, err
		}
		found, next = append(found, msg), msg.seq+1
	}
}

// mostLasts is more than the pages of a segment that there can be, but for those that a broker which counts anew brings.
const mostLasts = 1000

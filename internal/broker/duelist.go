package broker

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/peltonq/pelton"
)

const (
	// dueLooks bounds the entries of one list that are held against their records, and
	// dueSpare is how many of them there are for each task that is wanted: some are void.
	dueLooks = 1000
	dueSpare = 4
	// dueAtOnce is how many records a list reads at a time.
	dueAtOnce = 16
)

// DueFilter selects entries of the due index. Empty fields select all.
type DueFilter struct {
	State    pelton.State // Scheduled or Retrying
	Queue    string
	Kind     string
	Priority pelton.Priority
}

func (f *DueFilter) matches(e *dueEntry) bool {
	return (f.State == "" || f.State == e.state) && (f.Kind == "" || f.Kind == e.kind) && (f.Priority == "" || f.Priority == e.priority)
}

// DuePoint is a place in the list: after the task that is due then. Tasks that are due
// at the same time stand in the order of their ids. The zero value is the beginning.
type DuePoint struct {
	At time.Time
	ID pelton.ID
}

func (p DuePoint) before(e *dueEntry) bool {
	if p.At.IsZero() {
		return true
	}
	return cmp.Or(cmp.Compare(p.At.UnixNano(), e.due), bytes.Compare(p.ID[:], e.id[:])) < 0
}

// EachDue calls visit for the tasks that wait for a time to come and that the filter
// selects, the soonest first, from after on, until it returns false (that task counts
// as not visited), after four entries of the index for each task that is wanted (1,000
// at most), or when there are no more. next is where to go on, zero at the end. Errors:
// pelton.ErrUnavailable.
//
// It reads what the index has of the spans of time that it comes to, and remembers it,
// so that the next page costs what came since; then one record for each entry.
func (b *Broker) EachDue(ctx context.Context, f DueFilter, after DuePoint, want int, visit func(*Record) bool) (next DuePoint, err error) {
	if now := time.Now(); after.At.Before(now) {
		after = DuePoint{At: now}
	}
	found, end, err := b.dueAfter(ctx, f, after, min(dueSpare*max(want, 1), dueLooks))
	if err != nil {
		return after, fmt.Errorf("list by due time: %w", err)
	}
	for chunk := range slices.Chunk(found, dueAtOnce) {
		records, err := b.stillDue(ctx, chunk)
		if err != nil {
			return after, fmt.Errorf("list by due time: %w", err)
		}
		for i, e := range chunk {
			if records[i] != nil && !visit(records[i]) {
				return after, nil
			}
			after = e.point()
		}
	}
	return end, nil
}

func (e *dueEntry) point() DuePoint { return DuePoint{time.Unix(0, e.due).UTC(), e.id} }

// stillDue reads the record of each entry: nil for a task that does not wait for that
// time any more.
func (b *Broker) stillDue(ctx context.Context, entries []dueEntry) ([]*Record, error) {
	records, err := b.readAtOnce(ctx, len(entries), func(i int) pelton.ID { return entries[i].id })
	now := time.Now()
	for i, e := range entries {
		if r := records[i]; r != nil && (r.State != e.state || r.Epoch != e.epoch || r.RunAt.UnixNano() != e.due || !r.RunAt.After(now)) {
			records[i] = nil
		}
	}
	return records, err
}

// inDueIndex reports whether the index has the record's entry.
func (b *Broker) inDueIndex(ctx context.Context, r *Record) (bool, error) {
	want := dueEntry{due: r.RunAt.UnixNano(), id: r.ID, epoch: r.Epoch}
	for _, name := range dueBucketsOf(r.RunAt) {
		from, to, _ := dueBounds(name)
		bucket := bucketOfDue{subject: b.dueIn(commonShard, r.Queue, name), from: from, to: to}
		entries, _, err := b.due.load(ctx, b, bucket, DuePoint{At: r.RunAt.Add(-1)})
		if err != nil {
			return false, err
		}
		if _, found := slices.BinarySearchFunc(entries, want, compareDue); found {
			return true, nil
		}
	}
	return false, nil
}

// bucketOfDue is one subject of the index.
type bucketOfDue struct {
	subject  string
	from, to time.Time
	entries  uint64
}

// dueBuckets lists the subjects that may hold something that is due after a moment, by
// where they begin.
func (b *Broker) dueBuckets(ctx context.Context, queue string, after time.Time) ([]bucketOfDue, error) {
	state, err := b.stateUnder(ctx, b.dueIndex(), b.dueIn(0, cmp.Or(queue, "*"), "*"))
	if err != nil {
		return nil, err
	}
	b.due.hold(state.LastSeq)
	var buckets []bucketOfDue
	for subject, n := range state.Subjects {
		from, to, ok := dueBounds(subject[strings.LastIndexByte(subject, '.')+1:])
		if ok && to.After(after) {
			buckets = append(buckets, bucketOfDue{subject, from, to, n})
		}
	}
	slices.SortFunc(buckets, func(a, b bucketOfDue) int {
		return cmp.Or(a.from.Compare(b.from), cmp.Compare(a.subject, b.subject))
	})
	return buckets, nil
}

// dueAfter gives the next entries that the filter selects, at most so many, and where
// to go on after them: zero if there are no more.
func (b *Broker) dueAfter(ctx context.Context, f DueFilter, after DuePoint, most int) (found []dueEntry, end DuePoint, err error) {
	buckets, err := b.dueBuckets(ctx, f.Queue, after.At)
	if err != nil {
		return nil, end, err
	}
	var horizon *dueEntry // up to which everything is known; nil is to the end
	beyond := func(e *dueEntry) bool { return horizon != nil && compareDue(*e, *horizon) > 0 }
	for _, bucket := range buckets {
		if beyond(&dueEntry{due: bucket.from.UnixNano()}) {
			break
		}
		entries, cut, err := b.due.load(ctx, b, bucket, after)
		if err != nil {
			return nil, end, err
		}
		if cut && !beyond(&entries[len(entries)-1]) {
			horizon = &entries[len(entries)-1]
		}
		had := len(found)
		for _, e := range entries[sort.Search(len(entries), func(i int) bool { return after.before(&entries[i]) }):] {
			if beyond(&e) || len(found) > had+most {
				break // and so is all after it
			}
			if f.matches(&e) {
				found = append(found, e)
			}
		}
		slices.SortFunc(found, compareDue)
		found = slices.CompactFunc(found, func(a, b dueEntry) bool { return compareDue(a, b) == 0 })
		if len(found) > most {
			found = found[:most]
			last := found[most-1]
			horizon = &last
		}
	}
	if horizon == nil {
		return found, end, nil
	}
	last, _ := slices.BinarySearchFunc(found, *horizon, compareDue)
	for last < len(found) && !beyond(&found[last]) {
		last++
	}
	return found[:last], horizon.point(), nil
}

// compareDue orders by time, then by id.
func compareDue(a, b dueEntry) int {
	return cmp.Or(cmp.Compare(a.due, b.due), bytes.Compare(a.id[:], b.id[:]), cmp.Compare(a.epoch, b.epoch))
}

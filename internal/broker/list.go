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
	"time"

	"github.com/peltonq/pelton"
)

// Lists of tasks, newest first. Each goes backwards over streams that have what it wants
// at their end, and reads no more than a call may:
//
//   - ready tasks: their messages, and the places of those that wait in lines. Whether
//     one is still queued, its record says;
//   - failed ones: the dead letters, and the record of each;
//   - those that ended otherwise: the state bucket. It keeps the last write of each task
//     alone, so its newest messages are the latest changes; records of other states in
//     between are read and passed over;
//   - all: the state bucket, and the messages of ready tasks without a record.
//
// So a page costs about one read for each message that it passes, and one more for each
// record that is not what is read: with everything in one process 15 to 40 µs each. A filter
// that selects little passes much, and what one call may pass is bounded.
const (
	listLooks = 1000
	listTime  = 2 * time.Second
	// resolveAtOnce is how many messages are held against their records at a time.
	resolveAtOnce = 16
)

// ListPart is a part of the queued tasks. A task goes from its line to its lane while a list
// is read, and is in both for a moment, never in none: whoever must meet every task reads the lines
// first, and the lanes after that.
type ListPart int

const (
	Everywhere ListPart = iota
	InLines             // those that wait for the turn of a key or a kind, and those called just now
	InLanes             // those that a worker may take
)

// ListFilter selects tasks of a list. Empty fields select all.
type ListFilter struct {
	// State is Queued, Succeeded, Failed, Cancelled, Expired, or empty for all tasks.
	State    pelton.State
	Queue    string
	Priority pelton.Priority
	Kind     string
	// Of Queued tasks, all or a part.
	Part ListPart
	// Since and Until select by the broker's time of the last change: from Since on, and
	// before Until. Zero is no bound.
	Since, Until time.Time
}

func (f *ListFilter) covers(m *Meta) bool {
	return (f.Queue == "" || f.Queue == m.Queue) && (f.Priority == "" || f.Priority == m.Priority) && (f.Kind == "" || f.Kind == m.Kind)
}

// source is one of the streams of a list. task makes of a message what is to be shown:
// nil for none.
type source struct {
	*backwards
	task func(ctx context.Context, msg *stored) (*Record, error)
}

// list is one call of EachListed.
type list struct {
	b       *Broker
	f       ListFilter
	letter  string // of cursors
	sources []source
	looks   looks
	passed  []uint64 // how far each source was visited
}

// candidate is a message that may be a task of the list.
type candidate struct {
	source int
	msg    *stored
	passed uint64 // by the source, once this is visited
	task   *Record
}

// EachListed calls visit for the tasks that the filter selects, by their last change,
// the newest first, from cursor on, until it returns false (that task counts as not
// visited), after 1,000 reads or 2 s, or when there are no more. next is the cursor to go on
// with, "" at the end. Errors: a *pelton.ValidationError for a cursor that is not one of
// this state, pelton.ErrUnavailable.
//
// A task that changes while it is listed page by page goes to the list's beginning: later
// pages may be without it, and none shows it as it was.
func (b *Broker) EachListed(ctx context.Context, f ListFilter, cursor string, visit func(*Record) bool) (next string, err error) {
	l := &list{b: b, f: f, looks: looks{left: listLooks, end: time.Now().Add(min(listTime, b.deadReads))}}
	if err := l.open(ctx, cursor); err != nil {
		return "", err
	}
	seen := make(map[pelton.ID]bool)
	for {
		some, over, err := l.gather(ctx)
		enough := errors.Is(err, errEnough)
		if err == nil || enough {
			err = l.resolve(ctx, some)
		}
		if err != nil {
			return l.cursor(), fmt.Errorf("list tasks: %w", err)
		}
		for _, c := range some {
			if c.task != nil && !seen[c.task.ID] {
				if !visit(c.task) {
					return l.cursor(), nil
				}
				seen[c.task.ID] = true
			}
			l.passed[c.source] = c.passed
		}
		if over {
			return "", nil
		}
		for i, s := range l.sources { // what was passed without a candidate
			l.passed[i] = s.before
		}
		if enough {
			return l.cursor(), nil
		}
	}
}

// open makes the sources of the list's state.
func (l *list) open(ctx context.Context, cursor string) error {
	queue, priority := cmp.Or(l.f.Queue, "*"), cmp.Or(string(l.f.Priority), "*")
	behind := queue + "." + priority
	type part struct {
		stream, filter string
		task           func(context.Context, *stored) (*Record, error)
	}
	var parts []part
	lanes := func() (all []part) {
		for i := range l.b.Shards() {
			shard := uint8(i)
			all = append(all, part{l.b.tasks(shard), l.b.readyPrefix(shard) + behind, l.fromReady})
		}
		return all
	}
	switch l.f.State {
	case pelton.Queued:
		l.letter = "q"
		lines := part{l.b.keyed(0), l.b.placesOf(0, queue), l.fromPlace}
		switch l.f.Part {
		case InLines:
			l.letter, parts = "l", []part{lines}
		case InLanes:
			l.letter, parts = "r", lanes()
		case Everywhere: // what comes later, in new shards, is at the end: see parse
			parts = slices.Insert(lanes(), 1, lines)
		}
	case pelton.Failed:
		l.letter = "f"
		parts = []part{{l.b.dead(), l.b.deadIn(queue), l.fromLetter}}
	case pelton.Succeeded, pelton.Cancelled, pelton.Expired:
		l.letter = "o"
		for shard := range l.b.Shards() {
			parts = append(parts, part{bucketStream(l.b.state(uint8(shard))), ">", l.fromRecord})
		}
	case "":
		l.letter = "a"
		for shard, lane := range lanes() {
			parts = append(parts, part{bucketStream(l.b.state(uint8(shard))), ">", l.fromRecord}, lane)
		}
	case pelton.Scheduled, pelton.Retrying, pelton.Running:
		return fmt.Errorf("%w: %s tasks are listed otherwise", pelton.ErrNotSupported, l.f.State)
	default:
		return fmt.Errorf("%w: state %q", pelton.ErrInvalid, l.f.State)
	}
	one := 1 // sources with one shard
	if l.letter == "a" || l.letter == "q" {
		one = 2
	}
	from, err := l.parse(cursor, one, len(parts))
	if err != nil {
		// A process that knows of more shards may have given it.
		known := l.b.Shards()
		if err := l.b.lookForShards(ctx); err != nil {
			return fmt.Errorf("list tasks: %w", err)
		}
		if l.b.Shards() > known {
			return l.open(ctx, cursor)
		}
		return err
	}
	for i, p := range parts {
		w, err := l.b.readBackwards(ctx, p.stream, p.filter, from[i], &l.looks)
		if err == nil && !l.f.Until.IsZero() && cursor == "" {
			err = w.seek(ctx, l.f.Until)
		}
		if err != nil {
			return fmt.Errorf("list tasks: %w", err)
		}
		l.sources = append(l.sources, source{w, p.task})
		l.passed = append(l.passed, w.before)
	}
	return nil
}

// gather takes the next messages of all sources, the newest first. over means that
// there are no more after them; errEnough comes with those that there are.
func (l *list) gather(ctx context.Context) (some []*candidate, over bool, err error) {
	for len(some) < resolveAtOnce {
		next := -1
		for i, s := range l.sources {
			msg, err := s.peek(ctx)
			if err == nil && msg != nil && msg.time.Before(l.f.Since) {
				s.finish() // all before it is older still
				msg = nil
			}
			switch {
			case err != nil:
				return some, false, err
			case msg == nil:
			case next < 0 || msg.time.After(l.sources[next].ahead[0].time):
				next = i
			}
		}
		if next < 0 {
			return some, true, nil
		}
		s := l.sources[next]
		msg := s.ahead[0]
		s.pass()
		if l.f.Until.IsZero() || msg.time.Before(l.f.Until) {
			some = append(some, &candidate{source: next, msg: msg, passed: s.before})
		}
	}
	return some, false, nil
}

// resolve finds the tasks of messages, which takes reads for some: at the same time.
func (l *list) resolve(ctx context.Context, some []*candidate) error {
	errs := make([]error, len(some))
	var reading sync.WaitGroup
	for i, c := range some {
		reading.Go(func() {
			if c.task, errs[i] = l.sources[c.source].task(ctx, c.msg); errs[i] != nil && unreadable(errs[i]) {
				c.task, errs[i] = nil, nil
			}
		})
	}
	reading.Wait()
	return errors.Join(errs...)
}

// fromRecord is for messages of the state bucket. Those of probes and of keys that are
// gone are no records.
func (l *list) fromRecord(_ context.Context, msg *stored) (*Record, error) {
	if msg.deleted() {
		return nil, nil //nolint:nilnil // no task
	}
	r, err := decodeRecord(msg.data, msg.seq)
	if err != nil || !l.f.covers(&r.Meta) || l.f.State != "" && r.State != l.f.State {
		return nil, err
	}
	return r, nil
}

// fromReady is for messages in lanes. One whose task is of a later epoch, runs or is
// over is not in the list. Among all tasks those with a record are shown as such.
func (l *list) fromReady(ctx context.Context, msg *stored) (*Record, error) {
	e, err := decodeMessage(msg.data, msg.seq)
	if err != nil || !l.f.covers(&e.Meta) {
		return nil, err
	}
	located := e.Epoch == 0 && e.ID.Sequence() == msg.seq
	if l.f.State == "" && !located {
		return nil, nil //nolint:nilnil // it has a record
	}
	r, err := l.b.loadRecord(ctx, e.ID, true)
	switch {
	case errors.Is(err, pelton.ErrNotFound) && located:
		return unrecorded(e), nil
	case err != nil, l.f.State == "", r.Epoch > e.Epoch, r.Task(time.Now()).State != pelton.Queued:
		return nil, err
	default:
		return r, nil
	}
}

// fromPlace is for places in lines.
func (l *list) fromPlace(ctx context.Context, msg *stored) (*Record, error) {
	e, err := decodeMessage(msg.data, msg.seq)
	if err != nil || !l.f.covers(&e.Meta) {
		return nil, err
	}
	r, err := l.b.loadRecord(ctx, e.ID, true)
	if err != nil || !r.InLine || r.Task(time.Now()).State != pelton.Queued {
		return nil, err
	}
	return r, nil
}

// fromLetter is for dead letters. The task is shown as its record has it: that of a
// task that was put back meanwhile has not failed.
func (l *list) fromLetter(ctx context.Context, msg *stored) (*Record, error) {
	letter, err := decodeRecord(msg.data, msg.seq)
	if err != nil || !l.f.covers(&letter.Meta) {
		return nil, err
	}
	r, err := l.b.loadRecord(ctx, letter.ID, true)
	if err != nil || r.State != pelton.Failed || r.Epoch != letter.Epoch {
		return nil, err
	}
	return r, nil
}

// A cursor is the letter of the list and how far each source was visited, in base 36. One of before
// there were more shards has fewer: what is in those is listed from its end on. Lists of all
// states have two sources for each shard.

func (l *list) cursor() string {
	parts := make([]string, len(l.passed))
	for i, seq := range l.passed {
		parts[i] = strconv.FormatUint(seq, 36)
	}
	return l.letter + strings.Join(parts, ".")
}

// parse reads a cursor of a list that had one source or more with one shard, and has n now.
func (l *list) parse(cursor string, one, n int) ([]uint64, error) {
	from := make([]uint64, n)
	if cursor == "" {
		return from, nil
	}
	rest, ok := strings.CutPrefix(cursor, l.letter)
	parts := strings.Split(rest, ".")
	ok = ok && one <= len(parts) && len(parts) <= n && (l.letter != "a" || len(parts)%2 == 0)
	for i := range min(n, len(parts)) {
		if !ok {
			break
		}
		seq, err := strconv.ParseUint(parts[i], 36, 64)
		from[i], ok = seq, err == nil && seq > 0
	}
	if !ok {
		return nil, badCursor()
	}
	return from, nil
}

func badCursor() error {
	return &pelton.ValidationError{Fields: []pelton.FieldError{{Field: "cursor", Message: "is not one of an answer"}}}
}

// EachRunning calls visit for the tasks that workers said last that they run, by their
// ids, the newest first, from after on (zero is the beginning), until it returns false
// (that task counts as not visited), after 1,000 tasks, or when there are no more, which
// over says. next is where to go on. A task is in no worker's word for a few seconds after its
// start, and one that has ended since is not shown: the record decides. Errors:
// pelton.ErrUnavailable.
//
// It reads the words of all workers, and one record for each task.
func (b *Broker) EachRunning(ctx context.Context, after pelton.ID, visit func(*Record) bool) (next pelton.ID, over bool, err error) {
	workers, err := b.Presences(ctx)
	if err != nil {
		return after, false, err
	}
	var ids []pelton.ID
	for _, w := range workers {
		ids = append(ids, w.Running...)
	}
	newest := func(x, y pelton.ID) int { return cmp.Compare(y.String(), x.String()) }
	slices.SortFunc(ids, newest)
	ids = slices.Compact(ids)
	if !after.IsZero() {
		from, found := slices.BinarySearchFunc(ids, after, newest)
		if found {
			from++
		}
		ids = ids[from:]
	}
	more := len(ids) > listLooks
	for chunk := range slices.Chunk(ids[:min(len(ids), listLooks)], resolveAtOnce) {
		records, err := b.readAtOnce(ctx, len(chunk), func(i int) pelton.ID { return chunk[i] })
		if err != nil {
			return after, false, fmt.Errorf("list running tasks: %w", err)
		}
		for i, r := range records {
			if r != nil && r.State == pelton.Running && !visit(r) {
				return after, false, nil
			}
			after = chunk[i]
		}
	}
	return after, !more, nil
}

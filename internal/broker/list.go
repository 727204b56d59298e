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

// source is one of the streams of a list. tasks makes of a message what is to be shown, the newest first:
// nil for what is not, so that each has its number in the message.
type source struct {
	*backwards
	tasks func(ctx context.Context, msg *stored) ([]*Record, error)
}

// mark is how far a source was visited: all messages from before on, and of the one at its end the first tasks.
type mark struct {
	before uint64
	tasks  int
}

// list is one call of EachListed.
type list struct {
	b       *Broker
	f       ListFilter
	letter  string // of cursors
	sources []source
	looks   looks
	from    []mark // where each source begins
	passed  []mark // how far each source was visited
}

// candidate is a message that may be a task of the list.
type candidate struct {
	source int
	msg    *stored
	passed uint64 // by the source, once this is visited
	tasks  []*Record
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
			for i, task := range c.tasks {
				if task == nil || seen[task.ID] {
					continue
				}
				if !visit(task) {
					if i > 0 { // the others of this message are not visited
						l.passed[c.source] = mark{c.msg.seq + 1, i}
					}
					return l.cursor(), nil
				}
				seen[task.ID] = true
			}
			l.passed[c.source] = mark{before: c.passed}
		}
		if over {
			return "", nil
		}
		for i, s := range l.sources { // what was passed without a candidate
			l.passed[i] = mark{before: s.before}
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
		tasks          func(context.Context, *stored) ([]*Record, error)
	}
	var parts []part
	lanes := func() (all []part) {
		for i := range l.b.Shards() {
			shard := uint8(i)
			all = append(all, part{l.b.tasks(shard), l.b.readyPrefix(shard) + behind, one(l.fromReady)})
		}
		return all
	}
	switch l.f.State {
	case pelton.Queued:
		l.letter = "q"
		lines := part{l.b.keyed(0), l.b.placesOf(0, queue), one(l.fromPlace)}
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
		parts = []part{{l.b.dead(), l.b.deadIn(queue), one(l.fromLetter)}}
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
	least := 1 // sources with one shard
	if l.letter == "a" || l.letter == "q" {
		least = 2
	}
	from, err := l.parse(cursor, least, len(parts))
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
		w, err := l.b.readBackwards(ctx, p.stream, p.filter, from[i].before, &l.looks)
		if err == nil && !l.f.Until.IsZero() && cursor == "" {
			err = w.seek(ctx, l.f.Until)
		}
		if err != nil {
			return fmt.Errorf("list tasks: %w", err)
		}
		l.sources = append(l.sources, source{w, p.tasks})
		l.passed = append(l.passed, mark{w.before, from[i].tasks})
	}
	l.from = slices.Clone(l.passed)
	return nil
}

// one is for messages of one task each.
func one(task func(context.Context, *stored) (*Record, error)) func(context.Context, *stored) ([]*Record, error) {
	return func(ctx context.Context, msg *stored) ([]*Record, error) {
		r, err := task(ctx, msg)
		if r == nil {
			return nil, err
		}
		return []*Record{r}, err
	}
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
			if c.tasks, errs[i] = l.sources[c.source].tasks(ctx, c.msg); errs[i] != nil && unreadable(errs[i]) {
				c.tasks, errs[i] = nil, nil
			}
			if from := l.from[c.source]; c.msg.seq+1 == from.before {
				clear(c.tasks[:min(from.tasks, len(c.tasks))])
			}
		})
	}
	reading.Wait()
	return errors.Join(errs...)
}

// A cursor is the letter of the list and how far each source was visited, in base 36, with the number of tasks
// of the last message if it was not all of them. One of before
// there were more shards has fewer: what is in those is listed from its end on. Lists of all
// states have two sources for each shard.

func (l *list) cursor() string {
	parts := make([]string, len(l.passed))
	for i, at := range l.passed {
		parts[i] = strconv.FormatUint(at.before, 36)
		if at.tasks > 0 {
			parts[i] += "-" + strconv.FormatUint(uint64(at.tasks), 36)
		}
	}
	return l.letter + strings.Join(parts, ".")
}

// parse reads a cursor of a list that had at least so many sources with one shard, and has n now.
func (l *list) parse(cursor string, least, n int) ([]mark, error) {
	from := make([]mark, n)
	if cursor == "" {
		return from, nil
	}
	rest, ok := strings.CutPrefix(cursor, l.letter)
	parts := strings.Split(rest, ".")
	ok = ok && least <= len(parts) && len(parts) <= n && (l.letter != "a" || len(parts)%2 == 0)
	for i := range min(n, len(parts)) {
		if !ok {
			break
		}
		before, tasks, some := strings.Cut(parts[i], "-")
		seq, err := strconv.ParseUint(before, 36, 64)
		from[i], ok = mark{before: seq}, err == nil && seq > 0
		if some {
			count, err := strconv.ParseUint(tasks, 36, 16)
			from[i].tasks, ok = int(count), ok && err == nil && count > 0
		}
	}
	if !ok {
		return nil, badCursor()
	}
	return from, nil
}

func badCursor() error {
	return &pelton.ValidationError{Fields: []pelton.FieldError{{Field: "cursor", Message: "is not one of an answer"}}}
}

package broker

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/peltonq/pelton"
)

// leaver is a task that is over and gives its turn in a line back.
type leaver struct {
	id    pelton.ID
	epoch uint32 // of its place
	by    uint64 // the message that the caller holds: a relay by that, with the task in it, ends

	how howToLeave

	settled bool // and err is how that ended; both are of whoever has the line's door
	err     error
}

// howToLeave is as of lineSettling.
type howToLeave struct{ fence, redone, front bool }

func (l *leaver) leaves(g *grant) bool {
	if g.By > 0 {
		return l.by == g.By && g.names(l.id)
	}
	return g.ID == l.id && g.Epoch == l.epoch
}

// leavers wait at the doors of lines. Whoever enters gives the turns of all of them back by the same
// write: where many may run at a time, as of a kind, many end at a time, and one write
// after the other is what would bound the line. Where several processes compete for the document, each of which has called those
// who are next, most of the copies are dropped in this way too.
type leavers struct {
	mu    sync.Mutex
	lines map[Line][]*leaver
}

func (w *leavers) add(line Line, l *leaver) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.lines == nil {
		w.lines = make(map[Line][]*leaver)
	}
	w.lines[line] = append(w.lines[line], l)
}

// take hands those of a line that leave alike to the caller, who has its door.
func (w *leavers) take(line Line, how howToLeave) (all []*leaver) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines[line] = slices.DeleteFunc(w.lines[line], func(l *leaver) bool {
		if l.how == how {
			all = append(all, l)
		}
		return l.how == how
	})
	if len(w.lines[line]) == 0 {
		delete(w.lines, line)
	}
	return all
}

// remove forgets one that waits no longer. It may be somebody's already.
func (w *leavers) remove(line Line, l *leaver) {
	w.mu.Lock()
	defer w.mu.Unlock()
	rest := slices.DeleteFunc(w.lines[line], func(other *leaver) bool { return other == l })
	if w.lines[line] = rest; len(rest) == 0 {
		delete(w.lines, line)
	}
}

// leaveLine settles a line for a task that leaves it, and for all others that are about to. Errors:
// pelton.ErrUnavailable; it may be repeated.
func (b *Broker) leaveLine(ctx context.Context, line Line, l *leaver) error {
	if err := b.LoadLimits(ctx); err != nil {
		return err
	}
	b.leaving.add(line, l)
	leave, err := b.lineDoors.enter(ctx, line)
	if err != nil {
		b.leaving.remove(line, l)
		return fmt.Errorf("settle line: %w: %w", pelton.ErrUnavailable, err)
	}
	defer leave()
	if l.settled {
		return l.err
	}
	all := b.leaving.take(line, l.how)
	_, err = b.settleInside(ctx, line, lineSettling{seen: true, leavers: all, fence: l.how.fence, redone: l.how.redone, front: l.how.front})
	for _, other := range all {
		other.settled, other.err = true, err
	}
	return err
}

package broker

import (
	"context"
	"slices"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/peltonq/pelton"
)

const (
	seenLines = 4096    // lines of which a process remembers something
	seenTasks = 1 << 16 // tasks in the documents that it remembers
)

// seenDocs are the documents of lines as this process last read or wrote them,
// at most ten megabytes. They may have changed since; two things hold all the
// same. A turn that was in one is its task's until that is over. And a write that
// expects the revision of one lands only if it is still as it was.
type seenDocs struct {
	mu    sync.Mutex
	docs  *simplelru.LRU[Line, *lineDoc]
	tasks int
}

func newSeenDocs() (*seenDocs, error) {
	s := &seenDocs{}
	docs, err := simplelru.NewLRU(seenLines, func(_ Line, doc *lineDoc) { s.tasks -= doc.tasks() })
	s.docs = docs
	return s, err //nolint:wrapcheck // of a constant
}

func (s *seenDocs) keep(doc *lineDoc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.docs.Remove(doc.Line)
	if len(doc.Granted) == 0 {
		return
	}
	s.docs.Add(doc.Line, doc.clone())
	for s.tasks += doc.tasks(); s.tasks > seenTasks; {
		s.docs.RemoveOldest()
	}
}

func (s *seenDocs) forget(line Line) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.docs.Remove(line)
}

// look is the document, not to be changed; nil if it is not known.
func (s *seenDocs) look(line Line) *lineDoc {
	s.mu.Lock()
	defer s.mu.Unlock()
	doc, _ := s.docs.Get(line)
	return doc
}

// of is the document, the caller's own; nil if it is not known.
func (s *seenDocs) of(line Line) *lineDoc {
	if doc := s.look(line); doc != nil {
		return doc.clone()
	}
	return nil
}

// reached is the place up to which, as far as is known, everybody was called or had
// left. It may be further by now. It is 0 where the connection is another by now: a broker
// that lost power may give out sequences anew.
func (s *seenDocs) reached(conn uint64, line Line) uint64 {
	if doc := s.look(line); doc != nil && doc.conn == conn {
		return doc.Reached
	}
	return 0
}

// full reports whether as many as limit had a turn, as far as is known on the connection.
func (s *seenDocs) full(conn uint64, line Line, limit int) bool {
	doc := s.look(line)
	return doc != nil && doc.conn == conn && len(doc.Granted) >= limit
}

// hasTurn reports whether the task is known to have a turn. If not, it may have one.
func (s *seenDocs) hasTurn(line Line, id pelton.ID, epoch uint32) bool {
	doc := s.look(line)
	return doc != nil && doc.has(id, epoch)
}

// tasks is how many tasks the document names.
func (d *lineDoc) tasks() (n int) {
	for _, g := range d.Granted {
		n += 1 + len(g.Then)
	}
	return n
}

func (d *lineDoc) clone() *lineDoc {
	c := *d
	c.Granted = slices.Clone(d.Granted) // what a turn names never changes
	return &c
}

// doors lets one goroutine at a time into each line.
type doors struct {
	mu   sync.Mutex
	open map[Line]*door
}

type door struct {
	key   chan struct{}
	users int
}

func (d *doors) enter(ctx context.Context, line Line) (leave func(), err error) {
	d.mu.Lock()
	if d.open == nil {
		d.open = map[Line]*door{}
	}
	at := d.open[line]
	if at == nil {
		at = &door{key: make(chan struct{}, 1)}
		d.open[line] = at
	}
	at.users++
	d.mu.Unlock()
	done := func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if at.users--; at.users == 0 {
			delete(d.open, line)
		}
	}
	select {
	case at.key <- struct{}{}:
		return func() { <-at.key; done() }, nil
	case <-ctx.Done():
		done()
		return nil, context.Cause(ctx)
	}
}

package broker

import (
	"context"
	"slices"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/peltonq/pelton"
)

const (
	seenLines = 4096 // documents of lines that a process remembers
	seenTurns = 16   // turns of a document that is remembered
)

// seenDocs are the documents of lines as this process last read or wrote them,
// at most a few megabytes. They may have changed since; two things hold all the
// same. A turn that was in one is its task's until that is over. And a write that
// expects the revision of one lands only if it is still as it was.
type seenDocs struct{ docs *lru.Cache[Line, *lineDoc] }

func newSeenDocs() (seenDocs, error) {
	docs, err := lru.New[Line, *lineDoc](seenLines)
	return seenDocs{docs}, err //nolint:wrapcheck // of a constant
}

func (s seenDocs) keep(doc *lineDoc) {
	if len(doc.Granted) == 0 || len(doc.Granted) > seenTurns {
		s.docs.Remove(doc.Line)
		return
	}
	s.docs.Add(doc.Line, doc.clone())
}

func (s seenDocs) forget(line Line) { s.docs.Remove(line) }

// of is the document, the caller's own; nil if it is not known.
func (s seenDocs) of(line Line) *lineDoc {
	if doc, ok := s.docs.Get(line); ok {
		return doc.clone()
	}
	return nil
}

// reached is the place up to which, as far as is known, everybody was called or had
// left. It may be further by now. It is 0 where the connection is another by now: a broker
// that lost power may give out sequences anew.
func (s seenDocs) reached(conn uint64, line Line) uint64 {
	if doc, ok := s.docs.Get(line); ok && doc.conn == conn {
		return doc.Reached
	}
	return 0
}

// full reports whether as many as limit had a turn, as far as is known on the connection.
func (s seenDocs) full(conn uint64, line Line, limit int) bool {
	doc, ok := s.docs.Get(line)
	return ok && doc.conn == conn && len(doc.Granted) >= limit
}

// hasTurn reports whether the task is known to have a turn. If not, it may have one.
func (s seenDocs) hasTurn(line Line, id pelton.ID, epoch uint32) bool {
	doc, ok := s.docs.Get(line)
	return ok && doc.has(id, epoch)
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

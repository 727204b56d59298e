package producer

import (
	"context"
	"sync"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
)

// looks shares reads of records among those who wait for the same task: when it
// ends, thousands may want its result at once. Nobody gets a read that began before
// he asked: who comes while one is under way gets the next one, together with all
// others who did.
type looks struct {
	going sync.WaitGroup

	mu   sync.Mutex
	byID map[pelton.ID]*look
}

// look is the reading of one record: one under way, and perhaps the next one.
type look struct{ next *sharedRead }

type sharedRead struct {
	done   chan struct{}
	record *broker.Record // with err it is set before done is closed; nobody changes it
	err    error
}

// at gives what read gives, or ends with ctx. read bounds its own time.
func (l *looks) at(ctx context.Context, id pelton.ID, read func(context.Context, pelton.ID) (*broker.Record, error)) (*broker.Record, error) {
	mine := l.join(ctx, id, read)
	select {
	case <-mine.done:
		return mine.record, mine.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (l *looks) join(ctx context.Context, id pelton.ID, read func(context.Context, pelton.ID) (*broker.Record, error)) *sharedRead {
	l.mu.Lock()
	defer l.mu.Unlock()
	if under, ok := l.byID[id]; ok {
		if under.next == nil {
			under.next = &sharedRead{done: make(chan struct{})}
		}
		return under.next
	}
	if l.byID == nil {
		l.byID = map[pelton.ID]*look{}
	}
	l.byID[id] = &look{}
	first := &sharedRead{done: make(chan struct{})}
	// Others may come to depend on it: it goes on when this caller has gone.
	ctx = context.WithoutCancel(ctx)
	l.going.Go(func() {
		for now := first; now != nil; now = l.following(id) {
			now.record, now.err = read(ctx, id)
			close(now.done)
		}
	})
	return first
}

// following is the next read of the record; nil if nobody wants one.
func (l *looks) following(id pelton.ID) *sharedRead {
	l.mu.Lock()
	defer l.mu.Unlock()
	under := l.byID[id]
	next := under.next
	if under.next = nil; next == nil {
		delete(l.byID, id)
	}
	return next
}

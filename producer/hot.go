package producer

import (
	"context"
	"sync"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
)

// The records of tasks that many ask for again and again are kept in memory, and
// followed by their events, so that polling costs the broker nothing. A task is hot when
// it is read hotReads times within hotWindow; all others are read from the broker each time.
//
// What is kept may be older than the broker's by as long as an event takes, about a
// millisecond, and by up to hotReread if that is lost; a read that comes after a change
// made through the same Client, or after a read that saw one, sees it. When the connection was lost, nothing is kept.
const (
	hotReads  = 16
	hotWindow = 100 * time.Millisecond
	// hotReread is how often a record that is kept is read although no event came.
	hotReread = time.Second
	// hotIdle is after how long without a reader a record is forgotten.
	hotIdle = 2 * time.Second
	// mostHot bounds the records that are kept, and largestHot the size of one: 32 MiB
	// in all. countedReads is the number of ids whose reads are counted.
	mostHot      = 512
	largestHot   = 64 << 10 // bytes of payload and result
	countedReads = 1024
)

// hotTasks are the records that are kept.
type hotTasks struct {
	b     *broker.Broker
	read  func(context.Context, pelton.ID) (*broker.Record, error)
	going sync.WaitGroup

	mu     sync.Mutex
	closed bool
	counts [countedReads]readCount
	kept   map[pelton.ID]*hotTask
}

// readCount counts the reads of the id that was read last of those that share the place.
type readCount struct {
	id    pelton.ID
	since time.Time
	n     int
}

// hotTask is one record that is kept, as long as somebody follows it.
type hotTask struct {
	record *broker.Record // nil while it is not known for sure
	seen   uint64         // the newest revision that anybody was shown
	asked  time.Time      // by the last reader
	gone   bool           // nothing is to be kept any more
	stop   context.CancelFunc
}

// get gives the record if it is kept. For a task that becomes hot, it begins to keep it. hot
// says that it is followed: those who read it meanwhile are many.
func (h *hotTasks) get(id pelton.ID, now time.Time) (r *broker.Record, hot bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if t, ok := h.kept[id]; ok {
		t.asked = now
		return t.record, true
	}
	count := &h.counts[(uint(id[14])<<8|uint(id[15]))%countedReads]
	if count.id != id || now.Sub(count.since) > hotWindow {
		*count = readCount{id: id, since: now}
	}
	if count.n++; count.n < hotReads || h.closed || len(h.kept) >= mostHot {
		return nil, false
	}
	ctx, stop := context.WithCancel(context.Background()) //nolint:forbidigo // ends with close, or without readers
	t := &hotTask{asked: now, stop: stop}
	if h.kept == nil {
		h.kept = make(map[pelton.ID]*hotTask)
	}
	h.kept[id] = t
	h.going.Go(func() {
		defer h.forget(id, t)
		h.follow(ctx, id, t)
	})
	return nil, true
}

// forget ends the keeping of a record.
func (h *hotTasks) forget(id pelton.ID, t *hotTask) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t.stop()
	t.record, t.gone = nil, true
	if h.kept[id] == t {
		delete(h.kept, id)
	}
}

// keep notes what was read; nil is that it has changed since. It reports whether
// it is to be kept any longer. What is older than somebody has seen is not kept: a newer one is about
// to be announced.
func (h *hotTasks) keep(t *hotTask, r *broker.Record) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if t.gone || time.Since(t.asked) > hotIdle {
		return false
	}
	if t.record = r; r != nil && r.Revision < t.seen {
		t.record = nil
	}
	return true
}

// saw says that a record was read that is not the one that is kept. Whoever asks after
// the one who read it must not be shown an older one.
func (h *hotTasks) saw(r *broker.Record) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.kept[r.ID]
	if t == nil || r.Revision <= t.seen {
		return
	}
	t.seen = r.Revision
	if t.record != nil && t.record.Revision < t.seen {
		t.record = nil
	}
}

// changed says that this Client has changed a task: what is kept of it is old.
func (h *hotTasks) changed(id pelton.ID) {
	h.mu.Lock()
	t := h.kept[id]
	h.mu.Unlock()
	if t != nil {
		h.forget(id, t)
	}
}

// close forgets everything.
func (h *hotTasks) close() {
	h.mu.Lock()
	h.closed = true
	for _, t := range h.kept {
		t.stop()
	}
	h.mu.Unlock()
	h.going.Wait()
}

// follow keeps the record until ctx ends, nobody asks for it any more, or it cannot be kept.
func (h *hotTasks) follow(ctx context.Context, id pelton.ID, t *hotTask) {
	lost, stopWatching := h.b.Reconnected()
	defer stopWatching()
	// First subscribe, then read: whatever happens after the read is announced.
	events, stop, err := h.b.Watch(ctx, id)
	if err != nil {
		return
	}
	defer stop()
	timer := time.NewTimer(hotReread)
	defer timer.Stop()
	for {
		r, err := h.read(ctx, id)
		if err != nil || len(r.Payload)+len(r.Result) > largestHot || !h.keep(t, r) {
			return
		}
		timer.Reset(hotReread)
		for waiting := true; waiting; {
			select {
			case e := <-events:
				if waiting = e.Revision <= r.Revision; !waiting && !h.keep(t, nil) {
					return
				}
			case <-timer.C:
				waiting = false
			case <-lost:
				return
			case <-ctx.Done():
				return
			}
		}
	}
}

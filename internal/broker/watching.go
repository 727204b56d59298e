package broker

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
)

const (
	// mostSingle is how many tasks have a subscription of their own. With more, one
	// subscription to the events of all tasks is for those beyond: it costs what happens,
	// not what is waited for, and ten thousand that wait cost the broker one.
	mostSingle = 128
	// eventsAhead is how many events may wait for one who watches.
	eventsAhead = 4
)

// watching shares subscriptions to events among those of a process who watch.
type watching struct {
	mu     sync.Mutex
	byID   map[pelton.ID]*watched
	single int       // subscriptions of tasks, those that are being left included
	all    *watchAll // nil while nobody needs it
}

// watched is a task that somebody watches.
type watched struct {
	subscribing

	single  bool
	waiting map[chan Event]struct{}
}

// watchAll is the subscription to the events of all tasks.
type watchAll struct {
	subscribing

	users int // tasks of byID without a subscription of their own
}

// subscribing is a subscription that is in place when ready is closed, unless err says
// otherwise.
type subscribing struct {
	ready chan struct{}
	stop  func()
	err   error
}

// wait waits until the subscription is in place.
func (s *subscribing) wait(ctx context.Context) error {
	select {
	case <-s.ready:
		return s.err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", pelton.ErrUnavailable, context.Cause(ctx))
	}
}

// Watch sends the task's events until stop. Events that find the channel full
// are dropped: the newest state is in the record. After a time without a connection an
// event of the highest revision there can be says that there may be news.
func (b *Broker) Watch(ctx context.Context, id pelton.ID) (events <-chan Event, stop func(), err error) {
	ch := make(chan Event, eventsAhead)
	t, first := b.watching.join(id, ch)
	stop = func() { b.watching.leave(id, t, ch) }
	if first {
		// Others may come to depend on it: it goes on when this caller has gone.
		b.subscribeTo(context.WithoutCancel(ctx), id, t)
	}
	if err := t.wait(ctx); err != nil {
		stop()
		return nil, nil, fmt.Errorf("watch task %s: %w", id, err)
	}
	return ch, stop, nil
}

// Watching is the number of tasks that this process watches.
func (b *Broker) Watching() int {
	b.watching.mu.Lock()
	defer b.watching.mu.Unlock()
	return len(b.watching.byID)
}

// join adds one who watches; first is to subscribe.
func (w *watching) join(id pelton.ID, ch chan Event) (t *watched, first bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if t = w.byID[id]; t == nil {
		first = true
		t = &watched{subscribing: subscribing{ready: make(chan struct{})}, single: w.single < mostSingle, waiting: make(map[chan Event]struct{}, 1)}
		if t.single {
			w.single++
		}
		if w.byID == nil {
			w.byID = make(map[pelton.ID]*watched)
		}
		w.byID[id] = t
	}
	t.waiting[ch] = struct{}{}
	return t, first
}

// leave takes one who watches away, and with the last one the subscription.
func (w *watching) leave(id pelton.ID, t *watched, ch chan Event) {
	w.mu.Lock()
	delete(t.waiting, ch)
	if len(t.waiting) > 0 || w.byID[id] != t {
		w.mu.Unlock()
		return
	}
	delete(w.byID, id)
	w.mu.Unlock()
	<-t.ready // whoever was first subscribes, whether he has left or not
	if t.stop != nil {
		t.stop()
	}
	if t.single { // counted for as long as it is there
		w.mu.Lock()
		w.single--
		w.mu.Unlock()
	}
}

// subscribeTo makes the subscription of a task, or joins that to all events.
func (b *Broker) subscribeTo(ctx context.Context, id pelton.ID, t *watched) {
	defer close(t.ready)
	if t.single {
		subjects := []string{b.event(id)}
		if id.Sequence() > 0 {
			subjects = append(subjects, b.eventsOf(segmentOf(id)))
		}
		t.stop, t.err = b.subscribed(ctx, func(msg *nats.Msg) { b.watching.tell(id, msg.Data, true) }, subjects...)
		return
	}
	all, first := b.watching.joinAll()
	if first {
		prefix := strings.TrimSuffix(b.events(), "*")
		all.stop, all.err = b.subscribed(ctx, func(msg *nats.Msg) {
			if id, err := pelton.ParseID(strings.TrimPrefix(msg.Subject, prefix)); err == nil {
				b.watching.tell(id, msg.Data, false)
			} else {
				b.watching.tellAll(msg.Data)
			}
		}, b.events())
		close(all.ready)
	}
	t.err = all.wait(ctx)
	t.stop = func() { b.watching.leaveAll(all) }
}

func (w *watching) joinAll() (all *watchAll, first bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.all == nil {
		w.all, first = &watchAll{subscribing: subscribing{ready: make(chan struct{})}}, true
	}
	w.all.users++
	return w.all, first
}

func (w *watching) leaveAll(all *watchAll) {
	w.mu.Lock()
	all.users--
	over := all.users == 0 && w.all == all
	if over {
		w.all = nil
	}
	w.mu.Unlock()
	if over && all.stop != nil { // ready: its users waited for it
		all.stop()
	}
}

// tell gives an event, of the task or of a page, to those who watch the task, if it came by their subscription and is of the
// task.
func (w *watching) tell(id pelton.ID, data []byte, single bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.byID[id]
	if t == nil || t.single != single || !ofTask(id, data) {
		return
	}
	var e Event
	if json.Unmarshal(data, &e) != nil {
		return
	}
	e.ID = id
	t.send(e)
}

// ofTask reports whether an event has the task's id in it.
func ofTask(id pelton.ID, data []byte) bool {
	var room [36]byte
	text, _ := id.AppendText(room[:0]) // never fails
	return bytes.Contains(data, text)
}

// tellAll gives the event of a page to those who watch one of its tasks, and have no subscription of their own.
func (w *watching) tellAll(data []byte) {
	var e pageEvent
	if json.Unmarshal(data, &e) != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range e.IDs {
		if t := w.byID[id]; t != nil && !t.single {
			t.send(Event{ID: id, State: e.State, Revision: e.Revision})
		}
	}
}

// wakeWatchers tells everybody who watches that there may be news when the connection
// is back, which again says: what happened meanwhile was announced to nobody.
func (b *Broker) wakeWatchers(ctx context.Context, again <-chan struct{}) {
	for {
		select {
		case <-again:
			b.watching.wake()
		case <-ctx.Done():
			return
		}
	}
}

func (w *watching) wake() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, t := range w.byID {
		t.send(Event{ID: id, Revision: math.MaxUint64})
	}
}

// send is called with the lock of watching held.
func (t *watched) send(e Event) {
	for ch := range t.waiting {
		select {
		case ch <- e:
		default:
		}
	}
}

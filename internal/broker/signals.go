package broker

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
)

// cancelWait is how long a cancel waits for the holder of a running task.
const cancelWait = time.Second

// Event says that a record changed. Events are best effort: a waiter subscribes,
// then reads the record, and reads it again from time to time.
type Event struct {
	ID       pelton.ID    `json:"id"`
	State    pelton.State `json:"state"`
	Revision uint64       `json:"revision"`
}

// announce publishes the record's event. Nothing depends on its arrival.
func (b *Broker) announce(r *Record) {
	// As encoding/json writes an Event, in a tenth of the time.
	data := make([]byte, 0, 96)
	data = append(data, `{"id":"`...)
	data, _ = r.ID.AppendText(data) // never fails
	data = append(data, `","state":"`...)
	data = append(data, r.State...)
	data = append(data, `","revision":`...)
	data = append(strconv.AppendUint(data, r.Revision, 10), '}')
	if err := b.conn.nc.Publish(b.event(r.ID), data); err != nil {
		b.cfg.Logger.Debug("event not published", "task_id", r.ID.String(), "error", err)
	}
}

// pageEvent says that tasks have succeeded, by a page.
type pageEvent struct {
	State    pelton.State `json:"state"`
	Revision uint64       `json:"revision"`
	IDs      []pelton.ID  `json:"ids"`
}

// announcePage is announce for the tasks of a page.
func (b *Broker) announcePage(s segment, revision uint64, outcomes []outcomeWrite) {
	if len(outcomes) == 1 {
		b.announce(outcomes[0].r)
		return
	}
	// As encoding/json writes a pageEvent.
	data := append(make([]byte, 0, 64+len(outcomes)*40), `{"state":"`...)
	data = append(append(data, pelton.Succeeded...), `","revision":`...)
	data = append(strconv.AppendUint(data, revision, 10), `,"ids":[`...)
	for i := range outcomes {
		if i > 0 {
			data = append(data, ',')
		}
		data, _ = outcomes[i].r.ID.AppendText(append(data, '"')) // never fails
		data = append(data, '"')
	}
	if err := b.conn.nc.Publish(b.eventsOf(s), append(data, ']', '}')); err != nil {
		b.cfg.Logger.Debug("event not published", "page", revision, "error", err)
	}
}

// subscribed subscribes to hints. The round trip makes sure that the subscriptions
// are in place before the caller reads what the hints are about.
func (b *Broker) subscribed(ctx context.Context, got nats.MsgHandler, subjects ...string) (stop func(), err error) {
	if !b.conn.nc.IsConnected() {
		return nil, fmt.Errorf("%w: not connected", pelton.ErrUnavailable)
	}
	var subs []*nats.Subscription
	stop = func() {
		for _, sub := range subs {
			_ = sub.Unsubscribe() // fails only where the connection is gone
		}
	}
	for _, subject := range subjects {
		sub, err := b.conn.nc.Subscribe(subject, got)
		if err != nil {
			stop()
			return nil, fmt.Errorf("%w: %w", pelton.ErrUnavailable, err)
		}
		subs = append(subs, sub)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := b.conn.nc.FlushWithContext(ctx); err != nil {
		stop()
		return nil, fmt.Errorf("%w: %w", pelton.ErrUnavailable, err)
	}
	return stop, nil
}

// SignalCancel asks the worker that holds the task to stop it and waits up to a
// second for its word. dropped reports that a worker said so. No answer is no
// error: the record says cancelled, and the holder will find out. Errors:
// pelton.ErrUnavailable, when the signal did not go out or its answer was lost.
func (b *Broker) SignalCancel(ctx context.Context, id pelton.ID) (dropped bool, err error) {
	waiting, cancel := context.WithTimeout(ctx, b.cancelWait)
	defer cancel()
	reply, err := b.conn.call(waiting, &nats.Msg{Subject: b.cancelSignal(id)})
	switch {
	case err == nil:
		return string(reply.Data) == cancelDropped, nil
	case errors.Is(err, errNoResponder): // no worker at all
		return false, nil
	case errors.Is(err, errSent) && waiting.Err() != nil && ctx.Err() == nil: // none that holds it
		return false, nil
	default:
		return false, fmt.Errorf("signal cancel of task %s: %w", id, readError(err))
	}
}

const cancelDropped = "dropped"

// ServeCancels calls drop for every cancel signal of the installation, one at a
// time. drop reports whether this process held the task and has ended it; only
// then is the signal answered. stop ends it and waits for a drop under way.
func (b *Broker) ServeCancels(drop func(pelton.ID) bool) (stop func(), err error) {
	var mu sync.Mutex
	stopped := false
	prefix := strings.TrimSuffix(b.cancelSignals(), "*")
	sub, err := b.conn.nc.Subscribe(b.cancelSignals(), func(msg *nats.Msg) {
		id, err := pelton.ParseID(strings.TrimPrefix(msg.Subject, prefix))
		mu.Lock()
		defer mu.Unlock()
		if err != nil || stopped || !drop(id) {
			return
		}
		if err := msg.Respond([]byte(cancelDropped)); err != nil {
			b.cfg.Logger.Debug("cancel signal not answered", "task_id", id.String(), "error", err)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("serve cancel signals: %w: %w", pelton.ErrUnavailable, err)
	}
	return func() {
		_ = sub.Unsubscribe() // fails only where the connection is gone
		mu.Lock()
		defer mu.Unlock()
		stopped = true
	}, nil
}

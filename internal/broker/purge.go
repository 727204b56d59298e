package broker

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/peltonq/pelton"
)

// purgeAtOnce is how many tasks a purge cancels at a time, and how many messages it
// holds in memory.
const purgeAtOnce = 32

// purgeCursor says how far a purge came: it goes over the delayed tasks of a queue,
// then over the ready ones. Messages from end on came after it had begun with
// either, and are left alone, so that it ends.
type purgeCursor struct {
	ready bool // the delayed ones are done
	next  uint64
	end   uint64
}

// PurgeQueue cancels the tasks of a queue that wait: those that are ready, delayed
// or to be retried; of one priority, or of all for "". Each gets a record that says
// so; then its message goes. Running tasks stay. It ends after about the given time
// and returns where to go on; "" is the end.
//
// Nothing is pulled: a pull would take tasks out of workers' hands, occupy
// max_running, and get nothing from a paused lane. Messages are read in their order
// and the record decides, by the compare-and-swap that starts a task: a task whose
// worker was faster runs, one whose purge was is dropped at its admission.
//
// Crash windows: after the record and before the message, a message of a cancelled
// task is left, which admission or the next purge takes away.
func (b *Broker) PurgeQueue(ctx context.Context, queue string, p pelton.Priority, cursor string, within time.Duration) (purged int, next string, err error) {
	if _, err := b.loadQueue(ctx, queue); err != nil {
		return 0, "", fmt.Errorf("purge: %w", err)
	}
	at, err := parsePurgeCursor(cursor)
	if err != nil {
		return 0, "", err
	}
	if at.end == 0 {
		if at.end, err = b.tasksEnd(ctx); err != nil {
			return 0, "", err
		}
	}
	subject := string(p)
	if subject == "" {
		subject = "*"
	}
	deadline := time.Now().Add(within)
	for {
		filter := fmt.Sprintf("%s.t.0.s.%s.%s.>", b.ns, queue, subject)
		if at.ready {
			filter = fmt.Sprintf("%s.t.0.r.%s.%s", b.ns, queue, subject)
		}
		n, over, err := b.purgeSome(ctx, filter, &at)
		purged += n
		switch {
		case err != nil:
			return purged, at.String(), fmt.Errorf("purge queue %s: %w", queue, err)
		case over && at.ready:
			return purged, "", nil
		case over: // what fell due meanwhile is among the ready ones by now
			if at.end, err = b.tasksEnd(ctx); err != nil {
				return purged, at.String(), err
			}
			at.ready, at.next = true, 1
		case time.Now().After(deadline):
			return purged, at.String(), nil
		}
	}
}

// purgeSome goes over the next few messages. over means that there are no more.
func (b *Broker) purgeSome(ctx context.Context, filter string, at *purgeCursor) (purged int, over bool, err error) {
	var some []*stored
	next := at.next
	for len(some) < purgeAtOnce {
		msg, err := b.get(ctx, b.tasks(0), getRequest{Seq: next, NextFor: filter}, false)
		if errors.Is(err, pelton.ErrNotFound) {
			over = true
			break
		}
		if err != nil {
			return 0, false, err
		}
		if msg.seq >= at.end {
			over = true
			break
		}
		some, next = append(some, msg), msg.seq+1
	}
	var (
		cancelling sync.WaitGroup
		cancelled  atomic.Int64
		mu         sync.Mutex
	)
	for _, msg := range some {
		cancelling.Go(func() {
			done, failed := b.purgeMessage(ctx, msg)
			if done {
				cancelled.Add(1)
			}
			if failed != nil {
				mu.Lock()
				defer mu.Unlock()
				err = failed
			}
		})
	}
	cancelling.Wait()
	if err == nil {
		at.next = next // else they are gone over again
	}
	return int(cancelled.Load()), over && err == nil, err
}

// purgeMessage cancels the task of a message, if it waits. cancelled means that
// this very call did.
func (b *Broker) purgeMessage(ctx context.Context, msg *stored) (cancelled bool, err error) {
	env, err := decodeEnvelope(msg.data)
	switch {
	case errors.Is(err, ErrNewer):
		return false, nil // its version's to cancel
	case err != nil:
		return false, b.dropPurged(ctx, msg) // no task
	}
	var written time.Time // by a write whose outcome is unknown
	for {
		r, err := b.LoadRecord(ctx, env.ID)
		switch {
		case errors.Is(err, pelton.ErrNotFound):
			// Records come before messages and outlive them: a task that is over and
			// forgotten, as admission has it too.
			return false, b.dropPurged(ctx, msg)
		case errors.Is(err, ErrNewer), errors.Is(err, ErrMalformed):
			return false, nil
		case err != nil:
			return false, err
		case r.State == pelton.Cancelled && !written.IsZero() && r.FinishedAt.Equal(written):
			return true, b.dropPurged(ctx, msg)
		case r.State == pelton.Cancelled:
			if r.Carrier == msg.seq && !r.Released {
				return false, nil // it ran from here: the message is its worker's
			}
			return false, b.dropPurged(ctx, msg)
		case r.State.Terminal(), r.State == pelton.Running:
			return false, nil // its worker acknowledges
		}
		written = time.Now().UTC().Truncate(time.Microsecond)
		r.State, r.FinishedAt = pelton.Cancelled, written
		err = b.SaveRecord(ctx, r)
		switch {
		case err == nil:
			if keyErr := b.ReleaseKey(ctx, r); keyErr != nil { // the record says that it is free
				b.cfg.Logger.Debug("unique key not released", "task_id", r.ID.String(), "error", keyErr)
			}
			return true, b.dropPurged(ctx, msg)
		case ctx.Err() != nil, !errors.Is(err, ErrStale) && !errors.Is(err, pelton.ErrUnknownOutcome):
			return false, err
		}
		// Somebody else changed it, or nobody knows: look again. ctx bounds the loop.
	}
}

// dropPurged removes a message whose task is cancelled.
func (b *Broker) dropPurged(ctx context.Context, msg *stored) error {
	if strings.HasPrefix(msg.subject, b.ns+".t.0.s.") {
		return b.purge(ctx, b.tasks(0), msg.subject) // a schedule goes with its subject
	}
	return b.DeleteMessage(ctx, 0, msg.seq)
}

// tasksEnd is the sequence after the last message in the tasks stream.
func (b *Broker) tasksEnd(ctx context.Context) (uint64, error) {
	if !b.conn.nc.IsConnected() {
		return 0, fmt.Errorf("read the tasks stream: %w: not connected", pelton.ErrUnavailable)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	stream, err := b.js.Stream(ctx, b.tasks(0))
	if err != nil {
		return 0, translate("read the tasks stream", err)
	}
	return stream.CachedInfo().State.LastSeq + 1, nil
}

// String is what parsePurgeCursor reads.
func (c purgeCursor) String() string {
	phase := "s"
	if c.ready {
		phase = "r"
	}
	return fmt.Sprintf("%s-%s-%s", phase, strconv.FormatUint(c.next, 36), strconv.FormatUint(c.end, 36))
}

// parsePurgeCursor reads a cursor; "" is the start, without an end as yet.
func parsePurgeCursor(text string) (purgeCursor, error) {
	if text == "" {
		return purgeCursor{next: 1}, nil
	}
	parts := strings.Split(text, "-")
	if len(parts) == 3 && (parts[0] == "s" || parts[0] == "r") {
		next, nextErr := strconv.ParseUint(parts[1], 36, 64)
		end, endErr := strconv.ParseUint(parts[2], 36, 64)
		if nextErr == nil && endErr == nil && next > 0 && end > 0 {
			return purgeCursor{ready: parts[0] == "r", next: next, end: end}, nil
		}
	}
	return purgeCursor{}, &pelton.ValidationError{Fields: []pelton.FieldError{{Field: "cursor", Message: "is not one of an answer"}}}
}

package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
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

// purgePhase is what a purge goes over; the letters are those of cursors.
type purgePhase string

// The phases, in this order: each is what tasks of the one before become.
const (
	purgeLater  purgePhase = "k" // delayed tasks that will take a place in a line
	purgePlaces purgePhase = "l" // tasks that wait in lines
	purgeTimed  purgePhase = "s" // delayed tasks, and those that are to be retried
	purgeReady  purgePhase = "r" // ready tasks
)

// next is "" after the last one.
func (p purgePhase) next() purgePhase {
	switch p {
	case purgeLater:
		return purgePlaces
	case purgePlaces:
		return purgeTimed
	case purgeTimed:
		return purgeReady
	case purgeReady:
		return ""
	default:
		return ""
	}
}

// purgeCursor says how far a purge came. Messages from end on came after it had
// begun with the phase, and are left alone, so that it ends.
type purgeCursor struct {
	phase purgePhase
	shard uint8 // of the last two phases, which are gone through in each
	next  uint64
	end   uint64
}

// purgeFilter is where a phase's messages are. Those of lines tell their priority
// in the message.
func (b *Broker) purgeFilter(at purgeCursor, queue string, p pelton.Priority) (stream, filter string) {
	subject := string(p)
	if subject == "" {
		subject = "*"
	}
	switch at.phase {
	case purgeLater:
		return b.keyed(0), b.laterPlacesIn(0, queue)
	case purgePlaces:
		return b.keyed(0), b.placesOf(0, queue)
	case purgeTimed:
		return b.tasks(at.shard), fmt.Sprintf("%s.t.%d.s.%s.%s.>", b.ns, at.shard, queue, subject)
	case purgeReady:
		return b.tasks(at.shard), b.readyPrefix(at.shard) + queue + "." + subject
	default:
		return b.tasks(at.shard), ""
	}
}

// after is where a purge goes on when it is through with at; false at its end. Shards that came meanwhile
// are left out: what is in them came later, too.
func (at purgeCursor) after(shards int) (next purgeCursor, more bool) {
	if (at.phase == purgeTimed || at.phase == purgeReady) && int(at.shard)+1 < shards {
		return purgeCursor{phase: at.phase, shard: at.shard + 1, next: 1}, true
	}
	phase := at.phase.next()
	return purgeCursor{phase: phase, next: 1}, phase != ""
}

// PurgeQueue cancels the tasks of a queue that wait: those that are ready, delayed,
// to be retried, or in a line; of one priority, or of all for "". Each gets a record that says
// so; then its message goes. Running tasks stay. It ends after about the given time
// and returns where to go on; "" is the end.
//
// Nothing is pulled: a pull would take tasks out of workers' hands, occupy
// max_running, and get nothing from a paused lane. Messages are read in their order
// and the record decides, by the compare-and-swap that starts a task: a task whose
// worker was faster runs, one whose purge was is dropped at its admission. A plain task
// has no record in its first 50 ms: the purge is faster than that, and as with any cancel
// the handler's ctx ends, and its result is discarded.
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
	if known, err := b.knows(ctx, at.shard); err != nil {
		return 0, "", err
	} else if !known {
		return 0, "", badCursor()
	}
	if at.end == 0 {
		stream, _ := b.purgeFilter(at, queue, p)
		if at.end, err = b.streamEnd(ctx, stream); err != nil {
			return 0, "", err
		}
	}
	deadline := time.Now().Add(within)
	for {
		stream, filter := b.purgeFilter(at, queue, p)
		n, over, err := b.purgeSome(ctx, stream, filter, p, &at)
		purged += n
		switch {
		case err != nil:
			return purged, at.String(), fmt.Errorf("purge queue %s: %w", queue, err)
		case over:
			next, more := at.after(b.Shards())
			if !more {
				return purged, "", nil
			}
			// What became of this phase's tasks meanwhile is before the next one's end.
			stream, _ := b.purgeFilter(next, queue, p)
			if next.end, err = b.streamEnd(ctx, stream); err != nil {
				return purged, at.String(), err
			}
			at = next
		case time.Now().After(deadline):
			return purged, at.String(), nil
		}
	}
}

// purgeSome goes over the next few messages. over means that there are no more.
func (b *Broker) purgeSome(ctx context.Context, stream, filter string, p pelton.Priority, at *purgeCursor) (purged int, over bool, err error) {
	var some []*stored
	next := at.next
	for len(some) < purgeAtOnce {
		msg, err := b.get(ctx, stream, getRequest{Seq: next, NextFor: filter}, false)
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
			done, failed := b.purgeMessage(ctx, msg, p)
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

// purgeMessage cancels the task of a message, if it waits and has the priority.
// cancelled means that this very call did.
func (b *Broker) purgeMessage(ctx context.Context, msg *stored, p pelton.Priority) (cancelled bool, err error) {
	env, err := decodeMessage(msg.data, msg.seq)
	carrier := msg.seq
	if strings.HasPrefix(msg.subject, b.ns+".k.") {
		carrier = 0 // nothing runs from a place
	}
	switch {
	case err == nil && p != "" && env.Priority != p:
		return false, nil
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
			return false, b.leaveAndDrop(ctx, nil, env, msg, carrier)
		case errors.Is(err, ErrNewer), errors.Is(err, ErrMalformed):
			return false, nil
		case err != nil:
			return false, err
		case r.State == pelton.Cancelled && !written.IsZero() && r.FinishedAt.Equal(written):
			return true, b.leaveAndDrop(ctx, r, env, msg, r.Carrier)
		case r.State == pelton.Cancelled:
			if carrier != 0 && r.Carrier == carrier && !r.Released {
				return false, nil // it ran from here: the message is its worker's
			}
			return false, b.leaveAndDrop(ctx, r, env, msg, carrier)
		case r.State.Terminal(), r.State == pelton.Running:
			return false, nil // its worker acknowledges
		}
		written = time.Now().UTC().Truncate(time.Microsecond)
		r.State, r.FinishedAt = pelton.Cancelled, written
		err = b.SaveRecord(ctx, r)
		switch {
		case err == nil:
			if r.Owner == "" && (r.ID.Sequence() > 0 || r.InLine) {
				b.hintCancel(r.ID)
			}
			if keyErr := b.ReleaseKey(ctx, r); keyErr != nil { // the record says that it is free
				b.cfg.Logger.Debug("unique key not released", "task_id", r.ID.String(), "error", keyErr)
			}
			return true, b.leaveAndDrop(ctx, r, env, msg, r.Carrier)
		case ctx.Err() != nil, !errors.Is(err, ErrStale) && !errors.Is(err, pelton.ErrUnknownOutcome):
			return false, err
		}
		// Somebody else changed it, or nobody knows: look again. ctx bounds the loop.
	}
}

// leaveAndDrop gives back the turns of a task that is over, then removes its
// message: a crash in between leaves the message, which gives them back. r is nil
// for a task whose record is gone; by is as of LeaveLines.
func (b *Broker) leaveAndDrop(ctx context.Context, r *Record, env *Envelope, msg *stored, by uint64) error {
	_, rest, _ := shardOf(msg.subject, b.ns+".t.")
	called := strings.HasPrefix(rest, "r.") // else it is no message that a turn counts on
	if err := b.leaveDropped(ctx, r, env, by, lineSettling{seen: true, fence: called, front: true}); err != nil {
		return err
	}
	return b.dropPurged(ctx, msg)
}

// dropPurged removes a message whose task is cancelled.
func (b *Broker) dropPurged(ctx context.Context, msg *stored) error {
	shard, rest, inTasks := shardOf(msg.subject, b.ns+".t.")
	switch {
	case inTasks && strings.HasPrefix(rest, "s."):
		return b.purge(ctx, b.tasks(shard), msg.subject) // a schedule goes with its subject
	case strings.HasPrefix(msg.subject, b.ns+".k.0.s."):
		return b.purge(ctx, b.keyed(0), msg.subject)
	case strings.HasPrefix(msg.subject, b.ns+".k."):
		return b.deleteFrom(ctx, b.keyed(0), msg.seq)
	default:
		return b.DeleteMessage(ctx, shard, msg.seq)
	}
}

// streamEnd is the sequence after the last message of a stream.
func (b *Broker) streamEnd(ctx context.Context, name string) (uint64, error) {
	_, end, err := b.streamBounds(ctx, name)
	return end, err
}

// String is what parsePurgeCursor reads.
func (c purgeCursor) String() string {
	phase := string(c.phase)
	if c.shard > 0 {
		phase += strconv.Itoa(int(c.shard))
	}
	return fmt.Sprintf("%s-%s-%s", phase, strconv.FormatUint(c.next, 36), strconv.FormatUint(c.end, 36))
}

// parsePurgeCursor reads a cursor; "" is the start, without an end as yet.
func parsePurgeCursor(text string) (purgeCursor, error) {
	if text == "" {
		return purgeCursor{phase: purgeLater, next: 1}, nil
	}
	parts := strings.Split(text, "-")
	letter, digits := parts[0][:min(1, len(parts[0]))], parts[0][min(1, len(parts[0])):]
	shard, shardErr := uint64(0), error(nil)
	if digits != "" {
		shard, shardErr = strconv.ParseUint(digits, 10, 8)
	}
	if phase := purgePhase(letter); len(parts) == 3 && shardErr == nil && slices.Contains([]purgePhase{purgeLater, purgePlaces, purgeTimed, purgeReady}, phase) {
		next, nextErr := strconv.ParseUint(parts[1], 36, 64)
		end, endErr := strconv.ParseUint(parts[2], 36, 64)
		if nextErr == nil && endErr == nil && next > 0 && end > 0 {
			return purgeCursor{phase: phase, shard: uint8(shard), next: next, end: end}, nil
		}
	}
	return purgeCursor{}, badCursor()
}

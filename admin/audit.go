package admin

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/peltonq/pelton"
)

const (
	// auditRoom is how many entries wait to be written, at most: some 2 MiB. One more is
	// lost, counted, and told with the next that is not.
	auditRoom = 4096
	// auditBatch is how many are on their way at a time.
	auditBatch = 256
	// auditAgain is the pause before what the broker did not take is written again.
	auditAgain = 250 * time.Millisecond
	// auditEnd is how long Run goes on writing after its end, for what waits.
	auditEnd = 2 * time.Second
)

// Audit lists entries of the audit log, newest first, looking at 500 at most. Errors:
// *pelton.ValidationError, pelton.ErrUnavailable.
func (c *Client) Audit(ctx context.Context, q pelton.AuditQuery) (*pelton.AuditPage, error) {
	if err := q.Check(); err != nil {
		return nil, err
	}
	page, err := c.b.AuditEntries(ctx, q)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	return page, nil
}

// AuditLog writes entries of the audit log off the path of whoever makes them. It holds a
// bounded number of those that are not written yet; what a crash finds there is lost.
type AuditLog struct {
	write auditWriter
	log   *slog.Logger
	id    string // of this log, so that entries written again are known

	mu      sync.Mutex
	waiting []numbered
	number  uint64
	lost    int           // since the last one that was kept
	total   int           // lost, ever
	wake    chan struct{} // holds one when there is something to do
}

// auditWriter is broker.StartAudit.
type auditWriter func(ctx context.Context, e *pelton.AuditEntry, id string, done func(error)) error

type numbered struct {
	pelton.AuditEntry
	id string
}

// NewAuditLog makes a log that Run writes.
func (c *Client) NewAuditLog() *AuditLog { return newAuditLog(c.b.StartAudit, c.logger) }

func newAuditLog(write auditWriter, log *slog.Logger) *AuditLog {
	return &AuditLog{write: write, log: log, id: rand.Text(), wake: make(chan struct{}, 1)}
}

// Record takes an entry. It never waits.
func (l *AuditLog) Record(e pelton.AuditEntry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting) >= auditRoom {
		l.lost++
		l.total++
		return
	}
	e.Lost, l.lost = l.lost, 0
	l.number++
	l.waiting = append(l.waiting, numbered{e, l.id + strconv.FormatUint(l.number, 36)})
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Lost is how many entries could not be kept, ever.
func (l *AuditLog) Lost() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.total
}

// Run writes entries until ctx ends, and then what waits, for 2 s at most.
func (l *AuditLog) Run(ctx context.Context) {
	for ctx.Err() == nil {
		select {
		case <-l.wake:
			l.writeAll(ctx)
		case <-ctx.Done():
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), auditEnd)
	defer cancel()
	l.writeAll(last)
}

// writeAll writes until nothing waits or ctx ends.
func (l *AuditLog) writeAll(ctx context.Context) {
	told := 0
	for {
		l.mu.Lock()
		batch := append([]numbered(nil), l.waiting[:min(len(l.waiting), auditBatch)]...)
		total := l.total
		l.mu.Unlock()
		if len(batch) == 0 || ctx.Err() != nil {
			return
		}
		if total > told {
			told = total
			l.log.WarnContext(ctx, "entries of the audit log were lost: the broker does not take them fast enough", slog.Int("lost", total))
		}
		written := l.writeBatch(ctx, batch)
		l.mu.Lock()
		kept := l.waiting[written:]
		l.waiting = append(make([]numbered, 0, len(kept)), kept...) // what was written is let go
		l.mu.Unlock()
		if written == len(batch) {
			continue
		}
		pause := time.NewTimer(auditAgain)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
		}
	}
}

// writeBatch reports how many of the first were written. Those after one that was not may
// have been, too: written again, they are there once.
func (l *AuditLog) writeBatch(ctx context.Context, batch []numbered) (written int) {
	results := make([]error, len(batch))
	var under sync.WaitGroup
	for i := range batch {
		under.Add(1)
		err := l.write(ctx, &batch[i].AuditEntry, batch[i].id, func(err error) {
			results[i] = err
			under.Done()
		})
		if err != nil {
			results[i] = err
			under.Done()
			for j := i + 1; j < len(batch); j++ {
				results[j] = err
			}
			break
		}
	}
	under.Wait() // writes end by themselves within 5 s
	for i, err := range results {
		switch {
		case err == nil:
		case errors.Is(err, pelton.ErrUnavailable), errors.Is(err, pelton.ErrUnknownOutcome), errors.Is(err, pelton.ErrClosed):
			l.log.DebugContext(ctx, "audit log not written, trying again", slog.Any("error", err))
			return i
		default: // the broker will never take it
			l.log.ErrorContext(ctx, "entry of the audit log was refused", slog.String("operation", batch[i].Operation), slog.Any("error", err))
		}
	}
	return len(batch)
}

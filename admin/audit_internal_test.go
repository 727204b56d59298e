package admin

import (
	"context"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/peltonq/pelton"
)

// slowAudit takes entries after a while, or refuses them.
type slowAudit struct {
	mu   sync.Mutex
	took []pelton.AuditEntry
	ids  map[string]int
	err  error         // of every write, later
	late time.Duration // until a write is answered
	lose bool          // answers come, entries are there, and nobody knows
}

func (f *slowAudit) write(_ context.Context, e *pelton.AuditEntry, id string, done func(error)) error {
	go func() {
		<-time.After(f.late)
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.err == nil || f.lose {
			if f.ids[id] == 0 {
				f.took = append(f.took, *e)
			}
			f.ids[id]++
		}
		done(f.err)
	}()
	return nil
}

func (f *slowAudit) set(err error, lose bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err, f.lose = err, lose
}

// written is what was taken so far.
func (f *slowAudit) written() []pelton.AuditEntry {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.took)
}

func (f *slowAudit) count() int { return len(f.written()) }

// waits is how many entries are not written yet.
func (l *AuditLog) waits() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.waiting)
}

func auditTest(t *testing.T, test func(t *testing.T, f *slowAudit, l *AuditLog, end func())) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &slowAudit{ids: make(map[string]int), late: time.Millisecond}
		l := newAuditLog(f.write, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { l.Run(ctx) })
		test(t, f, l, func() {
			cancel()
			running.Wait()
		})
		cancel()
		running.Wait()
	})
}

func entry(n int) pelton.AuditEntry {
	return pelton.AuditEntry{Operation: strconv.Itoa(n), Status: 200}
}

// Entries that the broker does not take are written when it does, once each.
func TestAuditLogTriesAgain(t *testing.T) {
	auditTest(t, func(t *testing.T, f *slowAudit, l *AuditLog, _ func()) {
		f.set(pelton.ErrUnavailable, false)
		for n := range 300 {
			l.Record(entry(n))
		}
		pass(time.Second)
		f.set(pelton.ErrUnknownOutcome, true)
		pass(time.Second)
		f.set(nil, false)
		pass(time.Second)
		if f.count() != 300 || l.Lost() != 0 || l.waits() != 0 {
			t.Fatalf("%d written, %d lost, %d wait", f.count(), l.Lost(), l.waits())
		}
		for n, e := range f.written() {
			if e.Lost != 0 {
				t.Errorf("entry %d: %+v", n, e)
			}
		}
	})
}

// With a broker that takes nothing, memory is bounded, nobody waits, and what was lost is
// told.
func TestAuditLogIsBounded(t *testing.T) {
	auditTest(t, func(t *testing.T, f *slowAudit, l *AuditLog, _ func()) {
		f.set(pelton.ErrUnavailable, false)
		began := time.Now()
		for n := range auditRoom + 100 {
			l.Record(entry(n))
		}
		if took := time.Since(began); took > 0 {
			t.Errorf("whoever recorded waited %s", took)
		}
		pass(time.Second)
		if l.Lost() != 100 || l.waits() != auditRoom {
			t.Errorf("%d lost, %d wait", l.Lost(), l.waits())
		}
		f.set(nil, false)
		pass(10 * time.Second)
		l.Record(entry(-1))
		pass(time.Second)
		took := f.written()
		if last := took[len(took)-1]; len(took) != auditRoom+1 || last.Lost != 100 || last.Operation != "-1" {
			t.Errorf("%d written, the last is %+v", len(took), last)
		}
	})
}

// What was recorded before the end is written, if that is possible soon.
func TestAuditLogEnds(t *testing.T) {
	auditTest(t, func(t *testing.T, f *slowAudit, l *AuditLog, end func()) {
		for n := range 10 {
			l.Record(entry(n))
		}
		end()
		if f.count() != 10 {
			t.Errorf("%d written", f.count())
		}
		l.Record(entry(11)) // too late, and no harm
	})
}

func TestAuditLogEndsWithoutBroker(t *testing.T) {
	auditTest(t, func(t *testing.T, f *slowAudit, l *AuditLog, end func()) {
		f.set(pelton.ErrUnavailable, false)
		l.Record(entry(1))
		pass(time.Second)
		began := time.Now()
		end()
		if took := time.Since(began); took > auditEnd+auditAgain {
			t.Errorf("it took %s", took)
		}
	})
}

package broker

import (
	"context"
	"crypto/rand"
	"errors"
	mathrand "math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/failpoint"
)

// leastPaged is the smallest number of tasks in a page. Fewer are records of their own, which are read faster.
const leastPaged = 4

// outcomeWrite is a success that is to be written.
type outcomeWrite struct {
	r    *Record
	data []byte  // the record, as it is alone
	buf  *[]byte // that it came of
	done func(error)
}

// pageKey is what tasks of a page have in common.
type pageKey struct {
	segment
	ttl time.Duration
}

// pagers write pages. A process has one of a segment under way. What succeeds meanwhile goes into the next one: so
// tasks are written one after the other when there is little to do, and together when there is much.
type pagers struct {
	least  int    // leastPaged, or another number in tests
	token  string // begins the last token of each page's subject: no other process has it
	mu     sync.Mutex
	number uint64
	flying map[pageKey][]outcomeWrite // what waits until the page that is under way is answered
}

func (ps *pagers) open() {
	ps.least, ps.token, ps.flying = leastPaged, rand.Text()[:12], map[pageKey][]outcomeWrite{}
	if failpoint.Instrumented { // the fault suite is to meet a page whenever it can
		ps.least = 1
	}
}

// next is what the next page of a key is to be, of these outcomes, or of those that waited: none while one is under way.
func (ps *pagers) next(key pageKey, outcomes ...outcomeWrite) (page []outcomeWrite, token string) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	waiting, flying := ps.flying[key]
	switch {
	case len(outcomes) > 0 && flying:
		ps.flying[key] = append(waiting, outcomes...)
		return nil, ""
	case len(outcomes) > 0:
		page = outcomes
	case len(waiting) == 0:
		delete(ps.flying, key)
		return nil, ""
	default:
		page = waiting
	}
	ps.flying[key] = nil
	ps.number++
	return page, ps.token + "-" + strconv.FormatUint(ps.number, 36)
}

// pageable reports whether the success of a plain task may go into a page.
func (r *Record) pageable() bool {
	return r.Revision == 0 && r.ID.Sequence() > 0 && r.State == pelton.Succeeded && r.KeepUntil.IsZero() && len(r.Payload)+len(r.Result) <= mostPaged
}

// saveInPage writes the success of a plain task into a page, or alone, and calls done as SaveRecordSoon does.
func (b *Broker) saveInPage(ctx context.Context, r *Record, done func(error)) error {
	r.Lone = true
	buf := b.buffers.get()
	w, err := b.recordWriteInto(*buf, r)
	if err != nil {
		return err
	}
	key := pageKey{segmentOf(r.ID), w.ttl}
	if page, token := b.pagers.next(key, outcomeWrite{r, w.data, buf, done}); page != nil {
		b.writePage(ctx, key, page, token)
	}
	return nil
}

func (b *Broker) writePage(ctx context.Context, key pageKey, outcomes []outcomeWrite, token string) {
	if len(outcomes) < b.pagers.least {
		b.writeAlone(ctx, key, outcomes)
		return
	}
	w := b.pageWrite(key, token, outcomes)
	for i := range outcomes { // it is a copy
		b.buffers.put(outcomes[i].buf, outcomes[i].data)
	}
	b.tryPage(ctx, key, outcomes, w, 1, time.Now().Add(pageMeets))
}

// writeAlone creates a record for each task.
func (b *Broker) writeAlone(ctx context.Context, key pageKey, outcomes []outcomeWrite) {
	var left atomic.Int64
	left.Store(int64(len(outcomes)))
	for i := range outcomes {
		o := &outcomes[i]
		w := write{subject: b.record(o.r.ID), data: o.data, ttl: key.ttl}
		if failpoint.Broken(failpoint.NoCAS) {
			w.expect = anyRevision
		}
		written := func(revision uint64, err error) {
			if err == nil {
				b.buffers.put(o.buf, o.data)
				o.r.Revision = revision
				b.announce(o.r)
			}
			o.done(err)
			if left.Add(-1) == 0 {
				b.nextPage(ctx, key)
			}
		}
		if err := b.start(ctx, w, written); err != nil {
			written(0, err)
		}
	}
}

// nextPage writes what was waiting for the answers of a page, if anything was.
func (b *Broker) nextPage(ctx context.Context, key pageKey) {
	if next, token := b.pagers.next(key); next != nil {
		go b.writePage(context.WithoutCancel(ctx), key, next, token) // not here: start may have to wait for the goroutine that this may be
	}
}

// pageMeets bounds for how long a page may meet others of its segment, which other processes have under way: in a cluster
// only one write at a time may expect something of a seal.
const pageMeets = time.Second

func (b *Broker) tryPage(ctx context.Context, key pageKey, outcomes []outcomeWrite, w write, try int, until time.Time) {
	err := b.start(ctx, w, func(seq uint64, err error) {
		if errors.Is(err, errMet) && time.Now().Before(until) {
			wait := time.Duration(min(try, 8)) * (time.Millisecond + mathrand.N(4*time.Millisecond)) //nolint:gosec // keeps two apart, protects nothing
			time.AfterFunc(wait, func() { b.tryPage(context.WithoutCancel(ctx), key, outcomes, w, try+1, until) })
			return
		}
		b.pageWritten(ctx, key, outcomes, seq, err)
	})
	if err != nil {
		b.pageWritten(ctx, key, outcomes, 0, err)
	}
}

func (b *Broker) pageWrite(key pageKey, token string, outcomes []outcomeWrite) write {
	w := write{subject: b.inSegment("page", key.segment) + "." + token, data: encodePage(key.segment, outcomes), expectOn: b.sealSubject(key.segment), ttl: key.ttl}
	if failpoint.Broken(failpoint.NoCAS) {
		w.expect, w.expectOn = anyRevision, ""
	}
	return w
}

// pageWritten tells those whose outcomes were in a page what became of it, or has them written as records. It does not
// block.
func (b *Broker) pageWritten(ctx context.Context, key pageKey, outcomes []outcomeWrite, seq uint64, err error) {
	b.nextPage(ctx, key)
	if errors.Is(err, ErrStale) { // there is a seal
		b.seals.learn(key.segment, &sealed{}, b.seals.losses())
		b.saveSealed(key.segment, outcomes...)
		return
	}
	if err == nil {
		for i := range outcomes {
			outcomes[i].r.Revision, outcomes[i].r.Paged, outcomes[i].r.Lone = seq, true, false
		}
		b.announcePage(key.segment, seq, outcomes)
	}
	for i := range outcomes {
		outcomes[i].done(err)
	}
}

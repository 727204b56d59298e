package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
)

const (
	// dueHeld bounds the entries that a process remembers, and with it the memory: 80
	// bytes each. Of a bucket that has more, the nearest are read each time.
	dueHeld = 250_000
	// fewEntries are read one by one, more by a consumer.
	fewEntries = 32
)

// dueMemory is what a process has read of the due index. The zero value is empty.
type dueMemory struct {
	mu      sync.Mutex
	buckets map[string]*dueRead // by subject
	clock   uint64
	last    uint64 // the highest sequence that was read
	most    int    // entries that are held; 0 is dueHeld
}

// dueRead is one bucket as far as it was read.
type dueRead struct {
	mu      sync.Mutex // of who reads it on
	entries []dueEntry // in order; a new slice each time
	last    uint64     // sequence of the last message that was read

	// Of the memory's lock.
	held int
	to   time.Time
	used uint64
}

// load gives the entries of a bucket in order, after it has read on from where it was
// read before. cut means that there are more than can be held: those given are the
// nearest after the point, one at least, and what comes after them is not known.
func (m *dueMemory) load(ctx context.Context, b *Broker, bucket bucketOfDue, after DuePoint) (entries []dueEntry, cut bool, err error) {
	read := m.at(bucket)
	read.mu.Lock()
	defer read.mu.Unlock()
	fresh := slices.Clip(read.entries) // appending copies
	last := read.last
	var edge dueEntry // the last one up to which nothing was left out; zero if nothing was
	err = b.readDue(ctx, bucket, last+1, func(seq uint64, data []byte) {
		last = seq
		e, err := decodeDue(data)
		if err != nil {
			b.cfg.Logger.Error("message in the due index that is no entry", "seq", seq, "error", err)
			return
		}
		fresh = append(fresh, e)
		if len(fresh) > m.bound() {
			if near := nearest(fresh, after, m.bound()/2); len(near) < m.bound()/2 {
				fresh = near // most are before the point, and are left out from here on
			} else {
				fresh, edge = near, near[len(near)-1]
			}
			cut = true
		}
	})
	if err != nil {
		return nil, false, err
	}
	if last > read.last {
		slices.SortFunc(fresh, compareDue) // a slice of our own: something was appended
	}
	if cut { // not remembered
		if edge.due == 0 {
			return fresh, false, nil
		}
		n, _ := slices.BinarySearchFunc(fresh, edge, compareDue)
		return fresh[:n+1], true, nil
	}
	read.entries, read.last = fresh, last
	m.keep(read)
	return fresh, false, nil
}

// nearest keeps the n first entries after the point.
func nearest(entries []dueEntry, after DuePoint, n int) []dueEntry {
	entries = slices.DeleteFunc(entries, func(e dueEntry) bool { return !after.before(&e) })
	slices.SortFunc(entries, compareDue)
	return entries[:min(n, len(entries))]
}

func (m *dueMemory) bound() int {
	if m.most > 0 {
		return m.most
	}
	return dueHeld
}

// at is the bucket's memory; buckets that are over are forgotten.
func (m *dueMemory) at(bucket bucketOfDue) *dueRead {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	for subject, read := range m.buckets {
		if !read.to.After(now) {
			delete(m.buckets, subject)
		}
	}
	if m.buckets == nil {
		m.buckets = make(map[string]*dueRead)
	}
	read := m.buckets[bucket.subject]
	if read == nil {
		read = &dueRead{to: bucket.to}
		m.buckets[bucket.subject] = read
	}
	m.clock++
	read.used = m.clock
	return read
}

// hold forgets all if the stream ends before what was read of it: it was made anew, or
// lost its end.
func (m *dueMemory) hold(last uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if last < m.last {
		m.buckets, m.last = nil, 0
	}
}

// keep notes how much of a bucket is held, and forgets those that were not asked for
// the longest, if that is too much.
func (m *dueMemory) keep(read *dueRead) {
	m.mu.Lock()
	defer m.mu.Unlock()
	read.held = len(read.entries)
	m.last = max(m.last, read.last)
	for {
		total := 0
		oldest := ""
		for subject, other := range m.buckets {
			total += other.held
			if other != read && other.held > 0 && (oldest == "" || other.used < m.buckets[oldest].used) {
				oldest = subject
			}
		}
		if total <= m.bound() || oldest == "" {
			return
		}
		delete(m.buckets, oldest)
	}
}

// readDue calls yield for the bucket's messages from a sequence on.
func (b *Broker) readDue(ctx context.Context, bucket bucketOfDue, from uint64, yield func(seq uint64, data []byte)) error {
	for range fewEntries {
		if from == 1 && bucket.entries > fewEntries {
			break
		}
		msg, err := b.get(ctx, b.dueIndex(), getRequest{Seq: from, NextFor: bucket.subject}, true)
		if errors.Is(err, pelton.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		yield(msg.seq, msg.data)
		from = msg.seq + 1
	}
	return b.streamDue(ctx, bucket.subject, from, yield)
}

// streamDue is readDue by a consumer.
func (b *Broker) streamDue(ctx context.Context, subject string, from uint64, yield func(seq uint64, data []byte)) error {
	if !b.conn.nc.IsConnected() {
		return fmt.Errorf("%w: not connected", pelton.ErrUnavailable)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	reading, err := readForwards(ctx, b.conn.nc, b.js, b.dueIndex(), subject, from)
	if err != nil {
		return err
	}
	defer reading.close(ctx)
	for left := reading.pending; left > 0; {
		over, err := reading.batch(ctx, func(msg *nats.Msg, meta *nats.MsgMetadata) error {
			left = meta.NumPending
			yield(meta.Sequence.Stream, msg.Data)
			return nil
		})
		if err != nil || over {
			return err
		}
	}
	return nil
}

package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
)

// LoadRecords reads the records of tasks of one shard from the leader, at once. Those without one
// are nil, and so are those that cannot be read. pelton.ErrUnavailable means that none was read.
func (b *Broker) LoadRecords(ctx context.Context, ids []pelton.ID) ([]*Record, error) {
	records := make([]*Record, len(ids))
	switch {
	case len(ids) == 0:
		return records, nil
	case b.replication.many.Load(): // else a follower that is behind may answer
		return records, b.loadEach(ctx, ids, records)
	default:
		return records, b.loadTogether(ctx, ids, records)
	}
}

func (b *Broker) loadEach(ctx context.Context, ids []pelton.ID, records []*Record) error {
	requests := make([]getRequest, len(ids))
	for i, id := range ids {
		requests[i] = getRequest{LastFor: b.record(id)}
	}
	found, err := b.getEach(ctx, bucketStream(b.state(ids[0].Shard())), requests)
	if err != nil {
		return fmt.Errorf("load records: %w", err)
	}
	for i, msg := range found {
		if msg == nil {
			continue
		}
		if r, err := recordIn(ids[i], msg, nil); err == nil {
			records[i] = r
		}
	}
	return nil
}

// getEach makes several gets at once; of what is not there, or cannot be read, it gives nil.
func (b *Broker) getEach(ctx context.Context, stream string, requests []getRequest) ([]*stored, error) {
	type answer struct {
		of  int
		msg *nats.Msg
		err error
	}
	to, read := directGet, directAnswer
	if b.replication.many.Load() { // else a follower that is behind may answer
		to, read = leaderGet, leaderAnswer
	}
	answers := make(chan answer, len(requests))
	for i, req := range requests {
		body, err := json.Marshal(req)
		if err == nil {
			_, err = b.conn.send(ctx, &nats.Msg{Subject: to + stream, Data: body}, func(msg *nats.Msg, err error) { answers <- answer{i, msg, err} })
		}
		if err != nil {
			answers <- answer{of: i, err: err}
		}
	}
	var failed error
	found := make([]*stored, len(requests))
	for range requests {
		a := <-answers // each call ends in time
		if a.err != nil {
			failed = readError(a.err)
			continue
		}
		if msg, err := read(stream, a.msg); err == nil {
			found[a.of] = msg
		} else if errors.Is(err, pelton.ErrUnavailable) {
			failed = err
		}
	}
	return found, failed
}

func (b *Broker) loadTogether(ctx context.Context, ids []pelton.ID, records []*Record) error {
	at := make(map[string]int, len(ids))
	subjects := make([]string, len(ids))
	for i, id := range ids {
		subjects[i] = b.record(id)
		at[subjects[i]] = i
	}
	body, err := json.Marshal(map[string]any{"multi_last": subjects})
	if err != nil {
		return fmt.Errorf("encode get: %w", err)
	}
	found, err := b.getMany(ctx, bucketStream(b.state(ids[0].Shard())), body, len(ids))
	if err != nil {
		return fmt.Errorf("load records: %w", err)
	}
	for _, msg := range found {
		if i, asked := at[msg.subject]; asked {
			if r, err := recordIn(ids[i], msg, nil); err == nil {
				records[i] = r
			}
		}
	}
	return nil
}

// getMany makes a direct get that brings several messages, at most so many.
func (b *Broker) getMany(ctx context.Context, stream string, body []byte, most int) ([]*stored, error) {
	got := parts{most: most, over: make(chan struct{})}
	if _, err := b.conn.beginParts(ctx, &nats.Msg{Subject: directGet + stream, Data: body}, callTimeout, true, got.add); err != nil {
		return nil, readError(err)
	}
	<-got.over // the call ends in time
	if got.err != nil {
		return nil, readError(got.err)
	}
	switch status := got.last.Header.Get("Status"); status {
	case "204", "404":
	default:
		return nil, fmt.Errorf("%w: get from %s: %s %s", pelton.ErrUnavailable, stream, status, got.last.Header.Get("Description"))
	}
	found := make([]*stored, len(got.messages))
	for i, part := range got.messages {
		msg, err := directAnswer(stream, part)
		if err != nil {
			return nil, err
		}
		found[i] = msg
	}
	return found, nil
}

// parts are the answers to one call, until one has a status.
type parts struct {
	most int
	over chan struct{} // closed after the last one

	mu       sync.Mutex // until then
	ended    bool
	messages []*nats.Msg
	last     *nats.Msg
	err      error
}

func (p *parts) add(msg *nats.Msg, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.ended:
	case err != nil, msg.Header.Get("Status") != "":
		p.ended, p.last, p.err = true, msg, err
		close(p.over)
	case len(p.messages) < p.most: // else more than was asked for
		p.messages = append(p.messages, msg)
	}
}

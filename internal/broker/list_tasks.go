package broker

import (
	"context"
	"errors"
	"time"

	"github.com/peltonq/pelton"
)

// fromRecord is for messages of the state bucket. Those of probes, of seals and of keys that are
// gone are no records.
func (l *list) fromRecord(ctx context.Context, msg *stored) ([]*Record, error) {
	if msg.deleted() {
		return nil, nil
	}
	switch p, err := l.b.pageIn(msg); {
	case err != nil:
		return nil, err
	case p != nil:
		return l.fromPage(ctx, p)
	}
	r, err := decodeRecord(msg.data, msg.seq)
	if err != nil || !l.shows(r) {
		return nil, err
	}
	return []*Record{r}, nil
}

func (l *list) shows(r *Record) bool {
	return l.f.covers(&r.Meta) && (l.f.State == "" || r.State == l.f.State)
}

// fromPage is for pages. A task of one that was put back after it was over has a record, and is not in the list
// by its page.
func (l *list) fromPage(ctx context.Context, p *page) ([]*Record, error) {
	tasks := make([]*Record, len(p.Tasks))
	for i := range tasks {
		r, err := p.at(len(tasks) - 1 - i)
		if err != nil {
			return nil, err
		}
		if l.shows(r) {
			tasks[i] = r
		}
	}
	stream := bucketStream(l.b.state(p.segment.shard))
	_, err := l.b.get(ctx, stream, getRequest{LastFor: l.b.sealSubject(p.segment)}, true)
	switch {
	case errors.Is(err, pelton.ErrNotFound):
		return tasks, nil
	case err != nil:
		return nil, err
	}
	var requests []getRequest
	for _, r := range tasks {
		if r != nil {
			requests = append(requests, getRequest{LastFor: l.b.record(r.ID)})
		}
	}
	records, err := l.b.getEach(ctx, stream, requests)
	if err != nil {
		return nil, err
	}
	for i, r := range tasks {
		if r == nil {
			continue
		}
		if record := records[0]; record != nil && !record.deleted() {
			tasks[i] = nil
		}
		records = records[1:]
	}
	return tasks, nil
}

// fromReady is for messages in lanes. One whose task is of a later epoch, runs or is
// over is not in the list. Among all tasks those with a record are shown as such.
func (l *list) fromReady(ctx context.Context, msg *stored) (*Record, error) {
	e, err := decodeMessage(msg.data, msg.seq)
	if err != nil || !l.f.covers(&e.Meta) {
		return nil, err
	}
	located := e.Epoch == 0 && e.ID.Sequence() == msg.seq
	if l.f.State == "" && !located {
		return nil, nil //nolint:nilnil // it has a record
	}
	r, err := l.b.loadRecord(ctx, e.ID, true)
	switch {
	case errors.Is(err, pelton.ErrNotFound) && located:
		return unrecorded(e), nil
	case err != nil, l.f.State == "", r.Epoch > e.Epoch, r.Task(time.Now()).State != pelton.Queued:
		return nil, err
	default:
		return r, nil
	}
}

// fromPlace is for places in lines.
func (l *list) fromPlace(ctx context.Context, msg *stored) (*Record, error) {
	e, err := decodeMessage(msg.data, msg.seq)
	if err != nil || !l.f.covers(&e.Meta) {
		return nil, err
	}
	r, err := l.b.loadRecord(ctx, e.ID, true)
	if err != nil || !r.InLine || r.Task(time.Now()).State != pelton.Queued {
		return nil, err
	}
	return r, nil
}

// fromLetter is for dead letters. The task is shown as its record has it: that of a
// task that was put back meanwhile has not failed.
func (l *list) fromLetter(ctx context.Context, msg *stored) (*Record, error) {
	letter, err := decodeRecord(msg.data, msg.seq)
	if err != nil || !l.f.covers(&letter.Meta) {
		return nil, err
	}
	r, err := l.b.loadRecord(ctx, letter.ID, true)
	if err != nil || r.State != pelton.Failed || r.Epoch != letter.Epoch {
		return nil, err
	}
	return r, nil
}

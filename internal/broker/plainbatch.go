package broker

import (
	"context"
	"fmt"
)

// PlainBatch enqueues plain tasks, each of which is sent as soon as it is added: while the next one
// is made, the broker stores those before. It belongs to one goroutine. Crash windows are
// those of a plain task, each by itself: see located.go.
type PlainBatch struct {
	ctx     context.Context //nolint:containedctx // of the call that the batch is of
	f       *flight
	lane    Lane // of the last task
	subject string
	refused map[Lane]error // lanes that could not be opened: once, not for each task
}

// NewPlainBatch is for at most n tasks. ctx bounds the opening of lanes: what was added goes
// out whatever becomes of it. An error means that the broker has no room: nothing was done.
// Without one, the batch is to be landed.
func (b *Broker) NewPlainBatch(ctx context.Context, n int) (*PlainBatch, error) {
	if err := b.room.check(); err != nil {
		return nil, err
	}
	return &PlainBatch{ctx: ctx, f: b.newFlight(context.WithoutCancel(ctx), n)}, nil
}

// Add sends a task. r.ID is made the seed of a located id, which the answer completes. r may be
// used again for another task. plain is false for a task that needs a record: then nothing was
// done. An error means that the task was not stored, and is not among those that land.
func (p *PlainBatch) Add(i int, r *Record) (plain bool, err error) {
	if !r.plain() {
		return false, nil
	}
	r.ID = r.ID.Seed()
	if err := p.open(r.Lane()); err != nil {
		return true, fmt.Errorf("enqueue task %s: %w", r.ID, err)
	}
	e := Envelope{Meta: r.Meta, Payload: r.Payload}
	data, err := encodeEnvelope(&e)
	if err == nil {
		err = p.f.send(i, write{subject: p.subject, data: data, expect: anyRevision})
	}
	if err != nil {
		return true, fmt.Errorf("enqueue task %s: %w", r.ID, err)
	}
	return true, nil
}

// open makes sure of the lane of the next task.
func (p *PlainBatch) open(lane Lane) error {
	if lane == p.lane {
		return nil
	}
	err, known := p.refused[lane]
	if !known {
		err = p.f.b.EnsureLane(p.ctx, lane)
	}
	if err != nil {
		if p.refused == nil {
			p.refused = make(map[Lane]error)
		}
		p.refused[lane] = err
		return err
	}
	p.lane, p.subject = lane, p.f.b.ready(lane.Shard, lane.Queue, lane.Priority)
	return nil
}

// Land waits until the outcome of all tasks is known, and calls done for each with what completes
// its id, or with an error, which may be pelton.ErrUnknownOutcome.
func (p *PlainBatch) Land(done func(i int, seq uint64, err error)) {
	for _, one := range p.f.land() {
		done(one.i, one.seq, one.err)
	}
}

package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/failpoint"
)

// PublishReady publishes a task to its lane and returns the message's stream
// sequence. The lane must have been ensured.
func (b *Broker) PublishReady(ctx context.Context, e *Envelope) (seq uint64, err error) {
	buf := b.buffers.get()
	w, err := b.readyWrite(*buf, e)
	if err != nil {
		return 0, err
	}
	if seq, err = b.do(ctx, w); err != nil {
		return 0, fmt.Errorf("publish task %s: %w", e.ID, err)
	}
	b.buffers.put(buf, w.data)
	return seq, nil
}

// readyWrite has its data in out, which it overwrites, if that is large enough.
func (b *Broker) readyWrite(out []byte, e *Envelope) (write, error) {
	data, err := envelopeInto(out, e)
	if err != nil {
		return write{}, fmt.Errorf("publish task %s: %w", e.ID, err)
	}
	return write{subject: b.ready(e.ID.Shard(), e.Queue, e.Priority), data: data, expect: anyRevision}, nil
}

// PublishSchedule hands the task to the broker, which publishes it to its lane
// at runAt. Doing so again while it waits changes nothing; doing so after it
// fired makes a second copy, which the carrier rule drops at admission.
func (b *Broker) PublishSchedule(ctx context.Context, e *Envelope, runAt time.Time) error {
	w, err := b.scheduleWrite(e, runAt)
	if err != nil {
		return err
	}
	if _, err := b.do(ctx, w); err != nil && !errors.Is(err, ErrStale) {
		return fmt.Errorf("schedule task %s: %w", e.ID, err)
	}
	return nil
}

// scheduleWrite is a message schedule: a message on a subject of its own that
// names when and where it is to be published. The time is written to the
// nanosecond: jetstream.WithScheduleAt cuts to seconds and so fires early. A
// subject is written once per epoch: replacing a schedule while it fires would
// lose the replacement.
func (b *Broker) scheduleWrite(e *Envelope, runAt time.Time) (write, error) {
	data, err := encodeEnvelope(e)
	if err != nil {
		return write{}, fmt.Errorf("schedule task %s: %w", e.ID, err)
	}
	return write{
		subject: b.scheduled(e.ID.Shard(), e.Queue, e.Priority, e.ID, e.Epoch),
		data:    data,
		expect:  0,
		header: nats.Header{
			headerSchedule:       {"@at " + runAt.UTC().Format(time.RFC3339Nano)},
			headerScheduleTarget: {b.ready(e.ID.Shard(), e.Queue, e.Priority)},
		},
	}, nil
}

// placeWrite is the place that the task takes in its line, or the schedule that
// takes it for a delayed one. It is the task's envelope: that of a task that has a
// record like any other with all that is in that (see Recorded), otherwise without
// the payload.
func (b *Broker) placeWrite(r *Record) (write, error) {
	e := &Envelope{Meta: r.Meta}
	if r.usualInLine() {
		e.Recorded, e.Payload = r.Revision, r.Payload
	}
	data, err := encodeEnvelope(e)
	if err != nil {
		return write{}, fmt.Errorf("publish place of task %s: %w", r.ID, err)
	}
	line, _ := r.waitsIn()
	w := write{subject: b.place(commonShard, line, r.Queue), data: data, expect: anyRevision}
	if r.waitsForPlace(time.Now()) {
		w.header = nats.Header{
			headerSchedule:       {"@at " + r.RunAt.UTC().Format(time.RFC3339Nano)},
			headerScheduleTarget: {w.subject},
		}
		w.subject, w.expect = b.laterPlace(commonShard, r.Queue, r.ID, r.Epoch), 0
	}
	return w, nil
}

// publishPlace may be repeated: a second place of the same task is void when it is
// reached.
func (b *Broker) publishPlace(ctx context.Context, r *Record) error {
	w, err := b.placeWrite(r)
	if err != nil {
		return err
	}
	if _, err := b.do(ctx, w); err != nil && !errors.Is(err, ErrStale) {
		return fmt.Errorf("publish place of task %s: %w", r.ID, err)
	}
	failpoint.At(failpoint.LinePlaced)
	return nil
}

// messageWrite is the message of the record's epoch: to its line if it waits for
// its turn, to the schedule if it waits for its time, else to its lane.
func (b *Broker) messageWrite(r *Record) (write, error) {
	if r.InLine {
		return b.placeWrite(r)
	}
	if r.waitsForTime() {
		return b.scheduleWrite(r.Envelope(), r.RunAt)
	}
	return b.readyWrite(nil, r.Envelope())
}

// Publish publishes the message of the record's epoch: to its line if the task
// waits for its turn, to the schedule if it waits for its time, else to its lane.
// Doing so again is harmless: what is not the
// same message makes a copy, which the carrier rule drops at admission. What waits for
// its time is entered into the due index.
func (b *Broker) Publish(ctx context.Context, r *Record) error {
	settle := b.tellDue(ctx, r) // first, so that nobody has to wait for it
	defer settle()
	return b.publish(ctx, r)
}

// publish is Publish without the index.
func (b *Broker) publish(ctx context.Context, r *Record) error {
	if r.InLine {
		return b.publishPlace(ctx, r)
	}
	if r.waitsForTime() {
		return b.PublishSchedule(ctx, r.Envelope(), r.RunAt)
	}
	_, err := b.PublishReady(ctx, r.Envelope())
	return err
}

// Enqueue stores a new task. A plain one is its message alone, which completes r.ID
// (see located.go). Of any other it writes the record, then the message: see Publish.
// It sets r.Revision, which is 0 for a task without a record.
//
// Crash windows: after the record and before the message, a record without a
// message is left; nobody was told that the task was accepted. A refused message
// drops the record again; if that fails too, the sweep finds the record and
// publishes the message. pelton.ErrUnknownOutcome means that the task may have
// been enqueued, or will be.
func (b *Broker) Enqueue(ctx context.Context, r *Record) error {
	if err := b.room.check(); err != nil {
		return err
	}
	if err := b.ensure(ctx, r); err != nil {
		return err
	}
	if r.plain() {
		return b.enqueueLocated(ctx, r)
	}
	settle := b.tellDue(ctx, r) // of a task that is refused, the entry is void
	defer settle()
	if err := b.CreateRecord(ctx, r); err != nil {
		return err
	}
	// From here on the caller's going away must not leave half a task.
	ctx = context.WithoutCancel(ctx)
	failpoint.At(failpoint.EnqueueRecorded)
	err := b.publish(ctx, r)
	failpoint.At(failpoint.EnqueuePublished)
	if err != nil && !errors.Is(err, pelton.ErrUnknownOutcome) {
		if dropErr := b.DropRecord(ctx, r); dropErr != nil {
			b.cfg.Logger.Warn("record of a refused task stays behind", "task_id", r.ID.String(), "error", dropErr)
			err = fmt.Errorf("%w: %w", pelton.ErrUnknownOutcome, err)
		}
	}
	return err
}

// ensure makes sure that everything the record's message needs is there.
func (b *Broker) ensure(ctx context.Context, r *Record) error {
	if len(r.Places) > 0 {
		if err := b.EnsurePlaces(ctx, r.Queue); err != nil {
			return err
		}
	}
	if r.waitsForTime() && !r.InLine {
		return b.EnsureScheduled(ctx, r.Lane())
	}
	return b.EnsureLane(ctx, r.Lane())
}

// Lane is where the task's message is, or will be.
func (m *Meta) Lane() Lane { return Lane{m.Queue, m.Priority, m.ID.Shard()} }

// EnqueueMany enqueues the records in a pipeline and returns one error for each,
// in order. It is not atomic: every record is a task of its own.
func (b *Broker) EnqueueMany(ctx context.Context, records []*Record) []error {
	errs := make([]error, len(records))
	if err := b.room.check(); err != nil {
		for i := range errs {
			errs[i] = err
		}
		return errs
	}
	plain := make([]bool, len(records))
	type place struct {
		Lane
		scheduled, keyed bool
	}
	ensured := map[place]error{} // a lane that fails does so once, not for each record
	for i, r := range records {
		at := place{r.Lane(), r.waitsForTime(), r.InLine}
		err, known := ensured[at]
		if !known {
			err = b.ensure(ctx, r)
			ensured[at] = err
		}
		errs[i] = err
		if plain[i] = r.plain(); plain[i] {
			r.ID, r.Revision = r.ID.Seed(), 0
		}
	}
	// Creating is plain expected-0 here: ids are fresh, no marker can be there.
	needs := func(i int) bool { return errs[i] == nil && !plain[i] }
	b.pipeline(ctx, len(records), needs, func(i int) (write, error) {
		records[i].Revision = 0
		return b.recordWrite(records[i])
	}, func(i int, seq uint64, err error) {
		if errs[i] = err; err == nil {
			records[i].Revision = seq
		}
	})
	ctx = context.WithoutCancel(ctx)
	created := slices.Clone(errs)
	settle := b.tellDue(ctx, recorded(records, errs)...)
	ok := func(i int) bool { return errs[i] == nil }
	b.pipeline(ctx, len(records), ok, func(i int) (write, error) { return b.messageWrite(records[i]) }, func(i int, seq uint64, err error) {
		if errs[i] = err; err == nil && plain[i] {
			records[i].ID = records[i].ID.At(seq)
		}
	})
	settle()
	refused := func(i int) bool {
		return !plain[i] && created[i] == nil && errs[i] != nil && !errors.Is(errs[i], pelton.ErrUnknownOutcome)
	}
	b.pipeline(ctx, len(records), refused, func(i int) (write, error) {
		return b.dropWrite(records[i]), nil
	}, func(i int, _ uint64, err error) {
		if err != nil {
			b.cfg.Logger.Warn("record of a refused task stays behind", "task_id", records[i].ID.String(), "error", err)
			errs[i] = fmt.Errorf("%w: %w", pelton.ErrUnknownOutcome, errs[i])
		}
	})
	for i, r := range records {
		if errs[i] != nil {
			errs[i] = fmt.Errorf("enqueue task %s: %w", r.ID, errs[i])
		}
	}
	return errs
}

// recorded are the records without an error.
func recorded(records []*Record, errs []error) []*Record {
	var good []*Record
	for i, r := range records {
		if errs[i] == nil {
			good = append(good, r)
		}
	}
	return good
}

// CancelSchedules removes what the task has waiting in the schedule.
func (b *Broker) CancelSchedules(ctx context.Context, r *Record) error {
	if r.InLine {
		return b.purge(ctx, b.keyed(commonShard), b.laterPlacesOf(commonShard, r.Queue, r.ID))
	}
	return b.purge(ctx, b.tasks(r.ID.Shard()), b.scheduledOf(r.ID.Shard(), r.Queue, r.Priority, r.ID))
}

func (b *Broker) purge(ctx context.Context, stream, filter string) error {
	body, err := json.Marshal(map[string]string{"filter": filter})
	if err != nil {
		return fmt.Errorf("encode purge: %w", err)
	}
	return b.api(ctx, "STREAM.PURGE."+stream, body)
}

// DeleteMessage deletes the task's message by its stream sequence. One that is
// gone already is no error.
func (b *Broker) DeleteMessage(ctx context.Context, shard uint8, seq uint64) error {
	return b.deleteFrom(ctx, b.tasks(shard), seq)
}

func (b *Broker) deleteFrom(ctx context.Context, stream string, seq uint64) error {
	subject, body := deletion(stream, seq)
	err := b.api(ctx, subject, body)
	if err == nil || errors.Is(err, pelton.ErrNotFound) {
		return nil
	}
	// A sequence that the stream never had (after a restore, say) is a failed
	// deletion to the server, like one that it could not carry out.
	if _, getErr := b.get(ctx, stream, getRequest{Seq: seq}, false); errors.Is(getErr, pelton.ErrNotFound) {
		return nil
	}
	return fmt.Errorf("delete message %d: %w", seq, err)
}

// deletion is the call of the JetStream API that deletes one message.
func deletion(stream string, seq uint64) (subject string, body []byte) {
	return "STREAM.MSG.DELETE." + stream, []byte(`{"seq":` + formatSeq(seq) + `,"no_erase":true}`)
}

package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/peltonq/pelton"
)

const (
	// maxSchedules bounds the schedules of an installation.
	maxSchedules = 10_000

	countFor   = 5 * time.Second
	countSlack = 1000 // that others may make in that time

	scheduleKeyPrefix = "schedule."
	tickKeyPrefix     = "tick."
)

// scheduleCount is how many schedules there were.
type scheduleCount struct {
	mu sync.Mutex
	n  int
	at time.Time
}

// ScheduleDoc is the definition of a schedule, which the configuration bucket holds
// under schedule.<name>. Only those who change the schedule write it; what becomes of
// its ticks is in its ScheduleState, so that the two never wait for each other.
type ScheduleDoc struct {
	Schedule pelton.Schedule
	// Incarnation tells the schedule from those that had its name before.
	Incarnation string
	// Since is from when on the rule is in force. Zero means since this was written,
	// by the broker's clock.
	Since     time.Time
	CreatedAt time.Time // zero: when this was written
	// Held says that the schedule was paused by hand.
	Held bool

	Revision uint64 // of the entry; 0 before there is one
	written  time.Time
}

// InForce is the moment after which the schedule's ticks count.
func (d *ScheduleDoc) InForce() time.Time {
	if d.Since.IsZero() {
		return d.written
	}
	return d.Since
}

// Created is when the schedule was made, and Written when it was last changed.
func (d *ScheduleDoc) Created() time.Time {
	if d.CreatedAt.IsZero() {
		return d.written
	}
	return d.CreatedAt
}

// Written is when the definition was last changed, by the broker's clock.
func (d *ScheduleDoc) Written() time.Time { return d.written }

// scheduleForm is the first line of a stored definition; the schedule's JSON form is
// the rest.
type scheduleForm struct {
	Version     int       `json:"v"`
	Incarnation string    `json:"incarnation"`
	Since       time.Time `json:"since,omitzero"`
	CreatedAt   time.Time `json:"created_at,omitzero"`
	Held        bool      `json:"held,omitempty"`
}

func decodeSchedule(name string, msg *stored) (*ScheduleDoc, error) {
	var form scheduleForm
	body, err := split(msg.data, &form)
	if err != nil {
		return nil, err
	}
	if form.Version > version {
		return nil, newer(form.Version)
	}
	d := &ScheduleDoc{
		Incarnation: form.Incarnation, Since: form.Since, CreatedAt: form.CreatedAt, Held: form.Held,
		Revision: msg.seq, written: msg.time.UTC(),
	}
	if err := json.Unmarshal(body, &d.Schedule); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if d.Schedule.Name != name {
		return nil, fmt.Errorf("%w: it is of schedule %q", ErrMalformed, d.Schedule.Name)
	}
	return d, nil
}

// LoadSchedule reads a definition from the leader. pelton.ErrNotFound means that there
// is none; it comes with an empty one that can be saved.
func (b *Broker) LoadSchedule(ctx context.Context, name string) (*ScheduleDoc, error) {
	msg, err := b.get(ctx, bucketStream(b.names.config()), getRequest{LastFor: b.configKey(scheduleKeyPrefix + name)}, false)
	fresh := &ScheduleDoc{}
	switch {
	case err == nil && msg.deleted():
		fresh.Revision = msg.seq
		return fresh, fmt.Errorf("schedule %s: %w", name, pelton.ErrNotFound)
	case errors.Is(err, pelton.ErrNotFound):
		return fresh, fmt.Errorf("schedule %s: %w", name, err)
	case err != nil:
		return nil, fmt.Errorf("read schedule %s: %w", name, err)
	}
	d, err := decodeSchedule(name, msg)
	if err != nil {
		return nil, fmt.Errorf("read schedule %s: %w", name, err)
	}
	return d, nil
}

// SaveSchedule stores a definition if it still has its revision: ErrStale if not. It
// sets the new one, but not when it was written: load it for that.
func (b *Broker) SaveSchedule(ctx context.Context, d *ScheduleDoc) error {
	s := d.Schedule
	s.Revision, s.CreatedAt, s.UpdatedAt, s.Next, s.Last, s.Failing = 0, time.Time{}, time.Time{}, nil, nil, nil
	body, err := s.AppendJSON(nil)
	if err != nil {
		return fmt.Errorf("save schedule %s: %w", s.Name, err)
	}
	data, err := join(scheduleForm{version, d.Incarnation, d.Since, d.CreatedAt, d.Held}, len(body), body)
	if err != nil {
		return fmt.Errorf("save schedule %s: %w", s.Name, err)
	}
	seq, err := b.do(ctx, write{subject: b.configKey(scheduleKeyPrefix + s.Name), data: data, expect: d.Revision})
	if err != nil {
		return fmt.Errorf("save schedule %s: %w", s.Name, err)
	}
	d.Revision = seq
	return nil
}

// DeleteSchedule deletes a definition at its revision, then its state and what waits
// for its next tick. A crash in between leaves those: the tick finds no definition and
// is dropped, the state is of an incarnation that never comes again.
func (b *Broker) DeleteSchedule(ctx context.Context, d *ScheduleDoc) error {
	name := d.Schedule.Name
	_, err := b.do(ctx, write{subject: b.configKey(scheduleKeyPrefix + name), expect: d.Revision, ttl: markerTTL, header: deleteMarker()})
	if err != nil {
		return fmt.Errorf("delete schedule %s: %w", name, err)
	}
	ctx = context.WithoutCancel(ctx)
	if s, err := b.LoadScheduleState(ctx, name); err == nil && s.Incarnation == d.Incarnation {
		_, err := b.do(ctx, write{subject: b.configKey(tickKeyPrefix + name), expect: s.Revision, ttl: markerTTL, header: deleteMarker()})
		if err != nil {
			b.cfg.Logger.Debug("state of a deleted schedule stays behind", "schedule", name, "error", err)
		}
	}
	if err := b.DropTicks(ctx, name); err != nil {
		b.cfg.Logger.Debug("next tick of a deleted schedule stays behind", "schedule", name, "error", err)
	}
	return nil
}

// ScheduleNames lists all schedules, sorted.
func (b *Broker) ScheduleNames(ctx context.Context) ([]string, error) {
	entries, err := b.configEntries(ctx, "schedules", scheduleKeyPrefix, jetstream.MetaOnly())
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(entries))
	for _, entry := range entries {
		names = append(names, strings.TrimPrefix(entry.Key(), scheduleKeyPrefix))
	}
	return names, nil
}

// CheckScheduleBound refuses a schedule that is one too many.
//
// It counts at most once in some seconds while there is room for many more, or making
// many would read all of them for each.
func (b *Broker) CheckScheduleBound(ctx context.Context, name string) error {
	c := &b.schedules
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.at) < countFor && c.n < maxSchedules-countSlack {
		c.n++
		return nil
	}
	names, err := b.ScheduleNames(ctx)
	if err != nil {
		return err
	}
	c.n, c.at = len(names)+1, time.Now()
	if len(names) >= maxSchedules {
		return &pelton.ValidationError{Fields: []pelton.FieldError{{
			Field: "name", Message: fmt.Sprintf("%q would be schedule %d, more than the %d that an installation holds", name, len(names)+1, maxSchedules),
		}}}
	}
	return nil
}

// NextSchedule reads the definition that was written next from a sequence on, and says
// where to go on: so all of them can be gone through with one in memory. A definition
// that cannot be read is nil. pelton.ErrNotFound is the end.
func (b *Broker) NextSchedule(ctx context.Context, from uint64) (d *ScheduleDoc, next uint64, err error) {
	prefix := b.configKey(scheduleKeyPrefix)
	msg, err := b.get(ctx, bucketStream(b.names.config()), getRequest{Seq: from, NextFor: prefix + "*"}, false)
	if err != nil {
		return nil, 0, fmt.Errorf("next schedule: %w", err)
	}
	if msg.deleted() {
		return nil, msg.seq + 1, nil
	}
	name := strings.TrimPrefix(msg.subject, prefix)
	if d, err = decodeSchedule(name, msg); err != nil {
		b.cfg.Logger.Error("schedule is unreadable and has no ticks", "schedule", name, "error", err)
	}
	return d, msg.seq + 1, nil
}

// ScheduleState is what became of a schedule's ticks, under tick.<name>. It is
// advanced by compare-and-swap after the tasks of ticks were enqueued.
type ScheduleState struct {
	Name        string `json:"name"`
	Incarnation string `json:"incarnation"`
	// Last is the tick up to which everything is decided; zero before the first.
	Last time.Time `json:"last,omitzero"`
	// Runs are the latest, oldest first. Their states are those of their tasks.
	Runs    []pelton.ScheduleRun    `json:"runs,omitempty"`
	Failing *pelton.ScheduleFailing `json:"failing,omitempty"`

	Revision uint64 `json:"-"` // of the entry; 0 before there is one
}

// How many runs a schedule remembers: of ticks, that were asked for, and that were
// skipped. Each have their own place, so that a task that others are skipped for, or
// that runs for long, is not forgotten for them.
const (
	maxRuns       = 20
	maxManualRuns = 5
	maxSkipped    = 5
)

// Note appends a run and forgets the oldest of its sort.
func (s *ScheduleState) Note(run pelton.ScheduleRun) {
	most := maxRuns
	switch {
	case run.Skipped != "":
		most = maxSkipped
	case run.Manual:
		most = maxManualRuns
	}
	alike := func(r pelton.ScheduleRun) bool {
		return (r.Skipped != "") == (run.Skipped != "") && r.Manual == run.Manual
	}
	runs := append(slices.Clone(s.Runs), run)
	n := 0
	for _, r := range runs {
		if alike(r) {
			n++
		}
	}
	if n > most {
		i := slices.IndexFunc(runs, alike)
		runs = slices.Delete(runs, i, i+1)
	}
	s.Runs = runs
}

// LoadScheduleState reads a state from the leader. One that is not there is empty.
func (b *Broker) LoadScheduleState(ctx context.Context, name string) (*ScheduleState, error) {
	msg, err := b.get(ctx, bucketStream(b.names.config()), getRequest{LastFor: b.configKey(tickKeyPrefix + name)}, false)
	s := &ScheduleState{Name: name}
	switch {
	case errors.Is(err, pelton.ErrNotFound):
		return s, nil
	case err != nil:
		return nil, fmt.Errorf("read state of schedule %s: %w", name, err)
	case !msg.deleted():
		if err := json.Unmarshal(msg.data, s); err != nil {
			return nil, fmt.Errorf("read state of schedule %s: %w: %w", name, ErrMalformed, err)
		}
	}
	s.Revision = msg.seq
	return s, nil
}

// SaveScheduleState stores a state if it still has its revision: ErrStale if not.
func (b *Broker) SaveScheduleState(ctx context.Context, s *ScheduleState) error {
	data, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("save state of schedule %s: %w", s.Name, err)
	}
	seq, err := b.do(ctx, write{subject: b.configKey(tickKeyPrefix + s.Name), data: data, expect: s.Revision})
	if err != nil {
		return fmt.Errorf("save state of schedule %s: %w", s.Name, err)
	}
	s.Revision = seq
	return nil
}

// configEntries reads what the configuration bucket holds under a prefix, sorted by key.
func (b *Broker) configEntries(ctx context.Context, what, prefix string, opts ...jetstream.WatchOpt) ([]jetstream.KeyValueEntry, error) {
	// Not ListKeysFiltered, which tells a broken listing from a whole one by nothing.
	watcher, err := b.config.Watch(ctx, prefix+"*", append(opts, jetstream.IgnoreDeletes())...)
	if err != nil {
		return nil, translate("list "+what, err)
	}
	defer endWatch(watcher)
	entries := map[string]jetstream.KeyValueEntry{}
	for {
		select {
		case entry, ok := <-watcher.Updates():
			switch {
			case !ok:
				return nil, fmt.Errorf("list %s: %w: the listing broke off", what, pelton.ErrUnavailable)
			case entry == nil: // the end of what is there
				sorted := make([]jetstream.KeyValueEntry, 0, len(entries))
				for _, key := range slices.Sorted(maps.Keys(entries)) {
					sorted = append(sorted, entries[key])
				}
				return sorted, nil
			default:
				entries[entry.Key()] = entry
			}
		case <-ctx.Done():
			return nil, fmt.Errorf("list %s: %w: %w", what, pelton.ErrUnavailable, context.Cause(ctx))
		}
	}
}

package broker

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"time"

	"github.com/peltonq/pelton"
)

// Line is the line of tasks that wait for their turn: those with one concurrency
// key, or those of one kind. One of the two names is set.
type Line struct {
	Key  string `json:"key,omitempty"`
	Kind string `json:"kind,omitempty"`
}

// token names the line in subjects and in its bucket: keys may be anything.
func (l Line) token() string {
	name := "key\n" + l.Key
	if l.Kind != "" {
		name = "kind\n" + l.Kind
	}
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:16])
}

// Place is a task's place in a line. A task stands in the line of its key first
// and in that of its kind after it: what it holds of one is kept while it waits for
// the other, and the fixed order keeps two tasks from waiting for each other.
type Place struct {
	Of LineOf `json:"of"`
	// Epoch is that of the task when it took the place. It tells a place from those
	// that the task had before it was requeued.
	Epoch uint32 `json:"epoch,omitempty"`
}

// LineOf says by what a line is named.
type LineOf string

// What lines are named by.
const (
	OfKey  LineOf = "key"
	OfKind LineOf = "kind"
)

// Line is the line of that sort for the task.
func (m *Meta) Line(of LineOf) Line {
	if of == OfKind {
		return Line{Kind: m.Kind}
	}
	return Line{Key: m.ConcurrencyKey}
}

// smallInLine bounds the payloads, in bytes, that are in the task's place as well as in
// its record.
const smallInLine = 1 << 10

// usualInLine reports whether the record is one of a new task in the line of its key
// and says nothing that its envelope does not: see Unstarted.
func (r *Record) usualInLine() bool {
	return r.Relayable() && r.Revision > 0 && len(r.Payload) <= smallInLine && r.KeepUntil.IsZero()
}

// Unstarted is the record of a delivery's task as it was when the task took its place, from
// the message that it was called by; nil if that does not have it. A write that
// expects its revision fails if anything has become of the task since.
func (d *Delivery) Unstarted() *Record {
	e := d.Envelope
	if e.Recorded == 0 || e.Epoch != 0 || e.ConcurrencyKey == "" {
		return nil
	}
	r := &Record{Meta: e.Meta, State: pelton.Queued, Payload: e.Payload, Revision: e.Recorded}
	r.Recorded = 0
	r.EnterLine()
	return r
}

// StandsIn reports whether the task has a place in its line of that sort.
func (r *Record) StandsIn(of LineOf) bool {
	return slices.ContainsFunc(r.Places, func(p Place) bool { return p.Of == of })
}

// Relayable reports whether the task waits in the line of its key and has no other ties than
// that, so that it can start without a look at anything else: see Relay.
func (r *Record) Relayable() bool {
	return r.State == pelton.Queued && r.InLine && r.Epoch == 0 && len(r.Places) == 1 && r.Places[0] == Place{Of: OfKey} &&
		r.Former == 0 && r.Unique == nil && r.Schedule == nil && r.Limited == nil
}

// EnterLine gives a new or requeued task its place in the line of its key, at its
// present epoch. A task without a key stays out of it.
func (r *Record) EnterLine() {
	r.Places, r.InLine = nil, r.ConcurrencyKey != ""
	if r.InLine {
		r.Places = []Place{{OfKey, r.Epoch}}
	}
}

// QueueForKind puts a task that could start into the line of its kind, under its
// next epoch. To the world it stays queued: its time was now.
func (r *Record) QueueForKind(now time.Time) {
	r.State, r.RunAt = pelton.Scheduled, now.UTC()
	r.Epoch++
	r.Places, r.InLine = append(slices.Clone(r.Places), Place{OfKind, r.Epoch}), true
}

// waitsIn is the line that the task is to wait in, or to be called from. Only a
// record that is InLine has one.
func (r *Record) waitsIn() (Line, Place) {
	last := r.Places[len(r.Places)-1]
	return r.Line(last.Of), last
}

// waitsAt reports whether the task still waits at a place that it took in the line
// at epoch: otherwise that place is void. Once void, it stays so.
func (r *Record) waitsAt(l Line, epoch uint32) bool {
	if !r.InLine || len(r.Places) == 0 || r.State.Terminal() {
		return false
	}
	in, place := r.waitsIn()
	return in == l && place.Epoch == epoch
}

// waitsForPlace reports whether the task's place is still in the schedule, as far
// as the record can tell.
func (r *Record) waitsForPlace(now time.Time) bool {
	return r.InLine && r.waitsForTime() && r.RunAt.After(now)
}

// grant is a turn: that of a task that was called from its line and has not given it
// back. One with By is a relay's: see Relay.
type grant struct {
	ID    pelton.ID `json:"id"`
	Epoch uint32    `json:"epoch,omitempty"` // of its place
	At    time.Time `json:"at"`
	// By is the message whose holder runs the task and then those that are named in Then,
	// one after the other, without a message of their own; 0 is none. Their places
	// are of epoch 0. Worker is that holder, at first.
	By     uint64      `json:"by,omitempty"`
	Worker string      `json:"worker,omitempty"`
	Then   []pelton.ID `json:"then,omitempty"`
}

// lineDoc is the document of a line: who has a turn. A line in which nobody has
// one has no document.
type lineDoc struct {
	Version int `json:"v"`
	Line
	Granted []grant `json:"granted"`
	// Reached is the place up to which, in the order of the line, everybody was called
	// or had left: whoever calls the next one begins behind it. 0 is not known.
	Reached uint64 `json:"reached,omitempty"`
	// Back is how far it was Reached before some went back to the line. What a process knows of
	// the places up to there may be short of those; 0 is none.
	Back uint64 `json:"back,omitempty"`

	absent   bool // it was read, and is not there
	revision uint64
	written  time.Time
	conn     uint64 // how often the connection was made anew, when it was read or written
}

// goBack lets the next one be looked for behind a place that was reached before.
func (d *lineDoc) goBack(to uint64) {
	d.Back = max(d.Back, d.Reached)
	d.Reached = min(d.Reached, to)
}

// called is the index of the turn of a task that was called by a message of its own, or -1.
func (d *lineDoc) called(id pelton.ID, epoch uint32) int {
	return slices.IndexFunc(d.Granted, func(g grant) bool { return g.By == 0 && g.ID == id && g.Epoch == epoch })
}

func (d *lineDoc) has(id pelton.ID, epoch uint32) bool { return d.called(id, epoch) >= 0 }

// relaying reports whether a turn is a relay's.
func (d *lineDoc) relaying() bool {
	return slices.ContainsFunc(d.Granted, func(g grant) bool { return g.By > 0 })
}

// relays reports whether the task is in a relay.
func (d *lineDoc) relays(id pelton.ID, epoch uint32) bool {
	return epoch == 0 && slices.ContainsFunc(d.Granted, func(g grant) bool { return g.By > 0 && g.names(id) })
}

func (g *grant) names(id pelton.ID) bool { return g.ID == id || slices.Contains(g.Then, id) }

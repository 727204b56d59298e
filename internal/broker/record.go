package broker

import (
	"errors"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/peltonq/pelton"
)

const (
	// version is the major version of envelopes and records that this package
	// writes. Unknown fields are ignored; a higher major is ErrNewer.
	version = 1

	// maxBody bounds an envelope or record that is read: payload, result and
	// metadata with room to spare. It keeps a foreign message from being decoded.
	maxBody = 2 << 20
	// minMessageSize is what a stream's max_msg_size must allow: payload, result
	// and the longest metadata, in which control characters of ten failures'
	// messages and a stack take six bytes each.
	minMessageSize = 2*pelton.MaxPayload + 256<<10

	maxMessage = 2 << 10 // bytes, of a failure's and a progress report's message
	maxStack   = 8 << 10 // bytes
)

var (
	// ErrMalformed is a message or record that is not Pelton's.
	ErrMalformed = errors.New("malformed")
	// ErrNewer is an envelope or record of a later major version.
	ErrNewer = errors.New("written by a newer version")
	// ErrStale is a lost compare-and-swap: the record has another revision.
	ErrStale = errors.New("stale revision")
)

// Meta is what a task is from its first write to its last, but for the epoch. It
// is the first line of an envelope and part of a record's. What can be told without is not in the
// line: see lean.
type Meta struct {
	Version     int               `json:"v"`
	ID          pelton.ID         `json:"id"`
	Kind        string            `json:"kind"`
	Queue       string            `json:"queue"`
	Priority    pelton.Priority   `json:"priority"`
	Epoch       uint32            `json:"epoch,omitempty"` // +1 at every republish
	MaxAttempts int               `json:"max_attempts,omitempty"`
	Timeout     time.Duration     `json:"timeout,omitempty"`   // nanoseconds
	Retention   time.Duration     `json:"retention,omitempty"` // nanoseconds
	Backoff     pelton.Backoff    `json:"backoff,omitzero"`
	CreatedAt   time.Time         `json:"created_at,omitzero"`
	ExpiresAt   time.Time         `json:"expires_at,omitzero"`
	RateKey     string            `json:"rate_key,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	// ConcurrencyKey names the line that the task stands in; empty is none.
	ConcurrencyKey string `json:"concurrency_key,omitempty"`
	// Schedule says which tick of which schedule the task is of.
	Schedule *pelton.TaskSchedule `json:"schedule,omitempty"`
	// Recorded is in places alone, and in the messages that they are called by: the
	// revision of the task's record, if that says nothing that is not here too, and
	// the payload is here. 0 is a place without a payload.
	Recorded uint64 `json:"recorded,omitempty"`
}

// lean is m without what fill gives back: the defaults, and a time of creation that is the id's. That is
// a quarter of a plain task's message.
func (m *Meta) lean() Meta {
	short := *m
	if m.MaxAttempts == pelton.DefaultMaxAttempts {
		short.MaxAttempts = 0
	}
	if m.Timeout == pelton.DefaultTimeout {
		short.Timeout = 0
	}
	if m.Retention == pelton.DefaultRetention {
		short.Retention = 0
	}
	if m.CreatedAt.Equal(m.ID.Time()) {
		short.CreatedAt = time.Time{}
	}
	return short
}

// fill sets what is absent, which none of these can be in a task. The defaults are part of the format:
// another value of one would be another version.
func (m *Meta) fill() {
	if m.MaxAttempts == 0 {
		m.MaxAttempts = pelton.DefaultMaxAttempts
	}
	if m.Timeout == 0 {
		m.Timeout = pelton.DefaultTimeout
	}
	if m.Retention == 0 {
		m.Retention = pelton.DefaultRetention
	}
	if m.CreatedAt.IsZero() {
		m.CreatedAt = m.ID.Time()
	}
}

// Envelope is a task on the wire: one line of metadata, then the payload.
type Envelope struct {
	Meta
	Payload []byte
}

// Record is what the state bucket holds on a task.
type Record struct {
	Meta
	State   pelton.State
	Payload []byte
	Result  []byte

	RunAt      time.Time // when a scheduled or retrying task is to run
	StartedAt  time.Time
	FinishedAt time.Time
	Attempt    int // number of the current or last attempt
	Ended      int // attempts that a handler ended: they alone count
	Crashes    int // deliveries that died with their worker

	Owner    string // id of the worker that runs or last ran the task
	Carrier  uint64 // stream sequence of the message it runs from
	Released bool   // given back by a worker that shut down
	// LetterDropped says that the failed task's dead letter was deleted on purpose.
	LetterDropped bool
	// Deferrals counts the times in a row that the task was put off because no
	// worker knew its kind; DeferredAt is the first of them. A limit that puts the task
	// off ends the row: its worker knew the kind.
	Deferrals  int
	DeferredAt time.Time

	// Limited is what a task that limits put off went through since its last start;
	// nil for one that was not put off.
	Limited *Limited

	Progress *pelton.Progress
	Errors   []pelton.Failure

	// Unique is the unique key under which the task was enqueued; see unique.go.
	Unique *pelton.Unique
	// KeyRevision is that of the key's lock when the task took it.
	KeyRevision uint64
	// KeySpent says that the key was free before the task was put back, so that it
	// does not hold it again.
	KeySpent bool
	// Replaced says that the task was cancelled in favour of another with its key.
	Replaced bool
	// KeepUntil is until when the record is kept at least, whatever its retention.
	KeepUntil time.Time

	// Places are the task's places in lines (place.go), in the order in which it
	// took them. InLine says that it has not started since it took the last one.
	Places []Place
	InLine bool
	// Former is the carrier that a requeued task had: as long as that message is
	// there, what the task held in its lines before is its holder's to give back.
	Former uint64

	// Lone says that the record was created without a seal, as the success of a plain task: a page from before it
	// counts more than it does. See page.go.
	Lone bool

	// Revision is the record's revision in the bucket, 0 before it was created.
	// It is not part of the stored bytes.
	Revision uint64
	// Paged says that it was read out of a page, whose revision Revision is. Over is then the revision of the record that
	// there is besides, 0 for none. They are not part of the stored bytes either.
	Paged bool
	Over  uint64
}

// Limited is the way of a task through the limits that put it off.
type Limited struct {
	Times int `json:"times"` // that it was put off
	// By names the limit that put it off last; empty if that was a pause.
	By     string `json:"by,omitempty"`
	Passes []Pass `json:"passes,omitempty"`
}

// Pass is how far a task has come with one limit.
type Pass struct {
	Limit    string `json:"limit"`
	Revision uint64 `json:"revision"` // of the limit: under another one the pass is void
	// At is the task's place in the limit's line, before which it does not start; or,
	// when it is booked, its start.
	At     time.Time `json:"at"`
	Booked bool      `json:"booked,omitempty"`
	// Looks counts how often the task is to look before its place comes; Last says
	// that the next time is at the place.
	Looks int  `json:"looks,omitempty"`
	Last  bool `json:"last,omitempty"`
}

// recordMeta is the first line of a stored record.
type recordMeta struct {
	Meta
	State      pelton.State     `json:"state"`
	PayloadLen int              `json:"payload_len,omitempty"`
	ResultLen  int              `json:"result_len,omitempty"`
	RunAt      time.Time        `json:"run_at,omitzero"`
	StartedAt  time.Time        `json:"started_at,omitzero"`
	FinishedAt time.Time        `json:"finished_at,omitzero"`
	Attempt    int              `json:"attempt,omitempty"`
	Ended      int              `json:"ended,omitempty"`
	Crashes    int              `json:"crashes,omitempty"`
	Owner      string           `json:"owner,omitempty"`
	Carrier    uint64           `json:"carrier,omitempty"`
	Released   bool             `json:"released,omitempty"`
	Dropped    bool             `json:"letter_dropped,omitempty"`
	Deferrals  int              `json:"deferrals,omitempty"`
	DeferredAt time.Time        `json:"deferred_at,omitzero"`
	Limited    *Limited         `json:"limited,omitempty"`
	Progress   *pelton.Progress `json:"progress,omitempty"`
	Errors     []pelton.Failure `json:"errors,omitempty"`

	Unique      *pelton.Unique `json:"unique,omitempty"`
	KeyRevision uint64         `json:"key_revision,omitempty"`
	KeySpent    bool           `json:"key_spent,omitempty"`
	Replaced    bool           `json:"replaced,omitempty"`
	KeepUntil   time.Time      `json:"keep_until,omitzero"`
	Places      []Place        `json:"places,omitempty"`
	InLine      bool           `json:"in_line,omitempty"`
	Former      uint64         `json:"former,omitempty"`
	Lone        bool           `json:"lone,omitempty"`
}

// Envelope is the message that carries the record's task at its present epoch.
func (r *Record) Envelope() *Envelope { return &Envelope{Meta: r.Meta, Payload: r.Payload} }

// waitsForTime reports whether the task's message belongs into the schedule.
func (r *Record) waitsForTime() bool {
	return r.State == pelton.Scheduled || r.State == pelton.Retrying
}

// Task is the record as the world sees it at now: a scheduled or retrying task
// whose time has come reads queued.
func (r *Record) Task(now time.Time) *pelton.Task {
	t := &pelton.Task{
		ID: r.ID, Kind: r.Kind, Queue: r.Queue, Priority: r.Priority, State: r.State,
		Payload: r.Payload, Result: r.Result,
		Attempt: r.Attempt, MaxAttempts: r.MaxAttempts, Crashes: r.Crashes,
		Timeout: r.Timeout, Retention: r.Retention, Backoff: r.Backoff, Revision: r.Revision,
		CreatedAt: r.CreatedAt, RunAt: r.RunAt, ExpiresAt: r.ExpiresAt, StartedAt: r.StartedAt, FinishedAt: r.FinishedAt,
		Worker: r.Owner, Progress: r.Progress, Errors: r.Errors, RateKey: r.RateKey, Unique: r.Unique, Labels: r.Labels,
		ConcurrencyKey: r.ConcurrencyKey, Schedule: r.Schedule,
	}
	if r.waitsForTime() && !r.RunAt.After(now) {
		t.State = pelton.Queued
	}
	if n := len(r.Errors); n > 0 && r.State != pelton.Succeeded {
		t.Error = &r.Errors[n-1]
	}
	return t
}

// Fail appends a failure to the record's history, which keeps the last
// pelton.MaxErrors and only the newest stack, and stays within its size.
func (r *Record) Fail(f pelton.Failure) {
	f.Message, f.Stack = truncate(f.Message, maxMessage), truncate(f.Stack, maxStack)
	history := make([]pelton.Failure, 0, len(r.Errors)+1)
	for _, old := range r.Errors {
		old.Stack = ""
		history = append(history, old)
	}
	history = append(history, f)
	r.Errors = history[max(0, len(history)-pelton.MaxErrors):]
}

// truncate cuts s to at most n bytes of valid UTF-8.
func truncate(s string, n int) string {
	// Replacing makes a string up to twice as long, so it comes before cutting.
	s = strings.ToValidUTF8(s[:min(len(s), 2*n)], "\uFFFD")
	if len(s) <= n {
		return s
	}
	cut := n - len("…")
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}

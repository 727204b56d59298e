// Package history is what the actors of the fault suite write down, each in a
// file of its own outside the broker, and how it is read back.
package history

import (
	"time"

	"github.com/peltonq/pelton"
)

// Kind says what an event tells.
type Kind string

// The kinds of events.
const (
	EnqueueSent     Kind = "enqueue-sent"     // about to be sent, under Ref; a request that is repeated keeps it
	EnqueueOK       Kind = "enqueue-ok"       // 202, with the id
	EnqueueExisting Kind = "enqueue-existing" // 200, with the task that holds the unique key
	EnqueueUnknown  Kind = "enqueue-unknown"  // sent, and no answer that tells
	EnqueueRefused  Kind = "enqueue-refused"  // an answer, or a connection refused, by which nothing was enqueued; Task is what holds the unique key

	RunStart Kind = "run-start" // first act of a handler
	RunEnd   Kind = "run-end"   // last act of a handler before it returns
	CtxEnd   Kind = "ctx-end"   // the handler's ctx ended while it ran; Outcome is the cause

	LockTaken    Kind = "lock-taken"    // by a handler that asked at Began
	LockReleased Kind = "lock-released" // about to be given back
	LockLost     Kind = "lock-lost"     // the handler was told; Outcome is the cause

	CancelSent     Kind = "cancel-sent"
	CancelOK       Kind = "cancel-ok"       // 200, with the record
	CancelConflict Kind = "cancel-conflict" // 409
	CancelUnknown  Kind = "cancel-unknown"  // anything else

	RetrySent Kind = "retry-sent" // a task that is over was asked to run again; its record tells the rest

	HurrySent     Kind = "hurry-sent"     // a task that waits for a time was asked to run now
	HurryOK       Kind = "hurry-ok"       // 200, with the record
	HurryConflict Kind = "hurry-conflict" // 409
	HurryUnknown  Kind = "hurry-unknown"  // anything else

	Observe Kind = "observe" // the record as it was read
	Missing Kind = "missing" // 404

	TickDue Kind = "tick-due" // a tick that a schedule must bring, whatever happens
	TickRun Kind = "tick-run" // first act of the handler of a tick's task, at Wall

	FaultBegin Kind = "fault-begin" // Fault hits Target
	FaultEnd   Kind = "fault-end"
	Healed     Kind = "healed" // every fault is over, every process runs
)

// Outcome is how a handler ended, or why its ctx did.
type Outcome string

// The outcomes. The first four are the handler's own and count as attempts.
const (
	OK        Outcome = "ok"
	Failure   Outcome = "error"
	Panic     Outcome = "panic"
	Goexit    Outcome = "goexit"
	Snoozed   Outcome = "snoozed"
	Timeout   Outcome = "timeout"
	Cancelled Outcome = "cancelled"
	Fenced    Outcome = "fenced"
	LostLock  Outcome = "lost-lock"
	Shutdown  Outcome = "shutdown"
)

// NetworkFault begins the name of every fault that only the network has.
const NetworkFault = "net-"

// ExitFault is a task, named by the event, that ends its own process.
const ExitFault = "exit"

// Everyone is the Target of a fault that all workers feel.
const Everyone = "*"

// Event is one line of a history. At is stamped by Log.Write when it is zero.
type Event struct {
	At    int64     `json:"at"`              // nanoseconds of the clock of Now
	Began int64     `json:"began,omitempty"` // of the call whose answer this is, same clock
	Wall  time.Time `json:"wall"`
	Actor string    `json:"actor"`
	Kind  Kind      `json:"event"`

	Ref       string        `json:"ref,omitempty"` // the producer's own name of a task, also in its payload
	Task      pelton.ID     `json:"task,omitzero"`
	Retention time.Duration `json:"retention,omitempty"` // of an accepted task

	Key         string `json:"key,omitempty"`         // concurrency key, of an enqueue and of a start, or LineOf
	Unique      string `json:"unique,omitempty"`      // kind and unique key, of an enqueue and of a stored record
	Idempotency string `json:"idempotency,omitempty"` // key of the request
	// Terms are what else was asked for with the unique key; nil if nothing is known.
	Terms *pelton.Unique `json:"terms,omitempty"`

	Schedule string    `json:"schedule,omitempty"`
	Tick     time.Time `json:"tick,omitzero"` // nominal

	Lock  string `json:"lock,omitempty"` // name of what the handler holds
	Slots int    `json:"slots,omitempty"`
	Token uint64 `json:"token,omitempty"` // of the acquisition

	Run     string `json:"run,omitempty"` // name of the run; no other has it
	Attempt int    `json:"attempt,omitempty"`
	// Fence is the run's token: the revision under which its start was written. It is 0 for a
	// run that began without a record, unless its handler asked for the token.
	Fence     uint64    `json:"fence,omitempty"`
	Worker    string    `json:"worker,omitempty"`    // id of the worker, as records name it
	StartedAt time.Time `json:"started_at,omitzero"` // of the run, as records name it
	Outcome   Outcome   `json:"outcome,omitempty"`

	Record *Record `json:"record,omitempty"`

	Fault  string `json:"fault,omitempty"`
	Target string `json:"target,omitempty"` // an actor, or Everyone
	Note   string `json:"note,omitempty"`
}

// Few is the kind of which only so many may run at a time as the limit of its LineOf says.
const Few = "chaos.few"

// LineOf names those of whom so many may run at a time, of a task's kind and concurrency key: the key, or the kind Few.
func LineOf(kind, key string) string {
	if kind == Few {
		return "kind " + kind
	}
	return key
}

// Record is what was read of a task's record.
type Record struct {
	State    pelton.State `json:"state"`
	Revision uint64       `json:"revision"`
	// Stored says that this is the stored record. Over the API one that is
	// scheduled or retrying reads queued when its time has come.
	Stored bool `json:"stored,omitempty"`
	// Previous is the revision that a stored record replaced, 0 for the first one.
	Previous    uint64        `json:"previous,omitempty"`
	Attempt     int           `json:"attempt,omitempty"`
	Crashes     int           `json:"crashes,omitempty"`
	Worker      string        `json:"worker,omitempty"`
	Reason      pelton.Reason `json:"reason,omitempty"`   // of the last failure
	Replaced    bool          `json:"replaced,omitempty"` // cancelled in favour of another with its unique key
	RunAt       time.Time     `json:"run_at,omitzero"`
	StartedAt   time.Time     `json:"started_at,omitzero"`
	FinishedAt  time.Time     `json:"finished_at,omitzero"`
	ResultFence uint64        `json:"result_fence,omitempty"` // the fence that the stored result names
	ResultRun   string        `json:"result_run,omitempty"`   // the run that it names
}

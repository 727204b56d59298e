package pelton

import (
	"encoding/json"
	"slices"
	"time"
)

// Defaults of a task, and bounds that the broker's message size sets.
const (
	DefaultQueue       = "default"
	DefaultTimeout     = 5 * time.Minute
	DefaultMaxAttempts = 20
	DefaultRetention   = 24 * time.Hour
	FailedRetention    = 30 * 24 * time.Hour // of a failed task's record and its dead letter
	DefaultMaxCrashes  = 3                   // deliveries that may die with their worker before a task is poison
	MaxPayload         = 256 << 10           // bytes, of a payload and of a result
	MaxBatch           = 1000                // tasks in one batch
	IdempotencyTTL     = 24 * time.Hour      // how long an idempotency key is remembered
)

// Spec is what a producer asks for. Only Kind is required; the zero value of
// every other field means its default.
type Spec struct {
	Kind        string
	Payload     json.RawMessage // any JSON value, at most MaxPayload bytes, kept byte for byte; empty means no payload
	Queue       string          // DefaultQueue
	Priority    Priority        // Normal
	Delay       time.Duration   // ready that long after it was accepted
	RunAt       time.Time       // ready then; excludes Delay
	ExpiresAt   time.Time       // not started by then: expired; zero is never
	Timeout     time.Duration   // of one run, DefaultTimeout
	MaxAttempts int             // DefaultMaxAttempts
	Backoff     Backoff         // between attempts, where the handler does not say otherwise
	Retention   time.Duration   // of the finished task, DefaultRetention
	RateKey     string          // what rate limits per key count it under; empty is no key
	Labels      map[string]string
	Unique      *Unique // nil: any number of tasks like this one

	// IdempotencyKey makes repeating the request safe for IdempotencyTTL. Empty
	// means none. IdempotencyScope keeps the keys of callers apart who must not meet;
	// the HTTP API sets it.
	IdempotencyKey   string
	IdempotencyScope string
	// ConcurrencyKey puts the task into the line of its key, with the tasks of all
	// queues and kinds that have the same: they run one at a time, in the order in
	// which they came, or as many at a time as a limit says. At most 256 bytes; empty
	// is no key.
	ConcurrencyKey string
}

// Failure is one attempt that did not end well.
type Failure struct {
	Message string    `json:"message"`
	Reason  Reason    `json:"reason"`
	Attempt int       `json:"attempt"`
	At      time.Time `json:"at"`
	Stack   string    `json:"stack,omitempty"` // of a panic
}

// Progress is what a running handler last said of itself.
type Progress struct {
	Done    int64  `json:"done"`
	Total   int64  `json:"total"`
	Message string `json:"message,omitempty"`
}

// Task is a task as its record tells it. Absent values are zero and left out of
// the JSON form.
type Task struct {
	ID          ID
	Kind        string
	Queue       string
	Priority    Priority
	State       State
	Payload     json.RawMessage // byte for byte as it was given
	Result      json.RawMessage // byte for byte as the handler returned it
	Attempt     int             // number of the current or last attempt, 0 before the first start
	MaxAttempts int
	Crashes     int // deliveries that died with their worker
	Timeout     time.Duration
	Retention   time.Duration
	Backoff     Backoff // zero is the default
	Revision    uint64  // of the record; grows with every change
	CreatedAt   time.Time
	RunAt       time.Time
	ExpiresAt   time.Time
	StartedAt   time.Time
	FinishedAt  time.Time
	Worker      string // id of the worker that holds or last held it
	Progress    *Progress
	Error       *Failure  // the last one
	Errors      []Failure // the last MaxErrors, oldest first
	Unique      *Unique   // as it was asked for, with its defaults
	RateKey     string    // what rate limits per key count it under
	Labels      map[string]string
	// ConcurrencyKey names the line that the task waits in for its turn.
	ConcurrencyKey string
	// Schedule says which tick of which schedule it is of; nil for other tasks.
	Schedule *TaskSchedule
}

// MaxErrors is how many failures a task remembers.
const MaxErrors = 10

// taskJSON is the JSON form of a Task: durations are strings, absent is absent.
// Payload and result stand last so that AppendJSON can splice their bytes.
type taskJSON struct {
	ID          ID                `json:"id"`
	Kind        string            `json:"kind"`
	Queue       string            `json:"queue"`
	Priority    Priority          `json:"priority"`
	State       State             `json:"state"`
	Attempt     int               `json:"attempt"`
	MaxAttempts int               `json:"max_attempts"`
	Crashes     int               `json:"crashes"`
	Timeout     string            `json:"timeout,omitempty"`
	Retention   string            `json:"retention,omitempty"`
	Backoff     Backoff           `json:"backoff,omitzero"`
	Revision    uint64            `json:"revision"`
	CreatedAt   time.Time         `json:"created_at,omitzero"`
	RunAt       time.Time         `json:"run_at,omitzero"`
	ExpiresAt   time.Time         `json:"expires_at,omitzero"`
	StartedAt   time.Time         `json:"started_at,omitzero"`
	FinishedAt  time.Time         `json:"finished_at,omitzero"`
	Worker      string            `json:"worker,omitempty"`
	Progress    *Progress         `json:"progress,omitempty"`
	Error       *Failure          `json:"error,omitempty"`
	Errors      []Failure         `json:"errors,omitempty"`
	Unique      *Unique           `json:"unique,omitempty"`
	Key         string            `json:"concurrency_key,omitempty"`
	RateKey     string            `json:"rate_key,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Schedule    *TaskSchedule     `json:"schedule,omitempty"`
	Payload     json.RawMessage   `json:"payload,omitempty"`
	Result      json.RawMessage   `json:"result,omitempty"`
}

// AppendJSON appends the task's JSON form to dst with payload and result byte
// for byte. encoding/json would compact and escape them, which is why servers
// call this and not json.Marshal.
func (t *Task) AppendJSON(dst []byte) ([]byte, error) {
	dst = slices.Grow(dst, usualTaskJSON+len(t.Payload)+len(t.Result))
	meta, ok := t.appendUsual(dst)
	if !ok {
		var err error
		if meta, err = t.appendMeta(dst); err != nil {
			return dst, err
		}
	}
	dst = meta
	if len(t.Payload) > 0 {
		dst = append(append(dst, `,"payload":`...), t.Payload...)
	}
	if len(t.Result) > 0 {
		dst = append(append(dst, `,"result":`...), t.Result...)
	}
	return append(dst, '}'), nil
}

// appendMeta appends all but payload and result, without the closing brace.
func (t *Task) appendMeta(dst []byte) ([]byte, error) {
	form := taskJSON{
		ID: t.ID, Kind: t.Kind, Queue: t.Queue, Priority: t.Priority, State: t.State,
		Attempt: t.Attempt, MaxAttempts: t.MaxAttempts, Crashes: t.Crashes, Revision: t.Revision,
		CreatedAt: t.CreatedAt, RunAt: t.RunAt, ExpiresAt: t.ExpiresAt, StartedAt: t.StartedAt, FinishedAt: t.FinishedAt,
		Worker: t.Worker, Progress: t.Progress, Error: t.Error, Errors: t.Errors, RateKey: t.RateKey, Unique: t.Unique, Labels: t.Labels, Backoff: t.Backoff,
		Key: t.ConcurrencyKey, Schedule: t.Schedule,
	}
	if t.Timeout > 0 {
		form.Timeout = FormatDuration(t.Timeout)
	}
	if t.Retention > 0 {
		form.Retention = FormatDuration(t.Retention)
	}
	meta, err := json.Marshal(form)
	if err != nil {
		return dst, err
	}
	return append(dst, meta[:len(meta)-1]...), nil
}

// MarshalJSON is AppendJSON. Beware that json.Marshal compacts what it returns.
// The receiver is a value, or json.Marshal would pass over it for a Task that is
// not a pointer.
func (t Task) MarshalJSON() ([]byte, error) { return t.AppendJSON(nil) }

// UnmarshalJSON reads what AppendJSON writes. Unknown fields are ignored: within
// version 1 fields are only added.
func (t *Task) UnmarshalJSON(data []byte) error {
	var form taskJSON
	if err := json.Unmarshal(data, &form); err != nil {
		return err
	}
	*t = Task{
		ID: form.ID, Kind: form.Kind, Queue: form.Queue, Priority: form.Priority, State: form.State,
		Payload: form.Payload, Result: form.Result,
		Attempt: form.Attempt, MaxAttempts: form.MaxAttempts, Crashes: form.Crashes, Revision: form.Revision,
		CreatedAt: form.CreatedAt, RunAt: form.RunAt, ExpiresAt: form.ExpiresAt, StartedAt: form.StartedAt, FinishedAt: form.FinishedAt,
		Worker: form.Worker, Progress: form.Progress, Error: form.Error, Errors: form.Errors, RateKey: form.RateKey, Unique: form.Unique, Labels: form.Labels, Backoff: form.Backoff,
		ConcurrencyKey: form.Key, Schedule: form.Schedule,
	}
	var err error
	if form.Timeout != "" {
		if t.Timeout, err = ParseDuration(form.Timeout); err != nil {
			return err
		}
	}
	if form.Retention != "" {
		if t.Retention, err = ParseDuration(form.Retention); err != nil {
			return err
		}
	}
	return nil
}

// Err is nil for a task that has not ended or has succeeded, else a *TaskError.
func (t *Task) Err() error {
	if !t.State.Terminal() || t.State == Succeeded {
		return nil
	}
	return &TaskError{ID: t.ID, State: t.State, Failure: t.Error}
}

// Enqueued is what became of one spec: a task, or why there is none.
type Enqueued struct {
	Task *Task
	Err  error
	// Existing says that no task was enqueued: Task holds the unique key.
	Existing bool
	// Replayed says that Task was answered to an earlier request with the same
	// idempotency key.
	Replayed bool
}

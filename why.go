package pelton

import "time"

// WhyCode is a reason for which a task does not run, or what it does instead of
// waiting.
type WhyCode string

// The codes. Further ones may come.
const (
	WhyFinished       WhyCode = "finished"            // it is over
	WhyRunning        WhyCode = "running"             // it runs
	WhyWorkerLost     WhyCode = "worker_lost"         // it was started, and its worker shows no sign of life
	WhyScheduled      WhyCode = "scheduled"           // waits for its time
	WhyBackingOff     WhyCode = "backing_off"         // waits after a failed attempt
	WhyRateLimited    WhyCode = "rate_limited"        // a rate limit put it off
	WhyUnknownKind    WhyCode = "unknown_kind"        // put off because a worker did not know its kind
	WhyWaitingForKey  WhyCode = "waiting_for_key"     // others of its concurrency key have their turn
	WhyWaitingForKind WhyCode = "waiting_for_kind"    // as many of its kind run as a limit lets
	WhyExpiring       WhyCode = "expiring"            // its expires_at passed: it ends when a worker comes to it
	WhyPausedQueue    WhyCode = "paused_queue"        // its priority of the queue is paused
	WhyNoWorkerQueue  WhyCode = "no_worker_for_queue" // no worker serves the queue
	WhyNoWorkerKind   WhyCode = "no_worker_for_kind"  // none of the queue's workers knows the kind
	WhyPausedKind     WhyCode = "paused_kind"         // a handler paused the kind for the fleet
	WhyPausedRateKey  WhyCode = "paused_rate_key"     // a handler paused the rate key for the fleet
	WhyLaneFull       WhyCode = "lane_full"           // max_running of its queue's priority is reached
	WhyWaitingBehind  WhyCode = "waiting_behind"      // others are before it
	WhyWorkersBusy    WhyCode = "workers_busy"        // no worker that could run it has a free slot
	WhyQueueRate      WhyCode = "queue_rate"          // the queue's rate spaces its starts
	WhyReady          WhyCode = "ready"               // nothing is known that keeps it from starting
)

// MaxWhyHolders bounds the holders that a WhyReason names.
const MaxWhyHolders = 100

// WhyCodes lists all codes, in the order in which reasons bind.
func WhyCodes() []WhyCode {
	return []WhyCode{
		WhyFinished, WhyRunning, WhyWorkerLost,
		WhyScheduled, WhyBackingOff, WhyRateLimited, WhyUnknownKind, WhyWaitingForKey, WhyWaitingForKind,
		WhyExpiring, WhyPausedQueue, WhyNoWorkerQueue, WhyNoWorkerKind, WhyPausedKind, WhyPausedRateKey,
		WhyLaneFull, WhyWaitingBehind, WhyWorkersBusy, WhyQueueRate, WhyReady,
	}
}

// Why says why a task does not run. It is put together from several reads, so it is
// what was so a moment ago, and not all of it at the same moment.
type Why struct {
	TaskID ID    `json:"task_id"`
	State  State `json:"state"`
	// Code and Message are those of the first reason.
	Code    WhyCode `json:"code"`
	Message string  `json:"message"`
	// Estimate is when the task may start, if nothing changes. Zero where that
	// depends on others.
	Estimate time.Time `json:"estimate,omitzero"`
	// Reasons are all that apply, the one that binds first before the others. There is
	// at least one.
	Reasons []WhyReason `json:"reasons"`
}

// WhyReason is one reason with its numbers. Fields that do not belong to its code
// are zero.
type WhyReason struct {
	Code    WhyCode `json:"code"`
	Message string  `json:"message"` // for people

	Until  time.Time `json:"until,omitzero"`   // when the reason is over, as far as that is known
	LookAt time.Time `json:"look_at,omitzero"` // when a task that was put off is looked at again
	Since  time.Time `json:"since,omitzero"`

	Attempt     int `json:"attempt,omitempty"` // that failed, or runs
	MaxAttempts int `json:"max_attempts,omitempty"`
	Deferrals   int `json:"deferrals,omitempty"` // times in a row that no worker knew the kind

	Queue    string     `json:"queue,omitempty"`
	Priority Priority   `json:"priority,omitempty"`
	Kind     string     `json:"kind,omitempty"`
	Key      string     `json:"key,omitempty"`    // concurrency key, or rate key of a pause
	Limit    string     `json:"limit,omitempty"`  // name of the rate limit
	Worker   string     `json:"worker,omitempty"` // that runs the task, or ran it
	Rate     *RateLimit `json:"rate,omitempty"`

	// Running of at most MaxRunning have a turn, a place in the lane, or a slot.
	Running    int `json:"running,omitempty"`
	MaxRunning int `json:"max_running,omitempty"`
	// Holders are the tasks that have the turns of a line, MaxWhyHolders at most.
	Holders []ID `json:"holders,omitempty"`
	// Ahead is how many tasks are before this one. Nil is unknown.
	Ahead *Between `json:"ahead,omitempty"`
	// Workers is how many workers are there, or could run the task.
	Workers int `json:"workers,omitempty"`
}

// Between is a number of which bounds are known; where they are equal, it is exact.
type Between struct {
	AtLeast uint64 `json:"at_least"`
	AtMost  uint64 `json:"at_most"`
}

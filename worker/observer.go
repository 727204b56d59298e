package worker

import (
	"time"

	"github.com/peltonq/pelton"
)

// Observer is told what a worker does, for metrics. Its methods are called from
// many goroutines and must not block.
type Observer interface {
	// Started: a run begins, wait after the task became ready.
	Started(task *pelton.Task, wait time.Duration)
	// Ended: a run is over after took.
	Ended(task *pelton.Task, outcome Outcome, took time.Duration)
	// Crashed: a delivery had died with its worker, which this one found out.
	Crashed(task *pelton.Task)
	// PutOff: a task that could have started waits until its RunAt, because of the
	// rate limit of that name, or of a "pause".
	PutOff(task *pelton.Task, limit string)
}

// Outcome is how a run ended, as seen by the worker that ran it.
type Outcome string

// The outcomes of a run.
const (
	OutcomeSucceeded Outcome = "succeeded"
	OutcomeRetried   Outcome = "retried"
	OutcomeFailed    Outcome = "failed"
	OutcomeSnoozed   Outcome = "snoozed"
	OutcomeReleased  Outcome = "released"  // given back by a worker that stops
	OutcomeCancelled Outcome = "cancelled" // its result was discarded
	OutcomeLost      Outcome = "lost"      // the lease was over, nothing was written
)

// Stats is what a worker's slots do at one moment.
type Stats struct {
	Slots  int // in total
	Busy   int // with a handler that runs
	Leaked int // with a handler that ignores the end of its ctx
}

// Stats counts the worker's slots.
func (w *Worker) Stats() Stats {
	w.mu.Lock()
	defer w.mu.Unlock()
	return Stats{Slots: w.cfg.Concurrency, Busy: len(w.runs), Leaked: w.leaked}
}

// nobody is the Observer of a worker that has none.
type nobody struct{}

func (nobody) Started(*pelton.Task, time.Duration)        {}
func (nobody) Ended(*pelton.Task, Outcome, time.Duration) {}
func (nobody) Crashed(*pelton.Task)                       {}
func (nobody) PutOff(*pelton.Task, string)                {}

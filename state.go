package pelton

import "slices"

// State is where a task stands.
type State string

// The states. The last four are terminal: only an explicit requeue leaves them.
const (
	Scheduled State = "scheduled" // waits for its time, or was put off without an attempt
	Queued    State = "queued"    // ready to run
	Running   State = "running"   // a worker holds it
	Retrying  State = "retrying"  // waits after a failed attempt
	Succeeded State = "succeeded" // terminal: a handler returned its result
	Failed    State = "failed"    // terminal: out of attempts, discarded or poisonous; kept as a dead letter
	Cancelled State = "cancelled" // terminal: somebody asked for that
	Expired   State = "expired"   // terminal: its expires_at passed before it ran
)

// States lists all states in the order of a task's life.
func States() []State {
	return []State{Scheduled, Queued, Running, Retrying, Succeeded, Failed, Cancelled, Expired}
}

// Terminal reports whether the task is over.
func (s State) Terminal() bool {
	switch s {
	case Succeeded, Failed, Cancelled, Expired:
		return true
	case Scheduled, Queued, Running, Retrying:
		return false
	default:
		return false
	}
}

// Valid reports whether s is one of the eight states.
func (s State) Valid() bool { return slices.Contains(States(), s) }

// CanBecome reports whether a record may go from s to next in one write. A
// state may follow itself where a record is rewritten in place: progress and
// takeover (running), deferral (scheduled), a time that is brought forward (scheduled,
// retrying).
//
// A scheduled or retrying record goes straight to running: the broker fires the
// waiting message by itself, and nobody writes "queued" in between.
func (s State) CanBecome(next State) bool {
	switch s {
	case Scheduled, Retrying, Queued:
		switch next {
		case Running, Cancelled, Expired, Failed, Scheduled:
			return true
		case Queued:
			return s != Queued
		case Retrying:
			return s == Retrying
		case Succeeded:
			return false
		default:
			return false
		}
	case Running:
		return next.Valid()
	case Succeeded, Failed, Cancelled, Expired:
		return next == Queued // the explicit requeue
	default:
		return false
	}
}

// Package failpoint lets the fault suite end a process between two writes of the
// protocol, and switch a rule of it off to see whether the suite notices. It does
// so in builds with the tag "chaos" only; in every other build At does nothing,
// Broken is a constant, and the compiler drops both.
package failpoint

import "slices"

// Point is a gap between two writes. Its name says which step, and what was
// written last.
type Point string

// The gaps of a worker.
const (
	StartRecorded      Point = "start.recorded"      // running; the handler has not begun
	FinishRecorded     Point = "finish.recorded"     // terminal; not acknowledged, no dead letter
	FailBuried         Point = "fail.buried"         // the dead letter is kept; not acknowledged
	PutBackRecorded    Point = "put-back.recorded"   // retrying or scheduled; the next epoch has no message
	PutBackPublished   Point = "put-back.published"  // the next epoch waits; the last one is not acknowledged
	ReleaseRecorded    Point = "release.recorded"    // queued again; not given back to the broker
	RepublishPublished Point = "republish.published" // what an earlier crash left was published; not acknowledged
)

// The gaps of a worker that runs a plain task without a record.
const (
	FreshStarted  Point = "fresh.started"  // nothing is written; the handler has not begun
	FreshPromoted Point = "fresh.promoted" // running, for the first time; the worker does not know
	FreshFinished Point = "fresh.finished" // succeeded is all that was ever written; not acknowledged
	SegmentSealed Point = "segment.sealed" // there will be no more pages; the record that needs that is not written
)

// The gaps of a server.
const (
	EnqueueRecorded  Point = "enqueue.recorded"  // no message yet, nobody was told
	EnqueuePublished Point = "enqueue.published" // nobody was told
	CancelRecorded   Point = "cancel.recorded"   // the holder was not told, the message is still there
	RequeueRecorded  Point = "requeue.recorded"  // no message yet, the dead letter is still there
	RequeuePublished Point = "requeue.published" // the dead letter is still there
	RunRecorded      Point = "run.recorded"      // the time was brought forward; the message waits in the schedule
	RunPublished     Point = "run.published"     // nobody was told
)

// The gaps of what excludes: lines, unique keys and named locks.
const (
	LinePlaced    Point = "line.placed"    // the task has its place; its line was not settled
	LinePublished Point = "line.published" // the next task's message is in its lane; it has no turn yet
	LineGranted   Point = "line.granted"   // it has its turn; its place is still there
	LineSeated    Point = "line.seated"    // runs have turns, and have not started
	LineReleased  Point = "line.released"  // a turn was given back, and the next one granted, if any
	LineSettled   Point = "line.settled"   // places are deleted; arrivals and messages not acknowledged
	RelayTaken    Point = "relay.taken"    // tasks have their turn by the message of the one before; none has started
	RelayPassed   Point = "relay.passed"   // a task of a relay is over; the next one has not started
	RelayShort    Point = "relay.short"    // those who wait behind a long task of a relay are given back; the task runs
	RelayKept     Point = "relay.kept"     // the turn is left to a task that is not over; the message is not acknowledged
	KeyTaken      Point = "key.taken"      // the unique key's lock names a task that has no record
	KeyRecorded   Point = "key.recorded"   // the task has its record, no message
	KeyPublished  Point = "key.published"  // nobody was told
	KeyEnded      Point = "key.ended"      // the task is over and acknowledged; the lock names it
	KeyReleased   Point = "key.released"   // the lock is gone
	LockTaken     Point = "lock.taken"     // a permit is held; the handler does not know
	LockRenewed   Point = "lock.renewed"   // for another lease; the holder does not know
	LockReleased  Point = "lock.released"  // the handler does not know
)

// The gaps of a server that fires a tick, in their order.
const (
	TickRead      Point = "tick.read"      // nothing is written
	TickRecorded  Point = "tick.recorded"  // the record; the task has no message yet
	TickEnqueued  Point = "tick.enqueued"  // the task; the schedule's state does not know
	TickAdvanced  Point = "tick.advanced"  // the state; the next tick has no message
	TickPublished Point = "tick.published" // the next tick; this one is not acknowledged
)

// AckedFirst is a gap that only the broken rule AckFirst has.
const AckedFirst Point = "ack.first"

// OfWorkers lists the gaps that a worker process goes through.
func OfWorkers() []Point {
	return []Point{
		StartRecorded, FinishRecorded, FailBuried, PutBackRecorded, PutBackPublished, ReleaseRecorded, RepublishPublished,
		FreshStarted, FreshPromoted, FreshFinished, SegmentSealed,
	}
}

// OfServers lists the gaps that a server process goes through.
func OfServers() []Point {
	return []Point{EnqueueRecorded, EnqueuePublished, CancelRecorded, RequeueRecorded, RequeuePublished, RunRecorded, RunPublished}
}

// OfWorkersExclusion lists the gaps of what excludes that a worker goes through.
func OfWorkersExclusion() []Point {
	return []Point{LinePublished, LineGranted, LineSeated, LineReleased, LineSettled, RelayTaken, RelayPassed, RelayShort, RelayKept, KeyEnded, KeyReleased, LockTaken, LockRenewed, LockReleased}
}

// OfServersExclusion lists the gaps of what excludes that a server goes through.
func OfServersExclusion() []Point {
	return []Point{LinePlaced, KeyTaken, KeyRecorded, KeyPublished}
}

// All lists all gaps.
func All() []Point {
	return slices.Concat(OfWorkers(), OfServers(), OfWorkersExclusion(), OfServersExclusion(), OfTicks(), OfGrowth(), []Point{AckedFirst})
}

// The gaps of a server that makes more shards.
const (
	ShardMade   Point = "shard.made"   // a stream of a new shard is there; others are not, or nobody knows of it
	ShardsReady Point = "shards.ready" // all streams and lanes are there; nobody knows of them
)

// OfGrowth lists the gaps of a server that makes more shards.
func OfGrowth() []Point { return []Point{ShardMade, ShardsReady} }

// OfTicks lists the gaps that a server goes through that fires a tick.
func OfTicks() []Point {
	return []Point{TickRead, TickRecorded, TickEnqueued, TickAdvanced, TickPublished}
}

// Rule is a rule of the protocol that can be switched off.
type Rule string

// The rules, named by what a process does without them.
const (
	AckFirst    Rule = "ack-first"    // acknowledges before the outcome is recorded
	NoCAS       Rule = "no-cas"       // writes records whatever their revision is
	NoFence     Rule = "no-fence"     // goes on without contact to the broker
	NoEpoch     Rule = "no-epoch"     // starts messages of earlier epochs
	NoCarrier   Rule = "no-carrier"   // starts second copies of a message
	NoRepublish Rule = "no-republish" // drops what was put back without its message
	CrashBurns  Rule = "crash-burns"  // counts a crash as an attempt
	NoHandOn    Rule = "no-hand-on"   // gives a turn back without calling the next in line
	KeyBlind    Rule = "key-blind"    // takes a unique key whether or not its holder is over
	NoRenewal   Rule = "no-renewal"   // holds locks without renewing them
	RelayBlind  Rule = "relay-blind"  // starts the next task of a relay without a look at its record
	TurnBlind   Rule = "turn-blind"   // gives runs of a kind with a limit turns though there is no room
	RelayLost   Rule = "relay-lost"   // drops the message of a relay whose tasks are not over
)

// The rules of tasks without a record.
const (
	NoSecondLook Rule = "no-second-look" // takes a task for gone that has just got its record
	SeedBlind    Rule = "seed-blind"     // takes any message under an id's sequence for the task's
	NoHorizon    Rule = "no-horizon"     // believes a restarted broker that it hands something out for the first time
	AllFresh     Rule = "all-fresh"      // starts redeliveries as if nobody had had them
	NoPromotion  Rule = "no-promotion"   // never writes that a plain task runs
	NoSeal       Rule = "no-seal"        // creates records while there may be pages
	SealBlind    Rule = "seal-blind"     // creates records without a look at the pages that there are
)

// OwnClock decides about ticks by the process's own clock. It is a rule of schedules,
// which the suites of tasks do not have.
const OwnClock Rule = "own-clock"

// Rules lists the rules of tasks that can be switched off.
func Rules() []Rule {
	return []Rule{
		AckFirst, NoCAS, NoFence, NoEpoch, NoCarrier, NoRepublish, CrashBurns, NoHandOn, KeyBlind, TurnBlind, NoRenewal, RelayBlind, RelayLost,
		NoSecondLook, SeedBlind, NoHorizon, AllFresh, NoPromotion, NoSeal, SealBlind,
	}
}

const (
	// EnvPoint names the variable that holds where the process is to end, and at
	// which pass: "finish.recorded:3".
	EnvPoint = "PELTON_FAILPOINT"
	// EnvBroken names the variable that holds the rules that are off, with commas.
	EnvBroken = "PELTON_BROKEN"
	// EnvClock names the variable that holds by how much the clock of the process that
	// ticks could see is wrong: "1h", "-1h".
	EnvClock = "PELTON_CLOCK"
	// ExitCode is that of a process that ended at its point.
	ExitCode = 43
)

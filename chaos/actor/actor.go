package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/chaos/history"
	"github.com/peltonq/pelton/worker"
)

const (
	// exitCode tells the suite that a task ended this process.
	exitCode = 42
	// soon is when a failed attempt is repeated.
	soon = 200 * time.Millisecond
	// maxHog bounds the memory of one task, in MiB.
	maxHog = 256
)

var errPlanned = errors.New("as planned")

// plan is the payload of every task of the suite.
type plan struct {
	Ref   string `json:"ref"`
	MS    int    `json:"ms"`      // how long a run takes, in milliseconds
	Times int    `json:"times"`   // how many attempts (of exit: starts) misbehave before one is good
	MiB   int    `json:"mib"`     // what a hog takes
	Wait  int    `json:"wait_ms"` // from a failed attempt to the next, in milliseconds; 0 is soon
	Lock  string `json:"lock"`    // what it works under
	Slots int    `json:"slots"`   // of the lock; 0 is 1
	// Bare runs do not ask for their fence, so that those of plain tasks have no record
	// at first. Quick ones never ask.
	Bare bool `json:"bare"`
}

// actor writes down what its handlers do.
type actor struct {
	dir  string
	log  *history.Log
	runs atomic.Int64
}

// handler does what its kind does, and returns how it ends.
type handler func(ctx context.Context, a *actor, r *run) error

// run is one start of a handler.
type run struct {
	plan
	task  *pelton.Task
	name  string
	fence uint64
}

func (a *actor) mux() *worker.Mux {
	mux := worker.NewMux()
	for kind, do := range map[string]handler{
		"chaos.quick": quick, "chaos.sleep": sleep, history.Few: sleep, "chaos.fail": fail, "chaos.panic": panics, "chaos.goexit": goexit,
		"chaos.exit": exit, "chaos.hang": hang, "chaos.deaf": deaf, "chaos.hog": hog, "chaos.snooze": snooze, "chaos.doom": doom,
		"chaos.locked": locked,
	} {
		mux.Handle(kind, worker.HandlerFunc(func(ctx context.Context, task *pelton.Task) (json.RawMessage, error) {
			return a.serve(ctx, task, do)
		}))
	}
	return mux
}

// serve writes the first and the last act of a run, and the end of its ctx.
func (a *actor) serve(ctx context.Context, task *pelton.Task, do handler) (json.RawMessage, error) {
	// The revision is that of the running record, if there is one.
	r := &run{task: task, name: fmt.Sprintf("%s#%d", a.log.Actor(), a.runs.Add(1)), fence: task.Revision}
	if err := json.Unmarshal(task.Payload, &r.plan); err != nil {
		return nil, pelton.Discard(fmt.Errorf("payload: %w", err))
	}
	if !r.Bare && task.Kind != "chaos.quick" {
		r.fence = worker.Fence(ctx)
	}
	a.write(r, history.RunStart, "")
	defer context.AfterFunc(ctx, func() { a.write(r, history.CtxEnd, outcome(context.Cause(ctx))) })()
	err := do(ctx, a, r)
	a.write(r, history.RunEnd, outcome(err))
	if err != nil {
		return nil, err
	}
	return json.Marshal(map[string]any{"run": r.name, "fence": r.fence, "ref": r.Ref})
}

// write appends an event of a run. A history that cannot be written is worthless,
// so the process ends.
func (a *actor) write(r *run, kind history.Kind, o history.Outcome) {
	a.tell(r, history.Event{Kind: kind, Outcome: o})
}

// tell is write with more to say.
func (a *actor) tell(r *run, e history.Event) {
	e.Ref, e.Task, e.Attempt, e.Key = r.Ref, r.task.ID, r.task.Attempt, history.LineOf(r.task.Kind, r.task.ConcurrencyKey)
	e.Run, e.Fence, e.Worker, e.StartedAt = r.name, r.fence, r.task.Worker, r.task.StartedAt
	if err := a.log.Write(e); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func outcome(err error) history.Outcome {
	var d *pelton.Directive
	switch {
	case err == nil:
		return history.OK
	case errors.Is(err, pelton.ErrCancelled):
		return history.Cancelled
	case errors.Is(err, pelton.ErrFenced):
		return history.Fenced
	case errors.Is(err, pelton.ErrLockLost):
		return history.LostLock
	case errors.Is(err, pelton.ErrShutdown):
		return history.Shutdown
	case errors.Is(err, pelton.ErrTimeout):
		return history.Timeout
	case errors.As(err, &d) && d.Verb == pelton.DirectiveSnooze:
		return history.Snoozed
	default:
		return history.Failure
	}
}

// misbehaves reports whether this attempt is one of those that do.
func (r *run) misbehaves() bool { return r.task.Attempt <= r.Times }

func quick(context.Context, *actor, *run) error { return nil }

func sleep(ctx context.Context, _ *actor, r *run) error {
	timer := time.NewTimer(time.Duration(r.MS) * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// fail fails at once; an attempt that is good takes its time.
func fail(ctx context.Context, a *actor, r *run) error {
	if r.misbehaves() {
		wait := soon
		if r.Wait > 0 {
			wait = time.Duration(r.Wait) * time.Millisecond
		}
		return pelton.RetryAfter(wait, errPlanned)
	}
	return sleep(ctx, a, r)
}

func snooze(ctx context.Context, a *actor, r *run) error {
	if err := sleep(ctx, a, r); err != nil || !a.again(r) {
		return err
	}
	return pelton.Snooze(soon)
}

// doom fails the task for good, until somebody has retried it often enough.
func doom(_ context.Context, a *actor, r *run) error {
	if a.again(r) {
		return pelton.Discard(errPlanned)
	}
	return nil
}

func panics(ctx context.Context, a *actor, r *run) error {
	if err := sleep(ctx, a, r); err != nil || !r.misbehaves() {
		return err
	}
	a.write(r, history.RunEnd, history.Panic)
	panic(errPlanned)
}

func goexit(ctx context.Context, a *actor, r *run) error {
	if err := sleep(ctx, a, r); err != nil || !r.misbehaves() {
		return err
	}
	a.write(r, history.RunEnd, history.Goexit)
	runtime.Goexit()
	return nil
}

// exit ends the process, with all that runs in it.
func exit(ctx context.Context, a *actor, r *run) error {
	if err := sleep(ctx, a, r); err != nil || !a.again(r) {
		return err
	}
	err := a.log.Write(history.Event{Kind: history.FaultBegin, Fault: history.ExitFault, Target: a.log.Actor(), Task: r.task.ID})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(exitCode)
	return nil
}

// hang does not care about its ctx.
func hang(ctx context.Context, _ *actor, r *run) error {
	if !r.misbehaves() {
		return nil
	}
	timer := time.NewTimer(time.Duration(r.MS) * time.Millisecond)
	defer timer.Stop()
	<-timer.C
	return context.Cause(ctx) // too late for anybody to listen
}

// deaf does not care about its ctx either, and says in the end that all is well. Further starts are done at once.
func deaf(_ context.Context, a *actor, r *run) error {
	if !a.again(r) {
		return nil
	}
	timer := time.NewTimer(time.Duration(r.MS) * time.Millisecond)
	defer timer.Stop()
	<-timer.C
	return nil
}

// hog takes memory, touches every page of it and holds it for a while.
func hog(ctx context.Context, a *actor, r *run) error {
	memory := make([]byte, min(r.MiB, maxHog)<<20)
	for i := 0; i < len(memory); i += 4096 {
		memory[i] = 1
	}
	err := sleep(ctx, a, r)
	runtime.KeepAlive(memory)
	return err
}

// again reports whether fewer than Times starts of the task, in all processes,
// asked this before. It leaves a mark for each.
func (a *actor) again(r *run) bool {
	for n := range r.Times {
		name := filepath.Join(a.dir, fmt.Sprintf("%s.%d.mark", r.task.ID, n))
		mark, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600) //nolint:gosec // a file of the suite's folder
		if err == nil {
			_ = mark.Close()
			return true
		}
	}
	return false
}

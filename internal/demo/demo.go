// Package demo has the kinds that --demo serves: tasks that show what a worker
// does without any code of one's own. They are meant for the machine of whoever
// tries Pelton out; do not serve them where strangers may enqueue.
package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/worker"
)

// The demo kinds.
const (
	Echo  = "demo.echo"  // any payload → the same bytes
	Sleep = "demo.sleep" // {"ms":N} → {"ms":N}; honours ctx, reports progress
	Fail  = "demo.fail"  // {"times":N,"message":"…"} → the attempt's number, after N failed ones
	Panic = "demo.panic" // {"message":"…"} → a panic
	Stuck = "demo.stuck" // {"ms":N} → {"ms":N}; ignores ctx
	Image = "demo.image" // {"path":"…","width":N} → {"path","width","height","bytes"} of a thumbnail beside the file
	Fetch = "demo.fetch" // {"url":"…"} → {"status":200,"bytes":1234}
	Lock  = "demo.lock"  // {"name":"…","slots":N,"ms":N} → {"token":N}; holds that lock, honours ctx
)

// Kinds lists the demo kinds.
func Kinds() []string { return []string{Echo, Sleep, Fail, Panic, Stuck, Image, Fetch, Lock} }

// Config of the demo kinds. The zero value is ready for use.
type Config struct {
	// FetchTimeout bounds one call of demo.fetch, redirects and body included.
	// Zero means 30 s; the task's own timeout bounds it as well.
	FetchTimeout time.Duration
}

const defaultFetchTimeout = 30 * time.Second

// Register adds all demo kinds to mux. It panics if one is there already.
func Register(mux *worker.Mux, cfg Config) {
	if cfg.FetchTimeout <= 0 {
		cfg.FetchTimeout = defaultFetchTimeout
	}
	mux.Handle(Echo, worker.HandlerFunc(echo))
	worker.Handle(mux, pelton.NewKind[duration, duration](Sleep), sleep)
	mux.Handle(Fail, worker.HandlerFunc(fail))
	worker.HandleFunc(mux, pelton.NewKind[panicArgs, struct{}](Panic), panics)
	worker.Handle(mux, pelton.NewKind[duration, duration](Stuck), stuck)
	worker.Handle(mux, pelton.NewKind[imageArgs, imageResult](Image), thumbnail, worker.CPUBound())
	worker.Handle(mux, pelton.NewKind[fetchArgs, fetchResult](Fetch), newFetcher(cfg.FetchTimeout).fetch)
	worker.Handle(mux, pelton.NewKind[lockArgs, lockResult](Lock), lock)
}

// echo returns its payload byte for byte.
func echo(_ context.Context, task *pelton.Task) (json.RawMessage, error) { return task.Payload, nil }

// maxSleep is the longest that demo.sleep and demo.stuck last.
const maxSleep = 24 * time.Hour

// duration is payload and result of demo.sleep and demo.stuck.
type duration struct {
	MS int64 `json:"ms"`
}

// checked is the duration, or a discard if it is out of range.
func (d duration) checked() (time.Duration, error) {
	if d.MS < 0 || d.MS > maxSleep.Milliseconds() {
		return 0, pelton.Discard(fmt.Errorf("%w: ms %d is not between 0 and %d", pelton.ErrInvalid, d.MS, maxSleep.Milliseconds()))
	}
	return time.Duration(d.MS) * time.Millisecond, nil
}

// progressEvery is how often a sleeper of d reports: ten times, but neither so
// often that short tasks are all reports nor so rarely that long ones look dead.
func progressEvery(d time.Duration) time.Duration {
	return min(max(d/10, 500*time.Millisecond), 5*time.Second)
}

// sleep waits, reports how many milliseconds are over, and ends with ctx.
func sleep(ctx context.Context, args duration) (duration, error) {
	total, err := args.checked()
	if err != nil {
		return duration{}, err
	}
	start := time.Now()
	over := time.NewTimer(total)
	defer over.Stop()
	report := time.NewTicker(progressEvery(total))
	defer report.Stop()
	for {
		select {
		case <-over.C:
			return args, nil
		case <-ctx.Done():
			return duration{}, fmt.Errorf("sleep of %s: %w", total, context.Cause(ctx))
		case <-report.C:
			worker.Progress(ctx, min(time.Since(start).Milliseconds(), args.MS), args.MS, "sleeping")
		}
	}
}

// stuck waits like sleep, deaf to its ctx.
func stuck(_ context.Context, args duration) (duration, error) {
	total, err := args.checked()
	if err != nil {
		return duration{}, err
	}
	<-time.After(total)
	return args, nil
}

type failArgs struct {
	Times   int    `json:"times"`
	Message string `json:"message"`
}

// fail fails its first attempts and then returns the attempt's number. It is
// untyped because that number is in the task.
func fail(_ context.Context, task *pelton.Task) (json.RawMessage, error) {
	args := failArgs{Message: "failing as told"}
	if len(task.Payload) > 0 {
		if err := json.Unmarshal(task.Payload, &args); err != nil {
			return nil, worker.WithReason(pelton.ReasonPayload, fmt.Errorf("decode payload: %w", err))
		}
	}
	if task.Attempt <= args.Times {
		return nil, errors.New(args.Message)
	}
	return json.Marshal(task.Attempt)
}

type panicArgs struct {
	Message string `json:"message"`
}

// panics does what its name says.
func panics(_ context.Context, args panicArgs) error {
	if args.Message == "" {
		args.Message = "demo.panic"
	}
	panic(args.Message)
}

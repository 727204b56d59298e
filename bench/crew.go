package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"
)

// report is what a worker process has done since it began, one line of JSON on its
// stdout whenever that changed. Times are Unix nanoseconds.
type report struct {
	Count int   `json:"count"` // tasks whose handler ended
	First int64 `json:"first"` // the first of them
	Last  int64 `json:"last"`
	// Latencies, in nanoseconds from the call that enqueued to the handler, are those
	// since the report before. Only tasks with a time in their payload have one.
	Latencies []int64 `json:"latencies,omitempty"`
}

// tally counts what the handlers of this process do.
type tally struct {
	mu      sync.Mutex
	r       report
	changed bool
}

// handled is the handler of every contestant that is written in Go: it does nothing
// but count. Sent is the time in the payload, 0 if there is none.
func (t *tally) handled(sent int64) {
	now := time.Now().UnixNano()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.r.Count++; t.r.Count == 1 {
		t.r.First = now
	}
	t.r.Last, t.changed = now, true
	if sent != 0 {
		t.r.Latencies = append(t.r.Latencies, now-sent)
	}
}

// tell hands each change to heard, every 5 ms, until ctx ends.
func (t *tally) tell(ctx context.Context, heard func(report)) {
	pace := time.NewTicker(5 * time.Millisecond)
	defer pace.Stop()
	for ctx.Err() == nil {
		select {
		case <-pace.C:
		case <-ctx.Done():
		}
		t.mu.Lock()
		r, changed := t.r, t.changed
		t.r.Latencies, t.changed = nil, false
		t.mu.Unlock()
		if changed {
			heard(r)
		}
	}
}

// payload is 128 bytes of JSON, as in the comparisons of docs/performance.md.
var payload = padded(`{"data":"`)

func padded(head string) []byte {
	tail := `"}`
	return []byte(head + string(bytes.Repeat([]byte("x"), 128-len(head)-len(tail))) + tail)
}

const stamp = `{"t":`

// stamped is a payload of the same size that tells when it was sent.
func stamped(at time.Time) []byte {
	return padded(stamp + strconv.FormatInt(at.UnixNano(), 10) + `,"data":"`)
}

// sentAt reads what stamped wrote, without decoding JSON.
func sentAt(payload []byte) int64 {
	rest, found := bytes.CutPrefix(payload, []byte(stamp))
	if !found {
		return 0
	}
	digits, _, _ := bytes.Cut(rest, []byte(","))
	n, _ := strconv.ParseInt(string(bytes.TrimSpace(digits)), 10, 64) // a database may add the space
	return n
}

// crew are the workers of one measurement and what they said.
type crew struct {
	mu      sync.Mutex
	reports map[int]report
	took    []float64 // latencies in ms
	pids    []int     // of worker processes
	changed chan struct{}
	failed  chan error
}

func newCrew() *crew {
	return &crew{reports: map[int]report{}, changed: make(chan struct{}, 1), failed: make(chan error, 16)}
}

func (c *crew) heard(worker int, r report) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ns := range r.Latencies {
		c.took = append(c.took, float64(ns)/1e6)
	}
	r.Latencies = nil
	c.reports[worker] = r
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// total sums up: how many were handled, and when the first and the last.
func (c *crew) total() (n int, first, last time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.reports {
		if n += r.Count; first.IsZero() || r.First < first.UnixNano() {
			first = time.Unix(0, r.First)
		}
		if r.Last > last.UnixNano() || last.IsZero() {
			last = time.Unix(0, r.Last)
		}
	}
	return n, first, last
}

// await waits until the workers have handled n tasks.
func (c *crew) await(ctx context.Context, n int) (first, last time.Time, err error) {
	for {
		have, first, last := c.total()
		if have >= n {
			return first, last, nil
		}
		select {
		case <-c.changed:
		case err := <-c.failed:
			return first, last, err
		case <-ctx.Done():
			return first, last, fmt.Errorf("%d of %d tasks were handled: %w", have, n, context.Cause(ctx))
		}
	}
}

// rate is how many tasks a second the workers handle, from the end of the first on,
// until they have handled n or most is over.
func (c *crew) rate(ctx context.Context, n int, most time.Duration) (float64, error) {
	if _, _, err := c.await(ctx, 1); err != nil {
		return 0, err
	}
	within, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	_, _, err := c.await(within, n)
	had, first, last := c.total()
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		last, err = time.Now(), nil // what stood still until then counts
	}
	return perSecond(had-1, last.Sub(first)), err
}

func (c *crew) latencies() []float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.took
}

// awaitTimed waits until the workers have handled n tasks that came with a time, and
// tells what they took, in ms.
func (c *crew) awaitTimed(ctx context.Context, n int) ([]float64, error) {
	for {
		took := c.latencies()
		if len(took) >= n {
			return took, nil
		}
		select {
		case <-c.changed:
		case err := <-c.failed:
			return nil, err
		case <-ctx.Done():
			return nil, fmt.Errorf("%d of %d tasks with a time were handled: %w", len(took), n, context.Cause(ctx))
		}
	}
}

// processes are the worker processes that were started.
func (c *crew) processes() []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.pids)
}

// join starts n worker processes whose stdout is reports, until stop.
func (c *crew) join(ctx context.Context, n int, p func(i int, line func(string)) (program, error)) (stop func() error, err error) {
	var all []*child
	stop = func() error {
		var errs []error
		for _, w := range all {
			errs = append(errs, w.stop())
		}
		return errors.Join(errs...)
	}
	for i := range n {
		worker, err := p(i, func(line string) {
			var r report
			if err := json.Unmarshal([]byte(line), &r); err == nil {
				c.heard(i, r)
			}
		})
		if err != nil {
			return nil, errors.Join(err, stop())
		}
		started, err := worker.start(ctx)
		if err != nil {
			return nil, errors.Join(err, stop())
		}
		all = append(all, started)
		c.mu.Lock()
		c.pids = append(c.pids, started.cmd.Process.Pid)
		c.mu.Unlock()
		go func() { // ends with the worker
			<-started.done
			if err := started.failure(); err != nil && ctx.Err() == nil {
				select {
				case c.failed <- err:
				default:
				}
			}
		}()
	}
	return stop, nil
}

// runChild is this program in a role.
func runChild(ctx context.Context, args []string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // the parent closes it, or dies
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	role, args := args[0], args[1:]
	if server, ok := serverRoles[role]; ok {
		return server(ctx, args)
	}
	work, ok := workerRoles[role]
	if !ok {
		return fmt.Errorf("no role is called %q", role)
	}
	t := &tally{}
	told := make(chan struct{})
	telling, stopTelling := context.WithCancel(context.WithoutCancel(ctx))
	out := json.NewEncoder(os.Stdout)
	go func() {
		defer close(told)
		t.tell(telling, func(r report) { _ = out.Encode(r) })
	}()
	err := work(ctx, args, t)
	stopTelling()
	<-told
	return err
}

// workerRoles run handlers until ctx ends.
var workerRoles = map[string]func(ctx context.Context, args []string, t *tally) error{
	"pelton": peltonWorker,
	"floor":  floorWorker,
	"asynq":  asynqWorker,
	"river":  riverWorker,
}

// serverRoles serve until ctx ends, after they printed "ready" and their address.
var serverRoles = map[string]func(ctx context.Context, args []string) error{
	"nats-server": natsServer,
	"node":        nodeServer,
	"asynq-http":  asynqServer,
	"http-bare":   bareServer,
}

package api

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/peltonq/pelton"
)

// waiting is how long a caller wants its answer to be held.
type waiting struct {
	d       time.Duration // 0 to maxWait
	applied string        // what Preference-Applied says; empty when a query asked
}

// parseWait reads ?wait= ("20s", "1m", or whole seconds: "20") and, when that is
// absent, Prefer: wait=20 (RFC 7240). A wrong query is a problem, a wrong
// preference is ignored, as that RFC wants. Both are clamped to maxWait.
func parseWait(query, prefer string) (waiting, error) {
	if query == "" {
		seconds, ok := preferredSeconds(prefer)
		if !ok {
			return waiting{}, nil
		}
		d := clampSeconds(seconds)
		return waiting{d: d, applied: fmt.Sprintf("wait=%d", int(d.Seconds()))}, nil
	}
	if seconds, err := strconv.ParseUint(query, 10, 64); err == nil {
		return waiting{d: clampSeconds(seconds)}, nil
	}
	d, err := pelton.ParseDuration(query)
	if err != nil {
		return waiting{}, fieldProblem(kindInvalid, fieldError{"query.wait", plain(err.Error())})
	}
	return waiting{d: min(d, maxWait)}, nil
}

func clampSeconds(n uint64) time.Duration {
	return time.Duration(min(n, uint64(maxWait/time.Second))) * time.Second
}

// preferredSeconds finds the first wait of a Prefer header.
func preferredSeconds(prefer string) (uint64, bool) {
	for preference := range strings.SplitSeq(prefer, ",") {
		preference, _, _ = strings.Cut(preference, ";") // parameters
		name, value, _ := strings.Cut(preference, "=")
		if !strings.EqualFold(strings.TrimSpace(name), "wait") {
			continue
		}
		seconds, err := strconv.ParseUint(strings.Trim(strings.TrimSpace(value), `"`), 10, 64)
		return seconds, err == nil
	}
	return 0, false
}

// hold waits up to d for task to end and returns it as it was last seen. Trouble
// on the way is no error: the caller has a task already, and may ask again.
func (s *server) hold(ctx context.Context, task *pelton.Task, d time.Duration) *pelton.Task {
	if d <= 0 || task.State.Terminal() {
		return task
	}
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	claimOf(ctx).shrink(heldWeight * weigh(task))
	if seen, _ := s.Tasks.Wait(ctx, task.ID); seen != nil {
		return seen
	}
	return task
}

// detached is for writes: they go on when the caller hangs up, because half of
// one is worse than one that nobody waits for.
func detached(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), timeout)
}

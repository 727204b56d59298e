package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/peltonq/pelton"
)

const (
	// pollTime is how long one request asks to be held; proxies tend to allow 30 s.
	pollTime = 20 * time.Second
	// pollPause is between requests that found no server, or one that did not hold.
	pollPause = 500 * time.Millisecond
)

// waiter waits for tasks until a common deadline.
type waiter struct {
	c        *client
	timeout  time.Duration // for the message
	deadline time.Time
}

func newWaiter(c *client, timeout time.Duration) *waiter {
	return &waiter{c: c, timeout: timeout, deadline: time.Now().Add(timeout)}
}

// wait polls until the task has ended. The error says how, other than well: a
// *pelton.TaskError, or exitWaitTimeout with the task as last seen. A server that
// does not answer the first time is an error; one that goes away later has until
// the deadline to come back.
func (w *waiter) wait(ctx context.Context, id pelton.ID) (*taskAnswer, error) {
	return w.follow(ctx, id, nil)
}

// follow is wait for a task that was seen before.
func (w *waiter) follow(ctx context.Context, id pelton.ID, last *taskAnswer) (*taskAnswer, error) {
	for {
		hold := min(pollTime, max(time.Until(w.deadline), 0)).Truncate(time.Millisecond)
		r := getTask(id)
		r.timeout = hold + requestTimeout
		if hold > 0 {
			r.query = url.Values{"wait": {hold.String()}}
		}
		asked := time.Now()
		task, err := w.c.task(ctx, r)
		switch {
		case err == nil && task.State.Terminal():
			return task, task.Err()
		case err == nil:
			last = task
		case last == nil || !mayComeBack(err):
			return last, err
		}
		left := time.Until(w.deadline)
		if left <= 0 {
			return last, &codeError{exitWaitTimeout, fmt.Errorf("task %s is still %s after %s", id, last.State, pelton.FormatDuration(w.timeout))}
		}
		if time.Since(asked) >= hold {
			continue
		}
		select {
		case <-time.After(min(left, pollPause)):
		case <-ctx.Done():
			return last, fmt.Errorf("wait for task %s: %w", id, context.Cause(ctx))
		}
	}
}

// mayComeBack reports whether the server, or its broker, may be restarting.
func mayComeBack(err error) bool {
	var problem *problemError
	if errors.As(err, &problem) {
		switch problem.Status {
		case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			return true
		default:
			return false
		}
	}
	return errors.Is(err, errUnreachable)
}

package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

const (
	firstPause = 100 * time.Millisecond // before a batch is sent again; it doubles
	lastPause  = 2 * time.Second
)

// sender sends lines as batches. It is safe for use by several goroutines.
type sender struct {
	c        *client
	retryFor time.Duration
	reached  atomic.Bool // the server has answered
}

// batchItem is one answer of POST /tasks/batch.
type batchItem struct {
	Status  int             `json:"status"`
	Task    json.RawMessage `json:"task"`
	Problem *problemError   `json:"problem"`
}

// send sends lines and gives one result for each. The error is one that other lines
// would meet too; the results that are there with it hold.
func (s *sender) send(ctx context.Context, lines []taskLine) ([]lineResult, error) {
	results := make([]lineResult, len(lines))
	var todo []int
	for i, line := range lines {
		if line.err != nil {
			results[i].err = &codeError{exitUsage, line.err}
		} else {
			todo = append(todo, i)
		}
	}
	if len(todo) == 0 {
		return results, nil
	}
	return results, s.insist(ctx, lines, todo, results)
}

// insist sends the lines at the places todo until all have a result. What the server
// did not take because it is away or full is sent again for retryFor after the last
// that it took: if certainly nothing was done with it, or if doing it twice is doing it
// once.
func (s *sender) insist(ctx context.Context, lines []taskLine, todo []int, results []lineResult) error {
	pause, end := firstPause, time.Now().Add(s.retryFor)
	for {
		again, err := s.post(ctx, lines, todo, results)
		if len(again) == 0 {
			return err
		}
		if len(again) < len(todo) {
			pause, end = firstPause, time.Now().Add(s.retryFor)
		}
		if todo = again; time.Now().Add(pause).After(end) || err != nil && !s.reached.Load() {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return fmt.Errorf("interrupted: %w", context.Cause(ctx))
		}
		for _, i := range todo {
			results[i] = lineResult{}
		}
		pause = min(2*pause, lastPause)
	}
}

// post sends lines as one batch, and gives the places of those that may be sent again;
// results say why, where the server told it of one line. A batch that is refused as a
// whole, because one of its tasks is not even strict JSON, is sent again in halves
// until the line is found: nothing of a refused batch was enqueued.
func (s *sender) post(ctx context.Context, lines []taskLine, todo []int, results []lineResult) (again []int, err error) {
	body, keyed := batchBody(lines, todo)
	answer, err := s.c.do(ctx, request{
		method: http.MethodPost, path: []string{"tasks", "batch"}, body: body, timeout: batchTimeout, once: !keyed,
	})
	switch {
	case err == nil:
		s.reached.Store(true)
		return items(lines, todo, results, answer)
	case mayRepeat(err, keyed):
		return todo, err
	case !refusesInput(err):
		return nil, err
	case len(todo) == 1:
		results[todo[0]].err = err
		return nil, nil
	}
	half := len(todo) / 2
	if err := s.insist(ctx, lines, todo[:half], results); err != nil {
		return nil, err
	}
	return nil, s.insist(ctx, lines, todo[half:], results)
}

// batchBody is the request for some lines, and whether each of them has a key.
func batchBody(lines []taskLine, todo []int) (body []byte, keyed bool) {
	size := len(todo) + 16
	for _, i := range todo {
		size += len(lines[i].body)
	}
	body, keyed = append(make([]byte, 0, size), `{"tasks":[`...), true
	for n, i := range todo {
		if n > 0 {
			body = append(body, ',')
		}
		body = append(body, lines[i].body...)
		keyed = keyed && lines[i].traits.keyed
	}
	return append(body, `]}`...), keyed
}

// mayRepeat reports whether sending again may help and does no harm.
func mayRepeat(err error, keyed bool) bool {
	var problem *problemError
	if !errors.As(err, &problem) {
		return errors.Is(err, errUnreachable)
	}
	switch problem.Type {
	case "rate-limited", "overloaded", "unavailable":
		return true
	case "unknown-outcome", "in-flight":
		return keyed
	default:
		return keyed && mayComeBack(err)
	}
}

// refusesInput reports whether the server found fault with what was sent.
func refusesInput(err error) bool {
	var problem *problemError
	return errors.As(err, &problem) && problem.Type != "" && problem.exitCode() == exitUsage
}

// items takes in the answer to a batch.
func items(lines []taskLine, todo []int, results []lineResult, answer []byte) (again []int, err error) {
	var list struct {
		Items []batchItem `json:"items"`
	}
	if err := json.Unmarshal(answer, &list); err != nil || len(list.Items) != len(todo) {
		return nil, errors.New("the server's answer is not one item for each task")
	}
	for n, item := range list.Items {
		i := todo[n]
		if item.Problem == nil {
			if results[i].task, err = parseTask(bytes.Clone(item.Task)); err != nil {
				return nil, err
			}
			continue
		}
		item.Problem.Errors = withoutIndex(item.Problem.Errors)
		results[i].err = item.Problem
		if mayRepeat(item.Problem, lines[i].traits.keyed) {
			again = append(again, i)
		}
	}
	return again, nil
}

// withoutIndex drops "body.tasks[3]." from locations: the line's number says it.
func withoutIndex(errs []inputError) []inputError {
	for i := range errs {
		if rest, found := strings.CutPrefix(errs[i].Location, "body.tasks["); found {
			if _, name, found := strings.Cut(rest, "]."); found {
				errs[i].Location = name
			}
		}
	}
	return errs
}

package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/peltonq/pelton"
)

const (
	// watchSilence is how long a stream may be silent; the server says something
	// every 15 s.
	watchSilence = 45 * time.Second
	// maxEventLine is the longest line of an event, in bytes: a whole task.
	maxEventLine = 8 << 20
)

func (a *app) taskWatchCmd() *cobra.Command {
	var (
		where   clientFlags
		out     outputFlag
		timeout durationValue
	)
	cmd := &cobra.Command{
		Use:   "watch ID",
		Short: "Show what happens to a task until it has ended",
		Long: `Show a task's changes of state and its progress as they happen, until it has
ended. Changes in quick succession are shown as one. With -o json and jsonl each
is a task; those that are progress alone come without payload and errors.

Exit codes: 0 succeeded, 10 failed, 11 cancelled or expired, 6 not ended in time,
3 not found.`,
		Args: needArgs(1, 1, "the id of a task"),
		RunE: a.withClient(&where, func(cmd *cobra.Command, c *client, args []string) error {
			ids, err := parseIDs(args)
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			if cmd.Flags().Changed("timeout") {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeoutCause(ctx, timeout.duration(), errWatchTimeout)
				defer cancel()
			}
			w := &watcher{c: c, id: ids[0], list: a.watchList(&out), timeout: timeout.duration()}
			err = w.run(ctx)
			if closed := w.list.close(); closed != nil {
				return closed
			}
			return err
		}),
	}
	cmd.Flags().Var(&timeout, "timeout", "how long to watch; without it, until the task has ended")
	where.register(cmd.Flags())
	out.register(cmd)
	return cmd
}

// errWatchTimeout is the cause of a watch's ctx when its --timeout is over.
var errWatchTimeout = errors.New("not ended in time")

// watchList prints each event at once, in columns of a fixed width.
func (a *app) watchList(out *outputFlag) *printer[*taskAnswer] {
	return newPrinter(a.stdout, out.value,
		func(t *taskAnswer) []byte { return t.raw },
		[]string{"TIME", "STATE", "ATTEMPT", "DETAIL"},
		func(t *taskAnswer) []string {
			return []string{instant(time.Now()), fmt.Sprintf("%-9s", t.State), fmt.Sprintf("%-7s", attempts(t)), watchDetail(t)}
		})
}

// watchDetail is what is worth saying of a state.
func watchDetail(t *taskAnswer) string {
	switch t.State {
	case pelton.Running:
		if p := t.Progress; p != nil {
			return strings.TrimSpace(fmt.Sprintf("%d/%d %s", p.Done, p.Total, p.Message))
		}
		return "on " + t.Worker
	case pelton.Retrying:
		return fmt.Sprintf("%s; again at %s", failureText(t.Error, 200), instant(t.RunAt))
	case pelton.Scheduled:
		return "to run at " + instant(t.RunAt)
	case pelton.Failed, pelton.Expired:
		return failureText(t.Error, mostCell)
	case pelton.Succeeded:
		return value(t.Result)
	case pelton.Queued, pelton.Cancelled:
		return ""
	default:
		return ""
	}
}

// watcher follows one task over as many streams as it takes.
type watcher struct {
	c       *client
	id      pelton.ID
	list    *printer[*taskAnswer]
	timeout time.Duration // for the message

	last   *taskAnswer
	lastID string
}

// run ends with the task. The error says how it ended, other than well: as
// waiter.wait's.
func (w *watcher) run(ctx context.Context) error {
	for {
		err := w.stream(ctx)
		switch {
		case w.last != nil && w.last.State.Terminal():
			return w.last.Err()
		case errors.Is(context.Cause(ctx), errWatchTimeout):
			state := "out of sight"
			if w.last != nil {
				state = string(w.last.State)
			}
			return &codeError{exitWaitTimeout, fmt.Errorf("task %s is still %s after %s", w.id, state, pelton.FormatDuration(w.timeout))}
		case ctx.Err() != nil:
			return fmt.Errorf("watch task %s: %w", w.id, context.Cause(ctx))
		case err != nil && (w.last == nil || !mayComeBack(err)):
			return err
		}
		select {
		case <-time.After(pollPause):
		case <-ctx.Done():
		}
	}
}

// stream follows one stream to its end. A stream that breaks off after it has
// begun is no error.
func (w *watcher) stream(ctx context.Context) error {
	whole := ctx
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	silence := time.AfterFunc(requestTimeout, stop)
	defer silence.Stop()

	r := request{method: http.MethodGet, path: []string{"tasks", w.id.String(), "events"}, timeout: requestTimeout}
	req, err := w.c.newRequest(ctx, r)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "text/event-stream, application/problem+json")
	if w.lastID != "" {
		req.Header.Set("Last-Event-ID", w.lastID)
	}
	resp, err := w.c.http.Do(req)
	if err != nil {
		return w.c.lost(whole, r, false, err)
	}
	defer func() { _ = resp.Body.Close() }() // read to its end, or given up
	if resp.StatusCode >= 300 {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer)) // what there is of it
		return readProblem(resp, body)
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxEventLine)
	var event sseEvent
	for lines.Scan() {
		silence.Reset(watchSilence)
		if !event.line(lines.Bytes()) {
			continue
		}
		if err := w.show(event); err != nil {
			return err
		}
		event = sseEvent{}
	}
	return nil
}

// show prints an event. Its data is a task.
func (w *watcher) show(e sseEvent) error {
	task, err := parseTask(e.data)
	if err != nil {
		return err
	}
	w.last, w.lastID = task, e.id
	if err := w.list.add(task); err != nil {
		return err
	}
	return w.list.flush()
}

// sseEvent is one server-sent event.
type sseEvent struct {
	id   string
	data []byte
}

// line takes in a line of a stream and reports whether it completes an event that
// has data.
func (e *sseEvent) line(text []byte) (complete bool) {
	if len(text) == 0 {
		return len(e.data) > 0
	}
	name, rest, _ := bytes.Cut(text, []byte{':'})
	rest = bytes.TrimPrefix(rest, []byte{' '})
	switch string(name) {
	case "id":
		e.id = string(rest)
	case "data":
		if len(e.data) > 0 {
			e.data = append(e.data, '\n')
		}
		e.data = append(e.data, rest...)
	}
	return false
}

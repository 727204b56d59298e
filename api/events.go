package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/peltonq/pelton"
)

const (
	eventMediaType = "text/event-stream"
	// keepAlive is how often a stream says something, so that nothing between the
	// two ends takes it for dead.
	keepAlive = 15 * time.Second
	// eventTimeout is how long a reader may take to make room for an event.
	eventTimeout = 10 * time.Second
)

// eventsInput is the request of GET /tasks/{id}/events.
type eventsInput struct {
	ID          string `path:"id" doc:"The task's id, a UUID."`
	LastEventID string `header:"Last-Event-ID" doc:"The id of the last event that was seen: those up to it are not repeated."`
}

// events answers before the stream begins for what can be known by then: a task
// that is not there, and (204, which ends an EventSource's reconnecting) one that
// is over and was seen to be.
func (s *server) events(ctx context.Context, in *eventsInput) (*huma.StreamResponse, error) {
	id, err := pathID(in.ID)
	if err != nil {
		return nil, s.problem(ctx, opEvents, "path", err)
	}
	seen := int64(-1) // nothing: a task that waits without a record has revision 0
	if in.LastEventID != "" {
		number, err := strconv.ParseUint(in.LastEventID, 10, 63)
		if seen = int64(number); err != nil {
			return nil, fieldProblem(kindInvalid, fieldError{"header.Last-Event-ID", "is not the id of an event: a whole number"})
		}
	}
	task, err := s.getOne(ctx, id)
	if err != nil {
		return nil, s.problem(ctx, opEvents, "path", err)
	}
	over := task.State.Terminal() && int64(task.Revision) <= seen
	if !over {
		if err := claimOf(ctx).hold(0); err != nil {
			return nil, err
		}
	}
	return &huma.StreamResponse{Body: func(hctx huma.Context) {
		r, w := humago.Unwrap(hctx)
		if over {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		w.Header().Set("Content-Type", eventMediaType)
		w.Header().Set("X-Accel-Buffering", "no") // nginx would hold events back
		w.WriteHeader(http.StatusOK)
		if r.Method == http.MethodHead {
			return
		}
		s.stream(ctx, &eventWriter{w: w, control: http.NewResponseController(w)}, id, seen)
	}}, nil
}

// stream sends the task's events until it is over, the reader has gone or is too
// slow, or the server stops. What goes wrong is not sent: the reader comes back
// with the last id and is told then.
func (s *server) stream(ctx context.Context, w *eventWriter, id pelton.ID, seen int64) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	w.keepAlive(stop)
	defer w.close()

	if w.send([]byte(": watching\n\n")) != nil { // so that the headers arrive now
		return
	}
	var last *pelton.Task
	for task, err := range s.Tasks.Watch(ctx, id) {
		if err != nil || claimOf(ctx).readHeld(ctx, task) != nil {
			return
		}
		if int64(task.Revision) > seen {
			text, err := appendEvent(nil, last, task)
			if err != nil || w.send(text) != nil {
				return
			}
		}
		last = task
	}
}

// appendEvent appends the event for what changed from last to task: "progress" if
// nothing else did, with the task without payload and errors as its data, else
// "state" with the whole task.
func appendEvent(dst []byte, last, task *pelton.Task) ([]byte, error) {
	name := "state"
	if onlyProgress(last, task) {
		slim := *task
		slim.Payload, slim.Errors = nil, nil
		name, task = "progress", &slim
	}
	data, err := task.AppendJSON(nil)
	if err != nil {
		return dst, fmt.Errorf("write task %s: %w", task.ID, err)
	}
	dst = fmt.Appendf(dst, "id: %d\nevent: %s\n", task.Revision, name)
	// A payload may have line feeds, between its tokens. The reader gets them back.
	lines := strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(string(data))
	for line := range strings.SplitSeq(lines, "\n") {
		dst = append(append(append(dst, "data: "...), line...), '\n')
	}
	return append(dst, '\n'), nil
}

func onlyProgress(last, task *pelton.Task) bool {
	return last != nil && task.Progress != nil && (last.Progress == nil || *last.Progress != *task.Progress) &&
		last.State == task.State && last.Attempt == task.Attempt && last.Crashes == task.Crashes &&
		last.Worker == task.Worker && last.StartedAt.Equal(task.StartedAt)
}

// eventWriter writes to one reader. A reader that does not read gets a deadline
// for each event and no buffer beyond the connection's: changes that come while
// it is behind are told as one.
type eventWriter struct {
	mu      sync.Mutex
	w       http.ResponseWriter
	control *http.ResponseController
	beat    *time.Timer // nil before keepAlive
	closed  bool
}

var errStreamClosed = errors.New("the stream is closed")

func (e *eventWriter) send(text []byte) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed { // the answer is not ours any more
		return errStreamClosed
	}
	// Writers without a connection have no deadline, and do not block.
	_ = e.control.SetWriteDeadline(time.Now().Add(eventTimeout))
	if _, err := e.w.Write(text); err != nil {
		return err
	}
	return e.control.Flush()
}

// keepAlive sends a comment every 15 s until close, and calls gone if the reader has
// gone. Between two comments it is a timer and no goroutine: there may be thousands.
func (e *eventWriter) keepAlive(gone func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.beat = time.AfterFunc(keepAlive, func() {
		if e.send([]byte(": still here\n\n")) != nil {
			gone()
			return
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		if !e.closed {
			e.beat.Reset(keepAlive)
		}
	})
}

// close ends keepAlive. It waits for what is being sent, and nothing is sent after it.
func (e *eventWriter) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	e.beat.Stop()
}

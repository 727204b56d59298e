package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/danielgtaylor/huma/v2"

	"github.com/peltonq/pelton"
)

func (s *server) listQueues(ctx context.Context, in *namesInput) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	queues, err := s.Queues.Queues(ctx)
	if err != nil {
		return nil, err
	}
	queues = slices.DeleteFunc(queues, func(q pelton.Queue) bool { return mayQueue(ctx, q.Name) != nil })
	page, err := cutPage(queues, in, func(q pelton.Queue) string { return q.Name })
	if err != nil {
		return nil, err
	}
	return encodeAnswer(page)
}

// queueInput is the request of GET /queues/{queue}.
type queueInput struct {
	Queue string `path:"queue" doc:"The queue's name." example:"default"`
}

func (s *server) getQueue(ctx context.Context, in *queueInput) (*answer, error) {
	if err := checkQueue(ctx, in.Queue); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	queue, err := s.Queues.Queue(ctx, in.Queue)
	if err != nil {
		return nil, err
	}
	return encodeAnswer(queue)
}

func checkQueue(ctx context.Context, name string) error {
	if err := pelton.ValidateQueue(name); err != nil {
		return fieldProblem(kindInvalid, fieldError{"path.queue", plain(err.Error())})
	}
	return mayQueue(ctx, name)
}

// patchInput is the request of PATCH /queues/{queue}.
type patchInput struct {
	Queue string `path:"queue" doc:"The queue's name." example:"default"`

	body []byte
	err  error
}

// Resolve reads the body.
func (in *patchInput) Resolve(ctx huma.Context) []error {
	in.body, in.err = readBody(ctx, maxTaskBody)
	return nil
}

// patchQueue is detached, as every change is: half of one must not be left because
// the caller has gone.
func (s *server) patchQueue(ctx context.Context, in *patchInput) (*answer, error) {
	if err := checkQueue(ctx, in.Queue); err != nil {
		return nil, err
	}
	if in.err != nil {
		return nil, in.err
	}
	if err := mustBeObject(in.body, "body"); err != nil {
		return nil, err
	}
	ctx, cancel := detached(ctx, settingsTimeout)
	defer cancel()
	queue, err := s.Queues.PatchQueue(ctx, in.Queue, in.body)
	if err != nil {
		return nil, unlessKnown(err)
	}
	return encodeAnswer(queue)
}

// queueVerbInput is the request of POST /queues/{queue}/pause and /resume.
type queueVerbInput struct {
	Queue    string `path:"queue" doc:"The queue's name." example:"default"`
	Priority string `query:"priority" enum:"critical,high,normal,low" doc:"Only this priority; all of them without." example:"low"`

	err error
}

// Resolve looks at what huma takes for absent.
func (in *queueVerbInput) Resolve(ctx huma.Context) []error {
	in.err = refuseNoPriority(ctx)
	return nil
}

// refuseNoPriority refuses an empty priority, of a script whose variable was not
// set: it must not mean all of them.
func refuseNoPriority(ctx huma.Context) error {
	url := ctx.URL()
	if query := url.Query(); query.Has("priority") && query.Get("priority") == "" {
		return fieldProblem(kindInvalid, fieldError{"query.priority", "must not be empty: leave it out instead"})
	}
	return nil
}

func (s *server) pauseQueue(ctx context.Context, in *queueVerbInput) (*answer, error) {
	return queueVerb(ctx, in, s.Queues.Pause)
}

func (s *server) resumeQueue(ctx context.Context, in *queueVerbInput) (*answer, error) {
	return queueVerb(ctx, in, s.Queues.Resume)
}

func queueVerb(ctx context.Context, in *queueVerbInput, do func(context.Context, string, pelton.Priority) (*pelton.Queue, error)) (*answer, error) {
	if err := checkQueue(ctx, in.Queue); err != nil {
		return nil, err
	}
	if in.err != nil {
		return nil, in.err
	}
	ctx, cancel := detached(ctx, settingsTimeout)
	defer cancel()
	queue, err := do(ctx, in.Queue, pelton.Priority(in.Priority))
	if err != nil {
		return nil, unlessKnown(err)
	}
	return encodeAnswer(queue)
}

// purgeInput is the request of POST /queues/{queue}/purge.
type purgeInput struct {
	Queue    string `path:"queue" doc:"The queue's name." example:"default"`
	Priority string `query:"priority" enum:"critical,high,normal,low" doc:"Only this priority; all of them without." example:"low"`
	Cursor   string `query:"cursor" doc:"The next_cursor of the call before."`

	err error
}

// Resolve looks at what huma takes for absent.
func (in *purgeInput) Resolve(ctx huma.Context) []error {
	in.err = refuseNoPriority(ctx)
	return nil
}

// purgeQueue is not detached: when the caller has gone, nobody learns how far it
// came, so it stops. Each task is dealt with as a whole, or found by the next purge.
func (s *server) purgeQueue(ctx context.Context, in *purgeInput) (*answer, error) {
	if err := checkQueue(ctx, in.Queue); err != nil {
		return nil, err
	}
	if in.err != nil {
		return nil, in.err
	}
	ctx, cancel := context.WithTimeout(ctx, bulkTimeout)
	defer cancel()
	purged, err := s.Queues.Purge(ctx, in.Queue, pelton.Priority(in.Priority), in.Cursor)
	var invalid *pelton.ValidationError
	if errors.As(err, &invalid) && len(invalid.Fields) > 0 {
		return nil, fieldProblem(kindInvalid, fieldErrors("query", invalid)...)
	}
	if err != nil {
		return nil, err
	}
	return encodeAnswer(purged)
}

// healthAnswer is the answer of GET /healthz and /readyz.
type healthAnswer struct {
	Status string `json:"status"`
}

// health says that the process answers, whatever the broker does.
func (s *server) health(context.Context, *struct{}) (*answer, error) {
	return encodeAnswer(healthAnswer{"ok"})
}

func (s *server) readiness(context.Context, *struct{}) (*answer, error) {
	if err := s.Ready(); err != nil {
		return nil, newProblem(kindUnavailable, "not ready: %s", err).withHeader("Retry-After", retryAfter)
	}
	return encodeAnswer(healthAnswer{"ready"})
}

func encodeAnswer(v any) (*answer, error) {
	body, err := encode(v)
	if err != nil {
		return nil, fmt.Errorf("write %T: %w", v, err)
	}
	return jsonAnswer(http.StatusOK, body), nil
}

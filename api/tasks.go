package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/peltonq/pelton"
)

// answer is what every operation returns: bytes that huma passes on untouched.
// Which headers an operation sets is documented by hand in openapi.go.
type answer struct {
	Status       int
	ContentType  string `header:"Content-Type" hidden:"true"`
	CacheControl string `header:"Cache-Control" hidden:"true"`
	Location     string `header:"Location" hidden:"true"`
	ETag         string `header:"ETag" hidden:"true"`
	Applied      string `header:"Preference-Applied" hidden:"true"`
	Replayed     string `header:"Idempotent-Replayed" hidden:"true"`
	Policy       string `header:"Content-Security-Policy" hidden:"true"`
	Body         []byte
}

func jsonAnswer(status int, body []byte) *answer {
	return &answer{Status: status, ContentType: "application/json", Body: body}
}

func taskAnswer(status int, task *pelton.Task) (*answer, error) {
	body, err := task.AppendJSON(nil)
	if err != nil {
		return nil, fmt.Errorf("write task %s: %w", task.ID, err)
	}
	return jsonAnswer(status, append(body, '\n')), nil
}

// enqueueInput is the request of POST /tasks.
type enqueueInput struct {
	Wait   string `query:"wait" doc:"Hold the answer until the task has ended, at most this long (clamped to 60s): a duration or whole seconds." example:"20s"`
	Prefer string `header:"Prefer" doc:"wait=SECONDS is the same as the query wait, which goes first (RFC 7240)." example:"wait=20"`
	Key    string `header:"Idempotency-Key" doc:"Makes repeating the request safe for 24 hours: the same request is answered with the same task, another one with the key is 422. At most 256 bytes." example:"order-4711"`

	body []byte
	err  error
}

// Resolve reads the body.
func (in *enqueueInput) Resolve(ctx huma.Context) []error {
	in.Prefer = headerList(ctx, "Prefer")
	if in.Key, in.err = idempotencyKey(ctx); in.err == nil {
		in.body, in.err = readBody(ctx, maxTaskBody)
	}
	return nil
}

func (s *server) enqueue(ctx context.Context, in *enqueueInput) (*answer, error) {
	if in.err != nil {
		return nil, in.err
	}
	wait, err := parseWait(in.Wait, in.Prefer)
	if err != nil {
		return nil, err
	}
	spec, err := parseTask(jsontext.Value(in.body), "body", false)
	if err != nil {
		return nil, err
	}
	in.body = nil // the task has what it needs of it
	if wait.d > 0 {
		if err := claimOf(ctx).hold(heldWeight * weigh(&pelton.Task{Payload: spec.Payload})); err != nil {
			return nil, err
		}
	}
	if err := mayEnqueue(ctx, spec); err != nil {
		return nil, err
	}
	accepted, err := s.enqueueOne(ctx, underKey(ctx, spec, in.Key))
	if err == nil && accepted.Existing { // which was enqueued by somebody else
		err = mayQueue(ctx, accepted.Task.Queue)
	}
	if err != nil {
		return nil, atHeader(err)
	}

	// From here on the task is accepted: nothing may turn the answer into an error.
	task, status, applied := accepted.Task, statusOf(accepted), ""
	// One that there is no room for, because of its result, is answered as it was.
	if seen := s.hold(ctx, task, wait.d); claimOf(ctx).readHeld(ctx, seen) == nil {
		task = seen
	}
	if wait.d > 0 && task.State.Terminal() {
		status, applied = http.StatusOK, wait.applied
	}
	out, err := taskAnswer(status, task)
	if err != nil {
		return nil, err
	}
	out.Location, out.Applied = "/tasks/"+task.ID.String(), applied
	if accepted.Replayed {
		out.Replayed = "true"
	}
	return out, nil
}

// statusOf is 202 for a task that was enqueued, by this request or the one that it
// repeats, and 200 for one that holds the unique key.
func statusOf(accepted pelton.Enqueued) int {
	if accepted.Existing {
		return http.StatusOK
	}
	return http.StatusAccepted
}

func (s *server) enqueueOne(ctx context.Context, spec pelton.Spec) (pelton.Enqueued, error) {
	ctx, cancel := detached(ctx, callTimeout)
	defer cancel()
	accepted, err := s.Tasks.Submit(ctx, spec)
	return accepted, unlessKnown(err)
}

// getInput is the request of GET /tasks/{id}.
type getInput struct {
	ID          string `path:"id" doc:"The task's id, a UUID."`
	Wait        string `query:"wait" doc:"Hold the answer until the task has ended, at most this long (clamped to 60s): a duration or whole seconds. Running out of time is no error." example:"20s"`
	Prefer      string `header:"Prefer" doc:"wait=SECONDS is the same as the query wait, which goes first (RFC 7240)." example:"wait=20"`
	IfNoneMatch string `header:"If-None-Match" doc:"Answer 304 if the task still has this ETag."`
}

// Resolve joins headers that may stand on several lines.
func (in *getInput) Resolve(ctx huma.Context) []error {
	in.Prefer = headerList(ctx, "Prefer")
	in.IfNoneMatch = headerList(ctx, "If-None-Match")
	return nil
}

func (s *server) get(ctx context.Context, in *getInput) (*answer, error) {
	id, err := pathID(in.ID)
	if err != nil {
		return nil, err
	}
	wait, err := parseWait(in.Wait, in.Prefer)
	if err != nil {
		return nil, err
	}
	task, err := s.getOne(ctx, id)
	if err != nil {
		return nil, err
	}
	if wait.d > 0 && !task.State.Terminal() {
		if err := claimOf(ctx).hold(0); err != nil {
			return nil, err
		}
		task = s.hold(ctx, task, wait.d)
		if err := claimOf(ctx).readHeld(ctx, task); err != nil {
			return nil, err
		}
	}

	etag := entityTag(task)
	out := &answer{Status: http.StatusNotModified}
	if !matchesTag(in.IfNoneMatch, etag) {
		if out, err = taskAnswer(http.StatusOK, task); err != nil {
			return nil, err
		}
	}
	out.ETag, out.Applied = etag, wait.applied
	out.CacheControl = "private, no-cache" // keep it, but ask every time
	return out, nil
}

// getOne reads a task that there is room for.
func (s *server) getOne(ctx context.Context, id pelton.ID) (*pelton.Task, error) {
	return s.readOne(ctx, id, s.Tasks.Get)
}

func (s *server) readOne(ctx context.Context, id pelton.ID, get func(context.Context, pelton.ID) (*pelton.Task, error)) (*pelton.Task, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	task, err := get(ctx, id)
	if err == nil {
		err = mayQueue(ctx, task.Queue)
	}
	if err != nil {
		return nil, err
	}
	return task, claimOf(ctx).read(task)
}

// makeRoom makes sure that there is room for a task that is going to be answered
// after it was changed, when it is too late to refuse. The error is a problem; a
// task that cannot be read is left to the change, which will say so.
func (s *server) makeRoom(ctx context.Context, id pelton.ID, get func(context.Context, pelton.ID) (*pelton.Task, error)) error {
	var refused *problem
	_, err := s.readOne(ctx, id, get)
	if errors.As(err, &refused) {
		return refused
	}
	if bound(ctx) {
		return err // nobody knows whether it is of the token's queues
	}
	return nil
}

// cancelInput is the request of POST /tasks/{id}/cancel.
type cancelInput struct {
	ID string `path:"id" doc:"The task's id, a UUID."`
}

func (s *server) cancel(ctx context.Context, in *cancelInput) (*answer, error) {
	id, err := pathID(in.ID)
	if err != nil {
		return nil, err
	}
	if err := s.makeRoom(ctx, id, s.Tasks.Get); err != nil {
		return nil, err
	}
	ctx, cancel := detached(ctx, callTimeout)
	defer cancel()
	task, err := s.Tasks.Cancel(ctx, id)
	if err != nil {
		return nil, unlessKnown(err)
	}
	return taskAnswer(http.StatusOK, task)
}

func pathID(text string) (pelton.ID, error) {
	id, err := pelton.ParseID(text)
	if err != nil {
		return pelton.ID{}, fieldProblem(kindInvalid, fieldError{"path.id", plain(err.Error())})
	}
	return id, nil
}

// entityTag changes with everything that a task's JSON says. The state is part of
// it because a scheduled task reads as queued when its time has come, without a
// new revision. It is weak: the bytes may differ from version to version.
func entityTag(task *pelton.Task) string {
	return fmt.Sprintf(`W/"%d-%s"`, task.Revision, task.State)
}

// matchesTag compares weakly, as If-None-Match does (RFC 9110, section 13.1.2).
func matchesTag(ifNoneMatch, etag string) bool {
	opaque := strings.TrimPrefix(etag, "W/")
	for candidate := range strings.SplitSeq(ifNoneMatch, ",") {
		candidate = strings.TrimSpace(candidate)
		if candidate == "*" || strings.TrimPrefix(candidate, "W/") == opaque {
			return true
		}
	}
	return false
}

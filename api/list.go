package api

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/peltonq/pelton"
)

// Lister is what the API needs to list tasks. A query that makes no sense is a
// *pelton.ValidationError, one that cannot be answered ErrNotSupported.
type Lister interface {
	// Tasks lists tasks that wait for a time, soonest first.
	Tasks(ctx context.Context, q pelton.TaskQuery) (*pelton.TaskPage, error)
}

// listInput is the request of GET /tasks.
type listInput struct {
	State    string `query:"state" enum:"scheduled,retrying" doc:"Tasks of this state. Other states, and none, are not supported as yet." example:"scheduled"`
	Queue    string `query:"queue" doc:"Only tasks of this queue." example:"default"`
	Kind     string `query:"kind" doc:"Only tasks of this kind." example:"email.send"`
	Priority string `query:"priority" enum:"critical,high,normal,low" doc:"Only tasks of this priority." example:"high"`
	Limit    int    `query:"limit" minimum:"1" maximum:"500" default:"50" doc:"The most tasks of the page."`
	Cursor   string `query:"cursor" doc:"The next_cursor of the page before."`

	err error
}

// Resolve checks the parameters, because what is planned is answered otherwise than
// what is wrong.
func (in *listInput) Resolve(ctx huma.Context) []error {
	url := ctx.URL()
	known := []string{"state", "queue", "kind", "priority", "limit", "cursor"}
	query := url.Query()
	var bad []fieldError
	for name, values := range query {
		switch {
		case name == "error" || strings.HasPrefix(name, "label."):
			in.err = newProblem(kindNotSupported, "GET /tasks?%s is not supported by this version", clip(name, 100))
			return nil
		case !slices.Contains(known, name):
			bad = append(bad, fieldError{"query." + clip(name, 100), "unknown query parameter"})
		case values[0] == "" && name != "cursor":
			bad = append(bad, fieldError{"query." + name, "must not be empty: leave it out instead"})
		case name == "limit":
			if n, err := strconv.Atoi(values[0]); err != nil || n < 1 || n > 500 {
				bad = append(bad, fieldError{"query.limit", "must be a whole number from 1 to 500"})
			}
		}
	}
	if len(bad) > 0 {
		in.err = fieldProblem(kindInvalid, bad[:min(len(bad), maxFieldErrors)]...)
	}
	return nil
}

func (s *server) list(ctx context.Context, in *listInput) (*answer, error) {
	if in.err != nil {
		return nil, in.err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := claimOf(ctx).page(in.Limit, deadPageBytes); err != nil {
		return nil, err
	}
	if err := mayFilter(ctx, &in.Queue); err != nil {
		return nil, err
	}
	page, err := s.Lists.Tasks(ctx, pelton.TaskQuery{
		State: pelton.State(in.State), Queue: in.Queue, Kind: in.Kind, Priority: pelton.Priority(in.Priority),
		Cursor: in.Cursor, Limit: in.Limit,
	})
	var invalid *pelton.ValidationError
	if errors.As(err, &invalid) && len(invalid.Fields) > 0 {
		return nil, fieldProblem(kindInvalid, fieldErrors("query", invalid)...)
	}
	if err != nil {
		return nil, err
	}
	return pageAnswer(ctx, page.Items, page.NextCursor)
}

// runInput is the request of POST /tasks/{id}/run.
type runInput struct {
	ID string `path:"id" doc:"The task's id, a UUID."`
}

func (s *server) run(ctx context.Context, in *runInput) (*answer, error) {
	return s.retryWith(ctx, in.ID, s.Tasks.Get, s.Tasks.Run)
}

// registerDelayed adds the calls for tasks that wait for a time.
func (s *server) registerDelayed(api huma.API) {
	register(s, api, huma.Operation{
		OperationID: opList, Method: http.MethodGet, Path: pathTasks, Tags: []string{"tasks"},
		Summary:            "List tasks that wait for a time, soonest first",
		Description:        "state is scheduled (delayed, or put off without an attempt) or retrying. Tasks whose time has come read queued and are not among them. One call looks at 1,000 tasks at most: a page may be short, or empty, while next_cursor is there.",
		SkipValidateParams: true, // see Resolve
		Responses: s.responses(
			response{http.StatusOK, "A page of tasks", "TaskList", exampleTaskList(), nil},
			kindInvalid, kindNotSupported, kindUnavailable,
		),
	}, s.list)
	register(s, api, huma.Operation{
		OperationID: opRun, Method: http.MethodPost, Path: pathRun, Tags: []string{"tasks"},
		Summary:     "Run a delayed or retrying task now",
		Description: "Its time is brought forward to now; turns of concurrency keys, rate limits and pauses hold. A task that reads queued is answered as it stands, and so is one that a limit or a pause put off; one that runs or is over is 409. Repeating the call before the task has started is no error.",
		Responses: s.responses(
			response{http.StatusOK, "The queued task", "Task", exampleRun(), nil},
			kindInvalid, kindNotFound, kindConflict, kindForbidden, kindUnavailable, kindUnknownOutcome,
		),
	}, s.run)
}

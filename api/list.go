package api

import (
	"context"
	"errors"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/peltonq/pelton"
)

// Lister is what the API needs to list tasks, and to act on what a filter selects. A
// query that makes no sense is a *pelton.ValidationError.
type Lister interface {
	// Tasks lists tasks in the order of the query's state. Their payloads and results are
	// 8 MiB together, or one task.
	Tasks(ctx context.Context, q pelton.TaskQuery) (*pelton.TaskPage, error)
	// CancelTasks and RetryTasks act on what q selects, or only count it, and bound their
	// time by themselves.
	CancelTasks(ctx context.Context, q pelton.TaskQuery, dryRun bool) (*pelton.BulkResult, error)
	RetryTasks(ctx context.Context, q pelton.TaskQuery, dryRun bool) (*pelton.BulkResult, error)
}

// labelPrefix begins the parameters that select by label: label.tenant=acme.
const labelPrefix = "label."

// listInput is the request of GET /tasks. The labels are read by Resolve.
type listInput struct {
	State    string `query:"state" enum:"scheduled,queued,running,retrying,succeeded,failed,cancelled,expired" doc:"Only tasks of this state. It also says in what order they come." example:"failed"`
	Queue    string `query:"queue" pattern:"^[a-z0-9][a-z0-9_-]{0,63}$" doc:"Only tasks of this queue." example:"default"`
	Kind     string `query:"kind" pattern:"^[A-Za-z0-9][A-Za-z0-9_.:/-]{0,127}$" doc:"Only tasks of this kind." example:"email.send"`
	Priority string `query:"priority" enum:"critical,high,normal,low" doc:"Only tasks of this priority." example:"high"`
	Error    string `query:"error" minLength:"1" maxLength:"256" doc:"Only tasks whose last failure, written as 'reason: message', has this text in it." example:"connection refused"`
	Since    string `query:"since" format:"date-time" doc:"Only tasks from this time on: the time that the list goes by, see above." example:"2026-12-01T08:00:00Z"`
	Until    string `query:"until" format:"date-time" doc:"Only tasks before this time." example:"2026-12-02T08:00:00Z"`
	Limit    int    `query:"limit" minimum:"1" maximum:"500" default:"50" doc:"The most tasks of the page."`
	Cursor   string `query:"cursor" doc:"The next_cursor of the page before. The filter must be the same."`

	q   pelton.TaskQuery
	err error
}

// Resolve reads the parameters, because huma knows none whose names are the caller's.
func (in *listInput) Resolve(ctx huma.Context) []error {
	url := ctx.URL()
	in.q, in.err = parseTaskParams(url.Query())
	return nil
}

// parseTaskParams reads the query of GET /tasks. The error is a problem.
func parseTaskParams(query url.Values) (q pelton.TaskQuery, err error) {
	q.Limit = 50
	p := fieldReader{at: "query"}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		value := query.Get(name)
		label, isLabel := strings.CutPrefix(name, labelPrefix)
		switch {
		case len(query[name]) > 1:
			p.fail(name, "stands more than once")
		case isLabel:
			if q.Labels == nil {
				q.Labels = make(map[string]string)
			}
			q.Labels[label] = value
		case name == "limit":
			if q.Limit, err = strconv.Atoi(value); err != nil || q.Limit < 1 || q.Limit > 500 {
				p.fail(name, "must be a whole number from 1 to 500")
			}
		case name == "since":
			q.Since = p.instant(name, value)
		case name == "until":
			q.Until = p.instant(name, value)
		default:
			field := map[string]*string{
				"state": (*string)(&q.State), "queue": &q.Queue, "kind": &q.Kind, "priority": (*string)(&q.Priority),
				"error": &q.Error, "cursor": &q.Cursor,
			}[name]
			if field == nil {
				p.fail(name, "unknown query parameter")
				continue
			}
			*field = value
		}
	}
	return q, p.problem()
}

func (s *server) list(ctx context.Context, in *listInput) (*answer, error) {
	if in.err != nil {
		return nil, in.err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := claimOf(ctx).page(in.q.Limit, deadPageBytes); err != nil {
		return nil, err
	}
	if err := mayFilter(ctx, &in.q.Queue); err != nil {
		return nil, err
	}
	page, err := s.Lists.Tasks(ctx, in.q)
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

func (s *server) cancelMany(ctx context.Context, in *bulkInput) (*answer, error) {
	return bulkWith(ctx, in, parseTaskQuery, s.Lists.CancelTasks)
}

func (s *server) retryMany(ctx context.Context, in *bulkInput) (*answer, error) {
	return bulkWith(ctx, in, parseTaskQuery, s.Lists.RetryTasks)
}

package api

import (
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/peltonq/pelton"
)

// registerLists adds the calls on many tasks, and that which brings a time forward.
func (s *server) registerLists(api huma.API) {
	register(s, api, huma.Operation{
		OperationID: opList, Method: http.MethodGet, Path: pathTasks, Tags: []string{"tasks"},
		Summary: "List tasks",
		Description: "state says in what order, and what since and until are of: scheduled and retrying by run_at, the soonest first; queued by when they became ready, running by when they were made (since and until: by started_at), succeeded, failed, cancelled and expired by when they ended, and without a state all by their last change: the newest first. " +
			"label.NAME=VALUE selects by label, and may stand for several names. Tasks whose time has come read queued. Running tasks are those that workers said last that they run, every few seconds. " +
			"One call reads a bounded number of tasks, 1,000 or so, whether they match or not: a page may be short, or empty, while next_cursor is there.",
		SkipValidateParams: true, // see Resolve
		Parameters:         []*huma.Param{labelParam()},
		Responses: s.responses(
			response{http.StatusOK, "A page of tasks", "TaskList", exampleTaskList(), nil},
			kindInvalid, kindUnavailable,
		),
	}, s.list)
	const bounds = " One call acts on 1,000 tasks at most, 500 a second: go on with next_cursor until it is absent. dry_run only counts. What was over, or changed, before the call came to it does not count."
	register(s, api, huma.Operation{
		OperationID: opCancelMany, Method: http.MethodPost, Path: pathCancelMany, Tags: []string{"tasks"},
		Summary:     "Cancel tasks, by filter",
		Description: "Each as by POST /tasks/{id}/cancel. state is scheduled, retrying, queued or running, and without one all of them, in that order: {} cancels everything that is not over." + bounds,
		Responses:   s.bulkResponses(),
	}, s.cancelMany)
	register(s, api, huma.Operation{
		OperationID: opRetryTasks, Method: http.MethodPost, Path: pathRetryMany, Tags: []string{"tasks"},
		Summary:     "Run tasks again that are over, by filter",
		Description: "Each as by POST /tasks/{id}/retry. state is failed, which it is without one, succeeded, cancelled or expired." + bounds,
		Responses:   s.bulkResponses(),
	}, s.retryMany)
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

// labelParam is the parameters that select by label: an object whose properties stand
// in the query by themselves, as form-style objects do when they are exploded.
func labelParam() *huma.Param {
	explode, longest := true, 256
	return &huma.Param{
		Name: "label", In: "query", Style: "form", Explode: &explode,
		Description: "label.NAME=VALUE for each: only tasks with all of these labels, with these very values.",
		Schema: &huma.Schema{
			Type: huma.TypeObject, AdditionalProperties: &huma.Schema{Type: huma.TypeString, MaxLength: &longest},
		},
		Example: map[string]string{labelPrefix + "tenant": "acme"},
	}
}

func taskFilterSchema() *huma.Schema {
	limit := integer("The most tasks that this call acts on.", 1)
	most, shortest, longest := 1000.0, 1, 256
	limit.Maximum, limit.Default = &most, int(most)
	return closed(object(properties{
		"state":    enum("Only tasks of this state, one that the call can act on.", pelton.States()...),
		"queue":    pattern(queuePattern, "Only tasks of this queue."),
		"kind":     pattern(kindPattern, "Only tasks of this kind."),
		"priority": enum("Only tasks of this priority.", pelton.Priorities()...),
		"labels":   labels(),
		"error":    {Type: huma.TypeString, MinLength: &shortest, MaxLength: &longest, Description: "Only tasks whose last failure, written as 'reason: message', has this text in it.", Examples: []any{string(pelton.ReasonTimeout)}},
		"since":    timestamp("Only tasks from this time on, as for GET /tasks."),
		"until":    timestamp("Only tasks before this time."),
		"dry_run":  boolean("Only count."),
		"limit":    limit,
		"cursor":   text("The next_cursor of the call before. The filter must be the same."),
	}))
}

func exampleTaskFilter(state pelton.State) json.RawMessage {
	return json.RawMessage(fmt.Sprintf(`{"state":%q,"queue":"default","labels":{"tenant":"acme"},"dry_run":true}`, state))
}

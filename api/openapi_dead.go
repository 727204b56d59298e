package api

import (
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/peltonq/pelton"
)

func (s *server) registerEvents(api huma.API) {
	answers := s.responses(kindInvalid, kindNotFound, kindUnavailable)
	answers["200"] = &huma.Response{
		Description: "Server-sent events. event is state (data: the task) or progress (data: the task without payload and errors), id is the task's revision.",
		Content:     map[string]*huma.MediaType{eventMediaType: {Schema: &huma.Schema{Type: huma.TypeString}, Example: exampleEvents()}},
	}
	answers["204"] = &huma.Response{Description: "The task is over, and Last-Event-ID says that this was seen"}
	huma.Register(api, huma.Operation{
		OperationID: opEvents, Method: http.MethodGet, Path: pathEvents, Tags: []string{"tasks"},
		Summary:     "Watch a task",
		Description: "Begins with the task as it stands and ends after its final state. Changes in quick succession come as one. A comment comes every 15 s; a reader that takes more than 10 s for an event is dropped, and may come back with Last-Event-ID.",
		Responses:   answers,
	}, s.events)
}

func (s *server) registerDead(api huma.API) {
	register(s, api, huma.Operation{
		OperationID: opListDead, Method: http.MethodGet, Path: pathDead, Tags: []string{"dead letters"},
		Summary:     "List dead letters, newest first",
		Description: "One call looks at 1,000 letters at most, whether they match or not: a page may be short, or empty, while next_cursor is there.",
		Responses: s.responses(
			response{http.StatusOK, "A page of tasks as they were when they failed", "TaskList", exampleDeadList(), nil},
			kindInvalid, kindUnavailable,
		),
	}, s.listDead)
	register(s, api, huma.Operation{
		OperationID: opGetDead, Method: http.MethodGet, Path: pathDeadLetter, Tags: []string{"dead letters"},
		Summary: "Read a dead letter",
		Responses: s.responses(
			response{http.StatusOK, "The task as it was when it failed; revision is the letter's own", "Task", exampleDead(), nil},
			kindInvalid, kindNotFound, kindUnavailable,
		),
	}, s.getDead)
	register(s, api, huma.Operation{
		OperationID: opDeleteDead, Method: http.MethodDelete, Path: pathDeadLetter, Tags: []string{"dead letters"},
		Summary:       "Delete a dead letter",
		Description:   "The failed task stays readable as long as it would have.",
		DefaultStatus: http.StatusNoContent,
		Responses: s.responses(
			response{http.StatusNoContent, "It is gone", "", nil, nil},
			kindInvalid, kindNotFound, kindForbidden, kindUnavailable, kindUnknownOutcome,
		),
	}, s.deleteDead)
	register(s, api, huma.Operation{
		OperationID: opRetryDead, Method: http.MethodPost, Path: pathDeadRetry, Tags: []string{"dead letters"},
		Summary:     "Run a dead task again",
		Description: "It goes back into its queue with its id, payload and error history; its attempts start anew, and the letter is gone. 409 means that the letter was out of date, and is gone too.",
		Responses: s.responses(
			response{http.StatusOK, "The queued task", "Task", exampleRetried(), nil},
			kindInvalid, kindNotFound, kindConflict, kindForbidden, kindUnavailable, kindUnknownOutcome,
		),
	}, s.retryDead)
	const bounds = " One call acts on 1,000 letters at most, newest first, 500 a second: go on with next_cursor until it is absent. dry_run only counts. {} selects all."
	register(s, api, huma.Operation{
		OperationID: opRetryMany, Method: http.MethodPost, Path: pathDeadRetryMany, Tags: []string{"dead letters"},
		Summary:     "Run dead tasks again, by filter",
		Description: "Each as by POST /dead/{id}/retry." + bounds,
		Responses:   s.bulkResponses(),
	}, s.retryDeadMany)
	register(s, api, huma.Operation{
		OperationID: opPurgeDead, Method: http.MethodPost, Path: pathDeadPurge, Tags: []string{"dead letters"},
		Summary:     "Delete dead letters, by filter",
		Description: "Each as by DELETE /dead/{id}." + bounds,
		Responses:   s.bulkResponses(),
	}, s.purgeDead)
}

func (s *server) bulkResponses() map[string]*huma.Response {
	return s.responses(
		response{http.StatusOK, "How far it came", "BulkResult", exampleBulkResult(), nil},
		kindInvalid, kindMalformed, kindMediaType, kindTooLarge, kindTimeout, kindForbidden, kindUnavailable, kindUnknownOutcome,
	)
}

func deadQuerySchema() *huma.Schema {
	limit := integer("The most letters that this call acts on.", 1)
	most := 1000.0
	limit.Maximum, limit.Default = &most, int(most)
	return closed(object(properties{
		"queue":   pattern(queuePattern, "Only letters of this queue."),
		"kind":    pattern(kindPattern, "Only letters of this kind."),
		"error":   {Type: huma.TypeString, Description: "Only letters whose last failure, written as 'reason: message', has this text in it.", Examples: []any{string(pelton.ReasonTimeout)}},
		"dry_run": boolean("Only count."),
		"limit":   limit,
		"cursor":  text("The next_cursor of the call before."),
	}))
}

func bulkResultSchema() *huma.Schema {
	return object(properties{
		"matched":     integer("Letters that the filter selected.", 0),
		"done":        integer("Those that it was carried out on; none for a dry run.", 0),
		"failed":      integer("Those that could not be retried, and stay.", 0),
		"next_cursor": text("Where to go on; absent when nothing is left."),
	}, "matched", "done", "failed")
}

package api

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/peltonq/pelton"
)

// Workers is what the API needs to list workers.
type Workers interface {
	// Workers lists the workers that are there, sorted by id. A query that makes no
	// sense is a *pelton.ValidationError.
	Workers(ctx context.Context, q pelton.WorkerQuery) (*pelton.WorkerPage, error)
}

// workerListInput is the request of GET /workers.
type workerListInput struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"500" default:"50" doc:"The most workers of the page."`
	Cursor string `query:"cursor" doc:"The next_cursor of the page before."`
}

func (s *server) listWorkers(ctx context.Context, in *workerListInput) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	page, err := s.Workers.Workers(ctx, pelton.WorkerQuery{Limit: in.Limit, Cursor: in.Cursor})
	var invalid *pelton.ValidationError
	if errors.As(err, &invalid) && len(invalid.Fields) > 0 {
		return nil, fieldProblem(kindInvalid, fieldErrors("query", invalid)...)
	}
	if err != nil {
		return nil, err
	}
	if page.Items == nil {
		page = &pelton.WorkerPage{Items: []pelton.Worker{}, NextCursor: page.NextCursor} // [] and not null
	}
	return encodeAnswer(page)
}

func (s *server) registerWorkers(api huma.API) {
	register(s, api, huma.Operation{
		OperationID: opListWorkers, Method: http.MethodGet, Path: pathWorkers, Tags: []string{"workers"},
		Summary:     "List the workers that are there",
		Description: "Sorted by id. Every worker says every few seconds that it is there; one that dies stays on the list for 15 s at most.",
		Responses: s.responses(
			response{http.StatusOK, "A page of workers", "WorkerList", exampleWorkerList(), nil},
			kindInvalid, kindUnavailable,
		),
	}, s.listWorkers)
}

func workerSchema() *huma.Schema {
	return object(properties{
		"id":          text("The worker's id, as tasks name it."),
		"host":        text("The name of its host; empty if that is not known."),
		"pid":         integer("Its process there.", 0),
		"version":     text("The version of its program; empty if it has none."),
		"kinds":       array(text("A kind."), "The kinds that it has handlers for."),
		"queues":      array(text("A queue."), "The queues that it serves."),
		"concurrency": integer("The number of its slots.", 1),
		"running":     array(text("The id of a task."), "The tasks that it runs."),
		"leaked":      integer("Slots held by handlers that ignored the end of their context.", 0),
		"started_at":  timestamp("When it was started."),
		"seen_at":     timestamp("When it said this, by its own clock."),
	}, "id", "host", "pid", "version", "kinds", "queues", "concurrency", "running", "leaked", "started_at", "seen_at")
}

func exampleWorkerList() *pelton.WorkerPage {
	task := exampleTask(false)
	return &pelton.WorkerPage{Items: []pelton.Worker{{
		ID: "host-1-4711", Host: "host-1", PID: 4711, Version: "v1.2.3", Kinds: []string{task.Kind}, Queues: []string{"default"},
		Concurrency: 16, Running: []pelton.ID{task.ID}, StartedAt: exampleTime(), SeenAt: exampleTime().Add(30 * time.Second),
	}}, NextCursor: "aG9zdC0xLTQ3MTE"}
}

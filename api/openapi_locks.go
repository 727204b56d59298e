package api

import (
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/peltonq/pelton"
)

func (s *server) registerLocks(api huma.API) {
	register(s, api, huma.Operation{
		OperationID: opListLocks, Method: http.MethodGet, Path: pathLocks, Tags: []string{"locks"},
		Summary:     "List the named locks that are held",
		Description: "Sorted by name; holders in the order in which they came. A lock that nobody holds is not there.",
		Responses: s.responses(
			response{http.StatusOK, "A page of locks", "LockList", exampleLockList(), nil},
			kindInvalid, kindUnavailable,
		),
	}, s.listLocks)
	register(s, api, huma.Operation{
		OperationID: opReleaseLock, Method: http.MethodDelete, Path: pathLock, Tags: []string{"locks"},
		Summary:       "Release a lock by force",
		Description:   "Takes it from those who hold it. Their handlers are told and may still work when somebody else has the lock; fencing tokens tell them apart. Who takes the lock meanwhile keeps it.",
		DefaultStatus: http.StatusOK,
		Responses: s.responses(
			response{http.StatusOK, "The lock, with those who held it", "Lock", exampleLock(), nil},
			kindInvalid, kindNotFound, kindForbidden, kindUnavailable, kindUnknownOutcome,
		),
	}, s.releaseLock)
}

func lockSchema() *huma.Schema {
	return object(properties{
		"name":  text("The lock's name."),
		"slots": integer("How many may hold it at a time; 1 for a plain lock.", 0),
		"holders": array(object(properties{
			"task_id":     text("The task whose handler holds it."),
			"kind":        text("The kind of that task."),
			"worker":      text("The id of the worker that runs it."),
			"fence":       integer("The token of the task's start.", 0),
			"token":       integer("The fencing token: it grows with every acquisition of the lock.", 0),
			"acquired_at": timestamp("When it was taken, by the worker's clock."),
			"expires_at":  timestamp("When it is free if its worker is not heard of any more, by the broker's clock."),
		}, "task_id", "kind", "worker", "fence", "token", "acquired_at", "expires_at"), "Who holds it, in the order of their tokens."),
	}, "name", "slots", "holders")
}

func exampleLock() *pelton.Lock {
	task := exampleTask(false)
	return &pelton.Lock{Name: "invoice/42", Slots: 1, Holders: []pelton.LockHolder{{
		TaskID: task.ID, Kind: task.Kind, Worker: "host-1-4711", Fence: 2, Token: 4711,
		AcquiredAt: exampleTime().Add(5 * time.Millisecond), ExpiresAt: exampleTime().Add(30 * time.Second),
	}}}
}

func exampleLockList() *pelton.LockPage {
	return &pelton.LockPage{Items: []pelton.Lock{*exampleLock()}, NextCursor: "aW52b2ljZS80Mg"}
}

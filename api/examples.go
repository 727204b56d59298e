package api

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/peltonq/pelton"
)

// The examples of the document are made of the types that are served, so that
// they cannot show anything else.

// exampleTime is when the example task was accepted.
func exampleTime() time.Time { return time.Date(2026, 12, 1, 8, 0, 0, 0, time.UTC) }

// exampleTask is one task, as it was accepted or as it ended.
func exampleTask(finished bool) *pelton.Task {
	task := &pelton.Task{
		ID:          pelton.ID{0x01, 0xa2, 0x30, 0x9e, 0x24, 0x00, 0x8c, 0x3f, 0x80, 0x2a, 0x6b, 0x1d, 0x90, 0x4e, 0x57, 0x33},
		Kind:        "email.send",
		Queue:       pelton.DefaultQueue,
		Priority:    pelton.High,
		State:       pelton.Queued,
		Payload:     json.RawMessage(`{"to":"a@b.c"}`),
		MaxAttempts: pelton.DefaultMaxAttempts,
		Timeout:     30 * time.Second,
		Retention:   pelton.DefaultRetention,
		Revision:    1,
		CreatedAt:   exampleTime(),
		Labels:      map[string]string{"tenant": "acme"},

		ConcurrencyKey: "acme",
	}
	if finished {
		task.State, task.Revision, task.Attempt = pelton.Succeeded, 3, 1
		task.StartedAt = exampleTime().Add(4 * time.Millisecond)
		task.FinishedAt = exampleTime().Add(310 * time.Millisecond)
		task.Worker = "host-1-4711"
		task.Result = json.RawMessage(`{"message_id":"42"}`)
	}
	return task
}

func exampleCancelled() *pelton.Task {
	task := exampleTask(false)
	task.State, task.Revision = pelton.Cancelled, 2
	task.FinishedAt = exampleTime().Add(time.Second)
	return task
}

// exampleScheduled is a task that waits for its time.
func exampleScheduled() *pelton.Task {
	task := exampleTask(false)
	task.State, task.RunAt = pelton.Scheduled, exampleTime().Add(time.Hour)
	return task
}

// exampleRun is the same whose time was brought forward.
func exampleRun() *pelton.Task {
	task := exampleTask(false)
	task.RunAt, task.Revision = exampleTime().Add(time.Minute), 2
	return task
}

func exampleRetried() *pelton.Task {
	task := exampleTask(false)
	task.Revision, task.Errors = 9, []pelton.Failure{exampleFailure()}
	task.Error = &task.Errors[0]
	return task
}

// exampleDead is a dead letter.
func exampleDead() *pelton.Task {
	task := exampleRetried()
	task.State, task.Revision, task.Attempt = pelton.Failed, 112, task.MaxAttempts
	task.StartedAt, task.FinishedAt = task.Error.At.Add(-time.Second), task.Error.At
	task.Worker = "host-1-4711"
	return task
}

func exampleFailure() pelton.Failure {
	return pelton.Failure{
		Message: "smtp: connection refused", Reason: pelton.ReasonError,
		Attempt: pelton.DefaultMaxAttempts, At: exampleTime().Add(9 * time.Hour),
	}
}

// exampleTaskList has the form of what listAnswer writes.
func exampleTaskList() any {
	return struct {
		Items      []*pelton.Task `json:"items"`
		NextCursor string         `json:"next_cursor"`
	}{[]*pelton.Task{exampleScheduled()}, "d3hqo0.01a2309e-2400-8c3f-802a-6b1d904e5733"}
}

// exampleDeadList has the form of what listAnswer writes.
func exampleDeadList() any {
	return struct {
		Items      []*pelton.Task `json:"items"`
		NextCursor string         `json:"next_cursor"`
	}{[]*pelton.Task{exampleDead()}, "34"}
}

func exampleDeadQuery() json.RawMessage {
	return json.RawMessage(`{"queue":"default","error":"connection refused","dry_run":true}`)
}

func exampleBulkResult() pelton.BulkResult {
	return pelton.BulkResult{Matched: 1000, Done: 999, Failed: 1, NextCursor: "2s"}
}

func exampleRequest() json.RawMessage {
	return json.RawMessage(`{"kind":"email.send","payload":{"to":"a@b.c"},"priority":"high","delay":"90s","timeout":"30s","unique":{"key":"user-42","on_conflict":"existing"},"concurrency_key":"acme","rate_key":"acme","labels":{"tenant":"acme"}}`)
}

func exampleBatchRequest() json.RawMessage {
	return json.RawMessage(`{"tasks":[{"kind":"email.send","payload":{"to":"a@b.c"},"idempotency_key":"order-4711"},{"kind":"report.build","delay":"1h","run_at":"2126-12-01T08:00:00Z"}]}`)
}

// batchAnswerItem is the form of what appendItem writes.
type batchAnswerItem struct {
	Status  int          `json:"status"`
	Task    *pelton.Task `json:"task,omitempty"`
	Problem *problem     `json:"problem,omitempty"`
}

func exampleBatchAnswer() any {
	refused := fieldProblem(kindInvalid, fieldError{"body.tasks[1].delay", delayExcludesRunAt})
	return map[string][]batchAnswerItem{"items": {
		{Status: http.StatusAccepted, Task: exampleTask(false)},
		{Status: refused.Status, Problem: refused},
	}}
}

// exampleProblem is a problem of a kind; nil where the type says everything.
func exampleProblem(k kind) *problem {
	for _, r := range rules() {
		if r.kind == k && r.detail != "" {
			return newProblem(k, "%s", r.detail)
		}
	}
	switch k { //nolint:exhaustive // the others are in the table above
	case kindMediaType:
		return newProblem(k, `Content-Type is "text/plain": send application/json`)
	case kindTooLarge:
		return newProblem(k, "the body is larger than %d bytes", maxTaskBody)
	case kindTimeout:
		return newProblem(k, "the body did not arrive within %s", pelton.FormatDuration(bodyTimeout))
	case kindForbidden:
		return newProblem(k, "a page of another origin must not change anything here")
	case kindUnauthorized:
		return newProblem(k, "a token is needed: Authorization: Bearer TOKEN")
	case kindMisdirected:
		return newProblem(k, `Host "evil.example" is not served here: use localhost, or name it in --allowed-hosts`)
	case kindRateLimited:
		return newProblem(k, "more than %d requests in %s", 100, pelton.FormatDuration(time.Second))
	case kindNotSupported:
		return newProblem(k, "not supported by this version")
	case kindInternal:
		return newInternal()
	case kindInvalid:
		return fieldProblem(k, fieldError{"body.queue", `"Reports!" must match ` + queuePattern})
	case kindMalformed:
		return fieldProblem(k, fieldError{"body", "line 1, column 24: the JSON ends too early"})
	case kindNotFound:
		return newProblem(k, "get task %s: %s", exampleTask(false).ID, pelton.ErrNotFound)
	case kindOverloaded:
		return newProblem(k, "enqueue email.send: queue default: %s: it holds 100000 ready tasks, and max_depth is 100000", pelton.ErrOverloaded)
	case kindPrecondition:
		return newProblem(k, "schedule nightly has revision 42")
	case kindConflict:
		return newProblem(k, "cancel task %s: %s: it is %s", exampleTask(false).ID, pelton.ErrConflict, pelton.Succeeded)
	default:
		return nil
	}
}

// exampleHeld is a task that was refused because another holds its unique key.
func exampleHeld() *problem {
	held := &pelton.UniqueError{Kind: "email.send", Key: "user-42", Holder: exampleTask(false).ID, State: pelton.Running}
	p := newProblem(kindConflict, "%s", held)
	p.TaskID = held.Holder.String()
	return p
}

func exampleQueue() *pelton.Queue {
	return &pelton.Queue{
		Name: pelton.DefaultQueue,
		Priorities: map[pelton.Priority]pelton.Depth{
			pelton.High:   {Ready: 2, Running: 1, OldestReady: 2 * time.Second},
			pelton.Normal: {Ready: 40, Running: 7, OldestReady: 90 * time.Second},
		},
		Ready: 42, Running: 8, Scheduled: 3, Waiting: 5, Dead: 1,
		Settings: pelton.QueueSettings{MaxRunning: map[pelton.Priority]int{pelton.Normal: 8}, Timeout: time.Minute},
	}
}

func exampleSettingsPatch() json.RawMessage {
	return json.RawMessage(`{"max_running":{"normal":8,"low":null},"timeout":"1m","lease":null}`)
}

func examplePurged() pelton.Purged { return pelton.Purged{Purged: 71_304, NextCursor: "r-9zk-c2s"} }

func exampleQueues() namesPage[pelton.Queue] {
	return namesPage[pelton.Queue]{Items: []pelton.Queue{*exampleQueue()}}
}

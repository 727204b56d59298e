package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/peltonq/pelton"
)

// Explainer is what the API needs to say why tasks do not run.
type Explainer interface {
	// Why is why a task does not run, or ErrNotFound.
	Why(ctx context.Context, id pelton.ID) (*pelton.Why, error)
}

// whyInput is the request of GET /tasks/{id}/why.
type whyInput struct {
	ID string `path:"id" doc:"The task's id, a UUID."`
}

func (s *server) why(ctx context.Context, in *whyInput) (*answer, error) {
	id, err := pathID(in.ID)
	if err != nil {
		return nil, err
	}
	if err := s.mayTask(ctx, id, s.Tasks.Get); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	why, err := s.Why.Why(ctx, id)
	if err != nil {
		return nil, err
	}
	return encodeAnswer(why)
}

func (s *server) registerWhy(api huma.API) {
	register(s, api, huma.Operation{
		OperationID: opWhy, Method: http.MethodGet, Path: pathWhy, Tags: []string{"tasks"},
		Summary:     "Say why a task does not run",
		Description: "The reasons with their numbers, the one that binds first in front; also for tasks that run or are over. It is put together from several reads, so it is what was so a moment ago. More codes may come.",
		Responses: s.responses(
			response{http.StatusOK, "Why it does not run", "Why", exampleWhy(), nil},
			kindInvalid, kindNotFound, kindUnavailable,
		),
	}, s.why)
}

func whySchema() *huma.Schema {
	return object(properties{
		"task_id":  text("The task's id."),
		"state":    enum("Where the task stands.", pelton.States()...),
		"code":     enum("The code of the first reason.", pelton.WhyCodes()...),
		"message":  text("The message of the first reason."),
		"estimate": timestamp("When the task may start if nothing changes; absent where that depends on others."),
		"reasons":  array(ref("WhyReason"), "All reasons, the one that binds first in front; at least one."),
	}, "task_id", "state", "code", "message", "reasons")
}

func whyReasonSchema() *huma.Schema {
	return object(properties{
		"code":         enum("The reason.", pelton.WhyCodes()...),
		"message":      text("The reason for people."),
		"until":        timestamp("When the reason is over, as far as that is known."),
		"look_at":      timestamp("When a task that was put off is looked at again."),
		"since":        timestamp("Since when."),
		"attempt":      integer("The attempt that failed, or runs.", 0),
		"max_attempts": integer("How many attempts the task has.", 0),
		"deferrals":    integer("How often in a row no worker knew the kind.", 0),
		"queue":        text("The queue that holds it."),
		"priority":     enum("The priority of that queue.", pelton.Priorities()...),
		"kind":         text("The kind that holds it."),
		"key":          text("The concurrency key or rate key that holds it."),
		"limit":        text("The name of the rate limit that holds it."),
		"worker":       text("The worker that runs it, or ran it."),
		"rate":         ref("RateLimit"),
		"running":      integer("How many have a turn, a place in the lane, or a slot; absent is none.", 0),
		"max_running":  integer("How many may have one.", 0),
		"holders":      array(text("A task's id."), "The tasks that have the turns; 100 at most."),
		"ahead": object(properties{
			"at_least": integer("So many at least.", 0),
			"at_most":  integer("So many at most; exact where both are equal.", 0),
		}, "at_least", "at_most"),
		"workers": integer("How many workers are there, serve the queue, or could run it; absent is none.", 0),
	}, "code", "message")
}

func exampleWhy() *pelton.Why {
	task := exampleTask(false)
	reason := pelton.WhyReason{
		Code: pelton.WhyWaitingForKey, Key: task.ConcurrencyKey, Running: 1, MaxRunning: 1,
		Holders: []pelton.ID{task.ID}, Ahead: &pelton.Between{AtLeast: 2, AtMost: 2},
	}
	reason.Holders[0][15]++
	reason.Message = `1 of 1 turns of concurrency key "acme" are taken, by task ` + reason.Holders[0].String() + "; 2 tasks are before it in the line"
	return &pelton.Why{TaskID: task.ID, State: task.State, Code: reason.Code, Message: reason.Message, Reasons: []pelton.WhyReason{reason}}
}

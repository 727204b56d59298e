package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/peltonq/pelton"
)

// access is what a call asks of its caller's token.
type access struct {
	// scopes are needed, all of them. None means any token.
	scopes []pelton.Scope
	// queues says that the call looks at the queues of the token. Others are refused to
	// tokens that are bound to some.
	queues bool
	// public needs no token.
	public bool
}

// accessTo is the one table of what calls need. What is not in it is for admins.
func accessTo(method, path string) access {
	need := func(scopes ...pelton.Scope) access { return access{scopes: scopes} }
	within := func(scopes ...pelton.Scope) access { return access{scopes: scopes, queues: true} }
	switch method + " " + path {
	case "GET " + pathHealth, "GET " + pathReady:
		return access{public: true}
	case "GET " + pathOpenAPI, "GET /openapi-3.0.json", "GET /docs":
		return access{queues: true} // any token: there is nothing of a queue in it
	case "GET " + pathMetrics, "GET " + pathLimits, "GET " + pathLocks, "GET " + pathWorkers:
		return need(pelton.ScopeRead)

	case "POST " + pathTasks, "POST " + pathBatch:
		return within(pelton.ScopeEnqueue)
	case "GET " + pathTasks, "GET " + pathTask, "GET " + pathEvents, "GET " + pathWhy,
		"GET " + pathQueues, "GET " + pathQueue, "GET " + pathDead, "GET " + pathDeadLetter,
		"GET " + pathSchedules, "GET " + pathSchedule:
		return within(pelton.ScopeRead)
	case "POST " + pathCancel, "POST " + pathRetry, "POST " + pathRun, "POST /tasks/cancel", "POST /tasks/retry",
		"POST " + pathPause, "POST " + pathResume, "POST " + pathPurge,
		"POST " + pathDeadRetry, "DELETE " + pathDeadLetter, "POST " + pathDeadRetryMany, "POST " + pathDeadPurge,
		"DELETE " + pathSchedule, "POST " + pathSchedulePause, "POST " + pathScheduleResume, "POST " + pathScheduleRun,
		"POST " + pathScheduleBackfill:
		return within(pelton.ScopeOperate)
	case "DELETE " + pathLock:
		return need(pelton.ScopeOperate)
	case "PUT " + pathSchedule:
		return within(pelton.ScopeOperate, pelton.ScopeEnqueue)
	case "POST " + pathSchedulesApply:
		return need(pelton.ScopeOperate, pelton.ScopeEnqueue)
	case "PATCH " + pathQueue:
		return within(pelton.ScopeAdmin)
	default:
		return need(pelton.ScopeAdmin)
	}
}

// permit is huma's middleware before every operation: it refuses what the caller's token
// is not good for, before the body is read.
func permit(ctx huma.Context, next func(huma.Context)) {
	op := ctx.Operation()
	r, w := humago.Unwrap(ctx)
	if p := refuse(callerOf(r.Context()).token, accessTo(op.Method, op.Path), op); p != nil {
		p.ServeHTTP(w, r)
		return
	}
	next(ctx)
}

// refuse is the problem of a token that is not good for a call, or nil.
func refuse(t *pelton.Token, need access, op *huma.Operation) *problem {
	if t == nil || need.public {
		return nil
	}
	var missing []string
	for _, scope := range need.scopes {
		if !t.Allows(scope) {
			missing = append(missing, string(scope))
		}
	}
	switch {
	case len(missing) > 0:
		lacks := strings.Join(missing, " ")
		return newProblem(kindForbidden, "%s %s needs the scope %s, which the token %q does not have", op.Method, op.Path, strings.Join(missing, " and "), t.Name).
			withHeader("WWW-Authenticate", fmt.Sprintf(`Bearer realm="pelton", error="insufficient_scope", scope=%q`, lacks))
	case t.Bound() && !need.queues:
		return newProblem(kindForbidden, "%s %s is not about one queue, and the token %q is bound to %s", op.Method, op.Path, t.Name, strings.Join(t.Queues, ", "))
	default:
		return nil
	}
}

// documentAccess says of every operation what it needs, and how it refuses.
func documentAccess(doc *huma.OpenAPI) {
	for path, item := range doc.Paths {
		for method, op := range map[string]*huma.Operation{
			http.MethodGet: item.Get, http.MethodPost: item.Post, http.MethodPut: item.Put, http.MethodPatch: item.Patch, http.MethodDelete: item.Delete,
		} {
			if op == nil {
				continue
			}
			need := accessTo(method, path)
			if need.public {
				continue
			}
			var words []string
			for _, scope := range need.scopes {
				words = append(words, string(scope))
			}
			text := "Any token will do."
			if len(words) > 0 {
				text = "Scope: " + strings.Join(words, " and ") + "."
			}
			if !need.queues {
				text += " Not for tokens that are bound to queues."
			}
			op.Description = strings.TrimSpace(op.Description + " " + text)
			if op.Responses["403"] == nil {
				op.Responses["403"] = problemResponse(kindForbidden)
			}
		}
	}
}

// mayQueue is nil if the caller's token is good for a queue, else a problem. An empty name
// is the default queue.
func mayQueue(ctx context.Context, queue string) error {
	t := callerOf(ctx).token
	if queue == "" {
		queue = pelton.DefaultQueue
	}
	if t == nil || t.AllowsQueue(queue) {
		return nil
	}
	return newProblem(kindForbidden, "queue %s is none of those that the token %q is bound to: %s", clip(queue, 80), t.Name, strings.Join(t.Queues, ", "))
}

// bound reports whether the caller's token is for some queues only.
func bound(ctx context.Context) bool {
	t := callerOf(ctx).token
	return t != nil && t.Bound()
}

// mayFilter makes a filter one for what the caller's token is good for: no queue means
// the token's, if it has one. The error is a problem.
func mayFilter(ctx context.Context, queue *string) error {
	switch t := callerOf(ctx).token; {
	case *queue != "":
		return mayQueue(ctx, *queue)
	case !bound(ctx):
		return nil
	case len(t.Queues) == 1:
		*queue = t.Queues[0]
		return nil
	default:
		return newProblem(kindForbidden, "the token %q is bound to queues: name one of them: %s", t.Name, strings.Join(t.Queues, ", "))
	}
}

// mayFilterBy is mayFilter for a query of any sort. One whose queue is not known is refused
// to tokens that are bound to some.
func mayFilterBy(ctx context.Context, query any) error {
	switch q := query.(type) {
	case *pelton.DeadQuery:
		return mayFilter(ctx, &q.Queue)
	case *pelton.TaskQuery:
		return mayFilter(ctx, &q.Queue)
	default:
		if bound(ctx) {
			return newProblem(kindForbidden, "this is not about one queue, and the token %q is bound to some", callerOf(ctx).token.Name)
		}
		return nil
	}
}

// mayEnqueue is for a task that is to be enqueued. One that replaces another by its unique
// key would cancel it, whose queue is not known before.
func mayEnqueue(ctx context.Context, spec pelton.Spec) error {
	if err := mayQueue(ctx, spec.Queue); err != nil {
		return err
	}
	if bound(ctx) && spec.Unique != nil && spec.Unique.OnConflict == pelton.ConflictReplace {
		return newProblem(kindForbidden, "unique.on_conflict replace may cancel a task of any queue, and the token %q is bound to some", callerOf(ctx).token.Name)
	}
	return nil
}

// mayTask is nil if the caller's token is good for the queue of a task. For a token that
// is not bound that costs nothing; for others, a task that cannot be read is refused.
func (s *server) mayTask(ctx context.Context, id pelton.ID, get func(context.Context, pelton.ID) (*pelton.Task, error)) error {
	if !bound(ctx) {
		return nil
	}
	_, err := s.readOne(ctx, id, get)
	return err
}

// mayPut is for a schedule that is to be put in the place of what there is. A bound token
// may put it there only as long as that is what was looked at.
func (s *server) mayPut(ctx context.Context, want *pelton.Schedule) error {
	if err := mayEnqueue(ctx, want.Task); err != nil {
		return err
	}
	looked, err := s.maySchedule(ctx, want.Name)
	switch {
	case err != nil || !bound(ctx) || want.Revision != 0:
		return err
	case looked == nil:
		want.Revision = pelton.NoRevision
	default:
		want.Revision = looked.Revision
	}
	return nil
}

// maySchedule is nil if the caller's token is good for the queue of a schedule's tasks. For
// a bound token it gives the schedule, so that a change can be one of what was looked at;
// nil if there is none.
func (s *server) maySchedule(ctx context.Context, name string) (*pelton.Schedule, error) {
	if !bound(ctx) {
		return nil, nil //nolint:nilnil // nobody asked for it
	}
	schedule, err := s.Schedules.Get(ctx, name)
	switch {
	case errors.Is(err, pelton.ErrNotFound):
		return nil, nil //nolint:nilnil // what there is not may be made
	case err != nil:
		return nil, err
	}
	return schedule, mayQueue(ctx, schedule.Task.Queue)
}

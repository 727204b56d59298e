package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/peltonq/pelton"
)

func (s *server) pauseSchedule(ctx context.Context, in *scheduleInput) (*answer, error) {
	return s.scheduleVerb(ctx, in.Name, s.Schedules.Pause)
}

func (s *server) resumeSchedule(ctx context.Context, in *scheduleInput) (*answer, error) {
	return s.scheduleVerb(ctx, in.Name, s.Schedules.Resume)
}

func (s *server) scheduleVerb(ctx context.Context, name string, do func(context.Context, string) (*pelton.Schedule, error)) (*answer, error) {
	if err := checkScheduleName(name); err != nil {
		return nil, err
	}
	if err := claimOf(ctx).schedule(); err != nil {
		return nil, err
	}
	ctx, cancel := detached(ctx, scheduleTimeout)
	defer cancel()
	if _, err := s.maySchedule(ctx, name); err != nil {
		return nil, err
	}
	schedule, err := do(ctx, name)
	if err != nil {
		return nil, unlessKnown(err)
	}
	return scheduleAnswer(http.StatusOK, schedule)
}

// runScheduleInput is the request of POST /schedules/{name}/run.
type runScheduleInput struct {
	Name string `path:"name" doc:"The schedule's name." example:"nightly"`

	err error
}

func (in *runScheduleInput) Resolve(ctx huma.Context) []error {
	if len(headerValues(ctx, "Idempotency-Key")) > 0 {
		in.err = fieldProblem(kindNotSupported, fieldError{"header.Idempotency-Key", "is not supported here: each call enqueues a task"})
	}
	return nil
}

func (s *server) runSchedule(ctx context.Context, in *runScheduleInput) (*answer, error) {
	if err := checkScheduleName(in.Name); err != nil {
		return nil, err
	}
	if in.err != nil {
		return nil, in.err
	}
	if err := claimOf(ctx).schedule(); err != nil {
		return nil, err
	}
	ctx, cancel := detached(ctx, scheduleTimeout)
	defer cancel()
	if _, err := s.maySchedule(ctx, in.Name); err != nil {
		return nil, err
	}
	task, err := s.Schedules.RunNow(ctx, in.Name)
	if err != nil {
		return nil, unlessKnown(err)
	}
	out, err := taskAnswer(http.StatusAccepted, task)
	if err != nil {
		return nil, err
	}
	out.Location = "/tasks/" + task.ID.String()
	return out, nil
}

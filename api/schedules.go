package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/peltonq/pelton"
)

// Schedules is what the API needs to serve schedules. A schedule that cannot be is a
// *pelton.ValidationError, one that is not there ErrNotFound.
type Schedules interface {
	// Put creates or replaces a schedule and says whether it created it. A Revision
	// that is neither zero nor the present one, and NoRevision if there is one, are
	// ErrConflict.
	Put(ctx context.Context, s pelton.Schedule) (put *pelton.Schedule, created bool, err error)
	// Get reads one schedule.
	Get(ctx context.Context, name string) (*pelton.Schedule, error)
	// List reads a page of schedules, sorted by name.
	List(ctx context.Context, q pelton.ScheduleQuery) (pelton.SchedulePage, error)
	// Delete deletes a schedule. With revisions it must have one of them, else that is
	// ErrConflict.
	Delete(ctx context.Context, name string, revisions ...uint64) error
	// Pause and Resume change whether a schedule has ticks.
	Pause(ctx context.Context, name string) (*pelton.Schedule, error)
	Resume(ctx context.Context, name string) (*pelton.Schedule, error)
	// RunNow enqueues a task that is of no tick.
	RunNow(ctx context.Context, name string) (*pelton.Task, error)
	// Backfill enqueues the tasks of past ticks, each once. An error may come with how
	// far it came.
	Backfill(ctx context.Context, name string, ask pelton.Backfill) (*pelton.BackfillResult, error)
	// Preview is the next n ticks that a schedule would have. It refuses what Put does.
	Preview(ctx context.Context, s pelton.Schedule, n int) ([]time.Time, error)
	// ApplyWith makes the schedules of an owner those that are wanted. What belongs to
	// others is ErrConflict. An error may come with what was done before it.
	ApplyWith(ctx context.Context, owner string, want []pelton.Schedule, how pelton.ApplyOptions) (*pelton.Applied, error)
}

// scheduleTimeout bounds a call into Schedules, which is some calls of the broker for
// each schedule.
const scheduleTimeout = 10 * time.Second

// schedulePageBytes is what List keeps the payloads of a page to.
const schedulePageBytes = 4 << 20

// scheduleListInput is the request of GET /schedules.
type scheduleListInput struct {
	Owner  string `query:"owner" doc:"Only schedules that were applied for this owner." example:"billing"`
	Limit  int    `query:"limit" minimum:"1" maximum:"500" default:"50" doc:"The most schedules of the page."`
	Cursor string `query:"cursor" doc:"The next_cursor of the page before."`

	err error
}

// Resolve refuses an empty owner, of a script whose variable was not set: it must not
// mean everybody's.
func (in *scheduleListInput) Resolve(ctx huma.Context) []error {
	in.err = refuseEmpty(ctx, "owner")
	return nil
}

// refuseEmpty refuses a query parameter that is there and empty, which huma takes for
// absent.
func refuseEmpty(ctx huma.Context, names ...string) error {
	url := ctx.URL()
	query := url.Query()
	for _, name := range names {
		if query.Has(name) && query.Get(name) == "" {
			return fieldProblem(kindInvalid, fieldError{"query." + name, "must not be empty: leave it out instead"})
		}
	}
	return nil
}

func (s *server) listSchedules(ctx context.Context, in *scheduleListInput) (*answer, error) {
	if in.err != nil {
		return nil, in.err
	}
	ctx, cancel := context.WithTimeout(ctx, scheduleTimeout)
	defer cancel()
	if err := claimOf(ctx).page(in.Limit, schedulePageBytes); err != nil {
		return nil, err
	}
	page, err := s.Schedules.List(ctx, pelton.ScheduleQuery{Owner: in.Owner, Limit: in.Limit, Cursor: in.Cursor})
	if err != nil {
		return nil, atQuery(err)
	}
	page.Items = slices.DeleteFunc(page.Items, func(s *pelton.Schedule) bool { return mayQueue(ctx, s.Task.Queue) != nil })
	size := int64(0)
	for _, schedule := range page.Items {
		size += weigh(&pelton.Task{Payload: schedule.Task.Payload, Labels: schedule.Task.Labels})
	}
	claimOf(ctx).shrink(readWeight * size)
	return listAnswer(page.Items, page.NextCursor)
}

// atQuery places the errors of an input in the query.
func atQuery(err error) error {
	var invalid *pelton.ValidationError
	if errors.As(err, &invalid) && len(invalid.Fields) > 0 {
		return fieldProblem(kindInvalid, fieldErrors("query", invalid)...)
	}
	return err
}

// scheduleInput is the request of calls on one schedule that have no body.
type scheduleInput struct {
	Name string `path:"name" doc:"The schedule's name." example:"nightly"`
}

func checkScheduleName(name string) error {
	if err := pelton.ValidateScheduleName(name); err != nil {
		return fieldProblem(kindInvalid, fieldError{"path.name", plain(err.Error())})
	}
	return nil
}

func (s *server) getSchedule(ctx context.Context, in *scheduleInput) (*answer, error) {
	if err := checkScheduleName(in.Name); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, scheduleTimeout)
	defer cancel()
	if err := claimOf(ctx).schedule(); err != nil {
		return nil, err
	}
	schedule, err := s.Schedules.Get(ctx, in.Name)
	if err == nil {
		err = mayQueue(ctx, schedule.Task.Queue)
	}
	if err != nil {
		return nil, err
	}
	return scheduleAnswer(http.StatusOK, schedule)
}

// scheduleAnswer is a schedule with the ETag of its definition. What the schedule did
// changes without it, so that it is no tag for caches.
func scheduleAnswer(status int, schedule *pelton.Schedule) (*answer, error) {
	body, err := schedule.AppendJSON(nil)
	if err != nil {
		return nil, fmt.Errorf("write schedule %s: %w", schedule.Name, err)
	}
	out := jsonAnswer(status, append(body, '\n'))
	if schedule.Revision > 0 {
		out.ETag = fmt.Sprintf("%q", fmt.Sprint(schedule.Revision))
	}
	return out, nil
}

// putScheduleInput is the request of PUT /schedules/{name}.
type putScheduleInput struct {
	Name        string `path:"name" doc:"The schedule's name." example:"nightly"`
	DryRun      bool   `query:"dry_run" doc:"Change nothing: answer the schedule as it would be, with its next times, or what is wrong with it."`
	Next        int    `query:"next" minimum:"1" maximum:"1000" doc:"With dry_run: how many next times to list. 5 without."`
	IfMatch     string `header:"If-Match" doc:"Only if the schedule still has this ETag, or with * if it exists; else 412." example:"\"41\""`
	IfNoneMatch string `header:"If-None-Match" doc:"With *: only if there is no such schedule; else 412." example:"*"`

	pre  precondition
	body []byte
	err  error
}

// Resolve reads the headers and the body.
func (in *putScheduleInput) Resolve(ctx huma.Context) []error {
	if in.err = refuseEmpty(ctx, "dry_run", "next"); in.err == nil {
		in.pre, in.err = readPrecondition(ctx)
	}
	if in.err == nil {
		in.body, in.err = readBody(ctx, maxTaskBody)
	}
	return nil
}

func (s *server) putSchedule(ctx context.Context, in *putScheduleInput) (*answer, error) {
	if err := checkScheduleName(in.Name); err != nil {
		return nil, err
	}
	if in.err != nil {
		return nil, in.err
	}
	if in.Next > 0 && !in.DryRun {
		return nil, fieldProblem(kindInvalid, fieldError{"query.next", "is for dry_run"})
	}
	want, err := parseSchedule(in.body, "body", in.Name)
	if err != nil {
		return nil, err
	}
	if err := claimOf(ctx).schedule(); err != nil {
		return nil, err
	}
	ctx, cancel := detached(ctx, scheduleTimeout)
	defer cancel()
	if err := s.mayPut(ctx, &want); err != nil {
		return nil, err
	}
	if in.DryRun {
		return s.previewSchedule(ctx, want, in)
	}
	put, created, err := s.putIf(ctx, want, in.pre)
	if err != nil {
		return nil, unlessKnown(err)
	}
	if created {
		return scheduleAnswer(http.StatusCreated, put)
	}
	return scheduleAnswer(http.StatusOK, put)
}

// putIf is Put under the preconditions of the request. Between the reading of the
// revision and Put, which checks it, somebody may change the schedule: then it looks
// again.
func (s *server) putIf(ctx context.Context, want pelton.Schedule, pre precondition) (*pelton.Schedule, bool, error) {
	if !pre.given() {
		return s.Schedules.Put(ctx, want)
	}
	const tries = 5
	for range tries {
		next, err := s.meets(ctx, want, pre)
		if err != nil {
			return nil, false, err
		}
		put, created, err := s.Schedules.Put(ctx, next)
		if !errors.Is(err, pelton.ErrConflict) {
			return put, created, err
		}
	}
	return nil, false, newProblem(kindPrecondition, "schedule %s keeps changing", want.Name)
}

// meets is the schedule with the revision that it must replace, if the present one
// meets the preconditions.
func (s *server) meets(ctx context.Context, want pelton.Schedule, pre precondition) (pelton.Schedule, error) {
	now, err := s.Schedules.Get(ctx, want.Name)
	switch {
	case errors.Is(err, pelton.ErrNotFound):
		if !pre.absent {
			return want, newProblem(kindPrecondition, "there is no schedule %s", want.Name)
		}
		want.Revision = pelton.NoRevision
		return want, nil
	case err != nil:
		return want, err
	case pre.absent:
		return want, newProblem(kindPrecondition, "there is a schedule %s, of revision %d", want.Name, now.Revision)
	case !pre.matches(now.Revision):
		return want, newProblem(kindPrecondition, "schedule %s has revision %d", want.Name, now.Revision)
	case want.Revision != 0 && want.Revision != now.Revision:
		return want, fmt.Errorf("schedule %s: %w: its revision is not %d", want.Name, pelton.ErrConflict, want.Revision)
	}
	want.Revision = now.Revision
	return want, nil
}

// previewSchedule is PUT without the writing.
func (s *server) previewSchedule(ctx context.Context, want pelton.Schedule, in *putScheduleInput) (*answer, error) {
	if in.pre.given() {
		if _, err := s.meets(ctx, want, in.pre); err != nil {
			return nil, err
		}
	}
	n := in.Next
	if n == 0 {
		n = 5
	}
	next, err := s.Schedules.Preview(ctx, want, n)
	if err != nil {
		return nil, err
	}
	norm, err := want.Normalized(time.Now())
	if err != nil {
		return nil, err
	}
	norm.Revision, norm.Next = 0, next
	return scheduleAnswer(http.StatusOK, &norm)
}

// deleteScheduleInput is the request of DELETE /schedules/{name}.
type deleteScheduleInput struct {
	Name    string `path:"name" doc:"The schedule's name." example:"nightly"`
	IfMatch string `header:"If-Match" doc:"Only if the schedule still has this ETag; else 412." example:"\"41\""`

	pre precondition
	err error
}

// Resolve reads the header.
func (in *deleteScheduleInput) Resolve(ctx huma.Context) []error {
	in.pre, in.err = readPrecondition(ctx)
	return nil
}

func (s *server) deleteSchedule(ctx context.Context, in *deleteScheduleInput) (*answer, error) {
	if err := checkScheduleName(in.Name); err != nil {
		return nil, err
	}
	switch {
	case in.err != nil:
		return nil, in.err
	case in.pre.absent || in.pre.given() && !in.pre.any && len(in.pre.revisions) == 0:
		return nil, newProblem(kindPrecondition, "no schedule is like that")
	}
	ctx, cancel := detached(ctx, scheduleTimeout)
	defer cancel()
	var revisions []uint64
	if !in.pre.any {
		revisions = in.pre.revisions
	}
	switch looked, err := s.maySchedule(ctx, in.Name); {
	case err != nil:
		return nil, err
	case looked != nil && len(revisions) == 0:
		revisions = []uint64{looked.Revision}
	}
	err := s.Schedules.Delete(ctx, in.Name, revisions...)
	switch {
	case errors.Is(err, pelton.ErrConflict):
		return nil, newProblem(kindPrecondition, "%s", err)
	case err != nil:
		return nil, unlessKnown(err)
	}
	return &answer{Status: http.StatusNoContent}, nil
}

// Resolve refuses an Idempotency-Key: to take it and enqueue twice would be worse.
// headerValues are the lines of a header of the request.
func headerValues(ctx huma.Context, name string) []string {
	r, _ := humago.Unwrap(ctx)
	return r.Header.Values(name)
}

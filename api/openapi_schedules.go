package api

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/peltonq/pelton"
)

const (
	pathSchedules        = "/schedules"
	pathSchedule         = "/schedules/{name}"
	pathSchedulePause    = "/schedules/{name}/pause"
	pathScheduleResume   = "/schedules/{name}/resume"
	pathScheduleRun      = "/schedules/{name}/run"
	pathScheduleBackfill = "/schedules/{name}/backfill"
	pathSchedulesApply   = "/schedules/apply"

	opListSchedules    = "listSchedules"
	opGetSchedule      = "getSchedule"
	opPutSchedule      = "setSchedule"
	opDeleteSchedule   = "deleteSchedule"
	opPauseSchedule    = "pauseSchedule"
	opResumeSchedule   = "resumeSchedule"
	opRunSchedule      = "runSchedule"
	opBackfillSchedule = "backfillSchedule"
	opApplySchedules   = "applySchedules"
)

func (s *server) registerSchedules(api huma.API) {
	tags := []string{"schedules"}
	etag := []string{"ETag"}
	register(s, api, huma.Operation{
		OperationID: opListSchedules, Method: http.MethodGet, Path: pathSchedules, Tags: tags,
		Summary: "List the schedules, sorted by name",
		Responses: s.responses(
			response{http.StatusOK, "A page of schedules, each with the latest few of its runs", "ScheduleList", exampleScheduleList(), nil},
			kindInvalid, kindUnavailable,
		),
	}, s.listSchedules)
	register(s, api, huma.Operation{
		OperationID: opGetSchedule, Method: http.MethodGet, Path: pathSchedule, Tags: tags,
		Summary:     "Read a schedule",
		Description: "With its next times, its last runs, and why it is failing, if it is. The ETag is the revision of the definition, for If-Match; what the schedule did changes without it.",
		Responses: s.responses(
			response{http.StatusOK, "The schedule", "Schedule", exampleSchedule(), etag},
			kindInvalid, kindNotFound, kindUnavailable,
		),
	}, s.getSchedule)
	register(s, api, huma.Operation{
		OperationID: opPutSchedule, Method: http.MethodPut, Path: pathSchedule, Tags: tags,
		Summary:     "Create or replace a schedule, or try one",
		Description: "The schedule as a whole: what is left out has its default. One of cron, every and at is required. Ticks of a rule that is new or changed count from now on; a change of anything else leaves them as they are. What an answer tells besides the definition (next, last, failing, created_at, updated_at) is ignored, so that a schedule can be read, edited and put back; a revision must then still be the present one: 409, or with If-Match 412. With dry_run nothing is changed, and the answer shows the next times.",
		Responses: s.responses(
			response{http.StatusCreated, "The schedule, which is new", "Schedule", exampleSchedule(), etag},
			response{http.StatusOK, "The schedule, which was there; with dry_run as it would be", "Schedule", exampleSchedule(), etag},
			kindInvalid, kindConflict, kindPrecondition, kindMalformed, kindMediaType, kindTooLarge, kindTimeout, kindForbidden, kindUnavailable, kindUnknownOutcome,
		),
	}, s.putSchedule)
	register(s, api, huma.Operation{
		OperationID: opDeleteSchedule, Method: http.MethodDelete, Path: pathSchedule, Tags: tags,
		Summary:       "Delete a schedule",
		Description:   "Its tasks stay. A schedule of that name made later is another one.",
		DefaultStatus: http.StatusNoContent,
		Responses: s.responses(
			response{http.StatusNoContent, "It is deleted", "", nil, nil},
			kindInvalid, kindNotFound, kindPrecondition, kindForbidden, kindUnavailable, kindUnknownOutcome,
		),
	}, s.deleteSchedule)
	register(s, api, huma.Operation{
		OperationID: opPauseSchedule, Method: http.MethodPost, Path: pathSchedulePause, Tags: tags,
		Summary:     "Pause a schedule",
		Description: "It has no ticks until it is resumed; those of the meantime are not caught up. Tasks that it enqueued go on.",
		Responses: s.responses(
			response{http.StatusOK, "The schedule", "Schedule", examplePausedSchedule(), etag},
			kindInvalid, kindNotFound, kindForbidden, kindUnavailable, kindUnknownOutcome,
		),
	}, s.pauseSchedule)
	register(s, api, huma.Operation{
		OperationID: opResumeSchedule, Method: http.MethodPost, Path: pathScheduleResume, Tags: tags,
		Summary:     "Resume a paused schedule",
		Description: "Ticks count from now on.",
		Responses: s.responses(
			response{http.StatusOK, "The schedule", "Schedule", exampleSchedule(), etag},
			kindInvalid, kindNotFound, kindForbidden, kindUnavailable, kindUnknownOutcome,
		),
	}, s.resumeSchedule)
	register(s, api, huma.Operation{
		OperationID: opRunSchedule, Method: http.MethodPost, Path: pathScheduleRun, Tags: tags,
		Summary:       "Enqueue a schedule's task now",
		Description:   "Paused or not, and beside its ticks, which stay where they are. Each call enqueues a task.",
		DefaultStatus: http.StatusAccepted,
		Responses: s.responses(
			response{http.StatusAccepted, "The accepted task", "Task", exampleScheduledTask(), []string{"Location"}},
			kindInvalid, kindNotSupported, kindNotFound, kindConflict, kindForbidden, kindOverloaded, kindUnavailable, kindUnknownOutcome,
		),
	}, s.runSchedule)
	register(s, api, huma.Operation{
		OperationID: opBackfillSchedule, Method: http.MethodPost, Path: pathScheduleBackfill, Tags: tags,
		Summary:     "Enqueue the tasks of past ticks",
		Description: "Those of the interval from from to to, each once: a tick that has its task gets no second one, so that the call can be repeated. The overlap policy does not apply. If there is a next_from, go on from there.",
		Responses: s.responses(
			response{http.StatusOK, "How far it came", "BackfillResult", exampleBackfillResult(), nil},
			kindInvalid, kindNotFound, kindMalformed, kindMediaType, kindTooLarge, kindTimeout, kindForbidden, kindOverloaded, kindUnavailable, kindUnknownOutcome,
		),
	}, s.backfillSchedule)
	register(s, api, huma.Operation{
		OperationID: opApplySchedules, Method: http.MethodPost, Path: pathSchedulesApply, Tags: tags,
		Summary:     "Make the schedules of an owner those that are listed",
		Description: "Adds and changes what differs and, unless prune is false, deletes what the owner applied before and does not list any more. All are checked before the first is written; a schedule that belongs to nobody or to another owner is 409. A pause made by hand stays. It is not atomic: after an error, repeat it. With dry_run the answer says what would be done.",
		Responses: s.responses(
			response{http.StatusOK, "What was done, by name", "Applied", exampleApplied(), nil},
			kindInvalid, kindConflict, kindMalformed, kindMediaType, kindTooLarge, kindTimeout, kindForbidden, kindUnavailable, kindUnknownOutcome,
		),
	}, s.applySchedules)
}

func exampleSchedule() *pelton.Schedule {
	day := 24 * time.Hour
	tick := time.Date(2026, 12, 1, 7, 0, 0, 0, time.UTC)
	return &pelton.Schedule{
		Name: "nightly", Cron: "0 8 * * *", Zone: "Europe/Berlin",
		Task:    pelton.Spec{Kind: "email.send", Queue: "emails", Payload: json.RawMessage(`{"to":"a@b.c"}`)},
		Overlap: pelton.OverlapSkip, CatchUp: pelton.CatchUpAll, CatchUpWindow: time.Hour, Jitter: 30 * time.Second,
		Owner: "billing", Revision: 41, CreatedAt: exampleTime().Add(-9 * day), UpdatedAt: exampleTime().Add(-3 * day),
		Next: []time.Time{tick.Add(day), tick.Add(2 * day)},
		Last: []pelton.ScheduleRun{
			{Tick: tick, TaskID: exampleTask(true).ID, State: pelton.Running},
			{Tick: tick.Add(-day), Skipped: pelton.SkippedOverlap},
		},
	}
}

func examplePausedSchedule() *pelton.Schedule {
	s := exampleSchedule()
	s.Paused, s.Next, s.Revision = true, nil, 42
	return s
}

// exampleFailingSchedule has a value in every field that the others have not.
func exampleFailingSchedule() *pelton.Schedule {
	return &pelton.Schedule{
		Name: "old", Every: 90 * time.Second, Zone: "UTC", Task: pelton.Spec{Kind: "report.build"},
		Overlap: pelton.OverlapAllow, CatchUp: pelton.CatchUpLast, CatchUpWindow: time.Hour,
		StartsAt: exampleTime(), EndsAt: exampleTime().Add(time.Hour), Revision: 7,
		Failing: &pelton.ScheduleFailing{Reason: "queue default is full", At: exampleTime(), Tick: exampleTime()},
		Last:    []pelton.ScheduleRun{{Tick: exampleTime(), TaskID: exampleTask(true).ID, State: pelton.Queued, Manual: true}},
	}
}

// exampleScheduleList has the form of what listAnswer writes.
func exampleScheduleList() any {
	return struct {
		Items      []*pelton.Schedule `json:"items"`
		NextCursor string             `json:"next_cursor"`
	}{[]*pelton.Schedule{exampleSchedule(), exampleFailingSchedule()}, "old"}
}

func exampleScheduledTask() *pelton.Task {
	task := exampleTask(false)
	task.Schedule = &pelton.TaskSchedule{Name: "nightly", Tick: exampleTime(), Manual: true}
	return task
}

func exampleScheduleRequest() json.RawMessage {
	return json.RawMessage(`{"cron":"0 8 * * *","zone":"Europe/Berlin","task":{"kind":"email.send","queue":"emails","payload":{"to":"a@b.c"}},"overlap":"skip","catch_up":"all","catch_up_window":"1h","jitter":"30s"}`)
}

func exampleBackfillRequest() json.RawMessage {
	return json.RawMessage(`{"from":"2026-11-01T00:00:00Z","to":"2026-11-08T00:00:00Z","limit":2}`)
}

func exampleBackfillResult() pelton.BackfillResult {
	tick := time.Date(2026, 11, 1, 7, 0, 0, 0, time.UTC)
	id := exampleTask(true).ID
	return pelton.BackfillResult{
		Ticks: []pelton.BackfillTick{
			{Tick: tick, TaskID: id, State: pelton.Queued},
			{Tick: tick.AddDate(0, 0, 1), TaskID: id, Existing: true, State: pelton.Succeeded},
		},
		Enqueued: 1, Existing: 1, NextFrom: tick.AddDate(0, 0, 2),
	}
}

func exampleApplyRequest() json.RawMessage {
	return json.RawMessage(`{"owner":"billing","schedules":[{"name":"nightly","cron":"0 8 * * *","task":{"kind":"email.send"}}],"prune":true,"dry_run":true}`)
}

func exampleApplied() pelton.Applied {
	return pelton.Applied{Created: []string{}, Changed: []string{"nightly"}, Unchanged: []string{}, Deleted: []string{"old"}}
}

func definitionProperties(task *huma.Schema) properties {
	withDefault := func(s *huma.Schema, value string) *huma.Schema {
		s.Default = value
		return s
	}
	cron := text("5 fields (minute, hour, day of month, month, day of week) or 6 (second first), @yearly, @monthly, @weekly, @daily, @hourly, or @every with a duration.")
	cron.Examples = []any{"0 8 * * *"}
	zone := withDefault(text("The IANA name of the time zone that cron means."), "UTC")
	zone.Examples = []any{"Europe/Berlin"}
	return properties{
		"name":            pattern(queuePattern, "The schedule's name."),
		"cron":            cron,
		"every":           duration("An interval of 1s to 366d, counted from starts_at, or from 1970-01-01T00:00:00Z without one.", "90s"),
		"at":              timestamp("The one time of a schedule that fires once."),
		"zone":            zone,
		"task":            task,
		"overlap":         withDefault(enum("What becomes of a tick while the task of an earlier one is not over.", pelton.Overlaps()...), string(pelton.OverlapAllow)),
		"catch_up":        withDefault(enum("What becomes of ticks that were missed because no server, or no broker, was there.", pelton.CatchUps()...), string(pelton.CatchUpLast)),
		"catch_up_window": withDefault(duration("How far back catch_up all goes, 31d at most.", "1h"), pelton.FormatDuration(pelton.DefaultCatchUpWindow)),
		"jitter":          duration("Delays each task by up to that much. Less than the time between two ticks.", "30s"),
		"paused":          boolean("Whether it has no ticks."),
		"starts_at":       timestamp("No tick is before that."),
		"ends_at":         timestamp("No tick is after that."),
		"owner":           key("Who declared it by apply."),
		"revision":        integer("Of the definition. In a change, it must be the present one.", 1),
	}
}

// toldProperties are what an answer tells besides the definition; a request may repeat
// them, and they are ignored.
func toldProperties() properties {
	return properties{
		"created_at": timestamp("When it was made."),
		"updated_at": timestamp("When its definition was changed last."),
		"next":       array(timestamp("A nominal time."), "The next ticks, none while paused."),
		"last":       array(ref("ScheduleRun"), "The latest runs, newest first."),
		"failing":    ref("ScheduleFailing"),
	}
}

// scheduleTask is the task of a schedule: a request without what belongs to one task.
func scheduleTask() *huma.Schema {
	s := taskRequestSchema()
	delete(s.Properties, "run_at")
	delete(s.Properties, "expires_at")
	s.Description = "What each tick enqueues. What it does not say, the settings of its queue do when its time comes."
	return s
}

func scheduleSchema() *huma.Schema {
	p := definitionProperties(ref("ScheduleTask"))
	for name, s := range toldProperties() {
		p[name] = s
	}
	return object(p, "name", "overlap", "catch_up", "paused", "task")
}

// scheduleRequestSchema is that of PUT, or of one of a list, which needs its name.
func scheduleRequestSchema(required ...string) *huma.Schema {
	p := definitionProperties(ref("ScheduleTask"))
	for name := range toldProperties() {
		p[name] = anyJSON("Of an answer; ignored.")
	}
	return closed(object(p, append(required, "task")...))
}

func scheduleRunSchema() *huma.Schema {
	return object(properties{
		"tick":    timestamp("The nominal time; of a manual run, when it was asked for."),
		"task_id": {Type: huma.TypeString, Format: "uuid", Description: "Absent if the tick was skipped."},
		"state":   enum("The state of the task; absent if its record has expired.", pelton.States()...),
		"skipped": enum("Why there is no task.", pelton.SkippedOverlap, pelton.SkippedMissed, pelton.SkippedRefused),
		"manual":  boolean("It was asked for and is no tick; absent when not."),
	}, "tick")
}

func scheduleFailingSchema() *huma.Schema {
	s := object(properties{
		"reason": text("Why the latest tick brought no task."), "at": timestamp("When that was."), "tick": timestamp("The tick."),
	}, "reason", "at")
	s.Description = "The schedule brings no tasks. Its next ticks are tried all the same."
	return s
}

func taskScheduleSchema() *huma.Schema {
	s := object(properties{
		"name": pattern(queuePattern, "The schedule's name."), "tick": timestamp("The nominal time; of a manual run, when it was asked for."),
		"manual": boolean("It was asked for and is no tick; absent when not."),
	}, "name", "tick")
	s.Description = "Which tick of which schedule the task is of."
	return s
}

func backfillRequestSchema() *huma.Schema {
	limit := integer("The most ticks of the call.", 1)
	most := float64(pelton.MaxBackfill)
	limit.Maximum, limit.Default = &most, pelton.DefaultBackfill
	return closed(object(properties{
		"from": timestamp("The first moment of the interval."), "to": timestamp("The first one after it; not in the future."),
		"limit": limit, "dry_run": boolean("List the ticks and enqueue nothing."),
	}, "from", "to"))
}

func backfillResultSchema() *huma.Schema {
	tick := object(properties{
		"tick":     timestamp("The nominal time."),
		"task_id":  {Type: huma.TypeString, Format: "uuid", Description: "Of its task; in a dry run, the one it would have."},
		"existing": boolean("It had its task before; absent when not."),
		"state":    enum("The state of the task.", pelton.States()...),
		"error":    text("Why it was refused."),
	}, "tick")
	return object(properties{
		"ticks":    array(tick, "In the order of time."),
		"enqueued": integer("Ticks that got their task; in a dry run, would get it.", 0),
		"existing": integer("Ticks that had their task.", 0), "failed": integer("Ticks that were refused.", 0),
		"next_from": timestamp("Where to go on; absent when the interval has no more ticks."),
	}, "ticks", "enqueued", "existing", "failed")
}

func applyRequestSchema() *huma.Schema {
	wanted := array(scheduleRequestSchema("name"), "The schedules of the owner.")
	most := maxApply
	wanted.MaxItems = &most
	prune := boolean("Delete what the owner applied before and does not list any more.")
	prune.Default = true
	return closed(object(properties{
		"owner": key("In whose name."), "schedules": wanted, "prune": prune, "dry_run": boolean("Change nothing: answer what would be done."),
	}, "owner", "schedules"))
}

func appliedSchema() *huma.Schema {
	names := func(description string) *huma.Schema { return array(pattern(queuePattern, "A name."), description) }
	return object(properties{
		"created": names("New ones."), "changed": names("Ones that were otherwise."),
		"unchanged": names("Ones that were like that."), "deleted": names("Ones that are not wanted any more."),
	}, "created", "changed", "unchanged", "deleted")
}

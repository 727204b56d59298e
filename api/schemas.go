package api

import (
	"github.com/danielgtaylor/huma/v2"

	"github.com/peltonq/pelton"
)

const (
	queuePattern = `^[a-z0-9][a-z0-9_-]{0,63}$`
	kindPattern  = `^[A-Za-z0-9][A-Za-z0-9_.:/-]{0,127}$`
)

// schemas are the shapes of the document, by name. They are made by hand because
// the Go types say too little: a task writes its own JSON, and a request is
// parsed by hand. Tests hold them against what is served.
func schemas() map[string]*huma.Schema {
	return map[string]*huma.Schema{
		"TaskRequest":   taskRequestSchema(),
		"BatchRequest":  batchRequestSchema(),
		"BatchAnswer":   batchAnswerSchema(),
		"Task":          taskSchema(),
		"Failure":       failureSchema(),
		"Queue":         queueSchema(),
		"QueueList":     page("Queue"),
		"Depth":         depthSchema(),
		"Settings":      settingsSchema(),
		"SettingsPatch": settingsPatchSchema(),
		"Purged":        purgedSchema(),
		"TaskList":      page("Task"),
		"TaskFilter":    taskFilterSchema(),
		"DeadQuery":     deadQuerySchema(),
		"BulkResult":    bulkResultSchema(),
		"Lock":          lockSchema(),
		"LockList":      page("Lock"),
		"Limit":         limitSchema(),
		"LimitRequest":  limitRequestSchema(),
		"LimitList":     page("Limit"),
		"RateLimit":     rateLimitSchema(),
		"Why":           whySchema(),
		"AuditEntry":    auditEntrySchema(),
		"AuditPage":     auditPageSchema(),
		"Token":         tokenSchema(),
		"NewToken":      newTokenSchema(),
		"TokenRequest":  tokenRequestSchema(),
		"TokenList":     object(properties{"items": array(ref("Token"), "All tokens.")}, "items"),

		"Schedule":        scheduleSchema(),
		"ScheduleList":    page("Schedule"),
		"ScheduleRequest": scheduleRequestSchema(),
		"ScheduleTask":    scheduleTask(),
		"ScheduleRun":     scheduleRunSchema(),
		"ScheduleFailing": scheduleFailingSchema(),
		"TaskSchedule":    taskScheduleSchema(),
		"BackfillRequest": backfillRequestSchema(),
		"BackfillResult":  backfillResultSchema(),
		"ApplyRequest":    applyRequestSchema(),
		"Applied":         appliedSchema(),

		"WhyReason":  whyReasonSchema(),
		"Worker":     workerSchema(),
		"WorkerList": page("Worker"),
		"Health":     object(properties{"status": text("ok or ready.")}, "status"),
		"Problem":    problemSchema(),
	}
}

type properties = map[string]*huma.Schema

func ref(name string) *huma.Schema { return &huma.Schema{Ref: "#/components/schemas/" + name} }

// object is open: within version 1, fields may be added to any answer.
func object(p properties, required ...string) *huma.Schema {
	return &huma.Schema{Type: huma.TypeObject, Properties: p, Required: required}
}

// page is a page of a list.
func page(item string) *huma.Schema {
	return object(properties{
		"items":       array(ref(item), "The items of this page."),
		"next_cursor": text("Leads to the next page; absent after the last one."),
	}, "items")
}

// closed refuses unknown fields, as requests do.
func closed(s *huma.Schema) *huma.Schema {
	s.AdditionalProperties = false
	return s
}

func array(items *huma.Schema, description string) *huma.Schema {
	return &huma.Schema{Type: huma.TypeArray, Items: items, Description: description}
}

func text(description string) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Description: description}
}

func pattern(p, description string) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Pattern: p, Description: description}
}

func duration(description string, example string) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Description: description, Examples: []any{example}}
}

func timestamp(description string) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Format: "date-time", Description: description}
}

func integer(description string, least float64) *huma.Schema {
	return &huma.Schema{Type: huma.TypeInteger, Minimum: &least, Description: description}
}

func boolean(description string) *huma.Schema {
	return &huma.Schema{Type: huma.TypeBoolean, Description: description}
}

// anyJSON has no type: any JSON value.
func anyJSON(description string) *huma.Schema { return &huma.Schema{Description: description} }

func enum[S ~string](description string, values ...S) *huma.Schema {
	s := text(description)
	for _, v := range values {
		s.Enum = append(s.Enum, string(v))
	}
	return s
}

func rateKey() *huma.Schema {
	longest := 256
	return &huma.Schema{Type: huma.TypeString, MaxLength: &longest, Description: "What rate limits per key count the task under, such as a tenant."}
}

func labels() *huma.Schema {
	most, longest := 32, 256
	return &huma.Schema{
		Type: huma.TypeObject, MaxProperties: &most, Description: "Names and values of the caller's own.",
		AdditionalProperties: &huma.Schema{Type: huma.TypeString, MaxLength: &longest},
	}
}

func backoffSchema() *huma.Schema {
	least, most := 1.0, 10.0
	return closed(&huma.Schema{
		Type: huma.TypeObject, Description: "The delays between attempts: min(max, initial * factor^(n-1)) after the n-th, spread by 25 %. A handler may say otherwise.",
		Properties: properties{
			"initial": duration("After the first attempt. 1s by default.", "5s"),
			"max":     duration("The longest delay. 1h by default.", "10m"),
			"factor":  {Type: huma.TypeNumber, Minimum: &least, Maximum: &most, Description: "How much longer each delay is. 2 by default."},
		},
	})
}

func concurrencyKey() *huma.Schema {
	shortest, longest := 1, 256
	return &huma.Schema{
		Type: huma.TypeString, MinLength: &shortest, MaxLength: &longest, Examples: []any{"acme"},
		Description: "Tasks with the same key run one at a time, in the order in which they came, whatever their queues and kinds are.",
	}
}

func taskRequestSchema() *huma.Schema {
	attempts := integer("How often the task may be tried.", 1)
	most := 1000.0
	attempts.Maximum, attempts.Default = &most, pelton.DefaultMaxAttempts
	withDefault := func(s *huma.Schema, value string) *huma.Schema {
		s.Default = value
		return s
	}
	return closed(object(properties{
		"kind":         pattern(kindPattern, "Selects the handler."),
		"payload":      anyJSON("Any JSON value of at most 256 KiB, kept and returned byte for byte."),
		"queue":        withDefault(pattern(queuePattern, "The queue."), pelton.DefaultQueue),
		"priority":     withDefault(enum("Which tasks of the queue go first.", pelton.Priorities()...), string(pelton.Normal)),
		"delay":        duration("Ready that long after it was accepted. Excludes run_at.", "90s"),
		"run_at":       timestamp("Ready then. A past time means now. Excludes delay."),
		"expires_at":   timestamp("Not started by then, the task expires."),
		"timeout":      withDefault(duration("The longest that one run may take.", "30s"), pelton.FormatDuration(pelton.DefaultTimeout)),
		"max_attempts": attempts,
		"retention":    withDefault(duration("How long the finished task can be read. Failed tasks are kept for 30 days.", "24h"), pelton.FormatDuration(pelton.DefaultRetention)),
		"backoff":      backoffSchema(),
		"rate_key":     rateKey(),
		"labels":       labels(),
		"unique":       closed(uniqueSchema()),

		"concurrency_key": concurrencyKey(),
	}, "kind"))
}

func uniqueSchema() *huma.Schema {
	until := enum("When the task gives its key back.", pelton.UniqueUntils()...)
	until.Default = string(pelton.UntilFinished)
	conflict := enum("What becomes of the request if another task holds the key: 409, 200 with that task, or, if it has not started, that is cancelled.", pelton.OnConflicts()...)
	conflict.Default = string(pelton.ConflictReject)
	return object(properties{
		"key":         key("At most one task of the kind holds it."),
		"until":       until,
		"window":      duration("The key is held for at least that long after the task was accepted.", "10m"),
		"on_conflict": conflict,
	}, "key")
}

func key(description string) *huma.Schema {
	longest := 256
	return &huma.Schema{Type: huma.TypeString, MaxLength: &longest, Description: description}
}

func batchRequestSchema() *huma.Schema {
	item := taskRequestSchema()
	item.Properties["idempotency_key"] = key("As the header Idempotency-Key of a single request.")
	tasks := array(item, "The tasks.")
	least, most := 1, pelton.MaxBatch
	tasks.MinItems, tasks.MaxItems = &least, &most
	return closed(object(properties{"tasks": tasks}, "tasks"))
}

func batchAnswerSchema() *huma.Schema {
	accepted := object(properties{
		"status": integer("202, or 200 for a task that holds the unique key", 200), "task": ref("Task"),
		"idempotent_replayed": boolean("The task is that of an earlier request with the idempotency key; absent when not."),
	}, "status", "task")
	refused := object(properties{"status": integer("As of a single request.", 400), "problem": ref("Problem")}, "status", "problem")
	item := &huma.Schema{OneOf: []*huma.Schema{accepted, refused}}
	return object(properties{"items": array(item, "One answer per task, in order.")}, "items")
}

func taskSchema() *huma.Schema {
	return object(properties{
		"id":           {Type: huma.TypeString, Format: "uuid", Description: "Sorts by creation time."},
		"kind":         pattern(kindPattern, "Selects the handler."),
		"queue":        pattern(queuePattern, "The queue."),
		"priority":     enum("Which tasks of the queue go first.", pelton.Priorities()...),
		"state":        enum("Where the task stands. The last four are final.", pelton.States()...),
		"payload":      anyJSON("As it was given, byte for byte."),
		"result":       anyJSON("As the handler returned it, byte for byte."),
		"attempt":      integer("The number of the current or last attempt, 0 before the first start.", 0),
		"max_attempts": integer("How often the task may be tried.", 1),
		"crashes":      integer("How often a worker died with the task.", 0),
		"timeout":      duration("The longest that one run may take.", "30s"),
		"retention":    duration("How long the finished task can be read.", "24h"),
		"backoff":      backoffSchema(),
		"revision":     integer("Grows with every change.", 0),
		"created_at":   timestamp("When the task was accepted."),
		"run_at":       timestamp("When a delayed or retrying task becomes ready."),
		"expires_at":   timestamp("Not started by then, the task expires."),
		"started_at":   timestamp("When the current or last attempt started."),
		"finished_at":  timestamp("When the task reached a final state."),
		"worker":       text("The id of the worker that holds or last held the task."),
		"progress": object(properties{
			"done": {Type: huma.TypeInteger}, "total": {Type: huma.TypeInteger}, "message": {Type: huma.TypeString},
		}, "done", "total"),
		"error":    ref("Failure"),
		"errors":   array(ref("Failure"), "The last ten, oldest first."),
		"unique":   uniqueSchema(),
		"labels":   labels(),
		"rate_key": rateKey(),

		"concurrency_key": concurrencyKey(),
		"schedule":        ref("TaskSchedule"),
	}, "id", "kind", "queue", "priority", "state", "attempt", "max_attempts", "crashes", "revision")
}

func failureSchema() *huma.Schema {
	return object(properties{
		"message": text("What went wrong."),
		"reason": enum("Why, in one word.", pelton.ReasonError, pelton.ReasonPanic, pelton.ReasonTimeout, pelton.ReasonGoexit,
			pelton.ReasonResult, pelton.ReasonPayload, pelton.ReasonPoison, pelton.ReasonUnknownKind, pelton.ReasonDiscarded, pelton.ReasonExpired),
		"attempt": integer("The attempt that failed.", 0),
		"at":      timestamp("When it failed."),
		"stack":   text("Of a panic."),
	}, "message", "reason", "attempt", "at")
}

func queueSchema() *huma.Schema {
	byPriority := &huma.Schema{Type: huma.TypeObject, AdditionalProperties: ref("Depth"), Description: "By priority."}
	return object(properties{
		"name":       pattern(queuePattern, "The queue."),
		"paused":     boolean("Whether no tasks are handed out."),
		"settings":   ref("Settings"),
		"priorities": byPriority,
		"ready":      integer("Tasks that wait for a worker.", 0),
		"running":    integer("Tasks that a worker holds.", 0),
		"scheduled":  integer("Delayed and retrying tasks.", 0),
		"waiting":    integer("Tasks that wait for their turn among those with the same concurrency key.", 0),
		"dead":       integer("Dead letters.", 0),
	}, "name", "paused", "settings", "priorities", "ready", "running", "scheduled", "waiting", "dead")
}

func depthSchema() *huma.Schema {
	return object(properties{
		"ready":        integer("Tasks that wait for a worker.", 0),
		"running":      integer("Tasks that a worker holds.", 0),
		"oldest_ready": duration("How long the oldest ready task has waited; absent when there is none.", "2s"),
		"paused":       boolean("Whether no tasks of this priority are handed out."),
		"deliveries":   integer("Hand-overs of tasks to workers since the priority was first used; differences over time are rates. Absent when there was none.", 0),
	}, "ready", "running", "paused")
}

func problemSchema() *huma.Schema {
	return object(properties{
		"type":   text("A stable name: not-found, invalid, conflict, unavailable, …"),
		"title":  text("The type in words."),
		"status": integer("The HTTP status.", 400),
		"detail": text("What is wrong this time."),
		"errors": array(object(properties{
			"location": text("Where: body.queue, body.tasks[3].kind, query.wait, path.id."),
			"message":  text("What is wrong there."),
		}, "location", "message"), "Everything that is wrong with the input."),
		"task_id": text("Of a conflict: the task that holds the unique key."),
	}, "type", "title", "status")
}

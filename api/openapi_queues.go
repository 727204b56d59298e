package api

import (
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/peltonq/pelton"
)

func (s *server) registerQueues(api huma.API) {
	register(s, api, huma.Operation{
		OperationID: opListQueues, Method: http.MethodGet, Path: pathQueues, Tags: []string{"queues"},
		Summary:     "List the queues",
		Description: "Sorted by name. The cost grows with the number of all queues, whatever the page.",
		Responses: s.responses(
			response{http.StatusOK, "A page of queues", "QueueList", exampleQueues(), nil},
			kindInvalid, kindUnavailable,
		),
	}, s.listQueues)
	register(s, api, huma.Operation{
		OperationID: opGetQueue, Method: http.MethodGet, Path: pathQueue, Tags: []string{"queues"},
		Summary: "Read a queue",
		Responses: s.responses(
			response{http.StatusOK, "The queue", "Queue", exampleQueue(), nil},
			kindInvalid, kindNotFound, kindUnavailable,
		),
	}, s.getQueue)
	register(s, api, huma.Operation{
		OperationID: opPatchQueue, Method: http.MethodPatch, Path: pathQueue, Tags: []string{"queues"},
		Summary:     "Change the settings of a queue",
		Description: "A JSON merge patch (RFC 7396): what it names is set, null restores the default, everything else stays. A queue that does not exist is made. Workers and producers follow within 2 s. Repeat the call after an unknown outcome.",
		Responses: s.responses(
			response{http.StatusOK, "The queue with its settings", "Queue", exampleQueue(), nil},
			kindInvalid, kindNotSupported, kindMalformed, kindMediaType, kindTooLarge, kindTimeout, kindForbidden, kindUnavailable, kindUnknownOutcome,
		),
	}, s.patchQueue)
	register(s, api, huma.Operation{
		OperationID: opPauseQueue, Method: http.MethodPost, Path: pathPause, Tags: []string{"queues"},
		Summary:     "Pause a queue or one of its priorities",
		Description: "Within a second no worker gets a task of it. Running tasks go on; tasks can be enqueued and cancelled. Priorities that were never used are paused too.",
		Responses:   s.queueVerbResponses(true),
	}, s.pauseQueue)
	register(s, api, huma.Operation{
		OperationID: opResumeQueue, Method: http.MethodPost, Path: pathResume, Tags: []string{"queues"},
		Summary:   "Resume a queue or one of its priorities",
		Responses: s.queueVerbResponses(false),
	}, s.resumeQueue)
	register(s, api, huma.Operation{
		OperationID: opPurgeQueue, Method: http.MethodPost, Path: pathPurge, Tags: []string{"queues"},
		Summary:     "Cancel the tasks of a queue that wait",
		Description: "Those that are ready, delayed and to be retried, of one priority or all; each keeps its record. Running tasks, and those that come after it began, are left alone. One call works for about 5 s: go on with next_cursor until it is absent.",
		Responses: s.responses(
			response{http.StatusOK, "How many were cancelled", "Purged", examplePurged(), nil},
			kindInvalid, kindNotFound, kindForbidden, kindUnavailable,
		),
	}, s.purgeQueue)
}

func (s *server) queueVerbResponses(paused bool) map[string]*huma.Response {
	queue := exampleQueue()
	queue.Paused = paused
	for p, depth := range queue.Priorities {
		depth.Paused = paused
		queue.Priorities[p] = depth
	}
	return s.responses(
		response{http.StatusOK, "The queue", "Queue", queue, nil},
		kindInvalid, kindNotFound, kindForbidden, kindUnavailable, kindUnknownOutcome,
	)
}

// settingProperties are the settings of a queue; in a patch each may be null.
func settingProperties(patch bool) properties {
	setting := func(s *huma.Schema) *huma.Schema {
		s.Nullable = patch
		return s
	}
	whole := func(description string) *huma.Schema { return setting(integer(description, 1)) }
	span := func(description, example string) *huma.Schema { return setting(duration(description, example)) }
	byPriority := properties{}
	for _, p := range pelton.Priorities() {
		byPriority[string(p)] = whole("Unlimited without.")
	}
	running := closed(object(byPriority))
	running.Description = "How many tasks of a priority run at a time, over all workers. To stop a priority, pause it."
	choices := enum("What happens while the limiter is out of reach.", "local", "open", "closed")
	rate := closed(object(properties{
		"limit": whole("So many tasks may start"), "per": span("in this time; 1s without.", "1s"),
		"burst": whole("So many may start at once; limit without."), "on_error": setting(choices),
	}))
	rate.Description = "How many tasks start in a time, over all workers."
	if patch {
		choices.Enum = append(choices.Enum, nil)
	} else {
		rate.Required = []string{"limit"}
	}
	attempts, crashes := whole("How often a task may be tried that does not say."), whole("How often a worker may die with a task before it fails.")
	most := 1000.0
	attempts.Maximum, crashes.Maximum = &most, &most
	return properties{
		"max_running": setting(running), "rate": setting(rate), "max_depth": whole("How many ready tasks the queue holds before it takes no more: 429."),
		"lease":        span("How long the broker waits for a sign of life before it hands a running task on, 1s to 1h.", "30s"),
		"max_attempts": attempts, "max_crashes": crashes,
		"timeout":   span("The longest that one run of a task may take that does not say.", "5m"),
		"retention": span("How long a finished task can be read that does not say.", "24h"),
	}
}

func settingsSchema() *huma.Schema {
	s := object(settingProperties(false))
	s.Description = "What was set for this queue; what is absent has its default."
	return s
}

func settingsPatchSchema() *huma.Schema { return closed(object(settingProperties(true))) }

func purgedSchema() *huma.Schema {
	return object(properties{
		"purged":      integer("Tasks that were cancelled.", 0),
		"next_cursor": text("Where to go on; absent when nothing is left."),
	}, "purged")
}

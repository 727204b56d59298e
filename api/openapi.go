package api

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/peltonq/pelton"
)

const (
	jsonMediaType       = "application/json"
	openAPIMediaType    = "application/openapi+json"
	mergePatchMediaType = "application/merge-patch+json"

	opEnqueue      = "enqueueTask"
	opEnqueueBatch = "enqueueTasks"
	opGet          = "getTask"
	opCancel       = "cancelTask"
	opRetry        = "retryTask"
	opList         = "listTasks"
	opRun          = "runTask"
	opCancelMany   = "cancelTasks"
	opRetryTasks   = "retryTasks"
	opEvents       = "watchTask"
	opWhy          = "whyTask"
	opListQueues   = "listQueues"
	opGetQueue     = "getQueue"
	opPatchQueue   = "setQueue"
	opPauseQueue   = "pauseQueue"
	opResumeQueue  = "resumeQueue"
	opPurgeQueue   = "purgeQueue"
	opListDead     = "listDeadLetters"
	opGetDead      = "getDeadLetter"
	opDeleteDead   = "deleteDeadLetter"
	opRetryDead    = "retryDeadLetter"
	opRetryMany    = "retryDeadLetters"
	opPurgeDead    = "purgeDeadLetters"
	opListLocks    = "listLocks"
	opReleaseLock  = "releaseLock"
	opListWorkers  = "listWorkers"
	opHealth       = "health"
	opReady        = "readiness"
	opDocument     = "openapi"
)

// humaConfig is huma without its extras: no docs from a CDN, no $schema links,
// JSON alone, and errors in the form of all our others.
func (s *server) humaConfig() huma.Config {
	registry := huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer)
	for name, schema := range schemas() {
		registry.Map()[name] = schema
	}
	doc := &huma.OpenAPI{
		OpenAPI: "3.1.0",
		Info: &huma.Info{
			Title:       "Pelton",
			Version:     s.Version,
			Description: "A distributed task queue. Post tasks, read them back by id, wait for them, list them, watch them, ask why they do not run, cancel them, run delayed ones at once, retry them, one or by filter; look at the queues, set them up, pause and purge them; tend the dead letters and the locks; see who works; let schedules enqueue tasks.",
			License:     &huma.License{Name: "Apache-2.0", Identifier: "Apache-2.0"},
		},
		Components: &huma.Components{Schemas: registry},
	}
	if s.asks() {
		doc.Components.SecuritySchemes = map[string]*huma.SecurityScheme{"bearer": {Type: "http", Scheme: "bearer"}}
		doc.Security = []map[string][]string{{"bearer": {}}}
		if s.Token == "" && !s.Closed {
			doc.Security = append(doc.Security, map[string][]string{}) // open while there is no token
		}
	}
	format := huma.Format{Marshal: marshal, Unmarshal: json.Unmarshal}
	return huma.Config{
		OpenAPI:                      doc,
		Formats:                      map[string]huma.Format{jsonMediaType: format, problemMediaType: format},
		DefaultFormat:                jsonMediaType,
		RejectUnknownQueryParameters: true,
		Transformers:                 []huma.Transformer{humaErrors},
	}
}

// marshal ignores failed writes: the caller has gone, and huma would panic.
func marshal(w io.Writer, v any) error {
	body, err := encode(v)
	if err == nil {
		_, _ = w.Write(body)
	}
	return err
}

// register adds one operation whose errors go through the table of errors.
func register[I any](s *server, api huma.API, op huma.Operation, fn func(context.Context, *I) (*answer, error)) {
	huma.Register(api, op, func(ctx context.Context, in *I) (*answer, error) {
		out, err := fn(ctx, in)
		if err != nil {
			return nil, s.problem(ctx, op.OperationID, "body", err)
		}
		return out, nil
	})
}

func (s *server) registerTasks(api huma.API) {
	register(s, api, huma.Operation{
		OperationID: opEnqueue, Method: http.MethodPost, Path: pathTasks, Tags: []string{"tasks"},
		Summary:       "Enqueue a task",
		Description:   "202 means that the task is stored. With wait, 200 is the finished task if it ended in time, else 202 the task as it then stood. With unique.on_conflict existing, 200 is the task that holds the key. A repeat of a request with Idempotency-Key is answered with its task and Idempotent-Replayed: true.",
		DefaultStatus: http.StatusAccepted,
		Responses: s.responses(
			response{http.StatusAccepted, "The accepted task", "Task", exampleTask(false), []string{"Location", "Idempotent-Replayed"}},
			response{http.StatusOK, "The task, which ended within wait, or which holds the unique key", "Task", exampleTask(true), []string{"Location", "Preference-Applied", "Idempotent-Replayed"}},
			kindInvalid, kindNotSupported, kindConflict, kindInFlight, kindMalformed, kindMediaType, kindTooLarge, kindTimeout, kindForbidden, kindOverloaded, kindUnavailable, kindUnknownOutcome,
		),
	}, s.enqueue)
	register(s, api, huma.Operation{
		OperationID: opEnqueueBatch, Method: http.MethodPost, Path: pathBatch, Tags: []string{"tasks"},
		Summary:     "Enqueue up to 1,000 tasks",
		Description: "Not atomic: each item of the answer is a task or a problem, in the order of the request.",
		Responses: s.responses(
			response{http.StatusOK, "One answer per task", "BatchAnswer", exampleBatchAnswer(), nil},
			kindInvalid, kindNotSupported, kindMalformed, kindMediaType, kindTooLarge, kindTimeout, kindForbidden, kindUnavailable, kindUnknownOutcome,
		),
	}, s.enqueueBatch)
	register(s, api, huma.Operation{
		OperationID: opGet, Method: http.MethodGet, Path: pathTask, Tags: []string{"tasks"},
		Summary: "Read a task, or wait for it",
		Responses: s.responses(
			response{http.StatusOK, "The task", "Task", exampleTask(true), []string{"ETag", "Preference-Applied"}},
			response{http.StatusNotModified, "The task still has the ETag of If-None-Match", "", nil, []string{"ETag"}},
			kindInvalid, kindNotFound, kindUnavailable,
		),
	}, s.get)
	register(s, api, huma.Operation{
		OperationID: opCancel, Method: http.MethodPost, Path: pathCancel, Tags: []string{"tasks"},
		Summary:     "Cancel a task",
		Description: "A waiting task never starts, the handler of a running one is told to stop. Cancelling a cancelled task answers it again; one that ended otherwise is 409.",
		Responses: s.responses(
			response{http.StatusOK, "The cancelled task", "Task", exampleCancelled(), nil},
			kindInvalid, kindNotFound, kindConflict, kindForbidden, kindUnavailable, kindUnknownOutcome,
		),
	}, s.cancel)
	register(s, api, huma.Operation{
		OperationID: opRetry, Method: http.MethodPost, Path: pathRetry, Tags: []string{"tasks"},
		Summary:     "Run a task again that is over",
		Description: "However it ended, it goes back into its queue with its id, payload and error history; its attempts start anew. Repeating the call before the task has started is no error; a task that is not over is 409, and so is one whose unique key another task holds.",
		Responses: s.responses(
			response{http.StatusOK, "The queued task", "Task", exampleRetried(), nil},
			kindInvalid, kindNotFound, kindConflict, kindForbidden, kindUnavailable, kindUnknownOutcome,
		),
	}, s.retry)
}

func (s *server) registerMeta(api huma.API) {
	open := []map[string][]string{} // no token needed
	register(s, api, huma.Operation{
		OperationID: opHealth, Method: http.MethodGet, Path: pathHealth, Tags: []string{"server"}, Security: open,
		Summary:   "Whether the process lives",
		Responses: s.openResponses(response{http.StatusOK, "It does", "Health", healthAnswer{"ok"}, nil}, kindInvalid),
	}, s.health)
	register(s, api, huma.Operation{
		OperationID: opReady, Method: http.MethodGet, Path: pathReady, Tags: []string{"server"}, Security: open,
		Summary:   "Whether tasks can be accepted",
		Responses: s.openResponses(response{http.StatusOK, "They can", "Health", healthAnswer{"ready"}, nil}, kindInvalid, kindUnavailable),
	}, s.readiness)
}

// response documents one good answer of an operation.
type response struct {
	status  int
	text    string
	schema  string
	example any
	headers []string
}

// responses documents what an operation answers: each of parts is a response or
// the kind of a problem. Those of guard and of a failure come with every operation.
func (s *server) responses(parts ...any) map[string]*huma.Response {
	kinds := []kind{kindInternal}
	if s.CheckHost {
		kinds = append(kinds, kindMisdirected)
	}
	if s.asks() {
		kinds = append(kinds, kindUnauthorized, kindForbidden)
	}
	if s.Requests != nil {
		kinds = append(kinds, kindRateLimited)
	}
	out := map[string]*huma.Response{"default": problemResponse()}
	for _, part := range parts {
		switch part := part.(type) {
		case kind:
			kinds = append(kinds, part)
		case response:
			doc := &huma.Response{Description: part.text, Headers: responseHeaders(part.headers)}
			if part.schema != "" {
				doc.Content = map[string]*huma.MediaType{jsonMediaType: {Schema: ref(part.schema), Example: part.example}}
			}
			out[strconv.Itoa(part.status)] = doc
		}
	}
	byStatus := make(map[int][]kind)
	for _, k := range kinds {
		code, _ := k.describe()
		byStatus[code] = append(byStatus[code], k)
	}
	for code, kinds := range byStatus {
		slices.Sort(kinds)
		kinds = slices.Compact(kinds)
		out[strconv.Itoa(code)] = problemResponse(kinds...)
	}
	return out
}

// openResponses is responses for what needs no token.
func (s *server) openResponses(parts ...any) map[string]*huma.Response {
	out := s.responses(parts...)
	delete(out, strconv.Itoa(http.StatusUnauthorized))
	delete(out, strconv.Itoa(http.StatusForbidden))
	delete(out, strconv.Itoa(http.StatusTooManyRequests))
	return out
}

// problemResponse documents the problems of one status; without kinds, any other.
func problemResponse(kinds ...kind) *huma.Response {
	doc := &huma.MediaType{Schema: ref("Problem"), Examples: make(map[string]*huma.Example)}
	out := &huma.Response{Description: "Any other problem", Content: map[string]*huma.MediaType{problemMediaType: doc}}
	var names []string
	for _, k := range kinds {
		names = append(names, string(k))
		if example := exampleProblem(k); example != nil {
			doc.Examples[string(k)] = &huma.Example{Value: example}
		}
		if k == kindUnavailable || k == kindUnknownOutcome || k == kindInFlight || k == kindOverloaded || k == kindRateLimited {
			out.Headers = responseHeaders([]string{"Retry-After"})
		}
	}
	if len(names) > 0 {
		out.Description = "Problem of type " + strings.Join(names, " or ")
	}
	return out
}

func responseHeaders(names []string) map[string]*huma.Header {
	text := map[string]string{
		"Location":            "The path of the task.",
		"ETag":                "Changes with the task, or with the definition of the schedule.",
		"Idempotent-Replayed": "true if the task is that of an earlier request with the Idempotency-Key.",
		"Preference-Applied":  "The preference of Prefer that was followed: wait=SECONDS.",
		"Retry-After":         "Seconds after which trying again makes sense.",
	}
	out := make(map[string]*huma.Header, len(names))
	for _, name := range names {
		out[name] = &huma.Header{Description: text[name], Schema: &huma.Schema{Type: huma.TypeString}}
	}
	return out
}

// finishDocument adds the request bodies, which huma must not know of while it
// registers (it would read and validate them), and what else it must not know.
func finishDocument(doc *huma.OpenAPI, asks bool) {
	body := func(schema string, example any) *huma.RequestBody {
		return &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
			jsonMediaType: {Schema: ref(schema), Example: example},
		}}
	}
	doc.Paths[pathTasks].Post.RequestBody = body("TaskRequest", exampleRequest())
	doc.Paths[pathBatch].Post.RequestBody = body("BatchRequest", exampleBatchRequest())
	doc.Paths[pathQueue].Patch.RequestBody = body("SettingsPatch", exampleSettingsPatch())
	doc.Paths[pathQueue].Patch.RequestBody.Content[mergePatchMediaType] = doc.Paths[pathQueue].Patch.RequestBody.Content[jsonMediaType]
	doc.Paths[pathLimit].Put.RequestBody = body("LimitRequest", exampleLimitRequest())
	doc.Paths[pathLimit].Delete.Responses[strconv.Itoa(http.StatusNoContent)].Content = nil // as below
	doc.Paths[pathSchedule].Put.RequestBody = body("ScheduleRequest", exampleScheduleRequest())
	doc.Paths[pathSchedule].Delete.Responses[strconv.Itoa(http.StatusNoContent)].Content = nil
	doc.Paths[pathScheduleBackfill].Post.RequestBody = body("BackfillRequest", exampleBackfillRequest())
	doc.Paths[pathSchedulesApply].Post.RequestBody = body("ApplyRequest", exampleApplyRequest())
	doc.Paths[pathDeadRetryMany].Post.RequestBody = body("DeadQuery", exampleDeadQuery())
	doc.Paths[pathDeadPurge].Post.RequestBody = body("DeadQuery", exampleDeadQuery())
	doc.Paths[pathCancelMany].Post.RequestBody = body("TaskFilter", exampleTaskFilter(pelton.Queued))
	doc.Paths[pathRetryMany].Post.RequestBody = body("TaskFilter", exampleTaskFilter(pelton.Failed))
	doc.Paths[pathDeadLetter].Delete.Responses[strconv.Itoa(http.StatusNoContent)].Content = nil // huma adds one

	conflict := doc.Paths[pathTasks].Post.Responses[strconv.Itoa(http.StatusConflict)]
	conflict.Content[problemMediaType].Examples[string(kindConflict)] = &huma.Example{Value: exampleHeld()}

	documentTokens(doc)
	if asks {
		documentAccess(doc)
	}

	// huma registers its own error type with every operation; no answer has it.
	delete(doc.Components.Schemas.Map(), "ErrorModel")
	delete(doc.Components.Schemas.Map(), "ErrorDetail")
	completeParams(doc)
}

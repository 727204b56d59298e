// Package api is Pelton's HTTP API: tasks are posted, read, waited for and
// cancelled, queues are looked at and set up, dead letters are retried, locks are
// looked at, and schedules are set, over JSON. It knows the vocabulary alone and is handed what it
// needs of the broker as small interfaces.
//
// Payloads and results pass through byte for byte, requests are read strictly
// (an unknown field is an error that says where), and every error is an RFC 9457
// problem. GET /openapi.json describes what is served.
package api

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"runtime"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/peltonq/pelton"
)

const (
	// callTimeout bounds one call into Tasks or Queues.
	callTimeout = 5 * time.Second
	// batchTimeout bounds EnqueueMany, which may have 1,000 tasks to store.
	batchTimeout = 30 * time.Second
	// settingsTimeout bounds a change of a queue, which its lanes have to follow.
	settingsTimeout = 10 * time.Second
	// maxWait is the longest that an answer is held for a task to end. A server
	// that has a write timeout needs one above maxWait + 2·callTimeout.
	maxWait = 60 * time.Second
)

// Tasks is what the API needs to serve tasks. Errors wrap the sentinels of the
// vocabulary; an unreachable broker is ErrUnavailable at once, without waiting
// for ctx.
type Tasks interface {
	// Submit stores one task, or finds the one that stands for it. The error is a
	// *pelton.ValidationError for a spec that cannot be accepted, ErrConflict for a
	// unique key that is held, and ErrInFlight for an idempotency key whose first
	// request is under way.
	Submit(ctx context.Context, spec pelton.Spec, opts ...pelton.Option) (pelton.Enqueued, error)
	// EnqueueMany is Submit for each spec on its own and answers one Enqueued per spec,
	// in order. The error is for when nothing could be tried.
	EnqueueMany(ctx context.Context, specs []pelton.Spec) ([]pelton.Enqueued, error)
	// Get reads one task.
	Get(ctx context.Context, id pelton.ID) (*pelton.Task, error)
	// Wait returns the task when it is terminal, or the last seen task together
	// with ctx's error when ctx ends.
	Wait(ctx context.Context, id pelton.ID) (*pelton.Task, error)
	// Cancel cancels a task. ErrConflict means that it ended otherwise; cancelling
	// a cancelled task returns it.
	Cancel(ctx context.Context, id pelton.ID) (*pelton.Task, error)
	// Retry puts a task that is over back into its queue. ErrConflict means that it
	// is not over.
	Retry(ctx context.Context, id pelton.ID) (*pelton.Task, error)
	// Run brings the time of a task that waits for one forward to now. ErrConflict means
	// that it runs or is over.
	Run(ctx context.Context, id pelton.ID) (*pelton.Task, error)
	// Watch gives the task as it stands and after each change, and ends after a
	// terminal state. An error ends it too. Tasks that Wait and Watch give may share
	// payload and result with those given to others.
	Watch(ctx context.Context, id pelton.ID) iter.Seq2[*pelton.Task, error]
}

// Queues is what the API needs to serve queues.
type Queues interface {
	// Queues lists all queues, sorted by name.
	Queues(ctx context.Context) ([]pelton.Queue, error)
	// Queue is one queue, or ErrNotFound.
	Queue(ctx context.Context, name string) (*pelton.Queue, error)
	// PatchQueue applies a JSON merge patch to the settings of a queue, which is made
	// if it does not exist. The error is a *pelton.ValidationError for settings that
	// cannot be.
	PatchQueue(ctx context.Context, name string, patch []byte) (*pelton.Queue, error)
	// Pause and Resume are for one priority, or all of them for ""; ErrNotFound for
	// a queue that does not exist.
	Pause(ctx context.Context, name string, p pelton.Priority) (*pelton.Queue, error)
	Resume(ctx context.Context, name string, p pelton.Priority) (*pelton.Queue, error)
	// Purge cancels what waits, and bounds its time by itself. The error is a
	// *pelton.ValidationError for a cursor that is none.
	Purge(ctx context.Context, name string, p pelton.Priority, cursor string) (*pelton.Purged, error)
}

// Config is what New needs. Tasks, Lists, Why, Queues, Dead, Locks, Limits, Workers
// and Schedules are required.
type Config struct {
	Tasks   Tasks
	Lists   Lister
	Why     Explainer
	Queues  Queues
	Dead    DeadLetters
	Locks   Locks
	Limits  Limits
	Workers Workers

	Schedules Schedules

	// Metrics answers GET /metrics. Without one there is no such call.
	Metrics http.Handler
	// Ready is nil while the server can accept tasks, else the error that
	// GET /readyz shows. It must answer from memory. A nil Ready is always ready.
	Ready func() error
	// Token is a bearer token that may do everything. Every call but /healthz and
	// /readyz needs it or one of Keyring; while there is neither, the API is open.
	Token string
	// Keyring are the tokens that can be made and revoked. Nil is none, and calls on
	// them are not supported.
	Keyring Keyring
	// Closed asks for a token even while there is none, of an API that others can reach:
	// revoking the last one must not open it.
	Closed bool
	// Audit is the audit log that GET /audit shows. Nil is none.
	Audit AuditLog
	// Auditing says what is written to it. Nil is nothing.
	Auditing *Auditing
	// Requests bounds what each caller may send. Nil is no bound.
	Requests *RequestLimit
	// Memory bounds what requests hold of memory: their bodies, the tasks that they
	// read, their answers. Nil is one of DefaultMemory; less than MinMemory is an error.
	Memory *Budget
	// Held bounds the number of answers that are held (?wait=, Prefer: wait) and of
	// event streams, together. Nil is one of DefaultHeld.
	Held *Budget
	// CheckHost answers only requests whose Host names loopback or one of
	// AllowedHosts, and 421 to all others: a page in a browser on this machine
	// must not reach an open API by rebinding its own name to 127.0.0.1.
	CheckHost bool
	// AllowedHosts are more names that CheckHost accepts: "pelton.internal" with
	// any port, "pelton.internal:7420" with that one.
	AllowedHosts []string
	// Version is the program's, shown in the OpenAPI document. Empty means "dev".
	Version string
	// Logger hears of failures that are not the caller's. Nil discards them.
	Logger *slog.Logger
}

func (c Config) withDefaults() (Config, error) {
	if c.Tasks == nil || c.Lists == nil || c.Why == nil || c.Queues == nil || c.Dead == nil || c.Locks == nil || c.Limits == nil || c.Workers == nil || c.Schedules == nil {
		return Config{}, errors.New("api: Config needs Tasks, Lists, Why, Queues, Dead, Locks, Limits, Workers and Schedules")
	}
	if slices.Contains(c.AllowedHosts, "") {
		return Config{}, errors.New("api: Config.AllowedHosts has an empty name")
	}
	if c.Ready == nil {
		c.Ready = func() error { return nil }
	}
	if c.Keyring == nil {
		c.Keyring = noKeyring{}
	}
	if c.Memory == nil {
		c.Memory = NewBudget(DefaultMemory)
	}
	if c.Memory.most < MinMemory {
		return Config{}, fmt.Errorf("api: Config.Memory is %d bytes, less than %d", c.Memory.most, MinMemory)
	}
	if c.Held == nil {
		c.Held = NewBudget(DefaultHeld)
	}
	if c.Version == "" {
		c.Version = "dev"
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// server holds what the handlers share. It is not changed after New.
type server struct {
	Config
	spec   []byte        // the OpenAPI document
	spec30 []byte        // the same in OpenAPI 3.0
	docs   []byte        // the same as a page
	checks chan struct{} // held by bodies that are checked
}

// New is the API as a handler. It starts no goroutines: a request's work ends
// with the request. The error is a Config that lacks something.
//
// Answers may be held for up to a minute (?wait=); ending the requests' base
// context lets them go early, with the task as it then stands. Servers should
// bound the time for headers, not the time for the whole request: the API bounds
// the reading of bodies itself.
func New(cfg Config) (http.Handler, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &server{Config: cfg, checks: make(chan struct{}, 2*runtime.GOMAXPROCS(0))}

	mux := http.NewServeMux()
	document := s.describe(mux)
	if err := s.writeDocument(document); err != nil {
		return nil, fmt.Errorf("api: write the OpenAPI document: %w", err)
	}
	registerFallback(mux, document)

	return s.guard(mux), nil
}

// describe adds every call to mux, and gives the document of them.
func (s *server) describe(mux *http.ServeMux) *huma.OpenAPI {
	document := humago.New(mux, s.humaConfig())
	document.UseMiddleware(auditing, permit)
	s.registerTasks(document)
	s.registerLists(document)
	s.registerEvents(document)
	s.registerWhy(document)
	s.registerQueues(document)
	s.registerDead(document)
	s.registerLocks(document)
	s.registerLimits(document)
	s.registerWorkers(document)
	s.registerSchedules(document)
	s.registerTokens(document)
	s.registerAudit(document)
	s.registerMeta(document)
	s.registerDocument(document)
	s.registerDocs(document)
	s.registerMetrics(document)
	finishDocument(document.OpenAPI(), s.asks())
	return document.OpenAPI()
}

package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/peltonq/pelton"
)

const (
	opAudit   = "listAudit"
	pathAudit = "/audit"

	anonymousActor = "anonymous"
)

// AuditLog is what the API needs to serve the audit log.
type AuditLog interface {
	// Audit lists entries, newest first. A query that makes no sense is a
	// *pelton.ValidationError.
	Audit(ctx context.Context, q pelton.AuditQuery) (*pelton.AuditPage, error)
}

// Auditing says what is written to the audit log.
type Auditing struct {
	// Record takes an entry. It must not wait, nor fail.
	Record func(pelton.AuditEntry)
	// Enqueues records POST /tasks and /tasks/batch too, an entry for each request.
	Enqueues bool
	// Server names this server in the entries.
	Server string
}

// audited is the call of a request, for its entry.
type audited struct{ operation string }

type auditedKey struct{}

// audit records calls that are to change something: those of operations, when they have
// been answered, also if that was a refusal. Calls without a good token are not among them: any
// stranger could fill the log.
func (s *server) audit(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		enqueues := r.URL.Path == pathTasks || r.URL.Path == pathBatch
		switch {
		case r.Method == http.MethodGet, r.Method == http.MethodHead, r.Method == http.MethodOptions, enqueues && !s.Auditing.Enqueues:
			next.ServeHTTP(w, r)
			return
		}
		came := time.Now().UTC()
		call := &audited{}
		status := &statusWriter{ResponseWriter: w, status: http.StatusInternalServerError} // of a panic
		defer func() {
			if call.operation != "" {
				s.Auditing.Record(s.entry(r, call, status, came))
			}
		}()
		next.ServeHTTP(status, r.WithContext(context.WithValue(r.Context(), auditedKey{}, call)))
	})
}

func (s *server) entry(r *http.Request, call *audited, w *statusWriter, came time.Time) pelton.AuditEntry {
	who := callerOf(r.Context())
	e := pelton.AuditEntry{
		At: came.Truncate(time.Millisecond), Actor: who.id, From: clip(hostOf(r.RemoteAddr), 64),
		Operation: call.operation, Method: r.Method, Path: clip(r.URL.EscapedPath(), 300),
		Status: w.status, Location: clip(w.Header().Get("Location"), 300), Server: s.Auditing.Server,
	}
	if who.token != nil {
		e.ActorName = who.token.Name
	}
	if e.Actor == "" {
		e.Actor = anonymousActor
	}
	return e
}

// statusWriter remembers the status of an answer.
type statusWriter struct {
	http.ResponseWriter

	status int
}

// WriteHeader notes the final status; 1xx are only hints.
func (w *statusWriter) WriteHeader(status int) {
	if status >= http.StatusOK {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// auditing is huma's middleware that names the call.
func auditing(ctx huma.Context, next func(huma.Context)) {
	if call, ok := ctx.Context().Value(auditedKey{}).(*audited); ok {
		call.operation = ctx.Operation().OperationID
	}
	next(ctx)
}

// auditInput is the request of GET /audit.
type auditInput struct {
	Actor     string    `query:"actor" doc:"Only calls by the token of this id; bootstrap is that of --token, anonymous who needed none." example:"a2c4e6g7i3k5m7o2"`
	Operation string    `query:"operation" doc:"Only calls of this operationId." example:"purgeQueue"`
	Outcome   string    `query:"outcome" enum:"ok,refused,failed" doc:"Only calls that ended so: below 400, 4xx, 5xx." example:"refused"`
	Since     time.Time `query:"since" doc:"Only calls from then on." example:"2026-12-01T08:00:00Z"`
	Until     time.Time `query:"until" doc:"Only calls before that." example:"2026-12-02T08:00:00Z"`
	Limit     int       `query:"limit" minimum:"1" maximum:"500" default:"50" doc:"The most entries of the page."`
	Cursor    string    `query:"cursor" doc:"The next_cursor of the page before."`

	err error
}

// Resolve refuses what is there and empty, of a script whose variable was not set.
func (in *auditInput) Resolve(ctx huma.Context) []error {
	in.err = refuseEmpty(ctx, "actor", "operation", "outcome", "since", "until")
	return nil
}

func (s *server) listAudit(ctx context.Context, in *auditInput) (*answer, error) {
	if in.err != nil {
		return nil, in.err
	}
	if s.Audit == nil {
		return nil, newProblem(kindNotSupported, "this server keeps no audit log")
	}
	ctx, cancel := context.WithTimeout(ctx, tokenTimeout)
	defer cancel()
	page, err := s.Audit.Audit(ctx, pelton.AuditQuery{
		Actor: in.Actor, Operation: in.Operation, Outcome: pelton.Outcome(in.Outcome), Since: in.Since, Until: in.Until, Cursor: in.Cursor, Limit: in.Limit,
	})
	if err != nil {
		return nil, atQuery(err)
	}
	if page.Items == nil {
		page = &pelton.AuditPage{Items: []pelton.AuditEntry{}, NextCursor: page.NextCursor} // [] and not null
	}
	return encodeAnswer(page)
}

func (s *server) registerAudit(api huma.API) {
	register(s, api, huma.Operation{
		OperationID: opAudit, Method: http.MethodGet, Path: pathAudit, Tags: []string{"tokens"},
		Summary:     "Read the audit log",
		Description: "Who called what that was to change something, when, from where, and how it ended; newest first. Payloads, bodies and queries are not in it. Enqueues are, if the server was started with --audit all. One call looks at 500 entries at most: a page may be short, or empty, while next_cursor is there.",
		Responses: s.responses(
			response{http.StatusOK, "A page of entries", "AuditPage", exampleAuditPage(), nil},
			kindInvalid, kindNotSupported, kindUnavailable,
		),
	}, s.listAudit)
}

func auditPageSchema() *huma.Schema {
	return object(properties{
		"items":       array(ref("AuditEntry"), "The entries of this page, newest first."),
		"next_cursor": text("Leads to the next page; absent after the last one."),
	}, "items")
}

func auditEntrySchema() *huma.Schema {
	return object(properties{
		"at":         timestamp("When the call came, by the server's clock."),
		"actor":      text("Who called: the id of a token, bootstrap for that of --token, anonymous where the API is open."),
		"actor_name": text("The token's name."),
		"from":       text("The address that the call came from."),
		"operation":  text("The operationId of the call."),
		"method":     text("The method."),
		"path":       text("The path, without the query."),
		"status":     integer("The status of the answer.", 200),
		"location":   text("Where what it made is, if the answer said so."),
		"server":     text("The host that answered."),
		"lost":       integer("How many entries of that server before this one could not be kept.", 1),
	}, "at", "actor", "from", "operation", "method", "path", "status")
}

func exampleAuditPage() *pelton.AuditPage {
	return &pelton.AuditPage{Items: []pelton.AuditEntry{{
		At: exampleTime(), Actor: exampleToken().ID, ActorName: exampleToken().Name, From: "192.0.2.7",
		Operation: opPurgeQueue, Method: http.MethodPost, Path: "/queues/invoices/purge", Status: http.StatusForbidden, Server: "host-1",
	}}, NextCursor: "4711"}
}

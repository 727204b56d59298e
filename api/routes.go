package api

import (
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

const (
	pathTasks   = "/tasks"
	pathBatch   = "/tasks/batch"
	pathTask    = "/tasks/{id}"
	pathCancel  = "/tasks/{id}/cancel"
	pathRetry   = "/tasks/{id}/retry"
	pathRun     = "/tasks/{id}/run"
	pathEvents  = "/tasks/{id}/events"
	pathWhy     = "/tasks/{id}/why"
	pathQueues  = "/queues"
	pathQueue   = "/queues/{queue}"
	pathPause   = "/queues/{queue}/pause"
	pathResume  = "/queues/{queue}/resume"
	pathPurge   = "/queues/{queue}/purge"
	pathHealth  = "/healthz"
	pathReady   = "/readyz"
	pathOpenAPI = "/openapi.json"

	pathDead          = "/dead"
	pathDeadLetter    = "/dead/{id}"
	pathDeadRetry     = "/dead/{id}/retry"
	pathDeadRetryMany = "/dead/retry"
	pathDeadPurge     = "/dead/purge"

	pathLocks = "/locks"
	pathLock  = "/locks/{name}"

	pathWorkers = "/workers"

	pathCancelMany = "/tasks/cancel"
	pathRetryMany  = "/tasks/retry"
)

// planned lists the calls that the public surface has and this version has not.
func planned() []string {
	return []string{
		"GET /metrics",
	}
}

// route is what is known of one path: the methods it serves and those it will.
type route struct {
	served  []string
	planned []string
}

// registerFallback answers what no operation of doc does: 404 not-supported for
// what is planned, 405 for a wrong method, 404 for the rest.
func registerFallback(mux *http.ServeMux, doc *huma.OpenAPI) {
	known := make(map[string]*route)
	at := func(pattern string) *route {
		if known[pattern] == nil {
			known[pattern] = &route{}
		}
		return known[pattern]
	}
	for pattern, item := range doc.Paths {
		if item.Get != nil {
			at(pattern).served = append(at(pattern).served, http.MethodGet, http.MethodHead)
		}
		if item.Post != nil {
			at(pattern).served = append(at(pattern).served, http.MethodPost)
		}
		if item.Patch != nil {
			at(pattern).served = append(at(pattern).served, http.MethodPatch)
		}
		if item.Put != nil {
			at(pattern).served = append(at(pattern).served, http.MethodPut)
		}
		if item.Delete != nil {
			at(pattern).served = append(at(pattern).served, http.MethodDelete)
		}
	}
	for _, call := range planned() {
		method, pattern, _ := strings.Cut(call, " ")
		at(pattern).planned = append(at(pattern).planned, method)
	}

	byPath := http.NewServeMux()
	for pattern, p := range known {
		if pattern == pathSchedulesApply {
			// A schedule may have that name: its methods are those of any other, and POST.
			p.served = append(slices.Clone(known[pathSchedule].served), p.served...)
		}
		byPath.Handle(pattern, p)
		// GET /tasks/batch is a wrong method, not a task of the id "batch", and so is
		// DELETE /dead/purge.
		for _, method := range []string{http.MethodGet, http.MethodDelete} {
			if !slices.Contains(p.served, method) {
				mux.Handle(method+" "+pattern, p)
			}
		}
	}
	byPath.Handle("/", newUnknownPath())
	mux.Handle("/", byPath)
}

// ServeHTTP answers a method that the path does not serve.
func (p *route) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	if slices.Contains(p.planned, method) || len(p.served) == 0 {
		notYet := newProblem(kindNotSupported, "%s %s is not supported by this version", r.Method, clip(r.URL.Path, 100))
		notYet.Status = http.StatusNotFound
		notYet.ServeHTTP(w, r)
		return
	}
	newProblem(kindNotAllowed, "%s is not a method of %s", clip(r.Method, 32), clip(r.URL.Path, 100)).
		withHeader("Allow", strings.Join(p.served, ", ")).ServeHTTP(w, r)
}

func newUnknownPath() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		newProblem(kindNotFound, "there is nothing at %s: GET %s lists what there is", clip(r.URL.Path, 100), pathOpenAPI).ServeHTTP(w, r)
	})
}

package api

import (
	"context"
	"errors"
	"net/http"
	"testing"

	"github.com/peltonq/pelton"
)

type fakeWorkers struct {
	page  pelton.WorkerPage
	err   error
	query pelton.WorkerQuery
}

func (f *fakeWorkers) Workers(_ context.Context, q pelton.WorkerQuery) (*pelton.WorkerPage, error) {
	f.query = q
	page := f.page
	return &page, f.err
}

func TestListWorkers(t *testing.T) {
	t.Parallel()
	workers := &fakeWorkers{}
	h := serve(t, newFakeTasks(), func(c *Config) { c.Workers = workers })
	if w := call(t, h, http.MethodGet, "/workers", ""); w.Code != http.StatusOK || w.Body.String() != "{\"items\":[]}\n" {
		t.Errorf("none: %d %s", w.Code, w.Body)
	}
	workers.page = *exampleWorkerList()
	w := call(t, h, http.MethodGet, "/workers?limit=3&cursor=abc", "")
	wantFits(t, "workers", "WorkerList", w.Body.Bytes())
	if want := (pelton.WorkerQuery{Limit: 3, Cursor: "abc"}); workers.query != want {
		t.Errorf("query %+v, want %+v", workers.query, want)
	}
	workers.err = &pelton.ValidationError{Fields: []pelton.FieldError{{Field: "cursor", Message: "is not one of an answer"}}}
	p := wantProblem(t, call(t, h, http.MethodGet, "/workers", ""), http.StatusUnprocessableEntity, kindInvalid)
	if len(p.Errors) != 1 || p.Errors[0].Location != "query.cursor" {
		t.Errorf("a wrong cursor: %+v", p)
	}
	workers.err = errors.Join(pelton.ErrUnavailable)
	wantProblem(t, call(t, h, http.MethodGet, "/workers", ""), http.StatusServiceUnavailable, kindUnavailable)
	wantProblem(t, call(t, h, http.MethodGet, "/workers?limit=501", ""), http.StatusUnprocessableEntity, kindInvalid)
	wantProblem(t, call(t, h, http.MethodPost, "/workers", "{}"), http.StatusMethodNotAllowed, kindNotAllowed)
}

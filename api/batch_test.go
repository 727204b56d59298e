package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/peltonq/pelton"
)

func TestBatchAnswersInOrder(t *testing.T) {
	t.Parallel()
	tasks := newFakeTasks()
	w := call(t, serve(t, tasks, nil), http.MethodPost, "/tasks/batch", `{"tasks":[
		{"kind":"first","payload":[1, 2]},
		{"kind":"second","queue":"Bad"},
		{"kind":"third","max_attempts":1.5},
		4,
		{"kind":"fifth","payload":"`+strings.Repeat("x", pelton.MaxPayload)+`"},
		{"kind":"sixth","idempotency_key":7},
		{"kind":"seventh"}]}`)
	if w.Code != http.StatusOK {
		t.Fatalf("status = %d: %s", w.Code, w.Body)
	}
	var got struct {
		Items []batchAnswerItem `json:"items"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, item := range got.Items {
		if item.Problem == nil {
			lines = append(lines, fmt.Sprint(item.Status, " ", item.Task.Kind))
			continue
		}
		lines = append(lines, fmt.Sprint(item.Status, " ", item.Problem.Status, " ", item.Problem.Type, " ", item.Problem.Errors[0].Location))
	}
	want := []string{
		"202 first",
		"422 422 invalid body.tasks[1].queue",
		"422 422 invalid body.tasks[2].max_attempts",
		"422 422 invalid body.tasks[3]",
		"413 413 too-large body.tasks[4].payload",
		"422 422 invalid body.tasks[5].idempotency_key",
		"202 seventh",
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("items (-want +got):\n%s", diff)
	}
	var kinds []string
	for _, spec := range tasks.accepted() {
		kinds = append(kinds, spec.Kind)
	}
	if diff := cmp.Diff([]string{"first", "seventh"}, kinds); diff != "" {
		t.Errorf("accepted kinds (-want +got):\n%s", diff)
	}
}

func TestBadBatchesEnqueueNothing(t *testing.T) {
	t.Parallel()
	many := func(n int) string {
		return `{"tasks":[` + strings.TrimSuffix(strings.Repeat(`{"kind":"a"},`, n), ",") + `]}`
	}
	for name, tc := range map[string]struct {
		body     string
		status   int
		kind     kind
		location string
	}{
		"array":           {`[{"kind":"a"}]`, 422, kindInvalid, "body"},
		"no tasks":        {`{}`, 422, kindInvalid, "body.tasks"},
		"null":            {`{"tasks":null}`, 422, kindInvalid, "body.tasks"},
		"none":            {`{"tasks":[]}`, 422, kindInvalid, "body.tasks"},
		"too many":        {many(1001), 422, kindInvalid, "body.tasks"},
		"unknown field":   {`{"tasks":[{"kind":"a"}],"atomic":true}`, 422, kindInvalid, "body.atomic"},
		"malformed":       {`{"tasks":[{"kind":"a"},]}`, 400, kindMalformed, "body"},
		"duplicate names": {`{"tasks":[{"kind":"a"},{"kind":"a","kind":"b"}]}`, 400, kindMalformed, "body"},
		"too large":       {`{"tasks":[{"kind":"a"}]` + strings.Repeat(" ", maxBatchBody) + `}`, 413, kindTooLarge, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tasks := newFakeTasks()
			p := wantProblem(t, call(t, serve(t, tasks, nil), http.MethodPost, "/tasks/batch", tc.body), tc.status, tc.kind)
			if tc.location != "" && p.Errors[0].Location != tc.location {
				t.Errorf("errors = %+v", p.Errors)
			}
			if got := tasks.accepted(); len(got) > 0 {
				t.Errorf("enqueued %d", len(got))
			}
		})
	}
	tasks := newFakeTasks()
	if w := call(t, serve(t, tasks, nil), http.MethodPost, "/tasks/batch", many(1000)); w.Code != 200 || len(tasks.accepted()) != 1000 {
		t.Errorf("1000 tasks: status = %d, enqueued %d", w.Code, len(tasks.accepted()))
	}
}

func TestBatchWithoutBroker(t *testing.T) {
	t.Parallel()
	tasks := newFakeTasks()
	tasks.manyErr = pelton.ErrUnavailable
	w := call(t, serve(t, tasks, nil), http.MethodPost, "/tasks/batch", `{"tasks":[{"kind":"a"}]}`)
	wantProblem(t, w, 503, kindUnavailable)

	tasks = newFakeTasks()
	tasks.err = fmt.Errorf("publish: %w", pelton.ErrUnknownOutcome)
	w = call(t, serve(t, tasks, nil), http.MethodPost, "/tasks/batch", `{"tasks":[{"kind":"a"}]}`)
	if w.Code != 200 || !strings.HasPrefix(w.Body.String(), `{"items":[{"status":503,"problem":{"type":"unknown-outcome"`) {
		t.Errorf("status = %d: %s", w.Code, w.Body)
	}
}

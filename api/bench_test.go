package api

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/peltonq/pelton"
)

// sameTask answers every enqueue with one task and keeps nothing.
type sameTask struct {
	*fakeTasks
	task *pelton.Task
}

func (s sameTask) Submit(context.Context, pelton.Spec, ...pelton.Option) (pelton.Enqueued, error) {
	return pelton.Enqueued{Task: s.task}, nil
}

// BenchmarkPostTask is POST /tasks as far as the handler goes: reading, checking and
// answering one request, without a network and without a broker.
func BenchmarkPostTask(b *testing.B) { benchPostTask(b, nil) }

// BenchmarkPostTaskAudited is that with an entry of the audit log for each request.
func BenchmarkPostTaskAudited(b *testing.B) {
	benchPostTask(b, &Auditing{Record: func(pelton.AuditEntry) {}, Enqueues: true})
}

func benchPostTask(b *testing.B, audit *Auditing) {
	b.Helper()
	const body = `{"kind":"email.send","payload":{"to":"someone@example.org","subject":"a task of the usual size","n":1234567},"queue":"emails","priority":"high","timeout":"30s"}`
	tasks := newFakeTasks()
	task, err := tasks.enqueue(b.Context(), pelton.Spec{Kind: "email.send", Queue: "emails", Payload: []byte(`{"to":"someone@example.org"}`)})
	if err != nil {
		b.Fatal(err)
	}
	h := serve(b, tasks, func(c *Config) { c.Tasks, c.Auditing = sameTask{tasks, task}, audit })
	b.ReportAllocs()
	for b.Loop() {
		r := httptest.NewRequestWithContext(b.Context(), http.MethodPost, "/tasks", strings.NewReader(body))
		r.Host = "localhost:7420"
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != http.StatusAccepted {
			b.Fatalf("status = %d: %s", w.Code, w.Body)
		}
	}
}

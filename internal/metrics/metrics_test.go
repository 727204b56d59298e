package metrics

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/worker"
)

type fakeQueues struct {
	calls int
	err   error
}

func (f *fakeQueues) Queues(context.Context) ([]pelton.Queue, error) {
	f.calls++
	return []pelton.Queue{{
		Name:       "emails",
		Priorities: map[pelton.Priority]pelton.Depth{pelton.High: {Ready: 3, Running: 1, OldestReady: 2 * time.Second}},
		Scheduled:  5, Waiting: 4, Dead: 7,
	}}, f.err
}

type fakeBound struct{}

func (fakeBound) InUse() int64   { return 3 }
func (fakeBound) Most() int64    { return 4 }
func (fakeBound) Refused() int64 { return 5 }

func scrape(t *testing.T, m *Metrics) string {
	t.Helper()
	answer := httptest.NewRecorder()
	m.Handler().ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	if answer.Code != http.StatusOK {
		t.Fatalf("GET /metrics: %d %s", answer.Code, answer.Body)
	}
	return answer.Body.String()
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	m := New("v1.2.3")
	queues := &fakeQueues{}
	m.WatchQueues(t.Context(), queues)
	m.Watch(func() worker.Stats { return worker.Stats{} }) // a worker that was started again
	m.Watch(func() worker.Stats { return worker.Stats{Slots: 16, Busy: 4, Leaked: 1} })
	task := &pelton.Task{Kind: "email.send", Queue: "emails", Priority: pelton.High}
	m.Enqueued(task)
	m.Refused()
	m.Started(task, 30*time.Millisecond)
	m.Ended(task, worker.OutcomeRetried, 70*time.Millisecond)
	m.Crashed(task)
	m.PutOff(task, "mail")
	m.RedisUp(true)
	m.LimitFellBack("mail", "local")
	m.RedisUp(false)
	m.Swept(200, 2, 1500*time.Millisecond)
	m.Swept(1, 0, time.Second)

	m.WatchBound("memory", "pelton_http_memory_bytes", "Memory.", fakeBound{})
	m.WatchBound("held", "pelton_http_held", "Answers.", fakeBound{})

	text := scrape(t, m)
	for _, want := range []string{
		`pelton_build_info{version="v1.2.3"} 1`,
		`pelton_tasks_enqueued_total{priority="high",queue="emails"} 1`,
		`pelton_tasks_refused_total 1`,
		`pelton_sweep_looked_total 201`,
		`pelton_sweep_repaired_total 2`,
		`pelton_sweep_seconds_total 2.5`,
		`pelton_task_runs_total{kind="email.send",outcome="retried",queue="emails"} 1`,
		`pelton_task_deferrals_total{limit="mail"} 1`,
		`pelton_limit_fallbacks_total{limit="mail",mode="local"} 1`,
		`pelton_limit_redis_up 0`,
		`pelton_task_crashes_total{kind="email.send",queue="emails"} 1`,
		`pelton_task_wait_seconds_count{priority="high",queue="emails"} 1`,
		`pelton_task_run_seconds_sum{kind="email.send",queue="emails"} 0.07`,
		`pelton_queue_tasks{priority="high",queue="emails",state="ready"} 3`,
		`pelton_queue_tasks{priority="high",queue="emails",state="running"} 1`,
		`pelton_queue_oldest_ready_seconds{priority="high",queue="emails"} 2`,
		`pelton_queue_scheduled_tasks{queue="emails"} 5`,
		`pelton_queue_waiting_tasks{queue="emails"} 4`,
		`pelton_queue_dead_tasks{queue="emails"} 7`,
		`pelton_worker_slots 16`, `pelton_worker_slots_busy 4`, `pelton_worker_slots_leaked 1`,
		`pelton_broker_up 1`,
		`pelton_http_memory_bytes 3`, `pelton_http_memory_limit_bytes 4`, `pelton_http_refused_total{bound="memory"} 5`,
		`pelton_http_held 3`, `pelton_http_held_limit 4`, `pelton_http_refused_total{bound="held"} 5`,
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("no %s in the scrape", want)
		}
	}
	scrape(t, m)
	if queues.calls != 1 {
		t.Errorf("two scrapes in a row read the broker %d times", queues.calls)
	}
	problems, err := testutil.GatherAndLint(m.registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range problems {
		if strings.HasPrefix(problem.Metric, "pelton_") {
			t.Errorf("%s: %s", problem.Metric, problem.Text)
		}
	}
}

func TestScrapeWithoutABroker(t *testing.T) {
	t.Parallel()
	m := New("")
	m.WatchQueues(t.Context(), &fakeQueues{err: errors.New("out of reach")})
	if text := scrape(t, m); !strings.Contains(text, "pelton_broker_up 0\n") || strings.Contains(text, "pelton_queue_tasks{") {
		t.Error("a scrape without a broker does not say so")
	}
}

package e2e_test

import (
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Both roles show what they do: the server the queues and what it accepted, the
// worker its runs.
func TestMetricsOfServerAndWorker(t *testing.T) {
	t.Parallel()
	s := serve(t, "--addr", "127.0.0.1:0", "--data", filepath.Join(t.TempDir(), "data"), "--nats-listen", "127.0.0.1:0", "--nats-token", "secret")
	w := worker(t, s, "--metrics-addr", "127.0.0.1:0", "--concurrency", "3")
	s.finish(s.post(`{"kind":"demo.echo","priority":"high"}`).ID, time.Now().Add(30*time.Second))
	s.finish(s.post(`{"kind":"demo.fail","payload":{"times":1},"max_attempts":1}`).ID, time.Now().Add(30*time.Second))
	workerURL := "http://" + w.line("serving metrics")["addr"].(string)
	for url, wants := range map[string][]string{
		s.url + "/metrics": {
			`pelton_tasks_enqueued_total{priority="high",queue="default"} 1`, `pelton_queue_dead_tasks{queue="default"} 1`, `pelton_broker_up 1`,
		},
		workerURL + "/metrics": {
			`pelton_task_runs_total{kind="demo.echo",outcome="succeeded",queue="default"} 1`,
			`pelton_task_runs_total{kind="demo.fail",outcome="failed",queue="default"} 1`,
			`pelton_task_wait_seconds_count{priority="high",queue="default"} 1`,
			`pelton_worker_slots 3`,
		},
	} {
		// Counted when the outcome has been written: a moment after it can be read.
		var missing []string
		for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
			status, _, text, err := call(t.Context(), http.MethodGet, url, "")
			if err != nil || status != http.StatusOK {
				t.Fatalf("GET %s: %d %v", url, status, err)
			}
			missing = slices.DeleteFunc(slices.Clone(wants), func(want string) bool { return strings.Contains(string(text), want+"\n") })
			if len(missing) == 0 {
				break
			}
		}
		if len(missing) > 0 {
			t.Errorf("GET %s: no %q", url, missing)
		}
	}
}

package e2e_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/peltonq/pelton"
)

// Many keys, four workers, and one of them killed and replaced every second: each
// key's tasks run one at a time in the order in which they were accepted, and all
// of them end. The records' times of start and end show it: whoever was killed runs
// nothing any more.
func TestKeysKeepTheirOrderWhileWorkersDie(t *testing.T) {
	t.Parallel()
	const (
		keys, each = 150, 10
		workers    = 4
		lease      = 2 * time.Second
	)
	s := serve(t, "--addr", "127.0.0.1:0", "--data", filepath.Join(t.TempDir(), "data"), "--nats-listen", "127.0.0.1:0", "--nats-token", "secret", "--lease", lease.String())
	ids := make([][]pelton.ID, keys)
	for n := 0; n < keys*each; n += 500 {
		var tasks []string
		for i := n; i < min(n+500, keys*each); i++ {
			tasks = append(tasks, fmt.Sprintf(`{"kind":"demo.sleep","payload":{"ms":%d},"concurrency_key":"key %d"}`, 5+i%20, i%keys))
		}
		status, _, answer, err := call(t.Context(), http.MethodPost, s.url+"/tasks/batch", `{"tasks":[`+strings.Join(tasks, ",")+`]}`)
		if err != nil || status != http.StatusOK {
			t.Fatalf("POST /tasks/batch: %d %s %v", status, answer, err)
		}
		var batch struct {
			Items []struct {
				Task *pelton.Task `json:"task"`
			} `json:"items"`
		}
		if err := json.Unmarshal(answer, &batch); err != nil {
			t.Fatal(err)
		}
		for i, item := range batch.Items {
			if item.Task == nil {
				t.Fatalf("task %d was refused: %s", n+i, answer)
			}
			ids[(n+i)%keys] = append(ids[(n+i)%keys], item.Task.ID)
		}
	}
	running := make([]*process, workers)
	for i := range running {
		running[i] = worker(t, s, "--concurrency", "16")
	}
	for i := range 6 {
		<-time.After(time.Second)
		running[i%workers].kill(syscall.SIGKILL)
		running[i%workers] = worker(t, s, "--concurrency", "16")
	}
	deadline := time.Now().Add(180 * time.Second)
	took := time.Now()
	poisoned := 0
	for key, list := range ids {
		var before *pelton.Task
		for n, id := range list {
			task := s.finish(id, deadline)
			switch {
			case task.State == pelton.Failed && task.Error.Reason == pelton.ReasonPoison:
				poisoned++ // it was there at three deaths; it gave its turn back all the same
			case task.State != pelton.Succeeded:
				t.Errorf("task %d of key %d has %s: %+v", n, key, task.State, task.Error)
			}
			if before != nil && task.StartedAt.Before(before.FinishedAt) {
				t.Errorf("key %d: task %d started at %s, task %d ended at %s", key, n, task.StartedAt, n-1, before.FinishedAt)
			}
			before = task
		}
	}
	t.Logf("%d tasks of %d keys, %d of them poisoned, read in %s", keys*each, keys, poisoned, time.Since(took))
}

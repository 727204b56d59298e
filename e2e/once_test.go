package e2e_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/peltonq/pelton"
)

// postOnce posts a task under an idempotency key; err is of the transport.
func postOnce(t *testing.T, url, key, body string) (status int, header http.Header, answer []byte, err error) {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/tasks", bytes.NewBufferString(body))
	if err != nil {
		return 0, nil, nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Idempotency-Key", key)
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, nil, err
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(resp.Body)
	return resp.StatusCode, resp.Header, answer, err
}

// An API server is killed 5 times in the middle of what it writes. Every request that
// it did not answer is repeated at the next one: each makes one task, which runs once,
// and whoever was answered before is answered with the same task.
func TestAPIServerKilledUnderIdempotencyKeys(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ran := filepath.Join(dir, "ran")
	broker := serve(t, "--addr", "127.0.0.1:0", "--data", filepath.Join(dir, "data"), "--nats-listen", "127.0.0.1:0", "--nats-token", "secret",
		"--exec", "once.run=tee -a "+ran, "--concurrency", "1")
	body := func(n int) string {
		unique := ""
		if n%2 == 0 {
			unique = fmt.Sprintf(`,"unique":{"key":"%d"}`, n)
		}
		return fmt.Sprintf(`{"kind":"once.run","payload":" %d"%s}`, n, unique)
	}
	var (
		mu       sync.Mutex
		tasks    = make(map[int]pelton.ID)
		lost     []int
		next     int
		repeated int
	)
	accept := func(n int, answer []byte) {
		var task pelton.Task
		if err := json.Unmarshal(answer, &task); err != nil {
			t.Error(err)
			return
		}
		if before, known := tasks[n]; known && before != task.ID {
			t.Errorf("request %d made tasks %s and %s", n, before, task.ID)
		}
		tasks[n] = task.ID
	}
	api := func() *server {
		return serve(t, "--addr", "127.0.0.1:0", "--nats", broker.nats, "--nats-token", "secret")
	}
	for range 5 {
		s := api()
		var posting sync.WaitGroup
		enough, before := make(chan struct{}), len(tasks)
		for range 16 {
			posting.Go(func() {
				for {
					mu.Lock()
					n := next
					next++
					mu.Unlock()
					status, _, answer, err := postOnce(t, s.url, fmt.Sprint(n), body(n))
					mu.Lock()
					switch {
					case err != nil: // the server is dead
						lost = append(lost, n)
						mu.Unlock()
						return
					case status != http.StatusAccepted:
						t.Errorf("request %d: %d %s", n, status, answer)
					default:
						accept(n, answer)
					}
					if len(tasks) == before+40 {
						close(enough)
					}
					mu.Unlock()
				}
			})
		}
		<-enough
		s.kill(syscall.SIGKILL)
		posting.Wait()
	}

	s := api()
	pause := time.NewTicker(100 * time.Millisecond)
	defer pause.Stop()
	for deadline := time.Now().Add(60 * time.Second); len(lost) > 0; <-pause.C {
		if time.Now().After(deadline) {
			t.Fatalf("requests %v have no answer", lost)
		}
		var again []int
		for _, n := range lost {
			status, header, answer, err := postOnce(t, s.url, fmt.Sprint(n), body(n))
			switch {
			case err != nil:
				t.Fatal(err)
			case status == http.StatusAccepted:
				accept(n, answer)
				if header.Get("Idempotent-Replayed") == "true" {
					repeated++
				}
			case status == http.StatusConflict && header.Get("Retry-After") != "":
				again = append(again, n)
			default:
				t.Fatalf("repeat of request %d: %d %s", n, status, answer)
			}
		}
		lost = again
	}
	t.Logf("%d requests, %d of the repeats found a task", next, repeated)

	for n := range next {
		if status, header, answer, err := postOnce(t, s.url, fmt.Sprint(n), body(n)); err != nil || status != http.StatusAccepted || header.Get("Idempotent-Replayed") != "true" {
			t.Fatalf("repeat of request %d: %d %v %s %v", n, status, header, answer, err)
		} else {
			accept(n, answer)
		}
		if status, _, answer, err := postOnce(t, s.url, fmt.Sprint(n), `{"kind":"once.run","payload":0}`); err != nil || status != http.StatusUnprocessableEntity {
			t.Fatalf("another request with the key of %d: %d %s %v", n, status, answer, err)
		}
	}
	deadline := time.Now().Add(120 * time.Second)
	for n, id := range tasks {
		if task := s.finish(id, deadline); task.State != pelton.Succeeded {
			t.Errorf("task %s of request %d has %s: %+v", id, n, task.State, task.Error)
		}
	}
	out, err := os.ReadFile(ran)
	if err != nil {
		t.Fatal(err)
	}
	runs := make(map[string]int)
	for _, payload := range strings.Split(string(out), `"`) {
		if payload != "" {
			runs[strings.TrimSpace(payload)]++
		}
	}
	for n := range next {
		if got := runs[fmt.Sprint(n)]; got != 1 {
			t.Errorf("the task of request %d ran %d times", n, got)
		}
	}
	if len(tasks) != next || len(runs) != next {
		t.Errorf("%d requests made %d tasks, of which %d ran", next, len(tasks), len(runs))
	}
}

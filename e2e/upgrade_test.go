package e2e_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/freeport"
)

// oldest is the commit from which on every version can be upgraded to this one, with its data and
// beside its workers. It moves only with a line in the changelog that says so.
const oldest = "adb9307d3ce7e58eb0f883023f899f786eb87702"

var (
	oldestBinary   = sync.OnceValues(func() (string, error) { return buildOf(oldest) })
	previousBinary = sync.OnceValues(func() (string, error) { return buildOf("HEAD~1") })
)

// buildOf builds the pelton of a commit.
func buildOf(rev string) (path string, err error) {
	dir, err := os.MkdirTemp("", "pelton-e2e-old-")
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(dir)
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	run := func(name string, args ...string) error {
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s %s: %w\n%s", name, args[0], err, out)
		}
		return nil
	}
	root, tar := filepath.Join(dir, "tree"), filepath.Join(dir, "tree.tar")
	if err := run("git", "-C", "..", "archive", "--output", tar, rev); err != nil {
		return "", err
	}
	if err := os.Mkdir(root, 0o700); err != nil {
		return "", err
	}
	if err := run("tar", "-xf", tar, "-C", root); err != nil {
		return "", err
	}
	path = filepath.Join(dir, "pelton")
	return path, run("go", "build", "-C", root, "-trimpath", "-ldflags", "-s -w", "-o", path, "./cmd/pelton")
}

// startOf is start with another binary; an empty one is the present one.
func startOf(t *testing.T, binary string, args ...string) *process {
	t.Helper()
	if binary == "" {
		return start(t, args...)
	}
	cmd := exec.Command(binary, args...)
	cmd.Env = append(os.Environ(), "PELTON_LOG_FORMAT=json")
	return launch(t, cmd, "old "+strings.Join(args[:min(2, len(args))], " "))
}

// The data of an earlier version is taken over as it is, and its processes and this version's work
// side by side, as they do while a fleet is upgraded: a new worker for an old server, then a
// new server for an old worker.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	for name, build := range map[string]func() (string, error){"from the oldest": oldestBinary, "from the commit before": previousBinary} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			old, err := build()
			if err != nil {
				if os.Getenv("PELTON_TEST_REQUIRE") != "1" && strings.Contains(err.Error(), "git archive") {
					t.Skipf("no earlier version here, is this a shallow clone? %v", err)
				}
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.RemoveAll(filepath.Dir(old)) })
			upgrade(t, old)
		})
	}
}

func upgrade(t *testing.T, old string) {
	t.Helper()
	data, broker := filepath.Join(t.TempDir(), "data"), freeport.Addr(t)
	servers := func(binary string) *server {
		s := &server{process: startOf(t, binary, "serve", "--addr", "127.0.0.1:0", "--data", data, "--nats-listen", broker, "--nats-token", "t", "--lease", "2s")}
		s.url = "http://" + s.line("ready")["addr"].(string)
		return s
	}
	workers := func(binary string) *process {
		w := startOf(t, binary, "worker", "run", "--demo", "--queues", "default,held", "--nats", "nats://"+broker, "--nats-token", "t")
		w.line("worker started")
		return w
	}
	s := servers(old)
	s.ask(t, http.MethodPatch, "/queues/held", `{"max_attempts":7}`)
	s.ask(t, http.MethodPost, "/queues/held/pause", "")
	ids := map[string]pelton.ID{}
	for name, body := range map[string]string{
		"plain":   `{"kind":"demo.echo","queue":"held","payload":{"a": 1.50}}`,
		"delayed": `{"kind":"demo.echo","delay":"2h"}`,
		"unique":  `{"kind":"demo.echo","queue":"held","unique":{"key":"u"}}`,
		"first":   `{"kind":"demo.echo","queue":"held","concurrency_key":"k"}`,
		"second":  `{"kind":"demo.echo","queue":"held","concurrency_key":"k"}`,
		"dead":    `{"kind":"demo.fail","payload":{"times":9},"max_attempts":1}`,
		"retried": `{"kind":"demo.fail","payload":{"times":1},"backoff":{"initial":"3s"}}`,
		"done":    `{"kind":"demo.echo","payload":[1]}`,
	} {
		ids[name] = s.post(body).ID
	}
	for path, body := range map[string]string{"/schedules/hourly": `{"every":"1h","task":{"kind":"demo.echo"}}`, "/limits/mail": `{"kind":"mail","rate":{"limit":5}}`} {
		if status, _, answer, err := call(t.Context(), http.MethodPut, s.url+path, body); err != nil || status >= 300 {
			t.Fatalf("PUT %s: %d %s %v", path, status, answer, err)
		}
	}

	w := workers("") // a new worker for the old server
	for name, want := range map[string]pelton.State{"done": pelton.Succeeded, "dead": pelton.Failed} {
		if task := s.get(ids[name], "20s"); task.State != want {
			t.Errorf("%s with the old server and a new worker: %+v", name, task)
		}
	}
	running := s.post(`{"kind":"demo.sleep","payload":{"ms":60000}}`).ID
	deadline := time.Now().Add(20 * time.Second)
	for s.get(running, "").State != pelton.Running {
		if time.Now().After(deadline) {
			t.Fatal("the task does not run")
		}
	}
	s.kill(syscall.SIGTERM)
	s = servers("") // with the data of the old one
	for name, want := range map[string]pelton.State{"done": pelton.Succeeded, "dead": pelton.Failed, "plain": pelton.Queued, "first": pelton.Queued, "delayed": pelton.Scheduled} {
		if task := s.get(ids[name], ""); task.State != want {
			t.Errorf("%s after the upgrade of the server: %+v, want %s", name, task, want)
		}
	}
	if task := s.get(running, ""); task.State != pelton.Running || task.Crashes != 0 {
		t.Errorf("what ran meanwhile: %+v", task)
	}
	if payload := string(s.get(ids["plain"], "").Payload); payload != `{"a": 1.50}` {
		t.Errorf("payload after the upgrade: %s", payload)
	}
	s.ask(t, http.MethodPost, "/tasks/"+running.String()+"/cancel", "")
	w.kill(syscall.SIGTERM)
	workers(old) // an old worker for the new server
	s.ask(t, http.MethodPost, "/queues/held/resume", "")
	s.ask(t, http.MethodPost, "/tasks/"+ids["delayed"].String()+"/run", "")
	s.ask(t, http.MethodPost, "/dead/"+ids["dead"].String()+"/retry", "")
	for _, name := range []string{"plain", "unique", "first", "second", "delayed", "retried"} {
		if task := s.finish(ids[name], time.Now().Add(30*time.Second)); task.State != pelton.Succeeded {
			t.Errorf("%s with the new server and an old worker: %+v", name, task)
		}
	}
	if task := s.get(ids["plain"], ""); task.MaxAttempts != 7 {
		t.Errorf("settings of before the upgrade: %+v", task)
	}
	for path, want := range map[string]string{"/schedules/hourly": `"every":"1h"`, "/limits": `"limit":5`} {
		if status, _, answer, err := call(t.Context(), http.MethodGet, s.url+path, ""); err != nil || status != http.StatusOK || !strings.Contains(string(answer), want) {
			t.Errorf("GET %s: %d %s %v, want %s", path, status, answer, err, want)
		}
	}
	for _, body := range []string{`{"kind":"demo.echo"}`, `{"kind":"demo.echo","concurrency_key":"k"}`, `{"kind":"demo.echo","delay":"1s"}`} {
		if task := s.finish(s.post(body).ID, time.Now().Add(30*time.Second)); task.State != pelton.Succeeded {
			t.Errorf("a new task %s with an old worker: %+v", body, task)
		}
	}
}

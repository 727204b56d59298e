package e2e_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/peltonq/pelton"
)

// binary is the pelton under test, built once for all tests.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "pelton-e2e-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "pelton")
	args := []string{"build", "-trimpath", "-ldflags", "-s -w", "-o", path}
	if raceEnabled {
		args = append(args, "-race")
	}
	build := exec.Command("go", append(args, "github.com/peltonq/pelton/cmd/pelton")...)
	if !raceEnabled {
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
	}
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build pelton: %w\n%s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	if url := os.Getenv(lockWorkerEnv); url != "" {
		if err := lockWorker(url); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if text := os.Getenv(rateWorkerEnv); text != "" {
		var r rateWorker
		err := json.Unmarshal([]byte(text), &r)
		if err == nil {
			err = r.run()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	code := m.Run()
	if path, err := binary(); err == nil {
		_ = os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// process is a pelton that runs until the test ends or kills it.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	name string
	log  *logBuffer
	done chan struct{}
	err  error // of Wait, once done is closed
}

// logBuffer keeps a process's log and tells of each line.
type logBuffer struct {
	mu    sync.Mutex
	lines []string
	more  chan struct{} // closed and replaced at each line
}

func (l *logBuffer) add(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
	close(l.more)
	l.more = make(chan struct{})
}

// start runs the binary with the given arguments.
func start(t *testing.T, args ...string) *process {
	t.Helper()
	return startEnv(t, nil, args...)
}

// startEnv runs the binary with further environment variables.
func startEnv(t *testing.T, env []string, args ...string) *process {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, args...)
	cmd.Env = append(append(os.Environ(), "PELTON_LOG_FORMAT=json", "GORACE=halt_on_error=1"), env...)
	return launch(t, cmd, strings.Join(args[:min(2, len(args))], " "))
}

// launch starts a prepared command and follows its log.
func launch(t *testing.T, cmd *exec.Cmd, name string) *process {
	t.Helper()
	p := &process{t: t, cmd: cmd, name: name, log: &logBuffer{more: make(chan struct{})}, done: make(chan struct{})}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		lines := bufio.NewScanner(stderr)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			p.log.add(lines.Text())
		}
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.kill(syscall.SIGKILL)
		if t.Failed() {
			t.Logf("log of %s (pid %d):\n%s", p.name, p.cmd.Process.Pid, p.tail(60))
		}
	})
	return p
}

func (p *process) tail(n int) string {
	p.log.mu.Lock()
	defer p.log.mu.Unlock()
	return strings.Join(p.log.lines[max(0, len(p.log.lines)-n):], "\n")
}

// line waits for a log line with that msg and decodes it.
func (p *process) line(msg string) map[string]any {
	p.t.Helper()
	deadline := time.After(30 * time.Second)
	for seen := 0; ; {
		p.log.mu.Lock()
		lines, more := p.log.lines[seen:], p.log.more
		seen = len(p.log.lines)
		p.log.mu.Unlock()
		for _, text := range lines {
			var line map[string]any
			if json.Unmarshal([]byte(text), &line) == nil && line["msg"] == msg {
				return line
			}
		}
		select {
		case <-more:
		case <-p.done:
			p.t.Fatalf("%s ended (%v) without the log line %q:\n%s", p.name, p.err, msg, p.tail(60))
		case <-deadline:
			p.t.Fatalf("%s wrote no log line %q within 30 s:\n%s", p.name, msg, p.tail(60))
		}
	}
}

// kill sends a signal and waits for the end.
func (p *process) kill(sig syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Errorf("signal %s: %v", p.name, err)
	}
	select {
	case <-p.done:
	case <-time.After(60 * time.Second):
		p.t.Fatalf("%s does not end after %s", p.name, sig)
	}
}

// server is a `pelton serve` with what is needed to talk to it.
type server struct {
	*process
	url  string
	nats string
}

// connect is a connection to the server's broker, as long as the test lasts.
func (s *server) connect(t *testing.T, opts ...nats.Option) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(s.nats, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// jetStream is the broker's, by a connection of its own.
func (s *server) jetStream(t *testing.T, opts ...nats.Option) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(s.connect(t, opts...))
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func serve(t *testing.T, args ...string) *server {
	t.Helper()
	s := &server{process: start(t, append([]string{"serve"}, args...)...)}
	ready := s.line("ready")
	s.url = "http://" + ready["addr"].(string)
	if url, ok := ready["nats"].(string); ok {
		s.nats = url
	}
	return s
}

var client = &http.Client{Timeout: 90 * time.Second}

// call makes a request and gives status and body; err is of the transport.
func call(ctx context.Context, method, url, body string) (int, http.Header, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewBufferString(body))
	if err != nil {
		return 0, nil, nil, err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	return resp.StatusCode, resp.Header, answer, err
}

// post enqueues a task and fails the test when that does not work.
func (s *server) post(body string) *pelton.Task {
	s.t.Helper()
	status, _, answer, err := call(s.t.Context(), http.MethodPost, s.url+"/tasks", body)
	if err != nil || status != http.StatusAccepted {
		s.t.Fatalf("POST /tasks %s: %d %s %v", body, status, answer, err)
	}
	var task pelton.Task
	if err := json.Unmarshal(answer, &task); err != nil {
		s.t.Fatal(err)
	}
	return &task
}

// get reads a task; wait holds the answer until it is over.
func (s *server) get(id pelton.ID, wait string) *pelton.Task {
	s.t.Helper()
	url := s.url + "/tasks/" + id.String()
	if wait != "" {
		url += "?wait=" + wait
	}
	status, _, answer, err := call(s.t.Context(), http.MethodGet, url, "")
	if err != nil || status != http.StatusOK {
		s.t.Fatalf("GET %s: %d %s %v", url, status, answer, err)
	}
	var task pelton.Task
	if err := json.Unmarshal(answer, &task); err != nil {
		s.t.Fatal(err)
	}
	return &task
}

// finish waits until the task is over, over several long polls.
func (s *server) finish(id pelton.ID, deadline time.Time) *pelton.Task {
	s.t.Helper()
	for {
		task := s.get(id, "5s")
		if task.State.Terminal() {
			return task
		}
		if time.Now().After(deadline) {
			_, _, queues, _ := call(s.t.Context(), http.MethodGet, s.url+"/queues", "")
			s.t.Fatalf("task %s is still %s at its deadline: %+v\n%s", id, task.State, task, queues)
		}
	}
}

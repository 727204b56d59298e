package e2e_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/peltonq/pelton"
)

// hangUp sends a request under an idempotency key, but for its last cut bytes, and resets
// the connection without waiting for the answer, or, with begun, when that has begun: as a
// client does that is killed.
func hangUp(t *testing.T, s *server, key, body string, cut int, begun bool) {
	t.Helper()
	var dialer net.Dialer
	conn, err := dialer.DialContext(t.Context(), "tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	request := fmt.Sprintf("POST /tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nIdempotency-Key: %s\r\nContent-Length: %d\r\n\r\n%s", key, len(body), body)
	if _, err := io.WriteString(conn, request[:len(request)-cut]); err != nil {
		t.Fatal(err)
	}
	if begun {
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	if tcp, ok := conn.(*net.TCPConn); ok && tcp.SetLinger(0) != nil {
		t.Error("the connection is not reset")
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
}

// killClient runs the command line for a request and kills it some time later.
func killClient(t *testing.T, s *server, key string, n int, after time.Duration) {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), path, "task", "enqueue", "once.run", fmt.Sprintf(`" %d"`, n), "--idempotency-key", key, "--label", fmt.Sprintf("n=%d", n), "--url", s.url)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-time.After(after)
	if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed, or done before
}

// repeat makes a request again until it is accepted; one that the other replica still
// carries out is 409.
func repeat(t *testing.T, s *server, key, body string) (id pelton.ID, replayed bool) {
	t.Helper()
	pause := time.NewTicker(20 * time.Millisecond)
	defer pause.Stop()
	for deadline := time.Now().Add(30 * time.Second); ; <-pause.C {
		status, header, answer, err := postOnce(t, s.url, key, body)
		switch {
		case err == nil && status == http.StatusAccepted:
			var task pelton.Task
			if err := json.Unmarshal(answer, &task); err != nil {
				t.Fatal(err)
			}
			return task.ID, header.Get("Idempotent-Replayed") == "true"
		case err == nil && status == http.StatusConflict && header.Get("Retry-After") != "" && time.Now().Before(deadline):
		default:
			t.Fatalf("repeat of %s: %d %s %v", key, status, answer, err)
		}
	}
}

// A client that is killed between its request and the answer, and repeats it under its
// idempotency key against another replica, makes one task, which runs once.
func TestClientKilledAndAnotherReplicaAsked(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ran := filepath.Join(dir, "ran")
	broker := serve(t, "--addr", "127.0.0.1:0", "--data", filepath.Join(dir, "data"), "--nats-listen", "127.0.0.1:0", "--nats-token", "secret",
		"--exec", "once.run=tee -a "+ran, "--concurrency", "1")
	one := serve(t, "--addr", "127.0.0.1:0", "--nats", broker.nats, "--nats-token", "secret")
	two := serve(t, "--addr", "127.0.0.1:0", "--nats", broker.nats, "--nats-token", "secret")

	const n = 90
	tasks, found := make(map[string]pelton.ID), 0
	for i := range n {
		key := fmt.Sprintf("key-%d", i)
		body := fmt.Sprintf(`{"kind":"once.run","payload":" %d","labels":{"n":"%d"}}`, i, i)
		switch i % 3 {
		case 0: // all was sent, and every second time the answer had begun
			hangUp(t, one, key, body, 0, i%2 == 0)
		case 1: // half of it
			hangUp(t, one, key, body, 1+i%len(body), false)
		default:
			killClient(t, one, key, i, time.Duration(2*i)*time.Millisecond)
		}
		id, replayed := repeat(t, two, key, body)
		tasks[fmt.Sprint(i)] = id
		if replayed {
			found++
		}
		if again, replayed := repeat(t, one, key, body); again != id || !replayed {
			t.Errorf("%s is task %s on one replica and %s on the other (replayed: %t)", key, id, again, replayed)
		}
	}
	if found < n/6 || found > n-n/3 {
		t.Errorf("%d of %d repeats found a task: those whose answer had begun do, and those of which half was sent do not", found, n)
	}
	t.Logf("%d of %d repeats found a task", found, n)

	for _, id := range tasks {
		if task := two.finish(id, time.Now().Add(60*time.Second)); task.State != pelton.Succeeded {
			t.Errorf("task %s is %s: %+v", id, task.State, task.Error)
		}
	}
	// All is over: a list may leave out what changes meanwhile.
	var made []pelton.Task
	for cursor, more := "", true; more; { // a page may end early where reads take long
		status, _, answer, err := call(t.Context(), http.MethodGet, two.url+"/tasks?limit=500&cursor="+url.QueryEscape(cursor), "")
		var page struct {
			Items      []pelton.Task
			NextCursor string `json:"next_cursor"`
		}
		if err != nil || status != http.StatusOK || json.Unmarshal(answer, &page) != nil {
			t.Fatalf("%d %.300s %v", status, answer, err)
		}
		made = append(made, page.Items...)
		cursor, more = page.NextCursor, page.NextCursor != ""
	}
	if len(made) != n {
		t.Errorf("%d requests made %d tasks", n, len(made))
	}
	for _, task := range made {
		if tasks[task.Labels["n"]] != task.ID {
			t.Errorf("task %s of request %s is nobody's", task.ID, task.Labels["n"])
		}
	}
	text, err := os.ReadFile(ran)
	if err != nil {
		t.Fatal(err)
	}
	runs := make(map[string]int)
	for _, run := range strings.Fields(strings.ReplaceAll(string(text), `"`, " ")) {
		runs[run]++
	}
	for i := range n {
		if runs[fmt.Sprint(i)] != 1 {
			t.Errorf("request %d ran %d times", i, runs[fmt.Sprint(i)])
		}
	}
}

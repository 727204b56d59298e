package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"strings"
	"sync"
	"testing"
)

// logBuffer is a log that is read while it is written.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// served is where the server says that it is ready, or empty.
func (b *logBuffer) served() (url, nats string) {
	for line := range strings.Lines(b.String()) {
		var said struct{ Msg, URL, NATS string }
		if json.Unmarshal([]byte(line), &said) == nil && said.Msg == "ready" {
			return said.URL, said.NATS
		}
	}
	return "", ""
}

// A server, a worker, a replica and clients, at the level of debug: no token, password or
// payload is in what they log.
func TestNothingSecretIsLogged(t *testing.T) {
	t.Parallel()
	const (
		token, natsToken = "api-hunter2", "nats-hunter2"
		payload          = "payload-hunter2"
	)
	var logs logBuffer
	env := []string{"PELTON_TOKEN=" + token, "PELTON_NATS_TOKEN=" + natsToken, "PELTON_LOG_LEVEL=debug", "PELTON_LOG_FORMAT=json"}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	start := func(args ...string) {
		running.Go(func() {
			if code := Main(ctx, args, strings.NewReader(""), io.Discard, &logs, env); code != exitOK {
				t.Errorf("%v: exit code %d", args, code)
			}
		})
	}
	defer running.Wait()
	defer cancel()
	start("serve", "--addr", "127.0.0.1:0", "--data", t.TempDir(), "--nats-listen", "127.0.0.1:0", "--demo", "--audit", "all")
	var url, nats string
	eventually(t, "the server is ready", func() bool {
		url, nats = logs.served()
		return url != ""
	})
	start("worker", "run", "--nats", strings.Replace(nats, "://", "://"+natsToken+"@", 1), "--demo", "--queues", "other")

	var made logBuffer
	client := func(want int, args ...string) {
		t.Helper()
		var out bytes.Buffer
		if code := Main(ctx, append(args, "--url", url), strings.NewReader(""), io.MultiWriter(&out, &made), &logs, env); code != want {
			t.Errorf("%v: exit code %d, want %d: %s", args, code, want, &out)
		}
	}
	client(exitOK, "task", "enqueue", "demo.echo", `"`+payload+`"`, "--wait=10s")
	client(exitOK, "task", "enqueue", "demo.echo", `"`+payload+`"`, "--queue", "other", "--wait=10s")
	client(exitTaskFailed, "task", "enqueue", "demo.sleep", `"`+payload+`"`, "--max-attempts", "1", "--wait=10s") // which it cannot decode
	client(exitOK, "task", "enqueue", "nobody.knows", `"`+payload+`"`)
	made = logBuffer{}
	client(exitOK, "token", "create", "reader", "--scope", "read")
	secret := strings.TrimSpace(made.String())
	client(exitAuth, "task", "enqueue", "demo.echo", `"`+payload+`"`, "--token", secret)
	client(exitAuth, "queue", "list", "--token", "wrong-hunter2")
	eventually(t, "the audit log is written", func() bool {
		made = logBuffer{}
		client(exitOK, "audit", "list", "-o", "jsonl")
		return strings.Contains(made.String(), "createToken")
	})
	if text := made.String(); strings.Contains(text, "hunter2") || !strings.Contains(text, "enqueueTask") {
		t.Errorf("the audit log:\n%s", text)
	}
	cancel()
	running.Wait()
	_, half, _ := strings.Cut(secret, ".")
	for line := range strings.Lines(logs.String()) {
		if strings.Contains(line, "hunter2") || len(half) < 40 || strings.Contains(line, half) {
			t.Errorf("logged: %s", line)
		}
	}
}

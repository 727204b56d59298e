package command

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/peltonq/pelton"
	"go.uber.org/goleak"
)

// helperVariable makes the test binary act as a worker of one task, which a test
// can then kill.
const helperVariable = "COMMAND_TEST_WORKER"

func TestMain(m *testing.M) {
	if script := os.Getenv(helperVariable); script != "" {
		actAsWorker(script)
		return
	}
	goleak.VerifyTestMain(m)
}

func actAsWorker(script string) {
	logger := slog.New(&lines{write: func(line string) { fmt.Println(line) }})
	h, err := New(Config{Argv: []string{"sh", "-c", script}, Logger: logger})
	if err == nil {
		_, err = h.ServeTask(context.Background(), newTask(""))
	}
	fmt.Println("ended:", err)
}

func newTask(payload string) *pelton.Task {
	created := time.Date(2026, 11, 2, 7, 8, 9, 123e6, time.UTC)
	return &pelton.Task{
		ID: pelton.NewID(created, 0), Kind: "test.run", Queue: "default", Priority: pelton.High,
		Attempt: 2, MaxAttempts: 20, CreatedAt: created, Payload: []byte(payload),
	}
}

// shell is a handler that runs script in sh.
func shell(t *testing.T, cfg Config, script string, args ...string) *Handler {
	t.Helper()
	cfg.Argv = append([]string{"sh", "-c", script, "sh"}, args...)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	h, err := New(cfg)
	if err != nil {
		t.Fatalf("these tests need sh: %v", err)
	}
	return h
}

// lines is a slog handler that passes on the line attribute of every record.
type lines struct {
	write func(line string)
	attrs []slog.Attr
}

func (l *lines) Enabled(context.Context, slog.Level) bool { return true }
func (l *lines) WithGroup(string) slog.Handler            { return l }
func (l *lines) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &lines{write: l.write, attrs: append(l.attrs[:len(l.attrs):len(l.attrs)], attrs...)}
}

func (l *lines) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "line" {
			l.write(a.Value.String())
		}
		return true
	})
	return nil
}

// watchLines is a logger, and a wait for the first line of stderr with a prefix.
func watchLines(t *testing.T) (logger *slog.Logger, wait func(prefix string) string) {
	t.Helper()
	var mu sync.Mutex
	var seen []string
	changed := make(chan struct{}, 1)
	logger = slog.New(&lines{write: func(line string) {
		mu.Lock()
		seen = append(seen, line)
		mu.Unlock()
		select {
		case changed <- struct{}{}:
		default:
		}
	}})
	return logger, func(prefix string) string {
		t.Helper()
		over := time.After(20 * time.Second)
		for {
			mu.Lock()
			for _, line := range seen {
				if rest, found := strings.CutPrefix(line, prefix); found {
					mu.Unlock()
					return rest
				}
			}
			mu.Unlock()
			select {
			case <-changed:
			case <-over:
				t.Fatalf("no line %q on stderr", prefix)
			}
		}
	}
}

package cli

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/peltonq/pelton"
)

// keyedServer takes a task once for each idempotency key, and always without one.
type keyedServer struct {
	mu   sync.Mutex
	ids  map[string]pelton.ID
	made int
}

func (s *keyedServer) take(tasks []json.RawMessage) (items []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, raw := range tasks {
		var task struct {
			Key string `json:"idempotency_key"`
		}
		_ = json.Unmarshal(raw, &task) // a task without a key
		id, known := s.ids[task.Key]
		if !known || task.Key == "" {
			id = pelton.NewID(time.Now(), 0)
			s.made++
			if s.ids == nil {
				s.ids = make(map[string]pelton.ID)
			}
			s.ids[task.Key] = id
		}
		items = append(items, fmt.Sprintf(`{"status":202,"task":{"id":%q,"kind":"k","state":"queued"}}`, id))
	}
	return items
}

func answerItems(w http.ResponseWriter, items []string) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = fmt.Fprintf(w, `{"items":[%s]}`, strings.Join(items, ","))
}

// Batches are on their way together, once the server has answered, and no more of them
// than the window says; what comes out stands in the order of the lines.
func TestWindow(t *testing.T) {
	t.Parallel()
	const window = 3
	var (
		s              batchServer
		mu             sync.Mutex
		flying, most   int
		answered       int
		full           = make(chan struct{})
		firstWasAlone  = true
		lastOfAnything sync.Once
	)
	url := s.start(t, func(w http.ResponseWriter, tasks []json.RawMessage) {
		mu.Lock()
		flying++
		most = max(most, flying)
		firstWasAlone = firstWasAlone && (answered > 0 || flying == 1)
		first := answered == 0
		if flying == window {
			lastOfAnything.Do(func() { close(full) })
		}
		mu.Unlock()
		if !first {
			<-full // comes only if they are sent together
		}
		accept(w, tasks)
		mu.Lock()
		flying--
		answered++
		mu.Unlock()
	})
	code, stdout, stderr := runMain(t, url, strings.Repeat("{\"kind\":\"k\"}\n", 7000), "task", "enqueue", "-", "--jsonl", "-o", "jsonl", "--window", "3")
	if code != exitOK || strings.Count(stdout, "\n") != 7000 {
		t.Errorf("code %d, %d lines, %q", code, strings.Count(stdout, "\n"), stderr)
	}
	if most != window || !firstWasAlone {
		t.Errorf("%d batches together, want %d; the first alone: %t", most, window, firstWasAlone)
	}
}

// Lines with a concurrency key are sent after those before them and before those after
// them.
func TestOrderOfKeyedLines(t *testing.T) {
	t.Parallel()
	var (
		s      batchServer
		mu     sync.Mutex
		flying int
		seen   []string
	)
	url := s.start(t, func(w http.ResponseWriter, tasks []json.RawMessage) {
		ordered := strings.Contains(string(tasks[0]), "concurrency_key")
		mu.Lock()
		flying++
		if ordered && flying > 1 {
			t.Error("an ordered batch is on its way with others")
		}
		seen = append(seen, string(tasks[0]))
		mu.Unlock()
		accept(w, tasks)
		mu.Lock()
		flying--
		mu.Unlock()
	})
	var input strings.Builder
	for i := range 6 {
		extra := ""
		if i == 2 || i == 4 || i == 5 {
			extra = `,"concurrency_key":"c"`
		}
		input.WriteString(strings.Repeat(fmt.Sprintf("{\"kind\":\"k%d\"%s}\n", i, extra), pelton.MaxBatch))
	}
	if code, _, stderr := runMain(t, url, input.String(), "task", "enqueue", "-", "--jsonl", "-o", "jsonl"); code != exitOK {
		t.Fatalf("code %d, %s", code, stderr)
	}
	for _, i := range []int{2, 4, 5} {
		if !strings.Contains(seen[i], fmt.Sprintf(`"k%d"`, i)) {
			t.Errorf("batch %d is %s", i, seen[i])
		}
	}
}

// What the server did not take, or does not take twice, is sent again.
func TestSendAgain(t *testing.T) {
	t.Parallel()
	refuseItem := func(status int, kind string) string {
		return fmt.Sprintf(`{"status":%d,"problem":{"type":%q,"title":"No","status":%d}}`, status, kind, status)
	}
	for _, tc := range []struct {
		name string
		args []string
		hurt func(k *keyedServer, w http.ResponseWriter, tasks []json.RawMessage) // the second batch, once
		code int
		made int
		says string
	}{
		{
			name: "unavailable", made: 3000,
			hurt: func(_ *keyedServer, w http.ResponseWriter, _ []json.RawMessage) { refuse(w, 503, "unavailable") },
		},
		{
			name: "too many", made: 3000,
			hurt: func(_ *keyedServer, w http.ResponseWriter, _ []json.RawMessage) { refuse(w, 429, "rate-limited") },
		},
		{
			name: "done and not answered, with keys", args: []string{"--idempotency-key", "x"}, made: 3000,
			hurt: func(k *keyedServer, _ http.ResponseWriter, tasks []json.RawMessage) {
				k.take(tasks)
				panic(http.ErrAbortHandler)
			},
		},
		{
			name: "done and not answered, without", code: exitPartly, made: 3000, says: "some after it may be enqueued",
			hurt: func(k *keyedServer, _ http.ResponseWriter, tasks []json.RawMessage) {
				k.take(tasks)
				panic(http.ErrAbortHandler)
			},
		},
		{
			name: "done and unknown to the server, with keys", args: []string{"--idempotency-key", "x"}, made: 3000,
			hurt: func(k *keyedServer, w http.ResponseWriter, tasks []json.RawMessage) {
				k.take(tasks)
				refuse(w, 503, "unknown-outcome")
			},
		},
		{
			name: "some tasks", args: []string{"--idempotency-key", "x"}, made: 3000,
			hurt: func(k *keyedServer, w http.ResponseWriter, tasks []json.RawMessage) {
				items := k.take(tasks[:len(tasks)-3])
				answerItems(w, append(items, refuseItem(429, "overloaded"), refuseItem(409, "in-flight"), refuseItem(503, "unknown-outcome")))
			},
		},
		{
			name: "some tasks, of which one may be there", code: exitPartly, made: 2999, says: "line 2000: No",
			hurt: func(k *keyedServer, w http.ResponseWriter, tasks []json.RawMessage) {
				items := k.take(tasks[:len(tasks)-2])
				answerItems(w, append(items, refuseItem(429, "overloaded"), refuseItem(503, "unknown-outcome")))
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var (
				s    batchServer
				k    keyedServer
				mu   sync.Mutex
				hurt bool
			)
			url := s.start(t, func(w http.ResponseWriter, tasks []json.RawMessage) {
				mu.Lock()
				second := !hurt && strings.Contains(string(tasks[0]), "second")
				hurt = hurt || second
				mu.Unlock()
				if second {
					tc.hurt(&k, w, tasks)
					return
				}
				answerItems(w, k.take(tasks))
			})
			batch := strings.Repeat("{\"kind\":\"k\"}\n", pelton.MaxBatch)
			input := batch + strings.ReplaceAll(batch, `"k"`, `"second"`) + batch
			code, stdout, stderr := runMain(t, url, input, append([]string{"task", "enqueue", "-", "--jsonl", "-o", "jsonl"}, tc.args...)...)
			if code != tc.code || !strings.Contains(stderr, tc.says) || (tc.says == "") != (stderr == "") {
				t.Errorf("code %d, want %d; stderr %q", code, tc.code, stderr)
			}
			if tc.code == exitOK && strings.Count(stdout, "\n") != 3000 {
				t.Errorf("%d lines of output", strings.Count(stdout, "\n"))
			}
			// The third batch may be on its way already when the second is given up, or not.
			if least := tc.made - pelton.MaxBatch*min(tc.code, 1); k.made > tc.made || k.made < least {
				t.Errorf("%d tasks made, want %d", k.made, tc.made)
			}
		})
	}
}

func TestProgressLine(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		done            int
		position, total int64
		took            time.Duration
		want            string
	}{
		{0, 0, 0, 0, "0 enqueued"},
		{1200, 99, 0, 3 * time.Second, "1200 enqueued, 400/s"},
		{1200, 50, 100, 3 * time.Second, "[############------------]  50%  1200 enqueued, 400/s, 3s left"},
		{1200, 100, 100, 3 * time.Second, "[########################] 100%  1200 enqueued, 400/s"},
		{1, 120, 100, time.Second, "[########################] 100%  1 enqueued, 1/s"},
	} {
		if got := progressLine("enqueued", tc.done, tc.position, tc.total, tc.took); got != tc.want {
			t.Errorf("%q, want %q", got, tc.want)
		}
	}
}

// A line is drawn late and seldom, and every other line takes it away first.
func TestProgress(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	now := time.Unix(0, 0)
	p := &progress{w: &out, width: func() int { return 20 }, now: func() time.Time { return now }, verb: "enqueued", begin: now}
	step := func(d time.Duration, n int) string {
		out.Reset()
		now = now.Add(d)
		p.at(n, 0)
		return out.String()
	}
	if got := step(time.Millisecond, 1); got != "" {
		t.Errorf("drawn at once: %q", got)
	}
	if got := step(time.Second, 100); got != "\r100 enqueued, 100/s\x1b[K" {
		t.Errorf("%q", got)
	}
	if got := step(time.Millisecond, 101); got != "" {
		t.Errorf("drawn too often: %q", got)
	}
	a := &app{stderr: &out, progress: p}
	a.warnf("look")
	if got := out.String(); got != "\r\x1b[Kpelton: look\n" {
		t.Errorf("%q", got)
	}
	if got := step(time.Millisecond, 102); got == "" {
		t.Error("not drawn again after it was hidden")
	}
	var none *progress
	none.at(1, 1)
	none.hide()
}

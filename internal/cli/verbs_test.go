package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

// sampleArgs are arguments with which a verb that calls the API is used rightly. A new
// verb that its usage line does not explain needs an entry.
func sampleArgs(t *testing.T, path string, cmd *cobra.Command) []string {
	t.Helper()
	more := map[string][]string{
		"dead purge":        {someID},
		"dead retry":        {someID},
		"limit set":         {"mail", "--rate", "1/s", "--kind", "k"},
		"queue set":         {"q", "max_depth=5"},
		"schedule apply":    {"-f", writeFile(t, "s.yaml", "owner: o\nschedules: [{name: a, every: 1h, task: {kind: k}}]")},
		"schedule backfill": {"a", "--from", "2026-01-01T00:00:00Z", "--to", "2026-01-02T00:00:00Z"},
		"schedule set":      {"a", "--every", "1h", "--kind", "k"},
		"task cancel":       {"--queue", "q"},
		"task retry":        {"--queue", "q"},
		"token create":      {"x", "--scope", "read"},
		"token revoke":      {"x"},
		"task enqueue":      {"k", "1"},
		"task list":         {"--state", "scheduled"},
	}
	args := strings.Fields(path)
	if given, known := more[path]; known {
		args = append(args, given...)
	} else if fields := strings.Fields(cmd.Use); len(fields) > 1 {
		switch fields[1] {
		case "ID", "ID...":
			args = append(args, someID)
		case "NAME", "QUEUE":
			args = append(args, "x")
		}
	}
	if cmd.Flags().Lookup("yes") != nil {
		args = append(args, "--yes")
	}
	return args
}

// apiVerbs are the verbs that call the API, with arguments.
func apiVerbs(t *testing.T) map[string][]string {
	t.Helper()
	found := make(map[string][]string)
	for path, cmd := range verbs((&app{}).root()) {
		if cmd.Flags().Lookup("url") != nil && !strings.HasPrefix(path, "config ") {
			found[path] = sampleArgs(t, path, cmd)
		}
	}
	if len(found) < 25 {
		t.Fatalf("only %d verbs were found", len(found))
	}
	return found
}

// failsAs is the exit code of a verb whose server is not as it should be.
func failsAs(path string, code int) int {
	if path == "doctor" {
		return exitFailure // which says what is wrong
	}
	return code
}

func TestEveryVerbWithoutServer(t *testing.T) {
	t.Parallel()
	for path, args := range apiVerbs(t) {
		code, stdout, stderr := runMain(t, nobody, "", args...)
		if want := failsAs(path, exitUnreachable); code != want || !strings.Contains(stdout+stderr, "cannot reach the server") {
			t.Errorf("%q: code %d, want %d\n%s%s", args, code, want, stdout, stderr)
		}
	}
}

func TestEveryVerbWithoutToken(t *testing.T) {
	t.Parallel()
	url := sickAPI{token: "x", ready: true}.start(t)
	for path, args := range apiVerbs(t) {
		code, _, stderr := runMain(t, url, "", args...)
		if want := failsAs(path, exitAuth); code != want {
			t.Errorf("%q: code %d, want %d\n%s", args, code, want, stderr)
		}
	}
}

// What destroys something asks, and without anybody to ask it does nothing.
func TestDestructiveVerbsNeedATerminal(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("%s %s was called", r.Method, r.URL)
	}))
	t.Cleanup(server.Close)
	asking := 0
	for path, args := range apiVerbs(t) {
		if path == "schedule apply" { // asks when it knows that it would delete something
			continue
		}
		if last := len(args) - 1; args[last] == "--yes" {
			asking++
			code, _, stderr := runMain(t, server.URL, "y\n", args[:last]...)
			if code != exitUsage || !strings.Contains(stderr, "--yes") {
				t.Errorf("%q: code %d\n%s", args, code, stderr)
			}
		}
	}
	if asking < 4 {
		t.Errorf("only %d verbs ask", asking)
	}
}

// Ctrl-C ends every verb while it waits for the server.
func TestEveryVerbIsInterrupted(t *testing.T) {
	t.Parallel()
	for path, args := range apiVerbs(t) {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var once sync.Once
			server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body) // else the server does not see that the client is gone
				once.Do(cancel)
				<-r.Context().Done()
			}))
			t.Cleanup(server.Close)
			var stdout, stderr bytes.Buffer
			began := time.Now()
			code := Main(ctx, args, strings.NewReader(""), &stdout, &stderr, []string{"PELTON_URL=" + server.URL})
			if took := time.Since(began); code != exitFailure || took > requestTimeout/2 {
				t.Errorf("code %d after %s\n%s%s", code, took, &stdout, &stderr)
			}
		})
	}
}

// A reader that goes away is no news: no message, and not success.
func TestEveryListWithoutReader(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		item := fmt.Sprintf(`{"id":%q,"name":"x","kind":"k","queue":"q","state":"scheduled","holders":[{"task_id":%q}]}`, someID, someID)
		answerItems(w, slices.Repeat([]string{item}, 50))
	}))
	t.Cleanup(server.Close)
	lists := 0
	for path, args := range apiVerbs(t) {
		if !strings.HasSuffix(path, " list") {
			continue
		}
		lists++
		for _, format := range []string{formatTable, formatJSON, formatJSONL} {
			var stderr bytes.Buffer
			all := append(slices.Clone(args), "-o", format)
			code := Main(t.Context(), all, strings.NewReader(""), brokenPipe{}, &stderr, []string{"PELTON_URL=" + server.URL})
			if code != exitFailure || stderr.Len() > 0 {
				t.Errorf("%q: code %d, stderr %q", all, code, &stderr)
			}
		}
	}
	if lists < 6 {
		t.Errorf("only %d lists were found", lists)
	}
}

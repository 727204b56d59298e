package cli

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func aSchedule(w http.ResponseWriter, revision int, paused bool) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = fmt.Fprintf(w, `{"name":"s","every":"1h","paused":%t,"revision":%d,"task":{"kind":"k"}}`+"\n", paused, revision)
}

// Somebody pauses a schedule between the look at it and its replacement: it is looked
// at again, and stays paused.
func TestSetKeepsAPauseOfTheMoment(t *testing.T) {
	t.Parallel()
	var looks, puts int
	url := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			looks++
			aSchedule(w, looks, looks > 1)
			return
		}
		body, _ := io.ReadAll(r.Body)
		if puts++; puts == 1 {
			refuse(w, http.StatusPreconditionFailed, "precondition-failed")
			return
		}
		if r.Header.Get("If-Match") != `"2"` || !strings.Contains(string(body), `"paused":true`) {
			t.Errorf("If-Match %s, %s", r.Header.Get("If-Match"), body)
		}
		aSchedule(w, 3, true)
	})
	code, stdout, stderr := runMain(t, url, "", "schedule", "set", "s", "--every", "1h", "--kind", "k")
	if code != exitOK || looks != 2 || puts != 2 || !strings.Contains(stdout, "paused") {
		t.Errorf("code %d, %d looks, %d puts, %s%s", code, looks, puts, stdout, stderr)
	}
}

func TestSetWithARevisionIsNotTriedAgain(t *testing.T) {
	t.Parallel()
	puts := 0
	url := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			aSchedule(w, 9, false)
			return
		}
		if puts++; r.Header.Get("If-Match") != `"7"` {
			t.Errorf("If-Match %s", r.Header.Get("If-Match"))
		}
		refuse(w, http.StatusPreconditionFailed, "precondition-failed")
	})
	if code, _, _ := runMain(t, url, "", "schedule", "set", "s", "--every", "1h", "--kind", "k", "--revision", "7"); code != exitConflict || puts != 1 {
		t.Errorf("code %d after %d", code, puts)
	}
}

// A backfill goes on from part to part, and says how far it came.
func TestBackfillGoesOn(t *testing.T) {
	t.Parallel()
	const from, to = "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"
	answers := []string{
		`{"ticks":[{"tick":"2026-01-01T00:00:00Z","state":"queued"},{"tick":"2026-01-02T00:00:00Z","error":"no"}],"enqueued":1,"existing":0,"failed":1,"next_from":"2026-01-03T00:00:00Z"}`,
		`{"ticks":[{"tick":"2026-01-03T00:00:00Z","existing":true,"state":"failed"}],"enqueued":0,"existing":1,"failed":0}`,
	}
	var mu sync.Mutex
	var asked []string
	serve := func(parts int) string {
		asked = nil
		return serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			body, _ := io.ReadAll(r.Body)
			asked = append(asked, string(body))
			if len(asked) > parts {
				refuse(w, http.StatusServiceUnavailable, "unavailable")
				return
			}
			_, _ = io.WriteString(w, answers[len(asked)-1])
		})
	}
	code, stdout, _ := runMain(t, serve(2), "", "schedule", "backfill", "s", "--from", from, "--to", to, "--limit", "600", "-o", "json")
	if code != exitPartly || !strings.Contains(stdout, `"enqueued":1,"existing":1,"failed":1}`) || strings.Count(stdout, `"tick":`) != 3 {
		t.Errorf("code %d, %s", code, stdout)
	}
	if len(asked) != 2 || !strings.Contains(asked[0], `"limit":500`) || !strings.Contains(asked[1], `"from":"2026-01-03T00:00:00Z"`) {
		t.Errorf("asked %s", asked)
	}
	code, stdout, stderr := runMain(t, serve(1), "", "schedule", "backfill", "s", "--from", from, "--to", to, "--limit", "0")
	if code != exitPartly || !strings.Contains(stderr, "stopped: ") || !strings.Contains(stderr, "go on with --from 2026-01-03T00:00:00Z") || !strings.Contains(stdout, "refused: no") {
		t.Errorf("code %d, %s%s", code, stdout, stderr)
	}
	if code, _, _ := runMain(t, serve(0), "", "schedule", "backfill", "s", "--from", from, "--to", to); code != exitUnreachable {
		t.Errorf("code %d", code)
	}
	answers[0] = `{"ticks":[{"tick":"2026-01-01T00:00:00Z","error":"no"}],"enqueued":0,"existing":0,"failed":1}`
	if code, _, _ := runMain(t, serve(1), "", "schedule", "backfill", "s", "--from", from, "--to", to); code != exitFailure {
		t.Errorf("code %d when all were refused", code)
	}
}

// What apply has not asked about it does not delete.
func TestApplyDeletesNothingUnasked(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "s.json")
	if err := os.WriteFile(file, []byte(`{"owner":"app","schedules":[{"name":"s","every":"1h", "task":{"kind":"k","payload":{"a" : 1}}}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	const dry, prunes = `"dry_run":true`, `"prune":true`
	for name, tt := range map[string]struct {
		args    []string
		deletes bool // what the server says to a dry run
		code    int
		asked   []string // of each request: what it says
	}{
		"nothing to delete": {nil, false, exitOK, []string{prunes + "," + dry, `"prune":false,"dry_run":false`}},
		"no terminal":       {nil, true, exitUsage, []string{prunes + "," + dry}},
		"yes":               {[]string{"--yes"}, true, exitOK, []string{prunes + `,"dry_run":false`}},
		"keep":              {[]string{"--prune=false"}, true, exitOK, []string{`"prune":false,"dry_run":false`}},
		"dry run":           {[]string{"--dry-run"}, true, exitOK, []string{prunes + "," + dry}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var asked []string
			url := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				asked = append(asked, string(body))
				deleted := ""
				if tt.deletes && strings.Contains(string(body), prunes) {
					deleted = `"old"`
				}
				_, _ = fmt.Fprintf(w, `{"created":["s"],"changed":[],"unchanged":[],"deleted":[%s]}`, deleted)
			})
			code, _, stderr := runMain(t, url, "", append([]string{"schedule", "apply", "-f", file}, tt.args...)...)
			if code != tt.code || len(asked) != len(tt.asked) {
				t.Fatalf("code %d, asked %s: %s", code, asked, stderr)
			}
			for i, want := range tt.asked {
				if !strings.Contains(asked[i], want) || !strings.Contains(asked[i], `{"name":"s","every":"1h", "task":{"kind":"k","payload":{"a" : 1}}}`) {
					t.Errorf("request %d is %s, want %s", i, asked[i], want)
				}
			}
		})
	}
}

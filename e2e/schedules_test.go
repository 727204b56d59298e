package e2e_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/peltonq/pelton"
)

// A schedule that was set over HTTP and one that was set by command line enqueue
// tasks, which run and know their tick; pausing, running now, backfilling and
// deleting do what they say; and what is there lives through the death of the server.
func TestSchedules(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "data")
	s := serve(t, "--addr", "127.0.0.1:0", "--data", data, "--demo")

	put := s.schedule(t, http.MethodPut, "/second", `{"cron":"@every 1s","task":{"kind":"demo.echo","payload":{"a" : "<&>", "n":1.0}}}`, http.StatusCreated)
	if len(put.Next) != 5 || put.Revision == 0 {
		t.Errorf("put: %+v", put)
	}
	s.pelton(t, "schedule", "set", "other", "--every", "1s", "--kind", "demo.echo", "--payload", `"cli"`)
	for _, name := range []string{"second", "other"} {
		got := s.untilRuns(t, name, 3)
		ticks := make(map[time.Time]bool)
		for _, run := range got.Last {
			if run.TaskID.IsZero() {
				continue
			}
			task := s.finish(run.TaskID, time.Now().Add(30*time.Second))
			if of := task.Schedule; task.State != pelton.Succeeded || of == nil || of.Name != name || !of.Tick.Equal(run.Tick) || of.Manual {
				t.Errorf("task of %s at %s: %s, %+v", name, run.Tick, task.State, of)
			}
			if !run.Tick.Truncate(time.Second).Equal(run.Tick) || ticks[run.Tick] {
				t.Errorf("%s has a tick at %s", name, run.Tick)
			}
			ticks[run.Tick] = true
			if want := `{"a" : "<&>", "n":1.0}`; name == "second" && string(task.Payload) != want {
				t.Errorf("payload %s, want %s", task.Payload, want)
			}
		}
	}

	// Paused, it has no ticks, while another goes on.
	paused := s.schedule(t, http.MethodPost, "/second/pause", "", http.StatusOK)
	if !paused.Paused || len(paused.Next) > 0 {
		t.Errorf("paused: %+v", paused)
	}
	s.untilTick(t, "other", paused.UpdatedAt.Add(3*time.Second))
	held := s.schedule(t, http.MethodGet, "/second", "", http.StatusOK)
	for _, run := range held.Last {
		if run.Tick.After(paused.UpdatedAt) {
			t.Errorf("paused at %s, and has a tick at %s", paused.UpdatedAt, run.Tick)
		}
	}

	// By hand, paused or not.
	var task pelton.Task
	status, header, answer, err := call(t.Context(), http.MethodPost, s.url+"/schedules/second/run", "")
	if err != nil || status != http.StatusAccepted || json.Unmarshal(answer, &task) != nil || header.Get("Location") != "/tasks/"+task.ID.String() {
		t.Fatalf("run: %d %v %s %v", status, header, answer, err)
	}
	if task := s.finish(task.ID, time.Now().Add(30*time.Second)); task.State != pelton.Succeeded || !task.Schedule.Manual {
		t.Errorf("run by hand: %s, %+v", task.State, task.Schedule)
	}
	if out := s.pelton(t, "schedule", "run", "second", "--wait=30s", "-o", "json"); !strings.Contains(out, `"state":"succeeded"`) || !strings.Contains(out, `"manual":true`) {
		t.Errorf("run: %s", out)
	}

	// The past, each tick once.
	from := put.CreatedAt.Add(-time.Hour).Truncate(time.Second)
	ask, err := json.Marshal(map[string]any{"from": from, "to": from.Add(5 * time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	first, again := s.backfill(t, "second", string(ask)), s.backfill(t, "second", string(ask))
	if first.Enqueued != 5 || first.Existing != 0 || again.Enqueued != 0 || again.Existing != 5 {
		t.Errorf("backfill: %+v, then %+v", first, again)
	}
	for i, tick := range first.Ticks {
		task := s.finish(tick.TaskID, time.Now().Add(30*time.Second))
		if task.State != pelton.Succeeded || !task.Schedule.Tick.Equal(from.Add(time.Duration(i)*time.Second)) || again.Ticks[i].TaskID != tick.TaskID {
			t.Errorf("backfilled %+v: %s, %+v", tick, task.State, task.Schedule)
		}
	}

	// What was set, and a pause, live on when the server is killed.
	s.kill(syscall.SIGKILL)
	s = serve(t, "--addr", "127.0.0.1:0", "--data", data, "--demo")
	if held := s.schedule(t, http.MethodGet, "/second", "", http.StatusOK); !held.Paused {
		t.Error("the pause is gone")
	}
	s.pelton(t, "schedule", "resume", "second")
	s.untilTick(t, "second", paused.UpdatedAt.Add(4*time.Second))
	s.untilTick(t, "other", paused.UpdatedAt.Add(4*time.Second))

	// Deleted, it is gone, and its tasks stay.
	status, _, answer, err = call(t.Context(), http.MethodDelete, s.url+"/schedules/second", "")
	if err != nil || status != http.StatusNoContent {
		t.Errorf("delete: %d %s %v", status, answer, err)
	}
	s.pelton(t, "schedule", "delete", "other", "--yes")
	s.get(task.ID, "")
	if out := s.pelton(t, "schedule", "list", "-o", "json"); out != "{\"items\":[]}\n" {
		t.Errorf("left: %s", out)
	}
	s.kill(syscall.SIGTERM)
}

// pelton runs a command line against the server and gives its stdout.
func (s *server) pelton(t *testing.T, args ...string) string {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Env = append(os.Environ(), "PELTON_URL="+s.url)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("pelton %s: %v\n%s", strings.Join(args, " "), err, &stderr)
	}
	return stdout.String()
}

// schedule makes a call that answers with a schedule.
func (s *server) schedule(t *testing.T, method, path, body string, want int) *pelton.Schedule {
	t.Helper()
	status, _, answer, err := call(t.Context(), method, s.url+"/schedules"+path, body)
	if err != nil || status != want {
		t.Fatalf("%s /schedules%s: %d %s %v", method, path, status, answer, err)
	}
	var got pelton.Schedule
	if err := json.Unmarshal(answer, &got); err != nil {
		t.Fatal(err)
	}
	return &got
}

func (s *server) backfill(t *testing.T, name, body string) *pelton.BackfillResult {
	t.Helper()
	status, _, answer, err := call(t.Context(), http.MethodPost, s.url+"/schedules/"+name+"/backfill", body)
	if err != nil || status != http.StatusOK {
		t.Fatalf("backfill: %d %s %v", status, answer, err)
	}
	var got pelton.BackfillResult
	if err := json.Unmarshal(answer, &got); err != nil {
		t.Fatal(err)
	}
	return &got
}

// untilRuns waits until so many ticks of a schedule have their task.
func (s *server) untilRuns(t *testing.T, name string, n int) *pelton.Schedule {
	t.Helper()
	return s.untilSchedule(t, name, func(got *pelton.Schedule) bool {
		runs := 0
		for _, run := range got.Last {
			if !run.TaskID.IsZero() {
				runs++
			}
		}
		return runs >= n
	})
}

// untilTick waits for a tick at or after a moment.
func (s *server) untilTick(t *testing.T, name string, at time.Time) {
	t.Helper()
	s.untilSchedule(t, name, func(got *pelton.Schedule) bool {
		for _, run := range got.Last {
			if !run.Tick.Before(at) && !run.TaskID.IsZero() && !run.Manual {
				return true
			}
		}
		return false
	})
}

func (s *server) untilSchedule(t *testing.T, name string, is func(*pelton.Schedule) bool) *pelton.Schedule {
	t.Helper()
	look := time.NewTicker(100 * time.Millisecond)
	defer look.Stop()
	for deadline := time.Now().Add(60 * time.Second); ; <-look.C {
		got := s.schedule(t, http.MethodGet, "/"+name, "", http.StatusOK)
		if is(got) {
			return got
		}
		if time.Now().After(deadline) {
			t.Fatalf("schedule %s is not so within a minute: %+v, failing %+v", name, got, got.Failing)
		}
	}
}

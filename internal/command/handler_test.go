package command

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/peltonq/pelton"
)

func TestPayloadAndResultAreBytes(t *testing.T) {
	t.Parallel()
	h, err := New(Config{Argv: []string{"cat"}})
	if err != nil {
		t.Fatal(err)
	}
	for name, payload := range map[string]string{
		"none":      "",
		"null":      "null",
		"object":    `{ "b":1,  "a":[1.50, 1e3, "<&>\u2028é"] }`,
		"text":      `"it's $HOME \"quoted\" \\ \n"`,
		"maximum":   `"` + strings.Repeat("x", pelton.MaxPayload-2) + `"`,
		"multibyte": `"` + strings.Repeat("é", 1000) + `"`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			result, err := h.ServeTask(t.Context(), newTask(payload))
			if err != nil {
				t.Fatal(err)
			}
			if string(result) != payload {
				t.Errorf("%d bytes came back as %d: %.80q", len(payload), len(result), result)
			}
			if payload == "" && result != nil {
				t.Errorf("no output became %q", result)
			}
		})
	}
}

func TestOutcome(t *testing.T) {
	t.Parallel()
	const letters = `head -c "$1" /dev/zero | tr '\0' a`
	for name, test := range map[string]struct {
		script string
		arg    string
		want   string // the result
		err    string // in the error
		result bool   // the error's reason is result
	}{
		"nothing":           {script: `exit 0`},
		"only white space":  {script: `printf ' \n\t\r\n'`},
		"payload not read":  {script: `echo 1`, want: `1`},
		"space around":      {script: `printf '\n {"a": 1}\n\n'`, want: `{"a": 1}`},
		"exit 3":            {script: `echo '{}'; echo oops >&2; exit 3`, err: "sh ended: exit status 3: oops"},
		"exit 1 in silence": {script: `exit 1`, err: "sh ended: exit status 1"},
		"signal":            {script: `echo dying >&2; kill -9 $$`, err: "sh ended: signal: killed: dying"},
		"not JSON":          {script: `echo hello; echo hint >&2`, err: `sh ended well, but: stdout is not one JSON value: it begins with "hello": hint`, result: true},
		"two values":        {script: `echo 1; echo 2`, err: "not one JSON value", result: true},
		"not UTF-8":         {script: `printf '"\377"'`, err: "not UTF-8", result: true},
		"largest result": {
			script: `printf '"'; ` + letters + `; echo '"'`, arg: fmt.Sprint(pelton.MaxPayload - 2),
			want: `"` + strings.Repeat("a", pelton.MaxPayload-2) + `"`,
		},
		"one byte more": {
			script: `printf '"'; ` + letters + `; echo '"'`, arg: fmt.Sprint(pelton.MaxPayload - 1),
			err: "larger than 262144 bytes", result: true,
		},
		"far too much": {script: letters, arg: "5000000", err: "larger than 262144 bytes", result: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := shell(t, Config{}, test.script, test.arg)
			payload := `"` + strings.Repeat("p", 200_000) + `"` // more than a pipe holds
			got, err := h.ServeTask(t.Context(), newTask(payload))
			switch {
			case test.err == "" && err != nil:
				t.Fatal(err)
			case test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)):
				t.Fatalf("error %v, want one with %q", err, test.err)
			case test.result != hasReason(err, pelton.ReasonResult):
				t.Errorf("reason result: %t for %v", !test.result, err)
			}
			if string(got) != test.want {
				t.Errorf("result %.100q, want %.100q", got, test.want)
			}
		})
	}
}

// hasReason looks for what worker.WithReason made; only the worker can read it.
func hasReason(err error, reason pelton.Reason) bool {
	return strings.Contains(fmt.Sprintf("%#v", err), fmt.Sprintf("reason:%q", reason))
}

func TestExit75IsLaterWithoutAnAttempt(t *testing.T) {
	t.Parallel()
	_, err := shell(t, Config{}, `echo busy >&2; exit 75`).ServeTask(t.Context(), newTask(""))
	var directive *pelton.Directive
	if !errors.As(err, &directive) || directive.Verb != pelton.DirectiveSnooze || directive.Delay != RetryLater {
		t.Errorf("%v, want a snooze of %s", err, RetryLater)
	}
}

func TestStderrIsLogged(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	logger := slog.New(slog.NewJSONHandler(&out, nil))
	script := `printf 'one\n\n  two \nthr' >&2; printf 'ee\n' >&2; head -c 20000 /dev/zero | tr '\0' x >&2; printf '\nlast without newline' >&2; exit 9`
	task := newTask(`{"secret":1}`)
	_, err := shell(t, Config{Logger: logger}, script).ServeTask(t.Context(), task)
	if err == nil {
		t.Fatal("no error")
	}
	// What follows the tail's 2 KiB is "sh ended: exit status 9: ".
	if message := err.Error(); !strings.HasSuffix(message, "x\nlast without newline") || len(message) > maxTail+100 {
		t.Errorf("message of %d bytes: %.200q", len(message), message)
	}
	log := out.String()
	for _, want := range []string{
		`"level":"INFO","msg":"stderr","task_id":"` + task.ID.String() + `","kind":"test.run","queue":"default","program":"sh","line":"one"}`,
		`"line":"  two"}`, `"line":"three"}`, `"line":"` + strings.Repeat("x", maxLine) + `…"}`, `"line":"last without newline"}`,
	} {
		if !strings.Contains(log, want) {
			t.Errorf("the log has no %.200s", want)
		}
	}
	if n := strings.Count(log, "\n"); n != 5 {
		t.Errorf("%d records, want 5", n)
	}
	if strings.Contains(log, "secret") {
		t.Error("the payload is in the log")
	}
}

func TestEnvironmentIsClean(t *testing.T) { // not parallel: it changes the environment
	for name, value := range map[string]string{
		"PELTON_TOKEN": "top-secret", "PELTON_NATS_TOKEN": "top-secret", "AWS_SECRET_ACCESS_KEY": "top-secret",
		"LD_PRELOAD_X": "top-secret", "PELTON_TASK_KIND": "top-secret",
		"HOME": "/home/someone", "LANG": "C", "LC_ALL": "C", "TZ": "UTC", "TMPDIR": t.TempDir(), "USER": "someone",
	} {
		t.Setenv(name, value)
	}
	env, err := exec.LookPath("env")
	if err != nil {
		t.Fatal(err)
	}
	var seen []string
	h, err := New(Config{
		Argv: []string{"sh", "-c", `exec "$0" >&2`, env}, Env: []string{"REGION=eu", "PELTON_TASK_KIND=forged"},
		Logger: slog.New(&lines{write: func(line string) { seen = append(seen, line) }}),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	task := newTask("")
	task.Schedule = &pelton.TaskSchedule{Name: "nightly", Tick: time.Date(2026, 11, 2, 8, 8, 0, 0, time.FixedZone("CET", 3600))}
	if _, err := h.ServeTask(ctx, task); err != nil {
		t.Fatal(err)
	}
	deadline, _ := ctx.Deadline()
	want := []string{
		"HOME=/home/someone", "LANG=C", "LC_ALL=C", "PATH=" + os.Getenv("PATH"), "TMPDIR=" + os.Getenv("TMPDIR"), "TZ=UTC", "USER=someone",
		"PELTON_TASK_ATTEMPT=2", "PELTON_TASK_CREATED_AT=2026-11-02T07:08:09.123Z", "PELTON_TASK_DEADLINE=" + deadline.UTC().Format(time.RFC3339Nano),
		"PELTON_TASK_KIND=test.run", "PELTON_TASK_MAX_ATTEMPTS=20", "PELTON_TASK_PRIORITY=high", "PELTON_TASK_QUEUE=default", "PELTON_TASK_ID=" + task.ID.String(),
		"PELTON_TASK_SCHEDULE=nightly", "PELTON_TASK_TICK=2026-11-02T07:08:00Z", "REGION=eu",
	}
	// The shell sets some of its own.
	seen = slices.DeleteFunc(seen, func(line string) bool {
		name, _, _ := strings.Cut(line, "=")
		return slices.Contains([]string{"PWD", "OLDPWD", "SHLVL", "_"}, name)
	})
	slices.Sort(seen)
	slices.Sort(want)
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
}

func TestNew(t *testing.T) {
	t.Parallel()
	notExecutable := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(notExecutable, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		cfg  Config
		want error
	}{
		"no program":      {Config{Argv: []string{"pelton-no-such-program"}}, exec.ErrNotFound},
		"no file":         {Config{Argv: []string{"/no/such/program"}}, fs.ErrNotExist},
		"not executable":  {Config{Argv: []string{notExecutable}}, fs.ErrPermission},
		"empty":           {Config{}, pelton.ErrInvalid},
		"empty name":      {Config{Argv: []string{"", "x"}}, pelton.ErrInvalid},
		"negative grace":  {Config{Argv: []string{"cat"}, Grace: -1}, pelton.ErrInvalid},
		"a folder as one": {Config{Argv: []string{t.TempDir()}}, nil},
	} {
		_, err := New(test.cfg)
		if err == nil || test.want != nil && !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
}

func TestProgramVanished(t *testing.T) {
	t.Parallel()
	program := filepath.Join(t.TempDir(), "program")
	if err := os.Symlink("/bin/sh", program); err != nil {
		t.Fatal(err)
	}
	h, err := New(Config{Argv: []string{program}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(program); err != nil {
		t.Fatal(err)
	}
	if _, err := h.ServeTask(t.Context(), newTask("1")); !errors.Is(err, fs.ErrNotExist) || !strings.HasPrefix(err.Error(), "start program: ") {
		t.Errorf("%v", err)
	}
}

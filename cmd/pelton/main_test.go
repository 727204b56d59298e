package main

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// asMain makes this test binary be pelton.
const asMain = "PELTON_TEST_AS_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asMain) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// start runs pelton and returns when its log has a line with until.
func start(t *testing.T, until string, args ...string) (cmd *exec.Cmd, lines *bufio.Scanner) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	cmd = exec.CommandContext(ctx, self, args...)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), asMain+"=1")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines = bufio.NewScanner(stderr)
	for lines.Scan() {
		if strings.Contains(lines.Text(), until) {
			return cmd, lines
		}
	}
	t.Fatalf("pelton ended before %q: %v", until, cmd.Wait())
	return nil, nil
}

func exitCode(t *testing.T, cmd *exec.Cmd, lines *bufio.Scanner) int {
	t.Helper()
	for lines.Scan() {
		t.Log(lines.Text())
	}
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode()
}

func TestFirstSignalStopsInOrder(t *testing.T) {
	t.Parallel()
	for _, signal := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		cmd, lines := start(t, "msg=ready", "serve", "--addr", "127.0.0.1:0", "--demo")
		if err := cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		if code := exitCode(t, cmd, lines); code != 0 {
			t.Errorf("%v: exit code %d", signal, code)
		}
	}
}

// The program of the task does not end before its grace, so only the second
// signal can end the server in time.
func TestSecondSignalEndsAtOnce(t *testing.T) {
	t.Parallel()
	cmd, lines := start(t, "msg=ready", "serve", "--addr", "127.0.0.1:0", "--demo", "--log-level", "debug", "--grace", "10m")
	url := ""
	for _, word := range strings.Fields(lines.Text()) {
		if value, found := strings.CutPrefix(word, "url="); found {
			url = value
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// The wait ends when the task runs for sure: its progress is in the answer.
	client := exec.CommandContext(t.Context(), self, "task", "enqueue", "demo.stuck", `{"ms":600000}`, "--wait=1s", "--url", url)
	client.Env = append(os.Environ(), asMain+"=1")
	out, err := client.Output()
	if client.ProcessState.ExitCode() != 6 || !strings.Contains(string(out), "running") {
		t.Fatalf("%v: %s", err, out)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() && !strings.Contains(lines.Text(), "worker drains") {
		t.Log(lines.Text())
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if code := exitCode(t, cmd, lines); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
}

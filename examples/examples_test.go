package examples

import (
	"bufio"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestProgramsTalk builds pelton and the two programs, starts a server with a
// broker port and a worker, and lets the producer wait for its receipt.
func TestProgramsTalk(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel) // after the programs have been ended in order
	bin := t.TempDir()
	for name, dir := range map[string]string{
		"pelton": "../cmd/pelton", // of its own module: users of the library need none of the server's dependencies
		"worker": "worker", "producer": "producer",
	} {
		build := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(bin, name), ".")
		build.Dir = dir
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", name, err, out)
		}
	}
	log := start(t, ctx, nil, filepath.Join(bin, "pelton"), "serve", "--addr", "127.0.0.1:0", "--data", filepath.Join(t.TempDir(), "data"),
		"--nats-listen", "127.0.0.1:0", "--nats-token", "secret", "--log-format", "json")
	url := find(t, log, `"nats":"nats://(127\.0\.0\.1:\d+)"`)
	env := append(os.Environ(), "PELTON_NATS=nats://secret@"+url)
	start(t, ctx, env, filepath.Join(bin, "worker"))

	for address, want := range map[string]string{"ada@example.com": `(?s)enqueued \S+\nsent m-\w+\n`, "": `no recipient`} {
		cmd := exec.CommandContext(ctx, filepath.Join(bin, "producer"), address)
		cmd.Env = env
		out, _ := cmd.CombinedOutput()
		if !regexp.MustCompile(want).Match(out) {
			t.Errorf("producer %q printed %q, want %q", address, out, want)
		}
	}
}

// start runs a program until the test ends, then ends it by SIGTERM.
func start(t *testing.T, ctx context.Context, env []string, name string, args ...string) io.Reader {
	t.Helper()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env, cmd.WaitDelay = env, 10*time.Second
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v", filepath.Base(name), err)
		}
	})
	return stderr
}

// find reads log lines until one matches and gives the group, then keeps reading
// in the background so that the program never blocks on its log.
func find(t *testing.T, log io.Reader, pattern string) string {
	t.Helper()
	lines := bufio.NewScanner(log)
	var seen []string
	for lines.Scan() {
		seen = append(seen, lines.Text())
		if m := regexp.MustCompile(pattern).FindStringSubmatch(lines.Text()); m != nil {
			go func() { _, _ = io.Copy(io.Discard, log) }()
			return m[1]
		}
	}
	t.Fatalf("no %s in the log:\n%s", pattern, strings.Join(seen, "\n"))
	return ""
}

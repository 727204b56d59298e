//go:build unix

package command

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/peltonq/pelton"
)

// stopWhen runs h and ends its ctx with cause as soon as wait returns.
func stopWhen(t *testing.T, h *Handler, cause error, wait func()) (took time.Duration, err error) {
	t.Helper()
	ctx, stop := context.WithCancelCause(t.Context())
	defer stop(nil)
	ended := make(chan error, 1)
	go func() {
		_, err := h.ServeTask(ctx, newTask(`{}`))
		ended <- err
	}()
	wait()
	start := time.Now()
	stop(cause)
	select {
	case err = <-ended:
	case <-time.After(20 * time.Second):
		t.Fatal("the program was not stopped")
	}
	return time.Since(start), err
}

func TestStopAsksFirst(t *testing.T) {
	t.Parallel()
	logger, line := watchLines(t)
	h := shell(t, Config{Logger: logger, Grace: time.Minute}, `trap 'echo bye >&2; echo 1; exit 0' TERM; echo up >&2; while :; do sleep 0.02; done`)
	took, err := stopWhen(t, h, pelton.ErrTimeout, func() { line("up") })
	// Some shells report the sleep that they lost in between.
	if !errors.Is(err, pelton.ErrTimeout) || !strings.HasPrefix(err.Error(), "sh stopped: timeout: up\n") || !strings.HasSuffix(err.Error(), "\nbye") {
		t.Errorf("%v", err)
	}
	if took > 10*time.Second {
		t.Errorf("took %s", took)
	}
}

func TestStopKillsAfterGrace(t *testing.T) {
	t.Parallel()
	const grace = 150 * time.Millisecond
	logger, line := watchLines(t)
	// The ignored signal is inherited: neither listens.
	h := shell(t, Config{Logger: logger, Grace: grace}, `trap '' TERM; sleep 300 & echo "pid $!" >&2; while :; do sleep 300; done`)
	var pid string
	took, err := stopWhen(t, h, pelton.ErrShutdown, func() { pid = line("pid ") })
	if !errors.Is(err, pelton.ErrShutdown) {
		t.Errorf("%v", err)
	}
	if took < grace || took > 10*time.Second {
		t.Errorf("took %s, the grace is %s", took, grace)
	}
	requireGone(t, pid)
}

// TestStopWaitsForTheGroup: a wrapper dies of SIGTERM at once, what it runs has
// the grace all the same.
func TestStopWaitsForTheGroup(t *testing.T) {
	t.Parallel()
	logger, line := watchLines(t)
	h := shell(t, Config{Logger: logger, Grace: time.Minute}, `sh -c 'trap "sleep 0.2; echo cleaned >&2; exit" TERM; echo up >&2; while :; do sleep 0.02; done'; true`)
	took, err := stopWhen(t, h, pelton.ErrCancelled, func() { line("up") })
	if !errors.Is(err, pelton.ErrCancelled) || !strings.Contains(err.Error(), "cleaned") {
		t.Errorf("%v", err)
	}
	if took > 10*time.Second {
		t.Errorf("took %s", took)
	}
}

// TestNothingIsLeft: a program's end is the end of what it started, also when
// that holds all three pipes.
func TestNothingIsLeft(t *testing.T) {
	t.Parallel()
	logger, line := watchLines(t)
	h := shell(t, Config{Logger: logger, Grace: time.Minute}, `sleep 300 <&0 & echo "pid $!" >&2; echo '"done"'`)
	start := time.Now()
	result, err := h.ServeTask(t.Context(), newTask(`"`+strings.Repeat("p", 200_000)+`"`))
	if err != nil || string(result) != `"done"` {
		t.Errorf("%s, %v", result, err)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("took %s", took)
	}
	requireGone(t, line("pid "))
}

func TestEscapedProcessDoesNotHoldTheTask(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("setsid"); err != nil {
		t.Skip("SKIPPED: no setsid program here")
	}
	logger, line := watchLines(t)
	// The program waits for the pipe's other end to speak, so that it escaped
	// before the rest of the group is killed.
	h := shell(t, Config{Logger: logger}, `mkfifo "$1"; setsid sh -c 'echo "pid $$" >&2; echo up > "$0"; exec sleep 60' "$1" & read up < "$1"; echo 1`, t.TempDir()+"/fifo")
	start := time.Now()
	result, err := h.ServeTask(t.Context(), newTask(""))
	if err != nil || string(result) != "1" {
		t.Errorf("%s, %v", result, err)
	}
	if took := time.Since(start); took > drainTime+5*time.Second {
		t.Errorf("took %s", took)
	}
	pid, err := strconv.Atoi(line("pid "))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Errorf("the escaped process %d: %v", pid, err)
	}
}

func TestEndlessOutputIsStopped(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]string{
		"well-behaved": `echo $$ >&2; while :; do echo 1111111111111111111111111111111111111111; done`,
		"stubborn":     `echo $$ >&2; trap '' TERM PIPE; while :; do echo 1111111111111111111111111111111111111111; done 2>/dev/null`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			logger, line := watchLines(t)
			h := shell(t, Config{Logger: logger, Grace: 100 * time.Millisecond}, script)
			_, err := h.ServeTask(t.Context(), newTask(""))
			if !errors.Is(err, errTooLarge) || !hasReason(err, pelton.ReasonResult) {
				t.Errorf("%v", err)
			}
			requireGone(t, line(""))
		})
	}
}

func TestEndedContextStartsNothing(t *testing.T) {
	t.Parallel()
	ctx, stop := context.WithCancelCause(t.Context())
	stop(pelton.ErrShutdown)
	marker := t.TempDir() + "/started"
	_, err := shell(t, Config{}, `touch "$1"`, marker).ServeTask(ctx, newTask("1"))
	if !errors.Is(err, pelton.ErrShutdown) {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(marker); err == nil {
		t.Error("the program ran")
	}
}

// TestProgramsDieWithTheirWorker kills a worker outright.
func TestProgramsDieWithTheirWorker(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("SKIPPED: programs outlive a killed worker on " + runtime.GOOS)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), helperVariable+`=echo "pid $$" >&2; exec sleep 300`)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	first, err := bufio.NewReader(stdout).ReadString('\n')
	killErr := cmd.Process.Kill()
	waitErr := cmd.Wait()
	pid, found := strings.CutPrefix(strings.TrimSpace(first), "pid ")
	if !found {
		t.Fatalf("the worker said %q: %v, %v, %v", first, err, killErr, waitErr)
	}
	requireGone(t, pid)
}

// requireGone waits until the process is dead; a zombie that nobody has reaped
// yet is.
func requireGone(t *testing.T, pid string) {
	t.Helper()
	number, err := strconv.Atoi(pid)
	if err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	over := time.After(10 * time.Second)
	for {
		if errors.Is(syscall.Kill(number, 0), syscall.ESRCH) {
			return
		}
		if stat, err := os.ReadFile("/proc/" + pid + "/stat"); err == nil && strings.Contains(string(stat), ") Z ") {
			return
		}
		select {
		case <-tick.C:
		case <-over:
			_ = syscall.Kill(number, syscall.SIGKILL)
			t.Fatalf("process %s is still there", pid)
		}
	}
}

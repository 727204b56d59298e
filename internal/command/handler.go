// Package command runs programs as handlers, so that a worker needs no Go: the
// --exec KIND=CMD of the command line. One task is one process. It reads the
// payload on stdin, prints the result on stdout, and says with its exit status
// how it went.
package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/worker"
)

const (
	// exitRetryLater is EX_TEMPFAIL of sysexits.h: the program cannot do the
	// task now, and it is not the task's fault.
	exitRetryLater = 75
	// RetryLater is how long a task waits after its program exited with 75. No
	// attempt is counted.
	RetryLater = 30 * time.Second

	defaultGrace = 5 * time.Second
)

// Config says what to run for each task.
type Config struct {
	// Argv is the program and its arguments. A program without a slash is looked
	// up in PATH once, by New.
	Argv []string
	// Grace is how long the program and what it started may go on after they
	// were asked to stop by SIGTERM. Then they are killed. Zero means 5 s.
	Grace time.Duration
	// Logger gets every line that programs write to stderr, at level Info with
	// task_id, kind and queue. nil means slog.Default().
	Logger *slog.Logger
	// Env is added to the clean environment of programs, "NAME=value" each. The
	// PELTON_ variables that describe the task cannot be replaced.
	Env []string
}

// Handler runs a program for each task. It implements worker.Handler.
type Handler struct {
	name   string // for messages
	path   string
	argv   []string
	grace  time.Duration
	logger *slog.Logger
	env    []string
}

var _ worker.Handler = (*Handler)(nil)

// New finds the program and prepares its environment. An empty command or a
// negative grace is pelton.ErrInvalid; a program that is not there or cannot be
// executed is what exec.LookPath says.
func New(cfg Config) (*Handler, error) {
	if len(cfg.Argv) == 0 || cfg.Argv[0] == "" {
		return nil, fmt.Errorf("%w: an empty command", pelton.ErrInvalid)
	}
	if cfg.Grace < 0 {
		return nil, fmt.Errorf("%w: the grace %s is negative", pelton.ErrInvalid, cfg.Grace)
	}
	path, err := exec.LookPath(cfg.Argv[0])
	if err != nil {
		return nil, fmt.Errorf("find the program: %w", err)
	}
	if path, err = filepath.Abs(path); err != nil {
		return nil, fmt.Errorf("find the program %s: %w", cfg.Argv[0], err)
	}
	h := &Handler{
		name: filepath.Base(path), path: path, argv: slices.Clone(cfg.Argv), grace: cfg.Grace, logger: cfg.Logger,
		env: slices.Concat(cleanEnv(os.Environ()), cfg.Env),
	}
	if h.grace == 0 {
		h.grace = defaultGrace
	}
	if h.logger == nil {
		h.logger = slog.Default()
	}
	return h, nil
}

// ServeTask runs the program. Exit 0 is success and what was printed on stdout
// the result: nothing, or one JSON value, else a failure with reason result.
// Exit 75 is pelton.Snooze(RetryLater). Any other end is an error that carries
// the exit status or signal and the last 2 KiB of stderr.
//
// When ctx ends, SIGTERM goes to the program's process group, and SIGKILL after
// the grace; the error wraps the cause of ctx. In every case nothing of the
// group is left when ServeTask returns.
func (h *Handler) ServeTask(ctx context.Context, task *pelton.Task) (json.RawMessage, error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)

	logger := h.logger.With(slog.String("task_id", task.ID.String()), slog.String("kind", task.Kind), slog.String("queue", task.Queue))
	stdout := new(resultBuffer)
	stderr := &lineWriter{emit: func(line string) {
		logger.InfoContext(ctx, "stderr", slog.String("program", h.name), slog.String("line", line))
	}}
	end, err := h.run(ctx, stop, task, stdout, stderr)
	stderr.flush()
	if err != nil {
		return nil, err
	}
	if end.leftovers != nil {
		logger.WarnContext(ctx, "cannot kill what the program left behind", slog.String("program", h.name), slog.Any("error", end.leftovers))
	}
	return h.outcome(end, stdout, stderr.tail())
}

// ending is how a program ended.
type ending struct {
	err       error // of exec.Cmd.Wait: nil for exit 0
	stopped   error // why it was asked to stop, nil if it was not
	leftovers error // why the rest of its group could not be killed
}

// run starts the program and waits until it, its process group and its output
// have ended. The error says why it could not be started.
func (h *Handler) run(ctx context.Context, stop context.CancelCauseFunc, task *pelton.Task, stdout *resultBuffer, stderr *lineWriter) (ending, error) {
	cmd := exec.CommandContext(ctx, h.path)
	cmd.Args = h.argv
	cmd.Env = slices.Concat(h.env, taskEnv(ctx, task)) // of two equal names the last wins
	isolate(cmd)

	// Cancel runs in a goroutine that Wait waits for, so both may be read after.
	var end ending
	var stoppedAt time.Time
	cmd.Cancel = func() error {
		end.stopped, stoppedAt = context.Cause(ctx), time.Now()
		return signalGroup(cmd.Process, syscall.SIGTERM)
	}
	cmd.WaitDelay = h.grace // then the program itself is killed, and the rest below

	files, err := openPipes(cmd, len(task.Payload) > 0)
	if err != nil {
		return ending{}, fmt.Errorf("start %s: %w", h.name, err)
	}
	// Where the system can kill the program with its parent, the parent is this
	// thread, which must live as long.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		files.close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return ending{}, fmt.Errorf("start %s: %w", h.name, err)
	}
	files.copy(task.Payload, stdout, stderr, stop)

	end.err = cmd.Wait()
	if end.stopped != nil {
		awaitGroup(cmd.Process, h.grace-time.Since(stoppedAt))
	}
	if err := signalGroup(cmd.Process, syscall.SIGKILL); !errors.Is(err, os.ErrProcessDone) {
		end.leftovers = err
	}
	files.finish()
	return end, nil
}

// outcome turns the ending of a program into what a handler returns.
func (h *Handler) outcome(end ending, stdout *resultBuffer, stderr string) (json.RawMessage, error) {
	if end.stopped != nil && !errors.Is(end.stopped, errTooLarge) {
		return nil, h.failure("stopped", end.stopped, stderr)
	}
	if stdout.exceeded { // it may have died of that in many ways
		return nil, worker.WithReason(pelton.ReasonResult, h.failure("stopped", errTooLarge, stderr))
	}
	if exit := new(exec.ExitError); errors.As(end.err, &exit) && exit.ExitCode() == exitRetryLater {
		return nil, pelton.Snooze(RetryLater)
	}
	if end.err != nil {
		return nil, h.failure("ended", end.err, stderr)
	}
	result, err := stdout.result()
	if err != nil {
		return nil, worker.WithReason(pelton.ReasonResult, h.failure("ended well, but", err, stderr))
	}
	return result, nil
}

func (h *Handler) failure(how string, err error, stderr string) error {
	if stderr == "" {
		return fmt.Errorf("%s %s: %w", h.name, how, err)
	}
	return fmt.Errorf("%s %s: %w: %s", h.name, how, err, stderr)
}
